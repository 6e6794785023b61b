"""ClaimBuffer: messages that were claimed and not yet handed out, and the pace at which they are consumed. No I/O.

Threads: any. Messages are taken out without a lock: the thread that pops a lease has it, and no other thread does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta

from pitstop._decisions._prefetch import MOST_AT_ONCE, Pace
from pitstop._engine._lease import Lease


__all__ = ["ClaimBuffer"]


class ClaimBuffer:
    """The claimed messages of one listener."""

    def __init__(
        self,
        monotonic: Callable[[], float],
        lock_time: timedelta,
        prefetch: int | None,
        refill: Callable[[], object],
        *,
        claimed_apart: bool = False,
        in_batches: bool = False,
    ) -> None:
        """Return an empty buffer.

        :param monotonic: the clock that leases go by.
        :param prefetch: how many messages are claimed at once. None: as many as the pace of their consumer allows.
        :param refill: called by :meth:`pop` when the next messages should be claimed while the rest is handled.
        :param claimed_apart: whether the threads that handle messages never claim: then to claim ahead always pays.
        :param in_batches: whether a handler takes many messages at once. Then just as many are claimed as are asked for.
        """
        self._monotonic = monotonic
        self._lease = lock_time.total_seconds()
        self._prefetch = prefetch
        self._refill = refill
        self._claimed_apart = claimed_apart
        self._in_batches = in_batches
        #: Oldest first. A claiming thread appends; any thread pops.
        self.unseen: deque[Lease] = deque()
        #: Leases too old to be handed out, which :meth:`pop` came across. Any thread appends and takes.
        self.late: deque[Lease] = deque()
        #: Whether messages may be handed out. Written once, by the thread that stops the listener.
        self.open = True
        #: Messages that an event loop will take in its next turn. Written by the loop's thread.
        self.asked = 0
        #: Messages handed out so far, roughly: threads may count at once.
        self.handed_out = 0
        # Written by claiming threads, one of which claims at a time; and by slow_down(), in the background.
        self._pace = Pace()
        # Since when, and from which count on, the present messages are being consumed.
        self._since: float | None = None
        self._counted = 0
        # When so few messages are left, the next ones are to be claimed. Any thread.
        self._refill_at = -1

    def __len__(self) -> int:
        return len(self.unseen)

    @property
    def may_bore(self) -> bool:
        """Whether there are messages that were not asked for, and that other consumers might want."""
        return self._prefetch is None and len(self.unseen) > self.asked

    # Messages.

    def pop(self) -> Lease | None:
        """Take the oldest message that may be handed out; None if there is none, or if the buffer is not open.

        Leases that are nearly over go to :attr:`late`.
        """
        unseen = self.unseen
        while True:
            try:
                lease = unseen.popleft()
            except IndexError:
                found = None
                break
            now = self._monotonic()
            if not self.open:
                # The thread that stops the listener gives it back, or the caller does.
                unseen.appendleft(lease)
                return None
            if now < lease.until:
                found = lease
                if self._since is None:
                    self._since = now
                self.handed_out += 1
                break
            self.late.append(lease)
        if len(unseen) <= self._refill_at:
            self._refill_at = -1
            self._refill()
        return found

    def peek(self) -> Lease | None:
        """Return the message that :meth:`pop` would take, and leave it here."""
        unseen = self.unseen
        while self.open:
            try:
                lease = unseen[0]
            except IndexError:
                return None
            if self._monotonic() < lease.until:
                return lease
            # Another thread may have taken it meanwhile.
            with suppress(ValueError):
                unseen.remove(lease)
                self.late.append(lease)
        return None

    def put(self, leases: Iterable[Lease], seconds: float) -> None:
        """Add messages of one claim.

        :param seconds: how long the claim took.
        """
        self.unseen.extend(leases)
        ahead = self._prefetch is None and len(self.unseen) > 1 and not self._in_batches
        self._refill_at = self._pace.refill_at(seconds, apart=self._claimed_apart) if ahead else -1

    def put_first(self, lease: Lease) -> None:
        """Add a message that is the next one to be handed out."""
        self.unseen.appendleft(lease)

    def take_all(self) -> list[Lease]:
        """Take all messages, to be given back."""
        return _emptied(self.unseen)

    def take_late(self) -> list[Lease]:
        """Take the messages of :attr:`late`, to be given back."""
        return _emptied(self.late)

    def discard(self, versions: Mapping[str, str | None]) -> list[Lease]:
        """Take out messages that were stored anew or removed, and return them.

        A claim may have brought the new version already: that one stays.

        :param versions: by id: the revision that was stored, None if the message was removed.
        """
        dropped: list[Lease] = []
        if self.unseen:
            # A copy is made in one step. A walk through the deque itself would fail when another thread pops.
            for lease in self.unseen.copy():
                if lease.id in versions and lease.record.revision != versions[lease.id]:
                    # Another thread may have taken it meanwhile.
                    with suppress(ValueError):
                        self.unseen.remove(lease)
                        dropped.append(lease)
        return dropped

    def clear(self) -> None:
        """Forget all messages, which stay leased: they are another process's, or their holder died."""
        self.unseen.clear()
        self.late.clear()

    # The pace.

    def measure(self, elsewhere: float) -> None:
        """Learn how long the last messages took, when more are about to be claimed.

        :param elsewhere: seconds of that for which the consumer waited for the store.
        """
        taken = self.handed_out - self._counted
        # Read once: slow_down() in another thread may reset it meanwhile.
        since = self._since
        if since is not None and taken > 0:
            # To claim fewer at once would only take more of the store's time.
            seconds = max(0.0, self._monotonic() - since - elsewhere)
            self._pace = self._pace.after(taken, seconds, self._lease)
        self._since, self._counted = None, self.handed_out

    def note_claim(self, asked: int, brought: int) -> None:
        """Learn how many messages a claim for ``asked`` messages has brought."""
        self._pace = self._pace.after_claim(asked, brought)

    def limit(self, wanted: int) -> int:
        """Return how many messages to claim.

        :param wanted: how many will be taken at once. 0: one, and no more shall be claimed on that account.
        """
        if self._prefetch is not None:
            return self._prefetch
        if self._in_batches:
            return min(max(wanted, 1), MOST_AT_ONCE)
        return min(max(self._pace.size, wanted), MOST_AT_ONCE) if wanted else 1

    def slow_down(self) -> None:
        """Claim fewer messages: those that were claimed wait, since their consumer is busy."""
        self._pace = self._pace.slowed()
        self._refill_at, self._since = -1, None


def _emptied(leases: deque[Lease]) -> list[Lease]:
    taken: list[Lease] = []
    with suppress(IndexError):
        while True:
            taken.append(leases.popleft())
    return taken
