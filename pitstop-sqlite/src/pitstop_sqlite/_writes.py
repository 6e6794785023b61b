"""The statements of a conditional store and of a settlement, with their values."""

from __future__ import annotations

from pitstop.abc import Aside, Progress, Record, Settlement
from pitstop_sqlite import _statements
from pitstop_sqlite._rows import Row, bindable, new_row, progress_values


__all__ = ["conditional", "fenced"]


def conditional(record: Record, revision: str | None, progress: Progress | None) -> tuple[str, Row]:
    """Return the statement of :meth:`SqliteBackend.put_if`, and its values."""
    row = new_row(record)
    if revision is None:
        return _statements.CREATE, row
    expected = (bindable(record.id), bindable(revision))
    if progress is None:
        return _statements.REPLACE, (*row, *expected)
    due, scheduled_for, attempts, first_leased, last_error, token, *counts = progress_values(progress)
    texts = (None if text is None else bindable(text) for text in (last_error, token))
    values = (due, scheduled_for, attempts, first_leased, *texts, *counts)
    return _statements.REPLACE_UNCHANGED, (*row, *expected, *values)


def fenced(settlement: Settlement) -> tuple[str, Row]:
    """Return the statement of one settlement, and its values without the time."""
    fence = (bindable(settlement.id), bindable(settlement.token))
    progress = settlement.progress
    if progress is None:
        return _statements.COMPLETE, fence
    if isinstance(progress, Aside):
        return _statements.ASIDE, (progress.last_error, *fence)
    if (
        not progress.attempts
        and progress.first_leased is None
        and progress.last_error is None
        and progress.token is None
        and not progress.unsettled
        and not progress.ahead
        and not progress.excused
    ):
        return _statements.AWAIT, (progress.due, progress.scheduled_for, *fence)
    return _statements.PROGRESS, (*progress_values(progress), *fence)
