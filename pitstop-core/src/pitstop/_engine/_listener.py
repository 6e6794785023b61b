"""Listener: the user's handle on the messages of a session as they become due.

Threads: any.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from types import TracebackType
from typing import Self
from weakref import finalize

from pitstop._engine._delivery import Delivery
from pitstop._engine._intake import Intake
from pitstop._engine._waiting import Waiter
from pitstop._values._arguments import seconds_of


__all__ = ["Listener", "intake_of"]


class Listener:
    """Hands out messages as they become due. Made by :meth:`pitstop.Pitstop.listen`; usable from several threads.

    Iterate over it, or call :meth:`get`. As a context manager it is closed at the end.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._session = intake.session
        # For a listener that is dropped without close(). The session knows the intake until all is given back and written.
        finalize(self, intake.abandon).atexit = False

    def get(self, timeout: float | timedelta | str | None = 0) -> Delivery | None:
        """Return the next message that is due.

        With a timeout it takes one message, and the ack of that is written at once. Without one it is the same as a step of
        the iteration: several may be claimed and acknowledged together.

        :param timeout: how long to wait for one: seconds, a ``timedelta``, or text such as ``"5s"``. 0: take what is
            due now, in this thread, without waiting. None: wait until there is one.
        :return: None when there was none in that time, or the listener was stopped.
        :raises BackendUnavailable: when the store cannot be reached, at the end of ``timeout``. Without a timeout it is
            tried again and again, with growing pauses; unless the store refuses at the first look, for a reason that an
            operator has to mend first (``error.permanent``), such as a wrong password.
        :raises ConfigError: when ``timeout`` is negative, not finite, or no duration.
        """
        if timeout is None:
            return next(self, None)
        intake = self._intake
        lease = intake.wait(Waiter(0), self._session.clock.monotonic() + seconds_of(timeout))
        return None if lease is None else intake.deliver(lease, at_once=True)

    def stop(self) -> None:
        """End the iteration, give back messages that were claimed ahead, and write the acks that are pending.

        Safe in any thread and in signal handlers. Deliveries that were handed out stay valid: settle them as ever.
        """
        self._intake.stop()

    def close(self) -> None:
        """Stop, and wait until messages that were claimed ahead are given back and all acks are written. Again is harmless.

        A store that is away is waited for as long as for one operation, in all. The log says what could not be written.
        """
        self._intake.close()

    @property
    def stopped(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._intake.stopped

    @property
    def healthy(self) -> bool:
        """Whether the last look at the store succeeded."""
        return self._intake.healthy

    def __iter__(self) -> Iterator[Delivery]:
        return self

    def __next__(self) -> Delivery:
        intake = self._intake
        lease = intake.take_at_hand() or intake.wait(Waiter(1))
        if lease is None:
            raise StopIteration
        return intake.deliver(lease, at_once=intake.acks_at_once)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "stopped" if self.stopped else "healthy" if self.healthy else "failing"
        return f"<Listener on {self._session.location} {state}>"


def intake_of(listener: Listener) -> Intake:
    """Return what is behind a listener, for code of this library that was given one."""
    return listener._intake
