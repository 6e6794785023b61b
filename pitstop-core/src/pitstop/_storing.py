"""Storing: records on their way into the store, with the notices to listeners and observers.

Threads: the one that calls ``store``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pitstop._decisions._change import Terms, Wanted, change
from pitstop._engine._handling import supersede, token_in_hand
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, Conflict
from pitstop._values._stored import Stored
from pitstop.abc import Capability, Record, Writes
from pitstop.abc._backend import lacks_conditional


__all__ = ["MOST_READS", "Storing", "check_conditional"]

#: How often a change begins again because the message has changed since it was read.
MOST_READS = 50


class Storing:
    """The writes of one call of ``store`` or ``store_many``."""

    __slots__ = ("_at_once", "_now", "_session", "_writes")

    def __init__(self, session: Session, writes: Writes, now_us: int, *, at_once: bool) -> None:
        """Begin the writes.

        :param writes: of the backend, or of a transaction of the user.
        :param now_us: the time of the call, in microseconds.
        :param at_once: whether the writes take effect at once, and not with the commit of a transaction.
        """
        self._session = session
        self._writes = writes
        self._now = now_us // 1000
        self._at_once = at_once

    def put(self, record: Record, *, made: bool) -> Stored:
        """Store a record in the place of any record with its id.

        :param made: whether this call has made the id, so that no record has it.
        """
        self._put([record], () if made else (record.id,))
        return Stored(record.id, "created" if made else "stored")

    def put_all(self, records: Sequence[Record], made: Collection[str]) -> list[Stored]:
        """Store records as :meth:`put` does, together. Of several records with one id, the last one is stored.

        :param made: the ids that this call has made.
        """
        distinct = {record.id: record for record in records}
        if distinct:
            self._put(list(distinct.values()), distinct.keys() - made if len(made) < len(distinct) else ())
        return [Stored(each.id, "created" if each.id in made else "stored") for each in records]

    def put_all_on_terms(self, wanted: Sequence[Wanted], terms: Terms, made: Collection[str]) -> list[Stored]:
        """Store records as :meth:`put_on_terms` does. Those with new ids are stored together.

        :raises BackendUnavailable: as :meth:`put_on_terms`.
        :raises Conflict: as :meth:`put_on_terms`. If one of the records must not exist, and does, none is stored.
        :raises MessageError: as :meth:`put_on_terms`.
        :raises Unsupported: as :meth:`put_on_terms`.
        """
        check_conditional(self._session)
        known = {each.record.id: each for each in wanted if each.record.id not in made}
        if terms.if_exists == "error":
            self._flush_before_look(known.keys())
            for id, each in known.items():
                change(self._writes.get(id), each, terms, self._now)
        new = [each.record for each in wanted if each.record.id in made]
        if new:
            self._put(new, ())
        outcomes = {id: self.put_on_terms(each, terms).outcome for id, each in known.items()}
        return [Stored(each.record.id, outcomes.get(each.record.id, "created")) for each in wanted]

    def put_on_terms(self, wanted: Wanted, terms: Terms) -> Stored:
        """Store a record as the record that exists allows.

        :raises BackendUnavailable: if an ack of the message is not written yet, and may wait for the end of the transaction.
        :raises Conflict: if the record must not exist, is not in the state in which it was read, or changes again and again.
        :raises MessageError: if the record that exists cannot be read.
        :raises ScheduleError: if a series that goes on has no occurrence left.
        :raises Unsupported: if the backend cannot store on a condition.
        """
        check_conditional(self._session)
        id = wanted.record.id
        self._flush_before_look([id])
        # A record that must not exist is not read first: the write finds out.
        present = None if terms.if_exists == "error" else self._writes.get(id)
        for _ in range(MOST_READS):
            todo = change(present, wanted, terms, self._now, holder=token_in_hand(self._session.events, id))
            record = todo.record
            if record is None:
                return Stored(id, todo.outcome)
            if self._writes.put_if(record, todo.revision, todo.progress):
                self.replaced(record, keeps_lease=todo.keeps_lease)
                return Stored(id, todo.outcome)
            present = self._writes.get(id)
        raise Conflict(
            f"The message {id!r} was not stored, because other programs have changed it {MOST_READS} times meanwhile. Try again.",
            id=id,
        )

    def replaced(self, record: Record, *, keeps_lease: bool = False) -> None:
        """Note that a record was put in the place of the one with its id.

        :param keeps_lease: whether a delivery of that one can still be settled.
        """
        if not keeps_lease:
            supersede(self._session.events, [record.id])
        if self._at_once:
            # A message that was claimed ahead with its old body is given back, and comes with the new one.
            self._session.forget({record.id: record.revision})
        self._announce([record])

    def _put(self, records: Sequence[Record], known: Collection[str]) -> None:
        """Store records. Those that are known may exist."""
        session = self._session
        if known:
            # Acks that returned come first: they must be written before the message is stored anew. If an ack waits for the end
            # of the user's transaction, it comes too late in effect, and that is the same: the message is stored anew.
            session.flush(known) if self._at_once else session.flush_aside(known)
        self._writes.put(records)
        if known:
            supersede(session.events, known)
        if known and self._at_once:
            session.forget({each.id: each.revision for each in records if each.id in known})
        self._announce(records)

    def _flush_before_look(self, ids: Collection[str]) -> None:
        """Write the acks that returned, so that the messages are looked at as the caller expects them.

        :raises BackendUnavailable: if an ack may wait for the end of the user's transaction.
        """
        if self._at_once:
            self._session.flush(ids)
        elif not self._session.flush_aside(ids):
            raise BackendUnavailable(
                f"Nothing was stored, because an ack of {', '.join(map(repr, sorted(ids)[:3]))} is not written yet. It may wait for "
                f"the end of this transaction. Roll back, and try again; or acknowledge with ack(session=...), or with "
                f"ack(wait=True) before the transaction begins."
            )

    def _announce(self, records: Sequence[Record]) -> None:
        events = self._session.events
        if events.observes_stored:
            for record in records:
                events.stored(record, self._now)
        # In a transaction no message is visible yet. Its commit is noticed like a store by another process.
        if self._at_once and len(records) == 1:
            # As a rule. Every store comes here.
            (record,) = records
            self._session.written(record.progress.due or 0, (record.kind,))
        elif self._at_once:
            due = min([record.progress.due or 0 for record in records])
            self._session.written(due, {record.kind for record in records})
        if events.hooks.strict:
            events.raise_kept()


def check_conditional(session: Session) -> None:
    """Check that the backend of a session can change a record on a condition.

    :raises Unsupported: if it cannot.
    """
    if Capability.CONDITIONAL not in session.capabilities:
        raise lacks_conditional(session.backend)
