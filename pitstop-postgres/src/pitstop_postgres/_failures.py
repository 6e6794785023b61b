"""Failures: the errors of psycopg and PostgreSQL, and how they are translated. The only module that reads SQLSTATE.

The server's own texts are left out, because they quote values of rows. Only the text of a connection that failed is kept, and
only after a check that no secret is in it.
"""

from __future__ import annotations

import re

import psycopg

from pitstop import BackendUnavailable, MessageError, PitstopError


__all__ = ["is_conflict", "is_missing_table", "may_help_to_connect_anew", "translate"]

#: Another transaction was in the way. The server has undone the statement, and asks for it again.
_CONFLICTS = frozenset({"40001", "40P01"})
_MISSING_TABLE = frozenset({"42P01", "3F000"})
#: A prepared statement is unknown, or its plan does not fit a table that was altered.
_OUTDATED = frozenset({"26000", "0A000", "42P05"})

#: The advice for the first SQLSTATE, or class of SQLSTATEs, that fits. The flag: a retry fails until a person changes something.
_TEXTS: tuple[tuple[str, bool, str], ...] = (
    ("28", True, "refuses the user or the password. Check user, password and pg_hba.conf"),
    ("3D", True, "has no such database. Make it with CREATE DATABASE, or give another dbname"),
    ("42501", True, "does not allow this user to do this. See 'Least rights' in the page about PostgreSQL"),
    ("42P01", True, "does not have the table. Run 'pitstop migrate', or leave create at true"),
    ("3F000", True, "does not have the schema. Make it with CREATE SCHEMA, or give another one"),
    (
        "25006",
        False,
        "only reads: it is a standby, or default_transaction_read_only is on. Give the address of the primary",
    ),
    ("53100", False, "has no space left on its disk"),
    (
        "53300",
        False,
        "has no free connection: max_connections is reached. Give a smaller pool_size, or raise max_connections",
    ),
    ("53", False, "lacks a resource"),
    ("55P03", False, "has kept a row locked for longer than operation_timeout. Look for a transaction that stays open"),
    ("57014", False, "took longer than operation_timeout. Look for locks and for a slow disk"),
    ("57P0", False, "is shutting down or starting, or ended the session"),
    ("40", False, "could not do this beside other transactions, also not after several tries"),
    ("54", True, "has a limit that this exceeds"),
    ("22P05", True, "cannot keep a character, because the encoding of the database is not UTF8"),
    ("42", True, "has another table or another version of it than expected"),
)
#: The most characters that are kept of a reason.
_LONGEST = 200


def is_conflict(error: psycopg.Error) -> bool:
    """Whether the server asks for the statement again, because another transaction was in the way."""
    return error.sqlstate in _CONFLICTS


def is_missing_table(error: psycopg.Error) -> bool:
    """Whether the table, or its schema, is not there."""
    return error.sqlstate in _MISSING_TABLE


def may_help_to_connect_anew(error: psycopg.Error) -> bool:
    """Whether the session has statements that do not fit any more. Nothing was done."""
    return error.sqlstate in _OUTDATED


def translate(error: psycopg.Error, location: str) -> PitstopError:
    """Return Pitstop's error for an error of the driver. Its text contains no row, no id, and no secret."""
    state = error.sqlstate
    where = f"PostgreSQL at {location}"
    if state is None:
        return _without_state(error, where)
    if state.startswith("22") and state != "22P05":
        return MessageError(f"{where} cannot keep a value of this message (SQLSTATE {state}).")
    for beginning, permanent, text in _TEXTS:
        if state.startswith(beginning):
            return BackendUnavailable(f"{where} {text} (SQLSTATE {state}). Nothing was changed.", permanent=permanent)
    return BackendUnavailable(f"{where} refused an operation (SQLSTATE {state}). Nothing was changed.")


def _without_state(error: psycopg.Error, where: str) -> PitstopError:
    reason = _reason(error)
    if isinstance(error, psycopg.DataError):
        return MessageError(f"{where} cannot keep a value of this message ({type(error).__name__}).")
    if "password authentication failed" in reason or "no password supplied" in reason or "pg_hba.conf" in reason:
        return BackendUnavailable(f"{where} {_TEXTS[0][2]}.", permanent=True)
    if "does not exist" in reason:
        return BackendUnavailable(
            f"{where} has no such database or role. Make it, or give another dbname or user.", permanent=True
        )
    if "too many clients" in reason or "remaining connection slots" in reason:
        return BackendUnavailable(f"{where} {_TEXTS[7][2]}.")
    return BackendUnavailable(
        f"{where} did not answer: {_shown(reason) or type(error).__name__}. Check that it is running, and reachable from here."
    )


def _reason(error: psycopg.Error) -> str:
    return str(error).replace("\n", " ")


def _shown(reason: str) -> str:
    # The texts of a failed connection name hosts, ports and system errors. Quoted parts may be of the user's making.
    return re.sub(r'"[^"]*"', "…", reason)[:_LONGEST].strip()
