"""Settlements: one statement for each shape of a batch, under the fence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from pitstop import OutcomeUnknown
from pitstop.abc import Aside, Outcome, Progress, Record, Settlement
from pitstop_postgres._database import Database, Run
from pitstop_postgres._hints import Hints
from pitstop_postgres._rows import Row, columns_of, progress_values, read_row
from pitstop_postgres._statements import Statements
from pitstop_postgres._storing import execute


__all__ = ["Settler", "hint_of", "single"]


def single(statements: Statements, settlement: Settlement, now: int | None) -> tuple[str, Row]:
    """Return the statement of one settlement, and its values. It returns the id if it was applied."""
    progress = settlement.progress
    fence = (settlement.id, settlement.token)
    if progress is None:
        return statements.complete, (*fence, now)
    if isinstance(progress, Aside):
        return statements.set_aside, (*fence, progress.last_error.replace("\0", "\N{REPLACEMENT CHARACTER}"), now)
    return statements.advance, (*fence, *progress_values(progress), now)


def hint_of(hints: Hints, settlements: Collection[Settlement]) -> str | None:
    """Return the hint for the records that a claim may take after these settlements. An extension is no news."""
    return hints.of_records(
        each.progress.due
        for each in settlements
        if isinstance(each.progress, Progress) and each.outcome is not Outcome.EXTEND
    )


class Settler:
    """Applies settlements for one backend."""

    def __init__(self, database: Database, statements: Statements, hints: Hints) -> None:
        self._database = database
        self._statements = statements
        self._hints = hints

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        """See :meth:`pitstop.abc.Backend.settle`."""
        shapes: dict[type, list[Settlement]] = {}
        for each in settlements:
            shapes.setdefault(type(each.progress), []).append(each)
        answers: dict[tuple[str, str], bool | None] = {}
        began = False
        for batch in shapes.values():
            try:
                answers.update(self._database.write(lambda run, batch=batch: self._apply(run, batch)))  # type: ignore[misc]
            except OutcomeUnknown:
                raise
            except Exception as error:
                if not began:
                    raise
                raise OutcomeUnknown(f"{error} Some settlements of the batch were applied.") from None
            began = True
        return [answers[each.id, each.token] for each in settlements]

    def _apply(self, run: Run, batch: Sequence[Settlement]) -> dict[tuple[str, str], bool | None]:
        now, hint = self._database.given_now, hint_of(self._hints, batch)
        if len(batch) == 1:
            statement, values = single(self._statements, batch[0], now)
        else:
            statement, values = self._many(batch, now)
        applied = set(execute(run.session, self._hints, statement, values, hint))
        answers: dict[tuple[str, str], bool | None] = {(each.id, each.token): each.id in applied for each in batch}
        refused = [each for each in batch if each.id not in applied]
        if run.again and refused:
            answers.update(self._found_out(run, refused, single=len(batch) == 1))
        return answers

    def _many(self, batch: Sequence[Settlement], now: int | None) -> tuple[str, Row]:
        fences = columns_of([(each.id, each.token) for each in batch])
        first = batch[0].progress
        if first is None:
            return self._statements.complete_many, (*fences, now)
        if isinstance(first, Aside):
            rows = [single(self._statements, each, now)[1] for each in batch]
            return self._statements.set_aside_many, (*columns_of([row[:3] for row in rows]), now)
        written = [progress_values(each.progress) for each in batch if isinstance(each.progress, Progress)]
        return self._statements.advance_many, (*fences, *columns_of(written), now)

    def _found_out(
        self, run: Run, refused: Sequence[Settlement], *, single: bool
    ) -> dict[tuple[str, str], bool | None]:
        """Return the answers for settlements that a lost run may have applied. Its session is over."""
        rows = run.session.fetch(self._statements.get_many, ([each.id for each in refused],))
        found = {content.id: content for content in map(read_row, rows)}
        answers: dict[tuple[str, str], bool | None] = {}
        for each in refused:
            content = found.get(each.id)
            answer: bool | None = None
            if content is None:
                # Of a single delete it is told exactly whether it was applied.
                answer = None if each.progress is None and single else each.progress is None
            elif isinstance(content, Record) and content.progress == each.progress:
                answer = True
            elif (
                content.token == each.token if not isinstance(content, Record) else content.progress.token == each.token
            ):
                # The lease is over, and no other claim has the record.
                answer = False
            if each.outcome is Outcome.EXTEND and answer is None:
                answer = False
            self._database.counters["settlement_recovered"] += answer is not None
            answers[each.id, each.token] = answer
        return answers
