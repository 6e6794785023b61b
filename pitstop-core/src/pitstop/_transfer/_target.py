"""Target: the store to which messages are written, page by page.

A page is written by :meth:`pitstop.abc.Backend.put_new`, which leaves messages alone that are there. Then the page is read back and
compared, so that the count and the content of each page are known before the next one is written.

Threads: the one that calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from pitstop._decisions._portable import check_movable, fingerprint, is_left_behind
from pitstop._engine._calls import entrance
from pitstop._engine._handling import supersede
from pitstop._engine._session import Session
from pitstop._errors import Conflict, MessageError, PitstopError, Unsupported
from pitstop._storing import MOST_READS
from pitstop._transfer._in_use import refuse_in_use
from pitstop._values._transfer import IfOther, Transfer
from pitstop.abc import Capability, Damaged, Record
from pitstop.abc._backend import lacks_conditional, lacks_kinds, lacks_policies
from pitstop.abc._lacks import lacks_pauses


__all__ = ["Target"]

_Content = Record | Damaged
_MOST_PROBLEMS = 100
_KEPT = "The target has another message with this id, or this message in another state. It was kept."


class Target:
    """The store to which messages are written, and the outcome so far."""

    def __init__(self, session: Session, *, if_exists: IfOther, live: bool) -> None:
        self._session = session
        self._replaces = if_exists == "replace"
        self._live = live
        self.outcome = Transfer()

    @entrance
    def begin(self) -> None:
        """Check that messages can be written.

        :raises PitstopError: if a consumer has messages, and the store may not be in use.
        :raises Unsupported: if the store cannot write a message on a condition.
        """
        session = self._session
        if Capability.CONDITIONAL not in session.capabilities:
            raise lacks_conditional(session.backend)
        session.flush()
        if not self._live:
            refuse_in_use(session)

    @entrance
    def pause(self, pauses: Mapping[str, int | None]) -> None:
        """Pause kinds that are paused in the source. A kind that is paused here keeps its pause, unless this replaces messages.

        :raises Unsupported: if the store has no paused kinds.
        """
        session = self._session
        backend = session.backend
        now = backend.now() // 1000
        lasting = {kind: until for kind, until in pauses.items() if until is None or until > now}
        if lasting and Capability.PAUSES not in session.capabilities:
            raise lacks_pauses(backend, session.location)
        present = backend.paused_kinds() if lasting else {}
        for kind, until in lasting.items():
            if kind not in present or (self._replaces and present[kind] != until):
                backend.pause_kind(kind, until)
        if lasting and session.pauses is not None:
            session.pauses.changed()
        self._count(paused_kinds=len(lasting))

    @entrance
    def write(self, page: Sequence[Record]) -> None:
        """Write the records of a page, and compare them with the store.

        :raises Conflict: if other programs change one of the messages all the time, and this replaces it.
        :raises PitstopError: if a record was written and is not there as it was written.
        :raises Unsupported: if the store has no kinds or policies, and a record has one.
        """
        session = self._session
        backend = session.backend
        wanted = self._movable(page)
        self._check_capabilities(wanted.values())
        session.flush(wanted)
        records = list(wanted.values())
        stored = backend.put_new(records) if records else ()
        written = {each.id: each for each, done in zip(records, stored, strict=True) if done}
        self._count(messages=len(page), written=len(written), damaged=sum(map(is_left_behind, page)))
        for each in page:
            if is_left_behind(each):
                self._note(each.id, each.progress.last_error or "")
        self._announce(written.values())
        others = {id: each for id, each in wanted.items() if id not in written}
        self._verify(written | self._settle_others(others))

    def _movable(self, page: Sequence[Record]) -> dict[str, Record]:
        wanted: dict[str, Record] = {}
        for record in page:
            try:
                check_movable(record)
            except MessageError as error:
                self._count(refused=1)
                self._note(record.id, str(error))
            else:
                wanted[record.id] = record
        return wanted

    def _check_capabilities(self, records: Iterable[Record]) -> None:
        session = self._session
        lacks: Unsupported | None = None
        for record in records:
            if record.kind and Capability.KINDS not in session.capabilities:
                lacks = lacks_kinds(session.backend)
            elif record.policy is not None and Capability.POLICIES not in session.capabilities:
                lacks = lacks_policies(session.backend)
            if lacks is not None:
                raise Unsupported(f"The message {record.id!r:.80} cannot be written. {lacks}")

    def _settle_others(self, others: dict[str, Record]) -> dict[str, Record]:
        """Deal with records whose ids the store has. Return those that were put in the place of others."""
        replaced: dict[str, Record] = {}
        left = others
        for _ in range(MOST_READS):
            if not left:
                return replaced
            differing: list[tuple[Record, _Content]] = []
            found = self._read(list(left))
            for id, record in left.items():
                present = found.get(id)
                if isinstance(present, Record) and fingerprint(present) == fingerprint(record):
                    self._count(unchanged=1)
                elif present is not None and self._replaces:
                    differing.append((record, present))
                else:
                    # A message that is gone was handled or removed here just now.
                    self._count(kept=1)
                    self._note(id, _KEPT)
            done = self._replace(differing)
            replaced |= {each.id: each for each in done}
            left = {record.id: record for record, _ in differing if record.id not in replaced}
        raise Conflict(
            f"The message {next(iter(left))!r} was not replaced, because other programs have changed it {MOST_READS} times meanwhile. "
            f"Stop them, and try again.",
            id=next(iter(left)),
        )

    def _replace(self, differing: Sequence[tuple[Record, _Content]]) -> list[Record]:
        """Put records in the place of others. Return those that were put there."""
        session = self._session
        backend = session.backend
        done = [record for record, present in differing if isinstance(present, Damaged)]
        if done:
            # No condition finds a document that cannot be read.
            backend.put(done)
        sound = [(record, present) for record, present in differing if isinstance(present, Record)]
        if sound:
            stored = backend.put_many_if([(record, present.revision, present.progress) for record, present in sound])
            done += [record for (record, _), each in zip(sound, stored, strict=True) if each]
        if done:
            # Deliveries of the messages that were there can change nothing any more.
            supersede(session.events, [record.id for record in done])
            session.forget({record.id: record.revision for record in done})
        self._announce(done)
        self._count(replaced=len(done))
        return done

    def _verify(self, written: Mapping[str, Record]) -> None:
        """Compare records that were written with the store.

        :raises PitstopError: if one of them is not there as it was written.
        """
        found = self._read(list(written))
        for id, record in written.items():
            present = found.get(id)
            if isinstance(present, Record) and fingerprint(present) == fingerprint(record):
                continue
            if self._live and (
                present is None
                or (
                    isinstance(present, Record)
                    and (present.revision, present.progress) != (record.revision, record.progress)
                )
            ):
                self._count(overtaken=1)
                continue
            how = "is not there any more" if present is None else "is there with other values"
            raise PitstopError(
                f"The message {id!r:.80} was written to {self._session.location}, and {how}. If consumers use that store, stop them and begin "
                f"again: nothing is written twice. If none does, the store does not keep what it is given."
            )

    def _read(self, ids: Sequence[str]) -> dict[str, _Content]:
        found: dict[str, _Content] = {}
        left = ids
        while left:
            portion, left = self._session.backend.get_portion(left)
            found |= {each.id: each for each in portion}
        return found

    def _announce(self, records: Iterable[Record]) -> None:
        dues = [(each.progress.due, each.kind) for each in records if each.progress.due is not None]
        if dues:
            self._session.written(min(due for due, _ in dues), {kind for _, kind in dues})

    def _count(self, **more: int) -> None:
        outcome = self.outcome
        self.outcome = attrs.evolve(outcome, **{name: getattr(outcome, name) + count for name, count in more.items()})

    def _note(self, id: str, reason: str) -> None:
        if len(self.outcome.problems) < _MOST_PROBLEMS:
            self.outcome = attrs.evolve(self.outcome, problems=(*self.outcome.problems, (id, reason)))
