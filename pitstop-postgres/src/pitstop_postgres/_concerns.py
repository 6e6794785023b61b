"""Risks of a store that works: the settings of the server, and changes that an administrator made to the table."""

from __future__ import annotations

from collections.abc import Iterator

from pitstop_postgres._names import Names
from pitstop_postgres._session import Session


__all__ = ["concerns_of"]

#: Columns that may be NULL.
_NULLABLE = ["due", "first_leased", "token", "last_error", "series", "policy"]
_SETTINGS = "SELECT current_setting('fsync'), current_setting('synchronous_commit')"
_TABLE = """
SELECT relpersistence::text, relhasrules, row_security_active(c.oid),
    ARRAY(SELECT quote_ident(tgname) FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal AND tgenabled <> 'D' ORDER BY 1),
    ARRAY(
        SELECT quote_ident(conname) FROM pg_constraint
        WHERE conrelid = c.oid AND contype IN ('c', 'f', 'u', 'x')
        AND (contype <> 'c' OR conkey IS DISTINCT FROM (SELECT array_agg(attnum) FROM pg_attribute WHERE attrelid = c.oid AND attname = 'due'))
        ORDER BY 1
    ),
    ARRAY(
        SELECT quote_ident(attname) FROM pg_attribute
        WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND NOT attnotnull
        AND attname = ANY (%s::text[]) AND attname <> ALL (%s::text[]) ORDER BY 1
    )
FROM pg_class AS c WHERE c.oid = to_regclass(%s)
"""


def concerns_of(session: Session, names: Names, columns: list[str]) -> Iterator[str]:
    """Yield one text for each concern, the most urgent first.

    :param columns: the columns of the table that Pitstop writes.
    """
    ((fsync, synchronous),) = session.fetch(_SETTINGS)
    if fsync != "on":
        yield "The server has fsync=off: after a power loss the database may be damaged. Set fsync to on."
    rows = session.fetch(_TABLE, (columns, _NULLABLE, names.regclass))
    persistence, rules, policies, triggers, constraints, loose = rows[0] if rows else ("p", False, False, [], [], [])
    if persistence == "u":
        yield (
            "The table of the messages is UNLOGGED: after a crash of the server all messages are gone. Change it with "
            "ALTER TABLE … SET LOGGED."
        )
    if synchronous == "off":
        yield (
            "This user has synchronous_commit=off: after a crash of the server the last messages that were stored may be gone. "
            "Set it to on for the user or the database."
        )
    foreign = [
        *([f"the triggers {', '.join(triggers)}"] if triggers else []),
        *([f"the constraints {', '.join(constraints)}"] if constraints else []),
        *(["rules"] if rules else []),
        *(["policies for this user (row level security)"] if policies else []),
    ]
    if foreign:
        yield (
            f"The table of the messages has {' and '.join(foreign)}, which are not Pitstop's. A message whose row they refuse or hide is "
            f"not emitted, or emitted again and again. Remove them, or make sure that they let all writes of Pitstop pass."
        )
    if loose:
        yield (
            f"The table of the messages allows NULL in {', '.join(loose)}. A message without these values is damaged, or is not "
            f"found by its kind. Restore them with ALTER TABLE … ALTER COLUMN … SET NOT NULL."
        )
