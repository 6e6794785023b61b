"""The notes: a row for each beside the version of the tables, with the end and the text."""

from __future__ import annotations

from collections.abc import Mapping

from pitstop_postgres._database import Database
from pitstop_postgres._hints import Hints
from pitstop_postgres._statements import Statements
from pitstop_postgres._storing import execute


__all__ = ["Notes"]

_PREFIX = "note:"
#: The least text behind all keys with the prefix.
_END = "note;"


class Notes:
    """Reads and writes the notes for one backend."""

    def __init__(self, database: Database, statements: Statements, hints: Hints) -> None:
        self._database = database
        self._statements = statements
        self._hints = hints

    def write(self, key: str, text: str, until: int) -> None:
        """See :meth:`pitstop.abc.Backend.note`."""
        ended = [each for each, value in self._rows() if not self._lasts(value)]
        self._execute(self._statements.pause_kind, _PREFIX + key, f"{until} {text}")
        for each in ended:
            self._execute(self._statements.resume_kind, each)

    def forget(self, key: str) -> None:
        """See :meth:`pitstop.abc.Backend.forget_note`."""
        self._execute(self._statements.resume_kind, _PREFIX + key)

    def all(self) -> Mapping[str, str]:
        """See :meth:`pitstop.abc.Backend.notes`."""
        return {key.removeprefix(_PREFIX): value.partition(" ")[2] for key, value in self._rows() if self._lasts(value)}

    def _rows(self) -> list[tuple[str, str]]:
        return list(self._database.read(lambda session: session.fetch(self._statements.paused_kinds, (_PREFIX, _END))))

    def _lasts(self, value: str) -> bool:
        until = value.partition(" ")[0]
        return until.isdecimal() and int(until) > self._database.now_us() // 1000

    def _execute(self, statement: str, *values: str) -> None:
        # Harmless to repeat, and of no interest to listeners: there is no hint.
        self._database.write(lambda run: execute(run.session, self._hints, statement, values, None))
