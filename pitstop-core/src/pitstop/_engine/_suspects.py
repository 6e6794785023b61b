"""Suspects: claimed messages whose last lease ended without a settlement, and the order in which they are handled. No I/O.

One of them may have killed its worker. They wait here, and not in the buffer, so that the attempt of each is written as a
certain one before a handler gets the message. If the number of attempts is limited, they are handled one after the other. A
handler that takes long lets the next suspect begin, unless a crash now would bury the suspect or has hit it before.

Threads: claiming threads call `keep`, threads that want messages call `take`, the background thread looks after the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import RLock
from typing import NamedTuple
from weakref import ref

from pitstop._decisions._attempts import is_suspect, must_be_alone
from pitstop._engine._lease import Lease
from pitstop.abc import Retry


__all__ = ["Suspects"]


#: Seconds after which the next suspect may be handled, although the handler of the last one has not ended. Most messages that
#: kill their worker do so at once. After a loss of power there may be many suspects whose handlers take minutes.
_SPACING = 1.0


class _Handled(NamedTuple):
    """A suspect that was taken. By a weak reference: a dropped delivery must not keep the others waiting."""

    lease: ref[Lease]
    alone: bool


class Suspects:
    """The suspects of one listener."""

    def __init__(self, monotonic: Callable[[], float], retry: Retry) -> None:
        """Return an object without suspects.

        :param monotonic: the clock that leases go by.
        :param retry: has the number of attempts after which a message is dead. A message may have another number.
        """
        self._monotonic = monotonic
        self._retry = retry
        #: The suspects that no handler has, oldest first. Any thread.
        self.waiting: deque[Lease] = deque()
        # Reentrant: for signal handlers.
        self._lock = RLock()
        # The suspects that handlers have, or will have when their attempt is certain. Written under the lock.
        self._handled: list[_Handled] = []
        # When a suspect was last taken, by the monotonic clock. Written under the lock.
        self._taken_at = float("-inf")
        # When a suspect may be taken again after the store was away, by the monotonic clock. Any thread.
        self._pause_ends = float("-inf")

    @staticmethod
    def split(leases: list[Lease]) -> tuple[list[Lease], list[Lease]]:
        """Split the messages of a claim into ordinary ones and suspects."""
        # As is_suspect() finds out, without one more call for each message.
        for each in leases:
            if each.emission.leased.progress.unsettled > 1:
                break
        else:
            return leases, []
        suspects = [each for each in leases if is_suspect(each.emission.leased.progress)]
        return [each for each in leases if not is_suspect(each.emission.leased.progress)], suspects

    def keep(self, suspects: list[Lease]) -> None:
        """Keep the suspects of a claim until handlers may have them."""
        self.waiting.extend(suspects)

    @property
    def busy(self) -> bool:
        """Whether suspects wait, or handlers have some."""
        return bool(self.waiting or self._handled)

    @property
    def ready(self) -> bool:
        """Whether :meth:`take` would return a suspect, as far as is known without the store."""
        return bool(self.waiting) and self._monotonic() >= self._pause_ends and self._next(None) is not None

    def take(self, now_us: int) -> Lease | None:
        """Take the next suspect that a handler may have now; None if there is none.

        The suspect counts as handled from now on. The caller writes its attempt as a certain one, or calls :meth:`put_back`.

        :param now_us: the store's time, by which leases run out.
        """
        if self._monotonic() < self._pause_ends:
            return None
        with self._lock:
            lease = self._next(now_us)
            if lease is not None:
                # In this order: a signal handler that comes in between takes no other one.
                self._handled.append(_Handled(ref(lease), self.is_alone(lease)))
                self._taken_at = self._monotonic()
                try:
                    self.waiting.remove(lease)
                except ValueError:
                    # Another thread gives back all suspects, or this one was stored anew.
                    self.end(lease)
                    return None
            return lease

    def put_back(self, lease: Lease, pause: float = 0.0) -> None:
        """Put back a suspect that was taken and that no handler got: it is the next one.

        :param pause: seconds in which no suspect is taken, because the store is away.
        """
        self.pause(pause)
        # Under the lock: a thread that takes it again must not find that it has ended.
        with self._lock:
            self.waiting.appendleft(lease)
            self.end(lease)

    def pause(self, seconds: float) -> None:
        """Take no suspect for so long, because the store is away."""
        self._pause_ends = self._monotonic() + seconds

    def end(self, lease: Lease) -> None:
        """Note that no handler has this suspect."""
        with self._lock:
            self._handled = [each for each in self._handled if each.lease() is not lease]

    def unwritten(self) -> set[str]:
        """Return the ids of suspects that others wait for, and whose settlement is not written yet."""
        if not self.waiting:
            return set()
        leases = [each.lease() for each in self._handled]
        return {each.id for each in leases if each is not None and each.settled and not each.known}

    def take_late(self) -> list[Lease]:
        """Take the suspects whose lease is nearly over, to be given back."""
        now, late = self._monotonic(), []
        for lease in self.waiting.copy():
            if now >= lease.until:
                with suppress(ValueError):
                    self.waiting.remove(lease)
                    late.append(lease)
        return late

    def take_all(self) -> list[Lease]:
        """Take all suspects that no handler has, to be given back."""
        taken: list[Lease] = []
        with suppress(IndexError):
            while True:
                taken.append(self.waiting.popleft())
        return taken

    def discard(self, versions: Mapping[str, str | None]) -> list[Lease]:
        """Take out messages that were stored anew or removed, and return them. See :meth:`ClaimBuffer.discard`."""
        dropped: list[Lease] = []
        for lease in self.waiting.copy():
            if lease.id in versions and lease.record.revision != versions[lease.id]:
                with suppress(ValueError):
                    self.waiting.remove(lease)
                    dropped.append(lease)
        return dropped

    def clear(self) -> None:
        """Forget all suspects: in the child of a fork they are the parent's."""
        self._lock = RLock()
        self._handled = []
        self.waiting.clear()

    def blocked(self, claimed: list[Lease]) -> list[Lease]:
        """Return those of a claim's suspects that have to wait until other suspects were handled, before they are kept here."""
        if all(self._most(each) is None for each in claimed):
            return []
        first = self._next(None, claimed)
        return [each for each in claimed if each is not first]

    def is_alone(self, lease: Lease) -> bool:
        """Whether no other suspect is handled as long as this one is."""
        return must_be_alone(lease.record.progress, self._most(lease))

    def _most(self, lease: Lease) -> int | None:
        return lease.emission.retry_over(self._retry).max_attempts

    @property
    def _is_limited(self) -> bool:
        """Whether a suspect that waits may die of a crash. Then the crash must not be the fault of another one."""
        return self._retry.max_attempts is not None or any(self._most(each) is not None for each in self.waiting.copy())

    def _next(self, now_us: int | None, claimed: Sequence[Lease] = ()) -> Lease | None:
        """Return the next suspect that a handler may have.

        The ones that need not be alone come first: they are more, and one that has to be alone may kill this process.

        :param now_us: the store's time. None: no lease has run out since the last call.
        :param claimed: suspects that are about to be kept.
        """
        with self._lock:
            self._forget_ended(now_us)
            handled, now = self._handled, self._monotonic()
            if any(each.alone for each in handled):
                return None
            if handled and self._is_limited and now < self._taken_at + _SPACING:
                return None
            waiting = [each for each in (*self.waiting.copy(), *claimed) if now < each.until]
            others = (each for each in waiting if not self.is_alone(each))
            if (lease := next(others, None)) is not None or handled:
                return lease
            return next(iter(waiting), None)

    def _forget_ended(self, now_us: int | None) -> None:
        self._handled = [each for each in self._handled if _is_handled(each.lease(), now_us)]


def _is_handled(lease: Lease | None, now_us: int | None) -> bool:
    """Whether a crash would still end the lease of this suspect without a settlement."""
    if lease is None or (now_us is not None and lease.is_over(now_us)):
        return False
    return not lease.is_settling or not lease.known
