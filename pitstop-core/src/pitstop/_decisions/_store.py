"""Make a new record of a message and its times. A first store and an update do the same."""

from __future__ import annotations

import os

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

from pitstop._decisions._change import Wanted
from pitstop._errors import MessageError, ScheduleError
from pitstop._recurrence._preview import Upcoming, check_count, upcoming
from pitstop._values._arguments import item_arguments
from pitstop._values._id import new_id
from pitstop._values._instant import LAST_INSTANT
from pitstop._values._jitter import spread
from pitstop._values._message import copy_message
from pitstop._values._schedule import Interval, Moment, plan, span_of
from pitstop.abc import Progress, Record


__all__ = ["new_record", "new_revision", "preview", "records_of_items", "wanted_of_items"]


def new_record(
    message: object,
    when: Moment | None = None,
    end: Moment | None = None,
    every: Interval | None = None,
    *,
    catch_up: str | None = "latest",
    grace: timedelta | str | None = None,
    jitter: timedelta | str | None = None,
    now_us: int,
    revision: str,
    make_id: Callable[[], str] | None = None,
) -> Record:
    """Read the arguments of ``store`` into a record that takes the place of any record with its id.

    Nothing of an earlier record is carried over: no lease, no attempts, no error. So an update holds at once, and the
    delivery of the old version can no longer settle anything.

    :param make_id: makes the id of a message that has none. None: it gets a UUID.
    :raises pitstop.MessageError: if the message cannot be stored.
    :raises pitstop.ScheduleError: if the times make no sense.
    """
    identifier, body = copy_message(message)
    first, schedule = plan(when, end, every, catch_up, grace, now_us, jitter)
    id = identifier or (new_id(now_us) if make_id is None else make_id())
    if schedule is None:
        delay = 0 if jitter is None else span_of(jitter, "jitter") // timedelta(milliseconds=1)
        return Record(id, body, None, revision, Progress(min(first + spread(id, first, delay), LAST_INSTANT), first))
    return Record(id, body, schedule.to_plain(), revision, Progress(schedule.due(first, id), first))


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
    return os.urandom(16).hex()


def records_of_items(items: Iterable[Any], now_us: int, make_id: Callable[[], str]) -> list[Record]:
    """Read the items of ``store_many`` into records, as :func:`new_record` does.

    :raises pitstop.MessageError: if a message cannot be stored; the text names the item.
    :raises pitstop.ScheduleError: if a schedule makes no sense, or an item has no times; the text names the item.
    """
    return [_record_of_item(n, item, now_us, make_id) for n, item in enumerate(_iterable(items))]


def wanted_of_items(items: Iterable[Any], now_us: int, make_id: Callable[[], str]) -> list[Wanted]:
    """Read the items as :func:`records_of_items` does, and note how their times were given."""
    return [_wanted_of_item(n, item, now_us, make_id) for n, item in enumerate(_iterable(items))]


def _iterable(items: Iterable[Any]) -> Iterable[Any]:
    if not isinstance(items, Iterable):
        raise ScheduleError(f"items is a {type(items).__name__}. Give a list of (message, when) and the like.")
    return items


def _record_of_item(index: int, item: object, now_us: int, make_id: Callable[[], str]) -> Record:
    arguments = item_arguments(item)
    if arguments is None:
        raise ScheduleError(
            f"items[{index}] is no (message, when) or (message, start, end, every). Give a tuple of two to four."
        )
    try:
        return new_record(*arguments, now_us=now_us, revision=new_revision(), make_id=make_id)
    except (MessageError, ScheduleError) as error:
        raise type(error)(f"items[{index}]: {error}") from None


def _wanted_of_item(index: int, item: object, now_us: int, make_id: Callable[[], str]) -> Wanted:
    # Read once, because the item may be of a class that gives other values the second time.
    arguments = tuple(item_arguments(item) or ())
    record = _record_of_item(index, arguments, now_us, make_id)
    _, when, end, *_ = *arguments, None
    return Wanted.of(record, when, end)
