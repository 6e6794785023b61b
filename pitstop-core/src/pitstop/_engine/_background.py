"""Background: the one thread of a listener. It writes late acks, claims ahead, and gives back messages that wait too long.

Threads: its own thread runs ``turn``; any thread calls the rest.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Sized
from itertools import count
from threading import RLock, Thread

from pitstop._engine._backoff import Backoff
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._bugs import traceback_of
from pitstop._engine._session import Session
from pitstop._engine._wakeup import Wakeup
from pitstop._engine._writer import AckWriter
from pitstop._errors import BackendUnavailable


__all__ = ["Background"]

_log = logging.getLogger("pitstop.listener")

#: Seconds between two turns while there is something to do. By real time, whatever clock the session goes by: it is about
#: the work of a machine, and not about when messages are due. An ack waits for one or two turns.
_TICK = 0.01
#: Seconds between two looks at transactions that were open at the end of a handler.
_LOOK = 0.1
#: Turns in a row, in which no thread asked for a message, after which those in the buffer are given back.
_PATIENCE = 10


class Background:
    """Begun when there is first something to do. The thread sleeps without end while there is nothing."""

    def __init__(
        self,
        session: Session,
        wakeup: Wakeup,
        buffer: ClaimBuffer,
        writer: AckWriter,
        *,
        claim_ahead: Callable[[], None],
        give_back_all: Callable[[], object],
        suspects: Sized,
        tend_suspects: Callable[[], object],
        ended: Callable[[], None],
    ) -> None:
        """Return a thread that has not begun.

        :param suspects: messages that wait until a handler may have them.
        :param tend_suspects: called at each turn.
        :param ended: called by the thread at its end, when all is written that can be.
        """
        self._session = session
        self._wakeup = wakeup
        self._buffer = buffer
        self._writer = writer
        self._claim_ahead = claim_ahead
        self._give_back_all = give_back_all
        self._suspects = suspects
        self._tend_suspects = tend_suspects
        self._on_end = ended
        # Reentrant: for signal handlers.
        self._lock = RLock()
        # Written under the lock.
        self._thread: Thread | None = None
        # Written once, by any thread.
        self._ended = False
        #: Whether the thread claims the next messages, or is about to. Written by the thread.
        self.claiming = False
        # The number of the present turn; None: the thread sleeps. Written by the thread.
        self._turns = count(1)
        self._turn: int | None = None
        # The state of the background thread, as of its last turn. Written by that thread.
        self._tries = -1
        self._handed_out = -1
        self._still = 0
        self._backoff = Backoff(session.log.outages)

    @property
    def begun(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    @property
    def turn_now(self) -> int | None:
        """The number of the present turn. None: the thread sleeps, or there is none. A thread that has died has no next turn."""
        thread = self._thread
        if thread is not None and thread.ident is not None and not (self._ended or thread.is_alive()):
            return 0
        return self._turn

    def begin(self) -> bool:
        """Begin the thread, if it has not begun. Return False if no thread can be started."""
        with self._lock:
            if self._thread is None and not self._ended:
                # Before its start: a signal handler that comes here meanwhile begins no other one.
                self._thread = thread = Thread(target=self._run, name="pitstop-background", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    # The system gives no thread now. The next call tries again.
                    self._thread = None
                    return False
                except BaseException:
                    self._thread = None
                    raise
        return True

    def end(self) -> None:
        """End the thread, soon. It leaves nothing to do. A thread that has an ack later writes it by itself."""
        self._ended = self._writer.unattended = True
        self._wakeup.bell.ring()

    def after_fork(self) -> None:
        """Forget the thread: it is the parent's."""
        self._lock, self._thread, self.claiming, self._turn = RLock(), None, False, None
        self._wakeup.after_fork()

    def _run(self) -> None:
        wakeup = self._wakeup
        while not self._ended:
            self._turn = next(self._turns)
            try:
                pause = self.turn()
            except Exception as error:  # noqa: BLE001 - whatever it was: a thread that died of it would write no ack any more
                pause = self._report_bug(error)
            self._turn = None
            if pause is None:
                wakeup.awake = False
                if not self._has_work():
                    # Not as work: a listener is idle while only a transaction of the user is open.
                    wakeup.bell.wait(_LOOK if self._writer.open_pledges else None)
                wakeup.awake = True
            else:
                wakeup.bell.wait(pause)
        self.finish()

    def finish(self) -> None:
        """Give back and write what a listener left that was dropped without close()."""
        try:
            self._give_back_all()
            while (pause := self._flush()) is not None:
                self._wakeup.bell.wait(pause)
        finally:
            self._on_end()

    def turn(self) -> float | None:
        """Do what is to be done. Return how many seconds to wait then; None: until the bell rings."""
        if self._wakeup.wanted:
            self.claiming = True
            try:
                self._wakeup.wanted = False
                self._claim_ahead()
            finally:
                self.claiming = False
        if self._writer.open_pledges:
            self._writer.take_ended()
        if self._writer and self._tries == self._writer.tries:
            # As at the last turn: no other thread has written meanwhile.
            pause = self._flush()
            if pause is not None:
                return pause
        self._tries = self._writer.tries
        if not self._buffer.may_bore or self._buffer.handed_out != self._handed_out:
            self._handed_out, self._still = self._buffer.handed_out, 0
        else:
            self._still += 1
            if self._still >= _PATIENCE:
                self._still = 0
                self._buffer.slow_down()
                self._give_back_all()
        self._tend_suspects()
        return _TICK if self._has_work() else None

    def _has_work(self) -> bool:
        # No I/O: an error here would end the thread.
        return self._wakeup.wanted or bool(self._writer) or self._buffer.may_bore or bool(self._suspects)

    def _flush(self) -> float | None:
        """Write what is pending. When the store does not answer: seconds until the next try."""
        clock = self._session.clock
        try:
            self._writer.flush()
        except BackendUnavailable as error:
            if self._session.closed:
                return None
            return self._backoff.failed(error, clock.monotonic())
        except Exception as bug:  # noqa: BLE001 - as in _run(), and the last writes of a dropped listener go on, too
            return self._report_bug(bug)
        self._backoff.succeeded(clock.monotonic())
        return None

    def _report_bug(self, bug: Exception) -> float:
        """Log a bug, which is no failure of the store: an outage must not keep it out of the log. Return the pause until the next try."""
        now = self._session.clock.monotonic()
        if (note := self._session.log.not_worked.passes(now)) is not None:
            # Without the error's text, which may hold anything.
            told = type(bug).__name__, note, traceback_of(bug)
            text = "acks could not be written, or messages not claimed ahead: %s; trying again%s%s"
            _log.error(text, *told, extra=self._session.log.fields("background_failed"))
        return self._backoff.failed(bug, now, log=False)
