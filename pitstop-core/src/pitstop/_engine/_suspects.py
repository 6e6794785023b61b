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
from weakref import ref

from pitstop._decisions._attempts import is_suspect, must_be_alone
from pitstop._engine._handled import Handled, HandledSuspects
from pitstop._engine._lease import Lease
from pitstop.abc import Retry


__all__ = ["Suspects"]


#: Seconds after which the next suspect may be handled, although the handler of the last one has not ended. Most messages that
#: kill their worker do so at once. After a loss of power there may be many suspects whose handlers take minutes.
_SPACING = 1.0


class Suspects:
    """The suspects of one listener."""

    def __init__(self, monotonic: Callable[[], float], retry: Retry, handled: HandledSuspects | None = None) -> None:
        """Return an object without suspects.

        :param monotonic: the clock that leases go by.
        :param retry: has the number of attempts after which a message is dead. A message may have another number.
        :param handled: the suspects that handlers have, of all listeners of the process that use the same store.
        """
        self._monotonic = monotonic
        self._retry = retry
        self._handled = HandledSuspects() if handled is None else handled
        #: The suspects that no handler has, oldest first. Any thread.
        self.waiting: deque[Lease] = deque()
        # A suspect that waits. It counts as handled already, because its claim has counted its attempt as a certain one.
        # Weak, as all references to suspects that handlers have. Written under the lock of the handled ones.
        self._first: ref[Lease] | None = None
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
        """Whether suspects wait, or handlers have some, of this listener or another one."""
        if self.waiting:
            return True
        self._handled.forget_ended(None)
        return bool(self._handled.entries)

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
        with self._handled.lock:
            lease = self._next(now_us)
            if lease is not None:
                # In this order: a signal handler that comes in between takes no other one.
                self._add(lease)
                self._first = None
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
        with self._handled.lock:
            self.waiting.appendleft(lease)
            self.end(lease)

    def pause(self, seconds: float) -> None:
        """Take no suspect for so long, because the store is away."""
        self._pause_ends = self._monotonic() + seconds

    def end(self, lease: Lease) -> None:
        """Note that no handler has this suspect."""
        self._handled.end(lease)

    def end_all(self) -> None:
        """Note that no handler has a suspect of this listener, which has ended."""
        self._handled.end_all(self)

    def unwritten(self) -> set[str]:
        """Return the ids of suspects of any listener that others here wait for, and whose settlement is not written yet."""
        if not self.waiting:
            return set()
        leases = [each.lease() for each in self._handled.entries]
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
        self.waiting.clear()
        self.end_all()

    def blocked(self, claimed: list[Lease]) -> list[Lease]:
        """Return those of a claim's suspects that have to wait until other suspects were handled, before they are kept here.

        One that does not have to wait, and whose attempt the claim has counted as a certain one, counts as handled from now on.
        """
        with self._handled.lock:
            if not self._is_limited(claimed):
                return []
            first = self._next(None, claimed)
            if first is not None and not first.emission.ahead and first in claimed:
                # Before another listener takes one of its own.
                self._add(first)
                self._first = ref(first)
        return [each for each in claimed if each is not first]

    def is_alone(self, lease: Lease) -> bool:
        """Whether no other suspect is handled as long as this one is."""
        return must_be_alone(lease.record.progress, self._most(lease))

    def _most(self, lease: Lease) -> int | None:
        return lease.emission.retry_over(self._retry).max_attempts

    def _is_limited(self, claimed: Sequence[Lease] = ()) -> bool:
        """Whether a suspect that waits or that a handler has may die of a crash. Then the crash must not be the fault of another.

        :param claimed: suspects that are about to be kept.
        """
        if self._retry.max_attempts is not None or any(each.limited for each in self._handled.entries):
            return True
        return any(self._most(each) is not None for each in (*self.waiting.copy(), *claimed))

    def _add(self, lease: Lease) -> None:
        limited = self._most(lease) is not None
        self._handled.add(Handled(ref(lease), self, self.is_alone(lease), limited), self._monotonic())

    def _next(self, now_us: int | None, claimed: Sequence[Lease] = ()) -> Lease | None:
        """Return the next suspect that a handler may have.

        The ones that need not be alone come first: they are more, and one that has to be alone may kill this process.

        :param now_us: the store's time. None: no lease has run out since the last call.
        :param claimed: suspects that are about to be kept.
        """
        with self._handled.lock:
            self._handled.forget_ended(now_us)
            handled, now = self._handled.entries, self._monotonic()
            waiting = [each for each in (*self.waiting.copy(), *claimed) if now < each.until]
            first = None if self._first is None else self._first()
            if first is not None and any(each is first for each in waiting):
                # It counts as handled already.
                return first
            if any(each.alone for each in handled):
                return None
            if handled and now < self._handled.taken_at + _SPACING and self._is_limited(claimed):
                return None
            others = (each for each in waiting if not self.is_alone(each))
            if (lease := next(others, None)) is not None or handled:
                return lease
            return next(iter(waiting), None)
