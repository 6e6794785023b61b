"""Claimer: leases due messages, decides what becomes of them, and puts those that are to be emitted into the buffer.

It settles the rest, and gives back messages that no handler has seen. It has no thread and waits for nothing.

Threads: any; one thread of a listener claims at a time.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from functools import partial

import attrs

from pitstop._decisions._emit import Emission, decide
from pitstop._decisions._ending import ends_program
from pitstop._decisions._policy import NewerPolicy, Policy
from pitstop._decisions._settle import defer, leave, release, relock
from pitstop._engine._backoff import Backoff
from pitstop._engine._buffer import ClaimBuffer
from pitstop._engine._bugs import traceback_of
from pitstop._engine._calls import unbroken
from pitstop._engine._claimed import NOTHING, Claimed, Decided
from pitstop._engine._lease import Lease
from pitstop._engine._lifecycle import Component
from pitstop._engine._lock_times import LEAST_REMAINDER, LockTimes
from pitstop._engine._pauses import NO_KINDS
from pitstop._engine._session import Session
from pitstop._engine._suspects import Suspects
from pitstop._engine._throttle import Throttle, admitted, pause_of, settle
from pitstop._engine._under_way import UnderWay, Versions
from pitstop._engine._unfit import Unfit
from pitstop._errors import BackendUnavailable
from pitstop._values._counted import counted
from pitstop.abc import Aside, Damaged, Outcome, Record, Settlement


__all__ = ["Claimer"]

_log = logging.getLogger("pitstop.listener")

#: Seconds of the pause after a claim that took as long as a lease: after the first one, and the longest.
_FIRST_REST, _LONGEST_REST = 0.02, 1.0


class Claimer:
    """Claims for one listener."""

    def __init__(
        self,
        session: Session,
        buffer: ClaimBuffer,
        lock_time: timedelta,
        *,
        suspects: Suspects | None = None,
        kinds: Collection[str] | None = None,
        loop_time: timedelta | None = None,
        throttles: Sequence[Throttle] = (),
        at_once: int = 1,
        wake: Callable[[], object] = int,
        owner: Component | None = None,
    ) -> None:
        """Return a claimer that has not claimed yet.

        :param lock_time: how long messages are leased.
        :param suspects: gets the messages of each claim whose last lease ended without a settlement. None: the buffer gets them.
        :param kinds: the kinds of the messages to claim. None: all.
        :param loop_time: how often the paused kinds are read. None: as it is configured.
        :param throttles: the rates at which to claim.
        :param at_once: how many messages a handler gets at most at a time: see :meth:`Throttle.admit`.
        :param wake: called if a claim that a throttle has refused may be admitted earlier than it said.
        :param owner: the component whose threads claim. It is not woken by messages that a claim gives back.
        """
        self._owner = owner
        self._session = session
        self._buffer = buffer
        self._lock_time = lock_time
        self._duration = lock_time // timedelta(milliseconds=1)
        self._suspects = suspects
        self._kinds = kinds
        self._pauses = session.pauses
        self._reads_each = (session.loop_time if loop_time is None else loop_time).total_seconds()
        #: The rates at which this claims.
        self.throttles = tuple(throttles)
        self._at_once = at_once
        # Whether the throttles have refused the last claim. Written by claiming threads.
        self._refused = False
        self._wake = wake
        self._lock_times = LockTimes(
            session, partial(self.give_back, log=False, by=owner), buffer.late.extend, self.report_bug
        )
        #: The failures in a row. Written by the threads that claim or look for the next message.
        self.backoff = Backoff(session.log.outages)
        #: When the store last answered a claim, by the monotonic clock. None: it has not yet. Written by claiming threads.
        self.last_claim: float | None = None
        # Claims in a row that took as long as a lease of theirs. Written by claiming threads.
        self._slow_claims = 0
        #: Those of its messages that are not to be emitted.
        self.unfit = Unfit(session, self.report_bug)
        #: The claims that are under way.
        self.under_way = UnderWay()
        #: Messages given back so far. Any thread; CPython switches threads in no such statement.
        self.given_back = 0

    @property
    def answered(self) -> bool:
        """Whether the store has ever answered a claim."""
        return self.last_claim is not None

    @property
    def healthy(self) -> bool:
        """Whether the store answered the last look."""
        return self.backoff.healthy

    @property
    def rest(self) -> float:
        """Seconds to wait before the next claim, because the store took as long as a lease to answer the last ones."""
        return min(_FIRST_REST * 2.0 ** min(self._slow_claims - 1, 10), _LONGEST_REST) if self._slow_claims else 0.0

    def next_due(self) -> int | None:
        """Return when the next message is due that this claims: see :meth:`pitstop.abc.Backend.next_due`.

        :raises BackendUnavailable: when the store did not answer.
        """
        backend, pauses = self._session.backend, self._pauses
        if pauses is not None and pauses.ends:
            return pauses.next_due(backend, self._kinds)
        return backend.next_due() if self._kinds is None else backend.next_due(self._kinds)

    def claim(self, wanted: int, elsewhere: float = 0.0) -> Claimed:
        """Lease due messages. The caller is an :func:`entrance`.

        :param wanted: how many will be taken at once: see :meth:`ClaimBuffer.limit`.
        :param elsewhere: seconds since the last claim for which the consumer waited for the store.
        :raises BackendUnavailable: when the store did not answer.
        """
        buffer, clock = self._buffer, self._session.clock
        buffer.measure(elsewhere)
        if self.unfit.late:
            self.unfit.settle_late()
        # Taken before the claim is sent: a claim that took long to answer has used up part of its lease, or all of it.
        begun = clock.monotonic()
        until = begun + self._lock_time.total_seconds() * (1 - LEAST_REMAINDER)
        suspects, least = self._suspects, 1
        if wanted and suspects is not None and suspects.busy:
            # A suspect that may have to wait is not to be claimed as one that a handler has for certain.
            wanted, least = max(wanted, 2), 2
        kinds, pauses = self._kinds, self._pauses
        if pauses is not None and (pauses.ends or begun >= pauses.read_at + self._reads_each):
            kinds = pauses.choice_at(begun, self._reads_each, self._session.backend, kinds)
            if kinds is NO_KINDS:
                if pauses.read_at == begun:
                    # The store has answered, though there is nothing to ask it for.
                    self.backoff.succeeded(begun)
                    self.last_claim = begun
                return NOTHING
        limit, passed = buffer.limit(wanted), 0
        if self.throttles:
            passed = admitted(self.throttles, limit, round(begun * 1e6), self._wake, self._at_once)
            self._refused = not passed
            if self._refused:
                return NOTHING
            limit = min(limit, max(passed, least))
        key, versions, claims, claimed = object(), Versions(), self.under_way.claims, NOTHING
        claims[key] = versions
        try:
            claimed = self._claim(limit, kinds, begun, until, key, versions)
        finally:
            claims.pop(key, None)
            if passed:
                settle(self.throttles, passed - claimed.emitted)
        return claimed

    def pause(self) -> float:
        """Return the seconds until the throttles admit a claim; 0: now."""
        if not self.throttles:
            return 0.0
        return pause_of(self.throttles, round(self._session.clock.monotonic() * 1e6)) / 1e6

    def held_back(self) -> float | None:
        """Return the seconds until a message that is due may be claimed, if the throttles held it back. None: they did not.

        :raises BackendUnavailable: when the store did not answer.
        """
        if not self._refused:
            return None
        due = self.next_due()
        # The pause may be over by now, or another listener did not need its turn.
        return self.pause() if due is not None and due * 1000 <= self._session.backend.now() else None

    def _claim(
        self, limit: int, kinds: Collection[str] | None, begun: float, until: float, key: object, versions: Versions
    ) -> Claimed:
        buffer, suspects, clock = self._buffer, self._suspects, self._session.clock
        lease = self._session.backend.lease
        leased = lease(limit, self._duration) if kinds is None else lease(limit, self._duration, kinds)
        self.last_claim = now = clock.monotonic()
        buffer.note_claim(limit, len(leased))
        if not leased:
            self.backoff.succeeded(now)
            self._slow_claims = 0
            return NOTHING
        decided = self._decided(leased, begun, until, ahead=limit > 1)
        unfit = decided.unfit
        leases, error, in_time = decided.leases, None, clock.monotonic() < until
        if in_time and not decided.relocks:
            self.backoff.succeeded(now)
            self._slow_claims = 0
        else:
            leases, error = self._timely(decided, begun, until)
            in_time = clock.monotonic() < until
        stale: list[Lease] = []
        if versions:
            # Now, since another thread may take them as soon as they are in the buffer.
            stale = [each for each in leases if each.id in versions and each.record.revision != versions[each.id]]
            leases = [each for each in leases if each not in stale]
        ordinary, doubtful = (leases, []) if suspects is None else suspects.split(leases)
        buffer.put(ordinary, now - begun)
        if suspects is not None and doubtful:
            try:
                # Before another thread may take them for a handler.
                self._defer(suspects.blocked(doubtful))
            finally:
                suspects.keep(doubtful)
        # From here on a thread that stores or removes a message finds it in the buffer.
        self.under_way.claims.pop(key, None)
        if versions:
            waiting = [] if suspects is None else suspects.discard(versions)
            self.give_back([*stale, *buffer.discard(versions), *waiting], log=False)
        settled = False
        if unfit:
            settled, late = self.unfit.settle(unfit, begun + self._lock_time.total_seconds())
            error = error or late
        count = len(leases if suspects is not None and doubtful and suspects.ready else ordinary)
        if error is not None:
            self._look_failed(error, count)
        # A store that leases again and again what it does not settle is not asked without end.
        return Claimed(count, again=in_time and (count > 0 or settled or decided.aside), emitted=len(leases))

    def _timely(self, decided: Decided, begun: float, until: float) -> tuple[list[Lease], BackendUnavailable | None]:
        """Write the leases of another length. Return the leases of a claim whose time is not over.

        The others are given back. The second value is the error, if the store did not answer such a write.
        """
        now = self._session.clock.monotonic()
        leases, error, slow = decided.leases, None, False
        if decided.relocks:
            leases, error, slow = self._lock_times.write(leases, decided.relocks, begun)
        if error is None:
            self.backoff.succeeded(now)
        if leases and self._session.clock.monotonic() >= until:
            self._warn_of_slow_claim(now)
            self.give_back(leases, by=self._owner)
            leases, slow = [], True
        self._slow_claims = self._slow_claims + 1 if slow and not leases else 0
        return leases, error

    def _look_failed(self, error: BackendUnavailable, count: int) -> None:
        """Treat a claim as one that failed, because a write of its messages did. A pause follows if it brought nothing else."""
        if not count:
            raise error
        self.backoff.failed(error, self._session.clock.monotonic())

    @unbroken
    def give_back(self, leases: Sequence[Lease], *, log: bool = True, by: Component | None = None) -> int:
        """Give back messages that no handler has seen: they are due again, and the attempt is not counted.

        :param log: False when the caller reports the failure.
        :param by: the component that claimed them just now, and that is not to claim them again at once. None: none.
        :return: how many messages were not given back, because the store did not answer.
        """
        if not leases or self._session.closed:
            return len(leases)
        try:
            with self._session.bounded():
                backend = self._session.backend
                now = backend.now() // 1000
                applied = backend.settle([release(each.record, now, self._length(each)) for each in leases])
        except BackendUnavailable as error:
            note = self._session.log.not_given_back.passes(self._session.clock.monotonic()) if log else None
            if note is not None:
                come_back = counted(
                    len(leases),
                    "claimed message comes back only when its lease runs out",
                    "claimed messages come back only when their leases run out",
                )
                extra = self._session.log.fields("not_given_back")
                _log.warning("%s: %s%s", come_back, error, note, extra=extra)
            return len(leases)
        except Exception as bug:  # noqa: BLE001 - a bug of the backend, with one of them perhaps; the others are given back
            if len(leases) > 1:
                return sum(self.give_back([each], log=log, by=by) for each in leases)
            self.report_bug(leases[0].id, bug, "given back")
            return 1
        self.given_back += sum(map(bool, applied))
        self._session.written(None, {each.emission.leased.kind for each in leases}, by)
        return 0

    def _defer(self, leases: Sequence[Lease]) -> None:
        """Take back the attempts of suspects that have to wait: no handler has them if the process dies meanwhile."""
        if not leases:
            return
        # Before the write, because the store may apply a write that fails here. The attempt is written as a certain one before a
        # handler gets the message.
        for lease in leases:
            lease.emission = attrs.evolve(lease.emission, ahead=True)
        try:
            self._session.backend.settle([defer(each.emission, each.due) for each in leases])
        except BackendUnavailable as error:
            waiting = counted(len(leases), "message that has", "messages that have")
            extra = self._session.log.fields("not_deferred")
            _log.debug("the attempts of %s to wait may still count: %s", waiting, error, extra=extra)
        except Exception as bug:  # noqa: BLE001 - a bug of the backend: as above
            self.report_bug(leases[0].id, bug, "deferred")

    def _decided(self, leased: Sequence[Record | Damaged], begun: float, until: float, *, ahead: bool) -> Decided:
        retry, measured = self._session.retry, self._session.events.hooks.takes_lateness
        result = Decided()
        for record in leased:
            if isinstance(record, Damaged) and record.due is None:
                # The backend could not lease it, and has set it aside by itself.
                set_aside = Settlement(record.id, "", Outcome.BURY, Aside(record.error))
                self._session.events.settled(set_aside, record)
                result.aside = True
                continue
            try:
                decided = decide(record, retry, ahead=ahead, duration=self._duration)
            except NewerPolicy as newer:
                self._session.events.left_to_newer(record.id, newer)
                assert isinstance(record, Record), "it has a policy"
                result.unfit.append((record, leave(record, self._duration, ahead=ahead)))
                continue
            except BaseException as error:
                if ends_program(error):
                    raise
                self._report_not_emitted(record.id, error)
                continue
            if isinstance(decided, Emission):
                lease = Lease(decided, until)
                if measured:
                    # The store claimed it when its lease began.
                    decided.due_at = begun - (lease.due - self._duration - decided.due) / 1000
                result.leases.append(lease)
                if decided.policy is not None:
                    self._expire(lease, decided.policy, begun)
                    if (write := relock(decided, self._duration)) is not None:
                        result.relocks[lease] = write
            else:
                result.unfit.append((record, decided))
        return result

    def _expire(self, lease: Lease, policy: Policy, begun: float) -> None:
        """Let a message be handed out only before it expires. Its fate is decided again by the next claim."""
        emission = lease.emission
        last = policy.last_instant(emission.leased.progress.scheduled_for, emission.scheduled_for)
        if last is not None:
            # The last millisecond is in time.
            left = last + 1 - (lease.due - self._duration)
            lease.expire(begun + left / 1000)

    def _length(self, lease: Lease) -> int:
        """Return the length of a lease in milliseconds."""
        return self._duration if lease.lock_time is None else lease.lock_time // timedelta(milliseconds=1)

    def _report_not_emitted(self, id: str, error: BaseException) -> None:
        """Log that a recurrence of another author raised an error. The message stays leased until its lease runs out."""
        note = self._session.log.not_settled.passes(self._session.clock.monotonic())
        if note is not None:
            # Without the error's text, which may hold anything.
            _log.error(
                "%r was not emitted: its recurrence raised %s. The message comes back when its lease runs out%s%s",
                *(id, type(error).__name__, traceback_of(error), note),
                extra=self._session.log.fields("not_emitted", id),
            )

    def report_bug(self, id: str, bug: Exception, participle: str) -> None:
        """Log a bug of the backend with a message that was claimed."""
        note = self._session.log.not_settled.passes(self._session.clock.monotonic())
        if note is not None:
            # Without the error's text, which may hold anything.
            told = id, participle, type(bug).__name__, traceback_of(bug), note
            _log.error("%r could not be %s: %s%s%s", *told, extra=self._session.log.fields("backend_bug", id))

    def _warn_of_slow_claim(self, now: float) -> None:
        note = self._session.log.slow_claims.passes(now)
        if note is not None:
            _log.warning(
                "a claim took about as long as its lease of %s s, so that nothing of it was emitted; "
                "configure a longer lock_time, or a smaller prefetch%s",
                *(self._lock_time.total_seconds(), note),
                extra=self._session.log.fields("slow_claim"),
            )
