"""The paused kinds: a row for each beside the version of the tables, so that no claim sees them."""

from __future__ import annotations

from collections.abc import Mapping

from pitstop_postgres._database import Database
from pitstop_postgres._hints import Hints
from pitstop_postgres._statements import Statements
from pitstop_postgres._storing import execute


__all__ = ["Pauses"]

_PREFIX = "paused:"
#: The least text behind all keys with the prefix.
_END = "paused;"
_WITHOUT_END = "-"


class Pauses:
    """Reads and writes the paused kinds for one backend."""

    def __init__(self, database: Database, statements: Statements, hints: Hints) -> None:
        self._database = database
        self._statements = statements
        self._hints = hints

    def pause(self, kind: str, until: int | None) -> None:
        """See :meth:`pitstop.abc.Backend.pause_kind`."""
        values = (_PREFIX + kind, _WITHOUT_END if until is None else str(until))
        self._write(self._statements.pause_kind, values)

    def resume(self, kind: str) -> bool:
        """See :meth:`pitstop.abc.Backend.resume_kind`."""
        ends = self._write(self._statements.resume_kind, (_PREFIX + kind,))
        return any(self._lasts(_read(end)) for end in ends)

    def kinds(self) -> Mapping[str, int | None]:
        """See :meth:`pitstop.abc.Backend.paused_kinds`."""
        rows = self._database.read(lambda session: session.fetch(self._statements.paused_kinds, (_PREFIX, _END)))
        ends = {key.removeprefix(_PREFIX): _read(value) for key, value in rows}
        return {kind: end for kind, end in ends.items() if self._lasts(end)}

    def _write(self, statement: str, values: tuple[str, ...]) -> list[str]:
        # Harmless to repeat: a lost run of this call is over.
        hint = self._hints.of_pauses()
        return self._database.write(lambda run: execute(run.session, self._hints, statement, values, hint))

    def _lasts(self, end: int | None) -> bool:
        return end is None or end > self._database.now_us() // 1000


def _read(value: str) -> int | None:
    # A value that is no number pauses until a person resumes the kind: that loses nothing.
    return int(value) if value.isdecimal() else None
