"""Presence: says in the store that this process consumes, for operators who ask why a message has not come.

One thread of a session, begun with its first listener, writes a short note once per ``announce`` time. A note of a process that
was killed ends by itself. It is a hint for people: no decision of Pitstop rests on it.

Threads: its own thread runs ``_announce``; any thread joins and leaves.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from threading import RLock, Thread
from weakref import WeakMethod

from pitstop._decisions._announce import LISTENS, Listens, announcement, seen_consumers
from pitstop._errors import PitstopError
from pitstop._values._seen import SeenConsumer
from pitstop.abc import Backend, Capability, Doorbell, SystemClock, log_fields


__all__ = ["Presence"]

_log = logging.getLogger("pitstop.listener")

#: Seconds after the first listener was opened. Programs that only have a look say nothing.
_FIRST = 1.0
#: Seconds for which a write may take. It is tried again at the next time.
_PATIENCE = 1.0
#: For how many ``announce`` times a note lasts.
_LASTS = 2.5


class Presence:
    """The note of one session.

    Invariant: while a listener is open, the thread runs, or the system gave none.
    """

    def __init__(
        self, backend: Backend, told: Callable[[], Sequence[Listens]], handling: Callable[[], Sequence[str]]
    ) -> None:
        """Return a presence that says nothing.

        :param told: a method: the words of the open listeners; empty: none is open. Called by the thread.
        :param handling: a method: the ids of the messages that handlers have. Called by the thread.
        """
        self._backend = backend
        # Weak: the session refers to this, and has to go when its user drops it.
        self._told_by = WeakMethod(told)
        self._handled_by = WeakMethod(handling)
        self._each: timedelta = backend.config.announce
        needed = Capability.NOTES | Capability.MULTI_PROCESS
        # Whether other processes are to be told, and can be.
        self._tells = needed in backend.capabilities and bool(self._each)
        self._shared = Capability.MULTI_PROCESS in backend.capabilities
        self._name = backend.config.consumer_name or _program()
        # Reentrant: for signal handlers.
        self._lock = RLock()
        # Ends the thread. None: there is none. Written under the lock.
        self._end: Doorbell | None = None
        # The key of its note, if there is one. Written by the thread.
        self._key: str | None = None
        self._since = SystemClock().time_us() // 1000

    def begin(self) -> None:
        """Begin to say so, soon. Again is harmless, and cheap. If the system gives no thread, the next listener tries again."""
        if self._end is not None or not self._tells:
            return
        with self._lock:
            if self._end is None:
                self._end = end = Doorbell()
                try:
                    Thread(target=self._announce, args=(end,), name="pitstop-presence", daemon=True).start()
                except RuntimeError as error:
                    self._end = None
                    _log.debug("the consumer is not announced: %s", error, extra=log_fields("not_announced"))

    def reconsider(self) -> None:
        """End the thread if no listener is open any more. Takes no lock, and waits for nothing."""
        end = self._end
        if end is not None:
            end.ring()

    def after_fork(self) -> None:
        """Forget the thread and the note: they are the parent's."""
        self._lock, self._end, self._key = RLock(), None, None

    def _announce(self, end: Doorbell) -> None:
        clock = SystemClock()
        next_look = clock.monotonic() + _FIRST
        while True:
            rung = clock.wait(end, next_look - clock.monotonic())
            with self._lock:
                # Under the lock: a listener that is opened after this begins another thread.
                told = self._told()
                if not told:
                    self._end = None
                    break
            if not rung:
                self._write(told, clock)
                next_look = clock.monotonic() + self._each.total_seconds()
        self.withdraw()

    def withdraw(self) -> None:
        """Remove the note, if there is one. A store that does not answer keeps it until it ends."""
        key, self._key = self._key, None
        if key is not None:
            with suppress(PitstopError):
                self._backend.forget_note(key)

    def seen(self) -> list[SeenConsumer]:
        """Return the consumers of the store: this process as it is now, and others as they were seen lately.

        :raises Unsupported: if there may be others, and the store keeps no notes.
        :raises BackendUnavailable: if the store did not answer.
        """
        told, notes = self._told(), dict(self._backend.notes()) if self._shared else {}
        notes.pop(self._key or "", None)
        if told:
            notes[LISTENS] = self._text(told, SystemClock())[0]
        return seen_consumers(notes)

    def _told(self) -> Sequence[Listens]:
        told = self._told_by()
        return () if told is None else told()

    def _handling(self) -> Sequence[str]:
        handling = self._handled_by()
        return () if handling is None else handling()

    def _write(self, told: Sequence[Listens], clock: SystemClock) -> None:
        try:
            # Not for long: on SQLite the calls of other threads wait for this one.
            with self._backend.bounded(_PATIENCE):
                text, now = self._text(told, clock)
                key = self._key or f"{LISTENS}{os.urandom(8).hex()}"
                self._backend.note(key, text, now + int(self._each / timedelta(milliseconds=1) * _LASTS))
                self._key = key
        except Exception as error:  # noqa: BLE001 - no message depends on it; the listeners report a store that is away
            what = type(error).__name__
            _log.debug("the consumer could not be announced: %s", what, extra=log_fields("not_announced"))

    def _text(self, told: Sequence[Listens], clock: SystemClock) -> tuple[str, int]:
        """Return the text of this process, and the instant by the clock of the store."""
        before, now_us, after = clock.time_us(), self._backend.now(), clock.time_us()
        skew = round(((before + after) / 2 - now_us) / 1000)
        who = announcement(
            told, self._handling(),
            host=socket.gethostname(), pid=os.getpid(), name=self._name,
            since=self._since, now=now_us // 1000, skew=skew,
        )  # fmt: skip
        return who, now_us // 1000


def _program() -> str:
    """Return the name of the program, without its folder."""
    given = sys.argv[0] if sys.argv else ""
    return Path(given).name or "python"
