"""The kinds of recurrence: those of Pitstop, and those that other distributions add by entry points.

Reading is strict: an unknown kind, version or field is an error, because a message emitted without it would come at the wrong
times.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from pitstop._errors import PitstopError, PluginConflict, ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._calendar import Calendar
from pitstop._recurrence._cron import Cron
from pitstop._recurrence._every import Every
from pitstop._recurrence._rrule import RRule
from pitstop._recurrence._times import Times
from pitstop._values._quoting import quoted


if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["RECURRENCE_GROUP", "is_known", "is_own", "load_recurrence", "register_recurrence"]

RECURRENCE_GROUP = "pitstop.recurrences"

_OWN: tuple[type[Recurrence], ...] = (Calendar, Cron, Every, RRule, Times)
#: The kinds that this process can read. Kinds of other distributions are added when they are first needed.
_KINDS: dict[str, type[Recurrence]] = {each.kind: each for each in _OWN}

_Kind = TypeVar("_Kind", bound=type[Recurrence])


def register_recurrence(cls: _Kind) -> _Kind:
    """Add a kind of recurrence to this process, and return the class, so that this function may decorate it.

    A distribution adds its kind to each process by an entry point in the group ``pitstop.recurrences``, whose name is the kind.
    This function is for programs that define a kind for themselves.

    :raises ScheduleError: if the class is no complete subclass of :class:`pitstop.Recurrence`, or its kind has no dot.
    :raises PluginConflict: if another class has the kind.
    """
    _add(cls, "register_recurrence()")
    return cls


def is_known(recurrence: Recurrence) -> bool:
    """Whether :func:`load_recurrence` can read the stored form of a recurrence."""
    kind: object = getattr(recurrence, "kind", None)
    return isinstance(kind, str) and _find(kind) is type(recurrence)


def is_own(recurrence: Recurrence) -> bool:
    """Whether a recurrence is of a kind that Pitstop brings itself."""
    return type(recurrence) in _OWN


def load_recurrence(plain: object) -> Recurrence:
    """Return the recurrence of a stored form.

    :raises ScheduleError: if its kind or version is unknown, or it is malformed.
    """
    if not isinstance(plain, Mapping):
        raise ScheduleError(
            f"A stored recurrence must be a mapping, not {type(plain).__name__}. Store the message again, or remove it."
        )
    # A deep copy: the plugin may take it apart, and records may share the original.
    fields = {name: deepcopy(value) if isinstance(value, Mapping | list) else value for name, value in plain.items()}
    kind, version = fields.pop("kind", None), fields.pop("v", None)
    cls = _find(kind) if isinstance(kind, str) else None
    if cls is None:
        raise ScheduleError(
            f"Unknown recurrence kind {kind!r:.80}. Known here: {', '.join(sorted(_KINDS))}. "
            f"Upgrade pitstop-core, or install the plugin that it was stored with, then redrive the message."
        )
    if version != cls.version:
        reader = "pitstop-core" if cls in _OWN else cls.__name__
        raise ScheduleError(
            f"Recurrence kind {kind!r} is stored in version {version!r:.20}; this {reader} reads {cls.version}. "
            f"Upgrade it, then redrive the message."
        )
    try:
        found: object = cls.load(fields)
    except (PitstopError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(kind, f"{type(error).__name__}: {error}") from error
    if not isinstance(found, cls):
        raise _unreadable(kind, f"load() returned a {type(found).__name__}")
    return found


def _unreadable(kind: object, reason: str) -> ScheduleError:
    return ScheduleError(
        f"The stored recurrence of kind {kind!r:.80} cannot be read: {reason}. Store the message again, or report this to the author "
        f"of the kind."
    )


def _find(kind: str) -> type[Recurrence] | None:
    found = _KINDS.get(kind)
    if found is not None or "." not in kind:
        return found
    named = [each for each in _entry_points() if each.name == kind]
    if not named:
        return None
    # Loading is needed only for kinds of other distributions.
    from pitstop._plugins._discovery import by_name, origin  # noqa: PLC0415 - see above
    from pitstop._plugins._loading import load  # noqa: PLC0415 - see above

    try:
        entry_point = by_name(RECURRENCE_GROUP, named)[kind]
        where = f"Recurrence kind {quoted(kind)} from {origin(entry_point)}"
        return _add(load(entry_point, where), where, named=kind)
    except PitstopError as error:
        raise ScheduleError(str(error)) from error


@lru_cache(maxsize=1)
def _entry_points() -> tuple[EntryPoint, ...]:
    from pitstop._plugins._discovery import installed  # noqa: PLC0415 - see `_find`

    return tuple(installed(RECURRENCE_GROUP))


def _add(cls: object, where: str, *, named: str | None = None) -> type[Recurrence]:
    """Add a class to the kinds. ``named`` is the name of its entry point, which has to be its kind."""
    if not isinstance(cls, type) or not issubclass(cls, Recurrence):
        raise ScheduleError(f"{where}: {quoted(cls)} is no subclass of pitstop.Recurrence.")
    missing = sorted(cls.__abstractmethods__)
    if missing:
        raise ScheduleError(f"{where}: the class {cls.__qualname__} lacks {', '.join(missing)}.")
    kind: object = getattr(cls, "kind", None)
    if not isinstance(kind, str) or "." not in kind or len(kind) > 80:
        raise ScheduleError(
            f"{where}: the class {cls.__qualname__} has the kind {quoted(kind)}. Give it a name with a dot, such as "
            f"kind = 'acme.tides'. Names without a dot belong to Pitstop."
        )
    if named is not None and kind != named:
        raise ScheduleError(f"{where} has the kind {quoted(kind)}. Report this to its author.")
    if type(cls.version) is not int or cls.version < 1:
        raise ScheduleError(
            f"{where}: the class {cls.__qualname__} has the version {quoted(cls.version)}. Give a whole number from 1."
        )
    other = _KINDS.setdefault(kind, cls)
    if other is not cls:
        raise PluginConflict(
            f"{where}: the kind {quoted(kind)} belongs to the class {other.__module__}.{other.__qualname__} already. Rename one."
        )
    return cls
