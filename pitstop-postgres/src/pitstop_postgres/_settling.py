"""Settlements: one statement for each shape of a batch, under the fence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from functools import partial

import psycopg

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Aside, Outcome, Progress, Record, Settlement
from pitstop_postgres._database import Database, Run
from pitstop_postgres._failures import translate
from pitstop_postgres._hints import Hints
from pitstop_postgres._refusals import Refusals, apart, why_of
from pitstop_postgres._rows import Row, columns_of, progress_values, read_row
from pitstop_postgres._statements import Statements
from pitstop_postgres._storing import execute


__all__ = ["Settler", "hint_of", "single"]

_Refused = tuple[Settlement, psycopg.Error]


def single(statements: Statements, settlement: Settlement, now: int | None) -> tuple[str, Row]:
    """Return the statement of one settlement, and its values. It returns the id if it was applied."""
    progress = settlement.progress
    fence = (settlement.id, settlement.token)
    if progress is None:
        return statements.complete, (*fence, now)
    if isinstance(progress, Aside):
        return statements.set_aside, (*fence, progress.last_error, now)
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

    def __init__(self, database: Database, statements: Statements, hints: Hints, refusals: Refusals) -> None:
        self._database = database
        self._statements = statements
        self._hints = hints
        self._refusals = refusals

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        """See :meth:`pitstop.abc.Backend.settle`."""
        answers: dict[tuple[str, str], bool | None] = {}
        refused: list[_Refused] = []
        for batch in _batches(settlements):
            applied: set[str] = set()
            try:
                # The default values belong to this batch, and not to the last one.
                answers.update(
                    self._database.write(
                        lambda run, batch=batch, applied=applied: self._apply(run, batch, applied, refused)  # type: ignore[misc]
                    )
                )
            except OutcomeUnknown:
                raise
            except Exception as error:
                if not answers and not applied:
                    raise
                raise OutcomeUnknown(f"{error} Some settlements of the batch were applied.") from None
        if refused:
            self._report(refused, answers.values())
        return [answers[each.id, each.token] for each in settlements]

    def _apply(
        self, run: Run, batch: Sequence[Settlement], applied: set[str], refused: list[_Refused]
    ) -> dict[tuple[str, str], bool | None]:
        """Write settlements of one shape. If the server refuses some of them, the others are written all the same.

        :param applied: the ids of those that were applied, also by a run before this one that met a conflict.
        :param refused: gets those that the server refuses.
        """
        some = [each for each in batch if each.id not in applied]
        found = apart(some, partial(self._write, run), applied.update)
        refused += found
        answers: dict[tuple[str, str], bool | None] = {(each.id, each.token): each.id in applied for each in batch}
        if run.again:
            left = [each for each in batch if each.id not in applied]
            if left:
                answers.update(self._found_out(run, left, single=len(batch) == 1))
        return answers

    def _report(self, refused: Sequence[_Refused], answers: Collection[bool | None]) -> None:
        """Log the settlements that the server has refused, or raise if it has applied none."""
        if True not in answers:
            text = str(translate(refused[0][1], self._database.location))
            if None in answers:
                raise OutcomeUnknown(f"{text} Others of the batch may have been applied.")
            # Not a MessageError, because the refused row is no message that the caller gave.
            raise BackendUnavailable(text)
        for each, error in refused:
            self._refusals.log(
                each.id, f"it cannot be settled, because {why_of(error)}. It comes back when its lease ends"
            )

    def _write(self, run: Run, batch: Sequence[Settlement]) -> list[str]:
        """Write settlements of one shape in one statement. Return the ids of those that were applied."""
        now, hint = self._database.given_now, hint_of(self._hints, batch)
        if len(batch) == 1:
            statement, values = single(self._statements, batch[0], now)
        else:
            statement, values = self._many(batch, now)
        return execute(run.session, self._hints, statement, values, hint)

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


def _batches(settlements: Collection[Settlement]) -> list[list[Settlement]]:
    """Return the settlements in batches of one shape. The ids of a batch are distinct: an id may come once for each token."""
    counts = Counter[str]()
    batches: dict[tuple[type, int], list[Settlement]] = {}
    for each in settlements:
        counts[each.id] += 1
        batches.setdefault((type(each.progress), counts[each.id]), []).append(each)
    return list(batches.values())
