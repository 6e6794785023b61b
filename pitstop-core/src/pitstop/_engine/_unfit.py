"""Unfit: claimed messages that are not to be emitted, and the writes that settle them: paused, expired or damaged ones, for example.

If the store does not answer, the write is tried again before the next claim, until the lease ends. A message that is to be parked
would lose an attempt otherwise.

Threads: any. Claiming threads settle, and the thread that stops the listener tries once more.
"""

from __future__ import annotations

import logging

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop._values._counted import counted
from pitstop.abc import Damaged, Outcome, Record, Settlement


__all__ = ["Unfit"]

_log = logging.getLogger("pitstop.listener")

#: The outcomes by which a message waits on, with the attempts that it had before the claim.
_WAITS_ON = frozenset({Outcome.PAUSE, Outcome.RELEASE})


class Unfit:
    """The messages of one listener that were claimed and are not to be emitted."""

    def __init__(self, session: Session, report_bug: Callable[[str, Exception, str], object]) -> None:
        """Return an object without messages.

        :param report_bug: log a bug of the backend with the message of an id.
        """
        self._session = session
        self._report_bug = report_bug
        #: Those whose writes the store did not answer, and the end of the lease of each by the monotonic clock. Any thread: each
        #: message is taken out by one thread.
        self.late: deque[tuple[Record | Damaged, Settlement, float]] = deque()

    def settle(
        self, unfit: Sequence[tuple[Record | Damaged, Settlement]], ends: float
    ) -> tuple[bool, BackendUnavailable | None]:
        """Settle messages of a claim. Return whether any was settled, and the error if a write is to be tried again.

        :param ends: the end of their leases, by the monotonic clock.
        """
        try:
            applied = self._session.backend.settle([settlement for _, settlement in unfit])
        except BackendUnavailable as error:
            late = counted(len(unfit), "message that is", "messages that are")
            extra = self._session.log.fields("not_settled")
            _log.debug("%s not to be emitted could not be settled: %s", late, error, extra=extra)
            again = [(record, write, ends) for record, write in unfit if write.outcome in _WAITS_ON]
            self.late.extend(again)
            return False, error if again else None
        except Exception as bug:  # noqa: BLE001 - a bug of the backend, with one of them perhaps; the others are settled
            if len(unfit) > 1:
                each_alone = [self.settle([each], ends) for each in unfit]
                errors = (error for _, error in each_alone if error is not None)
                return any(settled for settled, _ in each_alone), next(errors, None)
            self._report_bug(unfit[0][0].id, bug, "settled")
            return False, None
        for (record, settlement), done in zip(unfit, applied, strict=True):
            if done and settlement.outcome is not Outcome.RELEASE:
                kind = record.kind if isinstance(record, Record) else None
                self._session.events.settled(settlement, record, kind=kind)
        return any(applied), None

    def settle_late(self) -> None:
        """Try again to settle messages for which the store did not answer, and whose leases have not ended."""
        by_end: dict[float, list[tuple[Record | Damaged, Settlement]]] = {}
        with suppress(IndexError):
            while True:
                record, settlement, ends = self.late.popleft()
                by_end.setdefault(ends, []).append((record, settlement))
        now = self._session.clock.monotonic()
        for ends, unfit in by_end.items():
            if now < ends:
                self.settle(unfit, ends)

    def clear(self) -> None:
        """Forget all: in the child of a fork they are the parent's."""
        self.late.clear()
