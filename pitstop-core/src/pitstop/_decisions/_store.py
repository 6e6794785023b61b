"""Make a new record of a message and its times. A first store and an update do the same."""

from __future__ import annotations

import os

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs

from pitstop._decisions._change import Wanted
from pitstop._errors import MessageError, ScheduleError
from pitstop._recurrence._preview import Upcoming, check_count, upcoming
from pitstop._values._arguments import item_arguments
from pitstop._values._id import new_id
from pitstop._values._instant import LAST_INSTANT
from pitstop._values._jitter import spread
from pitstop._values._message import measured_copy
from pitstop._values._schedule import Interval, Moment, is_lasting, plan, span_of
from pitstop.abc import Progress, Record


__all__ = [
    "NO_LABELS",
    "Labels",
    "new_record",
    "new_revision",
    "preview",
    "record_of_store",
    "records_of_items",
    "wanted_of_items",
]

#: The random bytes of a revision.
_REVISION = 16


@attrs.frozen
class Labels:
    """The kind and the policies of a call of ``store``, which were checked."""

    kind: str = ""
    #: In their stored form.
    policy: Mapping[str, Any] | None = None


#: Neither kind nor policies.
NO_LABELS = Labels()


def new_record(*arguments: Any, **options: Any) -> Record:
    """Return the record of :func:`record_of_store`."""
    record, _ = record_of_store(*arguments, **options)
    return record


def record_of_store(
    message: object,
    when: Moment | None = None,
    end: Moment | None = None,
    every: Interval | None = None,
    catch_up: str | None = "latest",
    grace: timedelta | str | None = None,
    jitter: timedelta | str | None = None,
    labels: Labels = NO_LABELS,
    *,
    now_us: int,
    revision: str | None = None,
    make_id: Callable[[int], str] = new_id,
) -> tuple[Record, bool]:
    """Read the arguments of ``store`` into a record that takes the place of any record with its id.

    Nothing of an earlier record is carried over: no lease, no attempts, no error. So an update holds at once, and the
    delivery of the old version can no longer settle anything.

    :param labels: the kind and the policies of the message.
    :param revision: the revision of the record. None: a new one.
    :param make_id: makes the id of a message that has none, from ``now_us``.
    :return: the record, and whether its id was made.
    :raises pitstop.MessageError: if the message cannot be stored.
    :raises pitstop.ScheduleError: if the times make no sense.
    """
    given, body, _ = measured_copy(message)
    first, schedule = plan(when, end, every, catch_up, grace, now_us, jitter)
    id = given or make_id(now_us)
    if jitter is None:
        due = first
    elif schedule is None:
        due = min(first + spread(id, first, span_of(jitter, "jitter") // timedelta(milliseconds=1)), LAST_INSTANT)
    else:
        due = schedule.due(first, id)
    series = None if schedule is None else schedule.to_plain()
    progress = Progress(due, first)
    record = Record(id, body, series, revision or new_revision(), progress, labels.kind, labels.policy)
    return record, given is None


def preview(every: Interval, start: Moment | None, end: Moment | None, n: int, now_us: int) -> list[Upcoming]:
    """Return the next occurrences of a rule that would be stored with these arguments.

    :raises pitstop.ScheduleError: if the times make no sense, or there is no occurrence.
    :raises pitstop.PitstopError: if ``n`` cannot be used.
    """
    check_count(n)
    if every is None:
        raise ScheduleError("every=None is no rule. Give an interval, text such as '1h', or a rule such as Cron(...).")
    _, schedule = plan(start, end, every, "latest", None, now_us)
    assert schedule is not None, "there is a rule"
    return upcoming(schedule.recurrence, schedule.start, schedule.end, n)


def new_revision() -> str:
    """Return a new revision, globally unique."""
    return os.urandom(_REVISION).hex()


def new_revisions(count: int) -> list[str]:
    """Return new revisions, globally unique."""
    digits = os.urandom(_REVISION * count).hex()
    return [digits[at : at + 2 * _REVISION] for at in range(0, len(digits), 2 * _REVISION)]


def records_of_items(
    items: Iterable[Any], now_us: int, make_ids: Callable[[int, int], Sequence[str]], labels: Labels = NO_LABELS
) -> tuple[list[Record], set[str]]:
    """Read the items of ``store_many`` into records, as :func:`record_of_store` does. Return also the ids that were made.

    :param make_ids: makes ids from ``now_us``, as many as its second argument says.
    :param labels: the kind and the policies of all these messages.
    :raises pitstop.MessageError: if a message cannot be stored; the text names the item.
    :raises pitstop.ScheduleError: if a schedule makes no sense, or an item has no times; the text names the item.
    """
    return _finished(list(_read_items(items, now_us)), now_us, make_ids, labels)


def wanted_of_items(
    items: Iterable[Any], now_us: int, make_ids: Callable[[int, int], Sequence[str]], labels: Labels = NO_LABELS
) -> tuple[list[Wanted], set[str]]:
    """Read the items as :func:`records_of_items` does, and note how their times were given."""
    read = list(_read_items(items, now_us))
    records, made = _finished(read, now_us, make_ids, labels)
    # Of the arguments, the message comes first, then the start and the end.
    return [Wanted.of(record, *arguments[1:3]) for record, (*_, arguments) in zip(records, read, strict=True)], made


#: An item that was read: the id that was given (None: none), the body, the progress, the series, and the arguments.
_Read = tuple[str | None, dict[str, Any], Progress, Mapping[str, Any] | None, Sequence[Any]]


def _read_items(items: Iterable[Any], now_us: int) -> Iterator[_Read]:
    """Read each item. Its arguments are read once, because an item may give other values the second time."""
    if not isinstance(items, Iterable):
        raise ScheduleError(f"items is a {type(items).__name__}. Give a list of (message, when) and the like.")
    plans = _Plans(now_us)
    for index, item in enumerate(items):
        arguments = item_arguments(item)
        if arguments is None:
            raise ScheduleError(
                f"items[{index}] is no (message, when) or (message, start, end, every). Give a tuple of two to four."
            )
        try:
            given, body, _ = measured_copy(arguments[0])
            progress, series = plans.of(*arguments[1:])
        except (MessageError, ScheduleError) as error:
            raise type(error)(f"items[{index}]: {error}") from None
        yield given, body, progress, series, arguments


def _finished(
    read: Sequence[_Read], now_us: int, make_ids: Callable[[int, int], Sequence[str]], labels: Labels
) -> tuple[list[Record], set[str]]:
    # Made together, after all code of the caller: an item may fork, and parent and child must not make the same ids.
    made = make_ids(now_us, sum([given is None for given, *_ in read]))
    ids = iter(made)
    kind, policy = labels.kind, labels.policy
    records = [
        Record(next(ids) if given is None else given, body, series, revision, progress, kind, policy)
        for (given, body, progress, series, _), revision in zip(read, new_revisions(len(read)), strict=True)
    ]
    return records, set(made)


class _Plans:
    """The plans of the items of one batch. Items that share the objects of their times share one plan."""

    def __init__(self, now_us: int) -> None:
        self._now_us = now_us
        # The last plan, and the times of which it was made.
        self._times: tuple[object, object, object] = (None, None, None)
        self._plan: tuple[Progress, Mapping[str, Any] | None] | None = None

    def of(
        self, when: Moment | None, end: Moment | None = None, every: Interval | None = None
    ) -> tuple[Progress, Mapping[str, Any] | None]:
        """Return the progress and the series of a new message with these times.

        :raises pitstop.ScheduleError: if they make no sense.
        """
        last_when, last_end, last_every = self._times
        if self._plan is not None and when is last_when and end is last_end and every is last_every:
            return self._plan
        first, schedule = plan(when, end, every, "latest", None, self._now_us)
        planned = Progress(first, first), None if schedule is None else schedule.to_plain()
        if is_lasting(when) and is_lasting(end) and is_lasting(every):
            self._times, self._plan = (when, end, every), planned
        return planned
