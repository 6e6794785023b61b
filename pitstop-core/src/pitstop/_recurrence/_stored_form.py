"""The check of a rule's stored form before a message is stored with it.

Backends write the form in different ways. A value that only one of them can write, or a form that cannot be read again, would be
noticed only when the message is due.
"""

from __future__ import annotations

import json

from pitstop._errors import PitstopError, ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._registry import is_own, load_recurrence
from pitstop._values._quoting import quoted


__all__ = ["check_stored_form"]

#: The most characters of the form as JSON, and the most levels of lists and dicts. It is a part of the message's document.
_LONGEST, _MOST_LEVELS = 200_000, 20
_LEAST_INT, _GREATEST_INT = -(2**63), 2**63 - 1
_PLAIN = "Give text, int of 64 bits, bool, None, and lists and dicts of these"


def check_stored_form(recurrence: Recurrence) -> None:
    """Check that a rule of another author can be stored, and read again. Pitstop's own rules always can.

    :raises ScheduleError: if it cannot.
    """
    if is_own(recurrence):
        return
    try:
        plain: object = recurrence.to_plain()
    except (PitstopError, MemoryError):
        raise
    except Exception as error:
        raise _refused(recurrence, f"dump() raised {type(error).__name__}: {error}") from error
    found = _odd(plain, "dump()", _MOST_LEVELS)
    if found is not None:
        raise _refused(recurrence, f"{found}. {_PLAIN}")
    assert isinstance(plain, dict), "to_plain() returns a dict"
    if plain.get("kind") != recurrence.kind or plain.get("v") != recurrence.version:
        raise _refused(recurrence, "dump() has a field 'v' or 'kind', which core adds. Rename it")
    length = len(json.dumps(plain))
    if length > _LONGEST:
        raise _refused(recurrence, f"dump() has {length} characters as JSON. Give at most {_LONGEST}")
    again = load_recurrence(plain)
    if again.to_plain() != plain:
        raise _refused(recurrence, "load() returns a rule whose dump() is another one")


def _odd(value: object, path: str, levels: int) -> str | None:
    """Return the path and the reason of the first part that not every backend can store; None if all of them can."""
    if type(value) is dict or type(value) is list:
        if not levels:
            return f"{path:.200} is more than {_MOST_LEVELS} levels deep, or holds itself"
        return _odd_item(value, path, levels - 1)
    if type(value) is str:
        return None if _is_unicode(value) else f"{path:.200} has a lone surrogate, which is no character"
    if type(value) is int:
        return None if _LEAST_INT <= value <= _GREATEST_INT else f"{path:.200} is an int of more than 64 bits"
    if value is None or type(value) is bool:
        return None
    return f"{path:.200} is a {type(value).__name__}"


def _odd_item(value: dict[object, object] | list[object], path: str, levels: int) -> str | None:
    if isinstance(value, dict):
        for name in value:
            if type(name) is not str or not _is_unicode(name) or any(each in name for each in ".$\0"):
                return f"{path:.200} has the key {quoted(name)}, which is no text, or has a '.', '$' or NUL in it"
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = (_odd(item, f"{path}[{quoted(name)}]", levels) for name, item in items)
    return next((each for each in found if each is not None), None)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(recurrence: Recurrence, reason: str) -> ScheduleError:
    return ScheduleError(
        f"every={quoted(recurrence)} of the kind {quoted(recurrence.kind)} cannot be stored: {reason}. Report this to the author of "
        f"the kind."
    )
