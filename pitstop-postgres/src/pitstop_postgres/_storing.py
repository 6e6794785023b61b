"""Stores and removals. A store writes a whole record, and replaces the one with the same id.

If the reply to a store gets lost, the store is not simply sent again: the message may have been emitted and acknowledged
meanwhile. A message that is found with its revision was stored. One that is not found, and is not due yet, was not stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import psycopg

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Damaged, Progress, Query, Record, dump_message
from pitstop_postgres._database import Database, Run
from pitstop_postgres._hints import Hints
from pitstop_postgres._refusals import Refusals, apart, why_of
from pitstop_postgres._rows import Row, columns_of, new_row, plain, progress_values, read_row
from pitstop_postgres._session import Session
from pitstop_postgres._statements import Statements, notifying, notifying_one


__all__ = ["Storer", "execute", "fresh_row", "is_fresh", "raise_suppressed"]

#: The limits of one statement, which has to end within operation_timeout.
_MOST_RECORDS = 5000
_MOST_CHARACTERS = 16 * 1024 * 1024
#: How often a removal on a condition reads again the records that have changed meanwhile.
_MOST_READS = 10
#: The place of the message in a row, from the end. It is the same in a row of a record that was never claimed.
_MESSAGE = -3


def is_fresh(progress: Progress) -> bool:
    """Whether a record was never claimed: the columns of claims have their defaults."""
    return (
        not progress.attempts
        and progress.first_leased is None
        and progress.last_error is None
        and progress.token is None
        and not progress.unsettled
        and not progress.ahead
        and not progress.excused
    )


def fresh_row(record: Record) -> Row:
    """Return the row to write for a record that was never claimed: the part that has no defaults."""
    progress = record.progress
    return (
        record.id,
        progress.due,
        progress.scheduled_for,
        record.revision,
        plain(record.series),
        dump_message(record.message),
        record.kind,
        plain(record.policy),
    )


def execute(
    session: Session, hints: Hints, statement: str, values: Row, hint: str | None, *, single: bool = False
) -> list[str]:
    """Execute a statement that returns ids, with a notification if there is a hint. Return the ids.

    :param single: whether the statement changes one row at most.
    """
    if hint is not None:
        statement = notifying_one(statement) if single else notifying(statement)
        values = (*values, hints.channel, hint)
    return [row[0] for row in session.fetch(statement, values)]


class Storer:
    """Writes records for one backend."""

    def __init__(self, database: Database, statements: Statements, hints: Hints, refusals: Refusals) -> None:
        self._database = database
        self._statements = statements
        self._hints = hints
        self._refusals = refusals

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`pitstop.abc.Backend.put`."""
        self._refusals.forget(each.id for each in records)
        fresh = all(is_fresh(each.progress) for each in records)
        row = fresh_row if fresh else new_row
        batches = list(_portions([(each, row(each)) for each in records]))
        for number, batch in enumerate(batches):
            try:
                self._database.write(lambda run, batch=batch: self._put(run, batch, fresh=fresh))  # type: ignore[misc]
            except OutcomeUnknown as error:
                raise self._unknown(error, batches[number:]) from None
            except Exception as error:
                if not number:
                    raise
                raise self._unknown(error, batches[number:]) from None

    def put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        """See :meth:`pitstop.abc.Backend.put_if`."""
        row, hint = new_row(record), self._hints.of_records([record.progress.due])
        statement, values = conditional(self._statements, row, revision, progress)

        def write(run: Run) -> bool:
            if run.again:
                if self._stored(run, [(record, row)]):
                    return True
                if revision is None:
                    self._check_not_due([record])
            if execute(run.session, self._hints, statement, values, hint, single=True):
                return True
            if run.again:
                # The lost run may have stored it, and another user may have changed it since.
                self._raise_unknown("another user has changed the message since")
            return False

        try:
            return self._database.write(write)
        except OutcomeUnknown as error:
            text = f"{error} Check with get(), or store again under the same id."
            raise OutcomeUnknown(text, ids=(record.id,), permanent=error.permanent) from None

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        """See :meth:`pitstop.abc.Many.put_new`."""
        created: set[str] = set()
        for batch in _portions([(each, new_row(each)) for each in records]):
            try:
                created |= self._database.write(lambda run, batch=batch: self._create(run, batch))  # type: ignore[misc]
            except OutcomeUnknown as error:
                ids = tuple(each.id for each in records if each.id not in created)
                raise OutcomeUnknown(str(error), ids=ids, permanent=error.permanent) from None
        return [each.id in created for each in records]

    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        """See :meth:`pitstop.abc.Backend.put_many_if`."""
        if not items:
            return []
        rows = [(record, new_row(record)) for record, *_ in items]
        values = [
            (*row, revision, *progress_values(progress))
            for (_, row), (_, revision, progress) in zip(rows, items, strict=True)
        ]
        hint = self._hints.of_records([record.progress.due for record, *_ in items])

        done: set[str] = set()

        def write(run: Run) -> set[str]:
            if run.again:
                done.update(self._stored(run, rows))

            def replace(some: Sequence[Row]) -> list[str]:
                return execute(run.session, self._hints, self._statements.replace_many, tuple(columns_of(some)), hint)

            refused = apart([each for each in values if each[0] not in done], replace, done.update)
            if refused and not done:
                raise refused[0][1]
            for row, error in refused:
                self._refused(row[0], error, "changed")
            if run.again and len(done) + len(refused) < len(values):
                self._raise_unknown("other users have changed some of the messages since")
            return done

        try:
            self._database.write(write)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                str(error), ids=tuple(record.id for record, *_ in items), permanent=error.permanent
            ) from None
        return [record.id in done for record, *_ in items]

    def delete(self, id: str) -> bool:
        """See :meth:`pitstop.abc.Backend.delete`."""

        def write(run: Run) -> bool:
            if run.session.change(self._statements.delete, (id,)):
                return True
            if run.again:
                self._raise_unknown("the message is gone, and may have been gone before")
            return False

        try:
            return self._database.write(write)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                f"{error} Check with get(), or remove again.", ids=(id,), permanent=error.permanent
            ) from None

    def delete_many(self, ids: Sequence[str], query: Query | None) -> Sequence[bool]:
        """See :meth:`pitstop.abc.Backend.delete_many`."""
        self._refusals.forget(ids)
        there: set[str] = set()
        gone: set[str] = set()

        def write(run: Run) -> set[str]:
            # After a lost reply, a record that was there before and is gone counts as removed.
            found = {content.id: (version, content) for version, content in self._versions(run.session, ids)}

            def remove(some: Sequence[str], statement: Callable[[Sequence[str]], tuple[str, Row]]) -> set[str]:
                """Remove records. Return the ids of those that the server refuses to remove."""
                refused = apart(
                    some,
                    lambda each: run.session.fetch(*statement(each)),
                    lambda rows: gone.update(row[0] for row in rows),
                )
                if refused and not gone:
                    raise refused[0][1]
                for id, error in refused:
                    self._refused(id, error, "removed")
                return {id for id, _ in refused}

            gone.update(there - found.keys())
            there.update(found)
            if query is None:
                remove([id for id in ids if id not in gone], lambda some: (self._statements.delete_many, (list(some),)))
                return gone
            for _ in range(_MOST_READS):
                now = self._database.now_us() // 1000
                chosen = {id: version for id, (version, content) in found.items() if query.matches(content, now)}
                if not chosen:
                    break
                refused = remove(
                    list(chosen),
                    lambda some, chosen=chosen: (  # type: ignore[misc]
                        self._statements.delete_versions,
                        (list(some), [chosen[id] for id in some]),
                    ),
                )
                # The others have changed since they were read. Those that still match are tried again.
                again = [id for id in chosen if id not in gone and id not in refused]
                found = (
                    {content.id: (version, content) for version, content in self._versions(run.session, again)}
                    if again
                    else {}
                )
            return gone

        try:
            removed = self._database.write(write)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(str(error), ids=tuple(ids), permanent=error.permanent) from None
        return [id in removed for id in ids]

    def _create(self, run: Run, batch: Sequence[tuple[Record, Row]]) -> set[str]:
        """Store the records of a batch whose ids are new. Return these ids."""
        done = self._stored(run, batch) if run.again else set()
        left = [each for each in batch if each[0].id not in done]
        if run.again:
            self._check_not_due([record for record, _ in left])
        if not left:
            return done
        hint = self._hints.of_records([record.progress.due for record, _ in left])
        columns = tuple(columns_of([row for _, row in left]))
        return done.union(execute(run.session, self._hints, self._statements.create_many, columns, hint))

    def _versions(self, session: Session, ids: Sequence[str]) -> list[tuple[str, Record | Damaged]]:
        return [(row[0], read_row(row[1:])) for row in session.fetch(self._statements.get_versions, (list(ids),))]

    def _put(self, run: Run, batch: Sequence[tuple[Record, Row]], *, fresh: bool) -> None:
        if run.again:
            stored = self._stored(run, batch)
            batch = [each for each in batch if each[0].id not in stored]
            self._check_not_due([record for record, _ in batch])
        if not batch:
            return
        hint = self._hints.of_records([record.progress.due for record, _ in batch])
        rows = [row for _, row in batch]
        if len(rows) == 1:
            statement = self._statements.put_fresh_one if fresh else self._statements.put_one
            written = execute(run.session, self._hints, statement, rows[0], hint, single=True)
        elif fresh and (count := self._put_alike(run.session, rows, hint)) is not None:
            if count == len(rows):
                return
            written = list(self._stored(run, batch))
        else:
            statement = self._statements.put_fresh_many if fresh else self._statements.put_many
            written = execute(run.session, self._hints, statement, tuple(columns_of(rows)), hint)
        if len(written) < len(rows):
            raise_suppressed(self._database.location, [row[0] for row in rows], written)

    def _refused(self, id: str, error: psycopg.Error, verb: str) -> None:
        self._refusals.log(id, f"it was not {verb}, because {why_of(error)}")

    def _put_alike(self, session: Session, rows: Sequence[Row], hint: str | None) -> int | None:
        """Store rows of records that were never claimed by the statement that costs least.

        :return: how many rows were stored. None: the statement does not fit them, and nothing was done.
        """
        ids, dues, nominal, revisions, series, messages, kinds, policies = zip(*rows, strict=True)
        own = [list(each) for each in (ids, dues, nominal, revisions, messages)]
        if not (_is_constant(kinds) and _is_constant(series) and _is_constant(policies)) or own[0] != sorted(ids):
            return None
        values = (series[0], kinds[0], policies[0], *own)
        if hint is None:
            return session.change(self._statements.put_alike, values)
        return session.change(self._statements.put_alike_notifying, (*values, self._hints.channel, hint))

    def _stored(self, run: Run, batch: Sequence[tuple[Record, Row]]) -> set[str]:
        """Return the ids of the records that are there with their revisions."""
        values = [record.id for record, _ in batch], [record.revision for record, _ in batch]
        stored = {row[0] for row in run.session.fetch(self._statements.stored, values)}
        self._database.counters["store_recovered"] += len(stored)
        return stored

    def _check_not_due(self, records: Sequence[Record]) -> None:
        """Raise if one of the records may have been stored, emitted and acknowledged. It would be emitted again."""
        now = self._database.now_us() // 1000
        if any((record.progress.due or 0) <= now for record in records):
            self._raise_unknown("the message may have been emitted and acknowledged by now")

    def _raise_unknown(self, why: str) -> None:
        raise OutcomeUnknown(
            f"PostgreSQL at {self._database.location} lost the reply to a write. Whether it was done is not known, because {why}."
        )

    def _unknown(self, error: Exception, batches: Sequence[Sequence[tuple[Record, Row]]]) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"{error} Store again under the same ids (see error.ids). Then all messages are stored. A message that was also stored "
            f"the first time may be emitted twice.",
            ids=tuple(record.id for batch in batches for record, _ in batch),
            permanent=getattr(error, "permanent", False),
        )


def raise_suppressed(location: str, given: Sequence[str], stored: Collection[str]) -> None:
    """Raise because the server has not stored a record, and has not said so."""
    text = f"PostgreSQL at {location} did not store {len(given) - len(stored)} of {len(given)} messages: a trigger of the table suppresses it."
    if not stored:
        raise BackendUnavailable(f"{text} Nothing was changed.", permanent=True)
    missing = tuple(id for id in given if id not in stored)
    raise OutcomeUnknown(f"{text} The others were stored.", ids=missing, permanent=True)


def conditional(statements: Statements, row: Row, revision: str | None, progress: Progress | None) -> tuple[str, Row]:
    """Return the statement of :meth:`pitstop.abc.Backend.put_if`, and its values. It returns an id if it was done."""
    if revision is None:
        return statements.create, row
    values = (*row[1:], row[0], revision)
    if progress is None:
        return statements.replace, values
    return statements.replace_unchanged, (*values, *progress_values(progress))


def _is_constant(column: tuple[object, ...]) -> bool:
    return column.count(column[0]) == len(column)


def _portions(batch: Sequence[tuple[Record, Row]]) -> Iterator[list[tuple[Record, Row]]]:
    portion: list[tuple[Record, Row]] = []
    size = 0
    for each in batch:
        length = len(each[1][_MESSAGE])
        if portion and (len(portion) >= _MOST_RECORDS or size + length > _MOST_CHARACTERS):
            yield portion
            portion, size = [], 0
        portion.append(each)
        size += length
    if portion:
        yield portion
