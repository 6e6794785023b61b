"""Decide which of many similar events are logged. The decisions are given the time; they neither wait nor write.

A store that flaps, or a handler that fails for each of 100,000 messages, must not fill the disk with lines.
"""

from __future__ import annotations

import logging
import os

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, NamedTuple, Protocol

from pitstop._decisions._emit import Emission
from pitstop._errors import BackendUnavailable
from pitstop._values._counted import counted
from pitstop.abc._log import log_fields


__all__ = ["LOG_EVERY", "Line", "Outages", "StoreLog", "Throttle", "left_behind"]

#: Seconds in which at most one more line of a kind is logged.
LOG_EVERY = 60.0
#: Lines about single messages in that time. Further lines are only counted.
_SOME = 10


class Line(NamedTuple):
    """A line to log: the level of :mod:`logging`, and the text."""

    level: int
    text: str


class _Turn:
    """Lets one thread decide at a time. The others do not wait: one may be a signal handler that interrupted the first."""

    def __init__(self) -> None:
        self._lock, self._pid = Lock(), os.getpid()

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Yield whether this thread decides. If not, its event is neither logged nor counted."""
        if self._pid != os.getpid():
            # The child of a fork: a thread of its parent may have the lock.
            self._lock, self._pid = Lock(), os.getpid()
        lock = self._lock
        if not lock.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


class Throttle:
    """Lets ``most`` lines of one kind through in a minute, and counts those that it leaves out."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self._turn = _Turn()
        self._began = float("-inf")
        self._passed = self._left_out = 0

    def passes(self, now: float) -> str | None:
        """Decide about a line at ``now`` (seconds, monotonic).

        :return: None: leave the line out. Else log the line, followed by this text: empty, or how many lines were left out
            before, or that the next lines will be.
        """
        with self._turn.taken() as mine:
            if not mine:
                return None
            note = ""
            if now - self._began >= LOG_EVERY:
                if self._left_out:
                    note = f" ({self._left_out} more like this were not logged in the last {now - self._began:.0f} s)"
                self._began, self._passed, self._left_out = now, 0, 0
            if self._passed >= self._most:
                self._left_out += 1
                return None
            self._passed += 1
            if self._passed == self._most > 1:
                note += f"; more like this within {LOG_EVERY:.0f} s are only counted"
            return note


class Outages:
    """The failures of one store. All listeners of a :class:`pitstop.Pitstop` share this object.

    One warning is logged when the store goes away, one each minute while the store is away, and one line when the store is
    back. For a store that comes and goes, at most one line a minute is logged after the first two, with counts.
    """

    def __init__(self, what: str, event: str = "store") -> None:
        """Return failures of which there are none.

        :param what: the subject of the lines, as in "the store".
        :param event: the beginning of the names of the events.
        """
        self._what, self._event = what, event
        #: The scheme of the store. Set by the session.
        self.backend: str | None = None
        #: Called with each failure, whether it is logged or not. Set by the session.
        self.report: Callable[[BackendUnavailable], object] = _nothing
        self._turn = _Turn()
        # The present outage, or else the last outage: its beginning, its length and its failures.
        self._since: float | None = None
        self._length = 0.0
        self._failures = 0
        #: Outages that began since the last line.
        self._begun = 0
        self._last_failure = self._last_line = float("-inf")
        # Whether the last line says that the store is away, and whether a minute without failures preceded this outage.
        self._told = self._calm = False

    def fields(self, *, away: bool) -> dict[str, Any]:
        """Return the fields of a line: see :func:`pitstop.abc.log_fields`."""
        return log_fields(f"{self._event}_{'away' if away else 'back'}", backend=self.backend)

    def failed(self, now: float, since: float, *, permanent: bool) -> Line | None:
        """Note a failure at ``now`` (seconds, monotonic), and decide whether to log it.

        :param since: when the caller's row of failures began.
        :param permanent: whether the failure lasts until an operator has mended something.
        """
        with self._turn.taken() as mine:
            if not mine:
                return None
            if self._since is None:
                self._since, self._failures = since, 0
                self._begun += 1
                self._calm = now - self._last_failure >= LOG_EVERY
            self._failures += 1
            self._last_failure = now
            if now - self._last_line < LOG_EVERY:
                return None
            often = f", away {self._begun} times in {now - self._last_line:.0f} s" if self._begun > 1 else ""
            self._last_line, self._told, self._begun = now, True, 0
            verb = "refuses" if permanent else "does not answer"
            level = logging.ERROR if permanent else logging.WARNING
            return Line(level, f"{self._what} {verb} (failure {self._failures} in a row{often})")

    def answered(self, now: float) -> Line | None:
        """Note a success at ``now`` (seconds, monotonic), and decide whether to log it. The call is cheap while all is well."""
        if self._since is None and not self._told:
            return None
        with self._turn.taken() as mine:
            if not mine:
                return None
            if self._since is not None:
                self._length, self._since = now - self._since, None
            if not self._told or not (self._calm or now - self._last_line >= LOG_EVERY):
                return None
            self._last_line, self._told = now, False
            failures = "1 failure" if self._failures == 1 else f"{self._failures} failures"
            return Line(logging.INFO, f"{self._what} answers again after {self._length:.1f} s and {failures}")


def _nothing(_: BackendUnavailable) -> None:
    return None


class _Leased(Protocol):
    """The part of a lease that log records name."""

    @property
    def id(self) -> str: ...
    @property
    def emission(self) -> Emission: ...
    @property
    def attempt(self) -> int: ...


class StoreLog:
    """Decides which events of one store are logged. All users of the store share this object."""

    def __init__(self, location: str = "") -> None:
        """:param location: the place of the store, whose scheme is a field of all lines."""
        self.backend = location.partition(":")[0] or None
        #: Failures of the store itself.
        self.outages = Outages("the store")
        #: Failures of the watch that reports messages stored by other processes.
        self.watch_outages = Outages("the watch for messages of other processes", "watch")
        #: Lines about messages that are set aside.
        self.dead = Throttle(_SOME)
        #: Lines about leases that ran out before their messages were settled, of one message each.
        self.ran_out = Throttle(_SOME)
        #: Lines about acks that could not be written, of one message each.
        self.unwritten = Throttle(_SOME)
        #: Lines about settlements that raised an error while they were worked out or written, of one message each.
        self.not_settled = Throttle(_SOME)
        #: Lines about messages that were claimed ahead and could not be given back.
        self.not_given_back = Throttle()
        #: Lines about claims that took about as long as their lease.
        self.slow_claims = Throttle()
        #: Lines about messages that a later release has stored.
        self.newer = Throttle()
        #: Lines about extensions of leases that fail because of a bug.
        self.not_extended = Throttle()
        #: Lines about background work of a listener that fails because of a bug.
        self.not_worked = Throttle()
        self.outages.backend = self.watch_outages.backend = self.backend

    def fields(
        self, event: str, message_id: str | None = None, *, kind: str | None = None, attempt: int | None = None
    ) -> dict[str, Any]:
        """Return the fields of a line about the store, or about one message: see :func:`pitstop.abc.log_fields`."""
        return log_fields(event, backend=self.backend, message_id=message_id, kind=kind, attempt=attempt)

    def of(self, event: str, lease: _Leased) -> dict[str, Any]:
        """Return the fields of a line about a lease."""
        return self.fields(event, lease.id, kind=lease.emission.leased.kind, attempt=lease.attempt)


def left_behind(unwritten: int, kept: int) -> str:
    """Return the text for a listener that was closed while the store was away.

    :param unwritten: the number of acks and nacks that were not written.
    :param kept: the number of messages that were claimed ahead and not given back.
    """
    acks = counted(unwritten, "ack or nack was", "acks or nacks were")
    messages = counted(kept, "message that was claimed ahead was", "messages that were claimed ahead were")
    return (
        f"closed while the store did not answer: {acks} not written, and {messages} not given back. "
        f"{counted(unwritten + kept, 'message comes back when its lease ends', 'messages come back when their leases end')}."
    )
