"""Arguments of the public API: the few kinds that many methods take, each checked by one function.

Every method calls these functions before it calls a backend or waits. So all backends and both facades refuse the same
values with the same error.
"""

from __future__ import annotations

import math

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

import attrs

from pitstop._errors import ConfigError, MessageError, PitstopError
from pitstop._values._duration import LONGEST_SECONDS, parse_duration
from pitstop._values._entry import Entry
from pitstop._values._kind import OTHERS, valid_kind
from pitstop._values._plain import Unreadable, as_microseconds
from pitstop._values._quoting import quoted


__all__ = [
    "MOST_KINDS",
    "MOST_RECORDS",
    "MOST_TASKS",
    "MOST_THREADS",
    "ListenOptions",
    "chosen_kinds",
    "flag",
    "item_arguments",
    "place_after",
    "positive_duration",
    "seconds_of",
    "several_plugins",
    "whole_number",
]

#: The number of arguments of ``store`` in an item of ``store_many``.
_FEWEST_IN_ITEM, _MOST_IN_ITEM = 2, 4
#: The greatest whole number that is accepted: some programs give ``sys.maxsize`` for "all".
_GREATEST = 2**63 - 1
#: The most records that a backend is asked for at once. Every driver accepts this number.
MOST_RECORDS = 2**31 - 1
#: The most threads of one process. Systems usually allow fewer, and each thread takes memory.
MOST_THREADS = 10_000
#: The most tasks at a time: any number.
MOST_TASKS = _GREATEST
#: The most messages of one batch: as many as one claim brings.
_MOST_IN_BATCH = 500
#: The most kinds that one listener may name. All are part of each claim.
MOST_KINDS = 100
_NUMBER = (int, float)
_LEAST_DURATION = timedelta(milliseconds=1)


def whole_number(
    value: object, field: str, *, least: int = 1, most: int = _GREATEST, error: type[PitstopError] = ConfigError
) -> int:
    """Return a whole number from ``least`` to ``most``.

    :raises PitstopError: of the class ``error``, if ``value`` is out of range, or not an ``int``. A bool is not accepted.
    """
    if type(value) is int and least <= value <= most:
        return value
    bound = f"from {least} to {most}" if type(value) is int and value > most else f"of at least {least}"
    raise error(f"{field}={quoted(value)} cannot be used. Give a whole number {bound}.")


def flag(value: object, field: str, *, error: type[PitstopError] = ConfigError) -> bool:
    """Return a bool.

    :raises PitstopError: of the class ``error``, if ``value`` has another type. The text "no" would count as true.
    """
    if isinstance(value, bool):
        return value
    raise error(f"{field}={quoted(value)} cannot be used. Give True or False.")


def positive_duration(value: object, field: str) -> timedelta:
    """Return a duration of at least one millisecond.

    :raises ConfigError: if ``value`` is shorter, longer than 100 years, or not a duration.
    """
    duration = parse_duration(value, field)
    if duration < _LEAST_DURATION:
        raise ConfigError(f"{field}={quoted(value)} is too short. Give at least one millisecond.")
    return duration


def seconds_of(timeout: object) -> float:
    """Return the seconds of a ``timeout`` that is not None.

    :raises ConfigError: if it is negative, not finite, longer than 100 years, or not a duration.
    """
    # Numbers come first because polling programs give 0. A comparison with NaN is false.
    if isinstance(timeout, _NUMBER) and 0 <= timeout <= LONGEST_SECONDS and not isinstance(timeout, bool):
        return timeout
    if isinstance(timeout, float) and timeout == math.inf:
        raise ConfigError("timeout=inf cannot be used. Give None to wait without end.")
    return parse_duration(timeout, "timeout").total_seconds()


def place_after(after: object) -> tuple[int | None, str] | None:
    """Return the place in a listing behind which the next page begins; None for the beginning of the listing.

    :raises PitstopError: if ``after`` is not an Entry, or an Entry that no listing can have returned.
    """
    if after is None:
        return None
    if not isinstance(after, Entry):
        raise PitstopError(f"after={quoted(after)} is no Entry. Give the last entry of the page before.")
    id: object = after.id
    due: object = after.due
    if not isinstance(id, str) or not _is_listed_id(id):
        raise PitstopError(
            f"after.id={quoted(id)} cannot be the id of a stored message. Give the last entry of the page before, as it "
            f"was returned."
        )
    if due is None:
        return None, str.__str__(id)
    try:
        instant = as_microseconds(due)
    except Unreadable:
        instant = None
    if instant is None:
        raise PitstopError(
            f"after.due={quoted(due)} is no aware datetime. Give the last entry of the page before, as it was returned."
        )
    return instant // 1000, str.__str__(id)


def _is_listed_id(id: str) -> bool:
    # This is not the rule for new ids: a listing also shows documents of other programs. A store shows bytes that are not UTF-8
    # as escapes, which are surrogates. No other surrogate can come from a store.
    try:
        id.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def chosen_kinds(kinds: object) -> tuple[str, ...]:
    """Return the kinds that a listener chooses, each once.

    :raises ConfigError: if ``kinds`` is not a list or a similar collection of kinds. The characters of a text would count as
        kinds.
    """
    if not isinstance(kinds, Iterable) or isinstance(kinds, str | bytes | bytearray | Mapping):
        raise ConfigError(f"kinds={quoted(kinds)} cannot be used. Give a list of kinds, as in kinds=['mail'].")
    # At most one kind too many is read, because a list of another library's class may have no end.
    given = list(islice(kinds, MOST_KINDS + 1))
    if not given:
        raise ConfigError("kinds has no kinds. Give at least one, or leave kinds out to get all messages.")
    if len(given) > MOST_KINDS:
        raise ConfigError(
            f"kinds has more than {MOST_KINDS} kinds. Give fewer, or leave kinds out to get all messages."
        )
    if any(type(each) is str and each == OTHERS for each in given):
        raise ConfigError(
            "kinds has '*', which is no kind. Leave kinds out to get all messages, or use '*' as a key of the handlers of consume."
        )
    try:
        return tuple(dict.fromkeys(map(valid_kind, given)))
    except MessageError as error:
        raise ConfigError(f"kinds: {error}") from None


def several_plugins(plugins: object) -> list[object]:
    """Return the plugins as a list.

    :raises ConfigError: if ``plugins`` is not a list or a similar collection. The characters of a text would count as plugins.
    """
    if isinstance(plugins, Iterable) and not isinstance(plugins, str | bytes | bytearray | Mapping):
        return list(plugins)
    raise ConfigError(f"plugins is of type {type(plugins).__name__}. Give a list, as in plugins=[Audit()].")


@attrs.frozen(kw_only=True)
class ListenOptions:
    """The checked options of ``listen``. None: not given."""

    lock_time: timedelta | None = None
    loop_time: timedelta | None = None
    prefetch: int | None = None
    heartbeat: bool = False
    max_lease: timedelta | None = None
    kinds: Collection[str] | None = None
    #: How many messages a handler gets at most at a time. Only ``consume`` has this option.
    batch: int | None = None

    @staticmethod
    def of(
        *,
        lock_time: object,
        loop_time: object,
        prefetch: object,
        heartbeat: object,
        max_lease: object,
        kinds: object = None,
        batch: object = None,
    ) -> ListenOptions:
        """Check the options as a user gave them.

        :raises ConfigError: if a value cannot be used; the text names the option.
        """
        options = ListenOptions(
            lock_time=None if lock_time is None else positive_duration(lock_time, "lock_time"),
            loop_time=None if loop_time is None else positive_duration(loop_time, "loop_time"),
            prefetch=None if prefetch is None else min(whole_number(prefetch, "prefetch"), MOST_RECORDS),
            heartbeat=flag(heartbeat, "heartbeat"),
            max_lease=None if max_lease is None else positive_duration(max_lease, "max_lease"),
            kinds=None if kinds is None else chosen_kinds(kinds),
            batch=None if batch is None else whole_number(batch, "batch", most=_MOST_IN_BATCH),
        )
        if options.batch is not None and options.prefetch is not None and options.prefetch < options.batch:
            raise ConfigError(
                f"prefetch={quoted(prefetch)} is less than batch={quoted(batch)}, so that no batch would be full. Leave prefetch out, "
                f"or give at least {options.batch}."
            )
        if options.max_lease is not None and not options.heartbeat:
            raise ConfigError(
                f"max_lease={quoted(max_lease)} has no effect without heartbeat=True. Give both, or neither."
            )
        return options


def item_arguments(item: object) -> Sequence[Any] | None:
    """Return the arguments of ``store`` in an item of ``store_many``; None if it is not such an item."""
    if type(item) is not tuple:
        try:
            # At most one item too many is read, because a list of another library's class may have no end.
            item = tuple(islice(item, _MOST_IN_ITEM + 1)) if isinstance(item, tuple | list) else ()
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - code of another library's class may raise anything
            return None
    return item if _FEWEST_IN_ITEM <= len(item) <= _MOST_IN_ITEM else None
