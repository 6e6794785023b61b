"""Settler: writes a batch of settlements, finds out what became of each, and reports it. Each lease harms only itself.

Threads: the one that writes; any thread reports a lost lease.
"""

from __future__ import annotations

import logging

from collections.abc import Sequence

import attrs

from pitstop._decisions._ending import ends_program
from pitstop._engine._bugs import traceback_of
from pitstop._engine._lease import Lease, Purpose, State
from pitstop._engine._pledge import Pledge
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, PitstopError
from pitstop.abc import Outcome, Progress, Record, Settlement


__all__ = ["Counts", "Settler"]

_log = logging.getLogger("pitstop.delivery")

_ACK = Purpose.ACK


@attrs.define
class Counts:
    """How the deliveries of one listener ended, as far as the store has said so.

    Each thread that learns an outcome counts it. CPython switches threads in no such statement.
    """

    acked: int = 0
    nacked: int = 0
    lost: int = 0
    #: Deliveries whose handler stored or removed the message itself.
    superseded: int = 0


class Settler:
    """The settlements of one listener's deliveries, once they are to be written."""

    def __init__(self, session: Session) -> None:
        self._session = session
        #: How the deliveries ended so far.
        self.counts = Counts()

    def write(self, batch: Sequence[Lease]) -> None:
        """Write the settlements of these leases, which belong to the calling thread, and report their outcomes.

        :raises BackendUnavailable: when the store did not answer. Leases whose outcome is not known then are to be written
            again.
        """
        # Looked at once: another handler may store or remove its message meanwhile.
        if len(batch) > 1 and (apart := [each for each in batch if each.superseded]):
            # In a batch of deletes a backend may count a message that was removed before as deleted.
            for each in apart:
                self._write_together((each,))
            batch = [each for each in batch if each not in apart]
        self._write_together(batch)

    def _write_together(self, batch: Sequence[Lease]) -> None:
        backend = self._session.backend
        pledged: list[tuple[Lease, Pledge]] = []
        answers: list[tuple[Lease, Settlement, bool | None]] = []
        # A write that fails is tried again by the caller, or reported to the caller's caller.
        with backend.bounded():
            sent, settlements = self._decided(batch, backend.now(), pledged)
            try:
                if sent:
                    answers = list(zip(sent, settlements, backend.settle(settlements), strict=True))
            except BackendUnavailable:
                raise
            except Exception as bug:  # noqa: BLE001 - a bug of the backend, with one of these settlements perhaps
                self._write_one_by_one(sent, bug)
        try:
            self._report_done(answers)
        except BaseException:
            # The store has done the rest, too. When they are written again, it refuses them: they are not lost.
            for lease, _, done in answers:
                if done is not False:
                    lease.postpone(doubtful=True)
            raise
        # Last, since this asks the store, which may be away by now: the outcome of the others is reported before.
        for lease, settlement, done in answers:
            if not done:
                self._refused(lease, settlement)
        for lease, pledge in pledged:
            self._look_for_pledge(lease, pledge)

    def _write_one_by_one(self, batch: Sequence[Lease], bug: Exception) -> None:
        for lease in batch:
            # The error may have been raised after the store had done it.
            lease.postpone(doubtful=True)
        if len(batch) == 1:
            self._fail(batch[0], bug, "written")
            return
        for lease in batch:
            self.write((lease,))

    def _decided(
        self, batch: Sequence[Lease], now_us: int, pledged: list[tuple[Lease, Pledge]]
    ) -> tuple[list[Lease], list[Settlement]]:
        """Return the leases whose settlements are to be written, and these settlements. The outcome of the others is known.

        :param pledged: gets the leases that have ended, and whose acks in transactions are to be looked for.
        """
        retry = self._session.retry
        leases: list[Lease] = []
        settlements: list[Settlement] = []
        for lease in batch:
            try:
                settlement = lease.decide(now_us, retry)
            except BaseException as error:
                if ends_program(error):
                    raise
                self._fail(lease, error, "computed")
                continue
            if settlement is not None:
                leases.append(lease)
                settlements.append(settlement)
            elif lease.pledge is not None and not lease.superseded:
                pledged.append((lease, lease.pledge))
            elif lease.doubted and not lease.superseded:
                # Not lost: an earlier write may have been done. A record that is gone does not say which write deleted it.
                self._leave_in_doubt(lease)
            else:
                self._lost(lease)
        return leases, settlements

    def _refused(self, lease: Lease, settlement: Settlement) -> None:
        if lease.pledge is not None and not lease.superseded:
            # Not a proof that the transaction has committed: the lease may have run out while this waited for the store, or
            # another program may have stored the message anew.
            self._look_for_pledge(lease, lease.pledge)
            return
        if not lease.doubted or lease.superseded:
            self._lost(lease)
            return
        try:
            done = lease.was_done(self._session.backend.get(lease.id))
        except BackendUnavailable:
            raise
        except Exception as bug:  # noqa: BLE001 - a bug of the backend with this record; the others go on
            self._fail(lease, bug, "written")
            return
        if done is None:
            self._leave_in_doubt(lease)
        elif done:
            self._done(lease, settlement)
        else:
            self._lost(lease)

    def _look_for_pledge(self, lease: Lease, pledge: Pledge) -> None:
        """Find out whether an ack in a transaction has committed, by what is stored now."""
        backend = self._session.backend
        try:
            stored = backend.get(lease.id)
            kept = pledge.was_kept(lease.record, stored)
            if kept is None and lease.state is State.SENT and isinstance(stored, Record):
                # The fence has refused a lease that has not ended, of a message that was not stored anew. So the series went on.
                same = stored.revision == lease.record.revision
                kept = True if same and not lease.is_over(backend.now()) else None
        except BackendUnavailable:
            raise
        except Exception as bug:  # noqa: BLE001 - a bug of the backend with this record; the others go on
            self._fail(lease, bug, "written")
            return
        if kept:
            self._kept(lease, pledge)
        elif lease.doubted:
            self._leave_in_doubt(lease)
        else:
            # Also if that cannot be said, because the message was stored anew: an ack that is not certain is none.
            self._lost(lease)

    def _kept(self, lease: Lease, pledge: Pledge) -> None:
        """Report an ack in a transaction that has committed."""
        lease.purpose = _ACK
        self._done(lease, pledge.settlement)

    def _report_done(self, answers: Sequence[tuple[Lease, Settlement, bool | None]]) -> None:
        counts, events = self.counts, self._session.events
        tapped, observed = events.tap is not None, events.observes_acks
        for lease, settlement, done in answers:
            if done:
                if settlement.progress is not None or lease.purpose is not _ACK or tapped:
                    self._done(lease, settlement)
                    continue
                # As a rule, and without the calls that _done() makes.
                delivery = lease.done()
                counts.acked += 1
                if observed:
                    events.acked(delivery, lease)
            elif done is None:
                lease.postpone(doubtful=True)

    def _done(self, lease: Lease, settlement: Settlement) -> None:
        events, delivery = self._session.events, lease.done()
        if lease.purpose is _ACK:
            self.counts.acked += 1
            hooks = events.hooks
            if hooks.acked or hooks.settled:
                events.acked(delivery, lease)
        else:
            if lease.purpose is Purpose.NACK:
                self.counts.nacked += 1
                if settlement.outcome is not Outcome.BURY:
                    events.nacked(lease)
            if settlement.outcome is Outcome.RELEASE:
                progress = settlement.progress
                assert isinstance(progress, Progress)
                assert progress.due is not None
                events.retried(delivery, lease.error, progress.due)
        events.settled(settlement, kind=lease.emission.leased.kind)

    def _lost(self, lease: Lease) -> None:
        delivery = lease.delivery
        lease.release()
        if lease.lose():
            self.lose(lease, delivery)
        else:
            self.counts.superseded += 1
            self._session.events.superseded(lease.id)

    def _leave_in_doubt(self, lease: Lease) -> None:
        extra = self._session.log.of("outcome_unknown", lease)
        _log.debug("the outcome of the settlement of %r is not known: the reply was lost", lease.id, extra=extra)
        lease.doubt()
        lease.release()

    def _fail(self, lease: Lease, error: BaseException, what: str) -> None:
        """Log a settlement that raised an error. The message comes back when its lease runs out.

        :param what: the step that raised it, as a participle.
        """
        participle = "settled" if lease.purpose is None else lease.purpose.value
        fate = "The message comes back when its lease runs out."
        advice = "Look at its recurrence; or store the message again, or remove it."
        if what != "computed":
            fate = "Unless the store did it all the same, the message comes back when its lease runs out."
            advice = "This is a bug of the backend: report it, with the lines of the log."
        told = PitstopError(
            f"{lease.id!r} was not {participle}: {type(error).__name__} was raised while its next state was {what}. "
            f"{fate} {advice}"
        )
        told.__cause__ = error
        lease.fail(told)
        lease.release()
        note = self._session.log.not_settled.passes(self._session.clock.monotonic())
        if note is not None:
            # With the traceback, and without the error's text, which may hold anything.
            extra = self._session.log.of("not_settled", lease)
            _log.error("%s%s%s", told, traceback_of(error), note, extra=extra)

    def lose(self, lease: Lease, delivery: object) -> None:
        """Count and report a lease that is over. Any thread that finds it out."""
        self.counts.lost += 1
        self._session.events.lost(
            lease.id, lease.attempt, delivery, kind=lease.emission.leased.kind, ran_out=self._ran_out(lease)
        )

    def _ran_out(self, lease: Lease) -> bool:
        """Whether the lease is over because its time is, and not because the message was changed."""
        try:
            return lease.is_over(self._session.backend.now())
        except BackendUnavailable:
            return False
