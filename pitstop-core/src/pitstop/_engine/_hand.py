"""What a listener holds: messages that were claimed and not handed out, and how fast they go."""

from __future__ import annotations

import logging

from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from threading import RLock

from pitstop._decisions._emit import Emission
from pitstop._decisions._prefetch import MOST_AT_ONCE, Pace
from pitstop._decisions._settle import release
from pitstop._engine._calls import unbroken
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable


__all__ = ["Hand"]

_log = logging.getLogger("pitstop.listener")


class Hand:
    """Messages in hand. Taken from without a lock: who pops one has it, and nobody else."""

    def __init__(self, store: Session, lock_time: timedelta, prefetch: int | None, refill: Callable[[], None]) -> None:
        """An empty one.

        :param prefetch: how many messages are claimed at once; None: as the pace of their consumer has it.
        :param refill: have the next ones claimed while those in hand are handled.
        """
        self._session = store
        self._monotonic = store.clock.monotonic
        self._lock_time = lock_time
        self._prefetch = prefetch
        self._refill = refill
        #: Each with the time on the monotonic clock until which it may be handed out.
        self.unseen: deque[tuple[Emission, float]] = deque()
        #: Whether messages may be handed out.
        self.open = True
        #: Messages handed out so far, roughly: threads may count at once.
        self.handed_out = 0
        #: Whether no thread that handles messages ever claims: then to claim ahead always pays.
        self.claimed_apart = False
        #: Messages given back so far.
        self.given_back = 0
        # Reentrant: a signal handler may close what it has interrupted.
        self._giving_back = RLock()
        self._pace = Pace()
        # Since when, and from which count on, the messages in hand are being consumed.
        self._since: float | None = None
        self._counted = 0
        # When so few are left the next ones are to be claimed.
        self._refill_at = -1

    def __len__(self) -> int:
        return len(self.unseen)

    @property
    def may_bore(self) -> bool:
        """Whether there are messages that nobody has asked for, and that others might want."""
        return bool(self.unseen) and self._prefetch is None

    def pop(self) -> Emission | None:
        """Take one message out of it; None: there is none."""
        unseen = self.unseen
        late: list[Emission] | None = None
        while True:
            try:
                emission, until = unseen.popleft()
            except IndexError:
                found = None
                break
            now = self._monotonic()
            if not self.open:
                # For whoever closed it, and waits until all is given back, to give back.
                unseen.appendleft((emission, until))
                self.give_back_all()
                found = None
                break
            if now < until:
                found = emission
                if self._since is None:
                    self._since = now
                self.handed_out += 1
                break
            late = late or []
            late.append(emission)
        if late:
            self.give_back(late)
        if len(unseen) <= self._refill_at:
            self._refill_at = -1
            self._refill()
        return found

    def pop_now(self) -> Emission | None:
        """As :meth:`pop`, but what has been waiting for too long stays, for somebody who may ask the store."""
        unseen = self.unseen
        if not self.open or not unseen:
            return None
        try:
            waiting = unseen.popleft()
        except IndexError:
            return None
        now = self._monotonic()
        if now >= waiting[1]:
            unseen.appendleft(waiting)
            return None
        if self._since is None:
            self._since = now
        self.handed_out += 1
        if len(unseen) <= self._refill_at:
            self._refill_at = -1
            self._refill()
        return waiting[0]

    def put(self, emissions: Iterable[Emission], until: float, seconds: float) -> None:
        """Take up what was claimed.

        :param until: when, by the monotonic clock, its lease is nearly over.
        :param seconds: how long the claim took.
        """
        self.unseen.extend([(each, until) for each in emissions])
        ahead = self._prefetch is None and len(self.unseen) > 1
        self._refill_at = self._pace.refill_at(seconds, apart=self.claimed_apart) if ahead else -1

    def measure(self, elsewhere: float) -> None:
        """More messages are about to be claimed: learn how long the ones before took.

        :param elsewhere: seconds of that for which the consumer waited for the store.
        """
        taken = self.handed_out - self._counted
        # Read once: slow_down() of another thread may reset it meanwhile.
        since = self._since
        if since is not None and taken > 0:
            # To claim fewer at once would only make more of the store's time.
            seconds = max(0.0, self._monotonic() - since - elsewhere)
            self._pace = self._pace.after(taken, seconds, self._lock_time.total_seconds())
        self._since, self._counted = None, self.handed_out

    def note_claim(self, asked: int, brought: int) -> None:
        """A claim for ``asked`` messages has brought so many."""
        self._pace = self._pace.after_claim(asked, brought)

    def limit(self, wanted: int) -> int:
        """How many messages to claim.

        :param wanted: how many will be taken at once. 0: one, and no more shall be claimed on that account.
        """
        if self._prefetch is not None:
            return self._prefetch
        return min(max(self._pace.size, wanted), MOST_AT_ONCE) if wanted else 1

    def slow_down(self) -> None:
        """The messages in hand wait, since their consumer is busy: give them back, for others to take."""
        self._pace = self._pace.slowed()
        self._refill_at, self._since = -1, None
        self.give_back_all()

    def forget(self, ids: Collection[str]) -> None:
        """These messages were stored anew or removed: what was claimed of them before is not to be handed out any more."""
        if self.unseen:
            for each in tuple(self.unseen):
                if each[0].record.id in ids:
                    with suppress(ValueError):
                        self.unseen.remove(each)

    @unbroken
    def give_back_all(self, *, log: bool = True) -> int:
        """Give back what is in hand; say how many messages are not, since the store did not answer.

        :param log: False when whoever asked tells of these.
        """
        # One at a time, so that who closes the store comes after one who has taken them out and is about to give them back.
        with self._giving_back:
            claimed: list[Emission] = []
            with suppress(IndexError):
                while True:
                    claimed.append(self.unseen.popleft()[0])
            return self.give_back(claimed, log=log)

    def after_fork(self) -> None:
        """In the child of a fork: what was claimed is the parent's."""
        self.unseen.clear()
        self._giving_back = RLock()

    @unbroken
    def give_back(self, unseen: list[Emission], *, log: bool = True) -> int:
        """Give back what was claimed and not handed out: due again, and the attempt is not counted. Else as above."""
        if not unseen or self._session.closed:
            return len(unseen)
        try:
            with self._session.bounded():
                backend = self._session.backend
                now = backend.now() // 1000
                duration = self._lock_time // timedelta(milliseconds=1)
                applied = backend.settle([release(each.record, now, duration) for each in unseen])
        except BackendUnavailable as error:
            note = self._session.log.not_given_back.passes(self._monotonic()) if log else None
            if note is not None:
                _log.warning(
                    "%d claimed messages come back only when their lease runs out: %s%s", len(unseen), error, note
                )
        else:
            self.given_back += sum(applied)
            self._session.written(None)
            return 0
        return len(unseen)
