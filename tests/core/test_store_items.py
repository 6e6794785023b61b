"""The two ways to a record, `store` and `store_many`, agree: about records, errors and the order of ids."""

from __future__ import annotations

import itertools
import uuid

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import attrs
import pytest

from hypothesis import given
from hypothesis import strategies as st

from core.test_message import messages
from pitstop import Calendar, MessageError, ScheduleError
from pitstop._decisions._store import record_of_store, records_of_items
from pitstop._values._id import new_id, new_ids


NOW_US = 1_700_000_000_000_500


class Span(timedelta):
    """A distance of another library."""


class Text(str):
    """A text of another library, as an id and as a distance."""

    __slots__ = ()


class Moody(datetime):
    """A time that is another one each time it is read."""

    def utcoffset(self):
        return timedelta(minutes=next(_MINUTES))


_MINUTES = itertools.cycle(range(60))
LATER = datetime(2030, 1, 1, tzinfo=UTC)
#: Objects that many items share, and some that are wrong or of other types.
moments = st.sampled_from(
    [
        None,
        timedelta(0),
        timedelta(microseconds=1500),
        "15m",
        Span(hours=1),
        Text("1h"),
        LATER,
        LATER.astimezone(timezone(timedelta(hours=2))),
        LATER.astimezone(ZoneInfo("Europe/Berlin")),
        LATER.replace(tzinfo=None),
        7,
    ]
)
ends = st.sampled_from([None, LATER + timedelta(days=1), timedelta(0), "2d", 7])
rules = st.sampled_from([None, timedelta(hours=1), "1h", Span(days=1), Text("2h"), Calendar(months=1), "soon"])
ids = st.sampled_from(["a", "b", Text("c"), "", 7])
bodies = st.one_of(
    messages, st.builds(lambda message, own: {**message, "id": own}, messages, ids), st.just({"bad": object()})
)
items = st.lists(st.one_of(st.tuples(bodies, moments), st.tuples(bodies, moments, ends, rules)), max_size=6)


def result(read):
    try:
        return read()
    except (MessageError, ScheduleError) as error:
        return type(error), str(error)


def one_by_one(given_items, ids):
    records = []
    for index, item in enumerate(given_items):
        found = result(lambda item=item: record_of_store(*item, now_us=NOW_US, make_id=lambda _: next(ids))[0])
        if isinstance(found, tuple):
            return found[0], f"items[{index}]: {found[1]}"
        records.append(attrs.evolve(found, revision=""))
    return records


def together(given_items, ids):
    records, _ = records_of_items(given_items, NOW_US, lambda _, count: list(itertools.islice(ids, count)))
    return [attrs.evolve(each, revision="") for each in records]


@given(items)
def test_a_batch_is_read_as_its_messages_are_one_by_one(given_items):
    made, again = (map(str, itertools.count()) for _ in range(2))
    assert result(lambda: together(given_items, made)) == one_by_one(given_items, again)


def test_a_time_that_may_change_is_read_for_each_item():
    moody = Moody(2030, 1, 1, tzinfo=UTC)
    records, _ = records_of_items([({}, moody)] * 3, NOW_US, new_ids)
    assert len({each.progress.scheduled_for for each in records}) == 3


def test_messages_of_a_batch_share_nothing_that_can_be_changed():
    message = {"list": [1]}
    records, _ = records_of_items([(message, "15m")] * 2, NOW_US, new_ids)
    records[0].message["list"].append(2)
    assert message == records[1].message == {"list": [1]}


def test_ids_and_revisions_are_made_when_all_items_were_read():
    def items():
        for n in range(3):
            yield {"n": n}, "15m"
            assert not asked

    asked = []
    records, made = records_of_items(items(), NOW_US, lambda now_us, n: asked.append(n) or new_ids(now_us, n))

    assert asked == [3]
    assert {each.id for each in records} == made
    assert len({each.revision for each in records}) == 3


@pytest.mark.parametrize("make", [new_ids, lambda now_us, count: [new_id(now_us) for _ in range(count)]])
def test_made_ids_are_uuids_of_version_7_with_the_time_first(make):
    ids = make(NOW_US, 500)
    assert len(set(ids)) == 500
    for each in map(uuid.UUID, ids):
        assert (each.version, each.variant) == (7, uuid.RFC_4122)
        assert each.int >> 80 == NOW_US // 1000
    assert {str(uuid.UUID(each)) for each in ids} == set(ids)


def test_the_ids_of_a_batch_ascend():
    ids = new_ids(NOW_US, 500)
    assert ids == sorted(ids)
    assert new_ids(NOW_US, 0) == []
