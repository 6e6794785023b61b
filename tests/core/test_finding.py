"""Searches: their arguments, the default for backends without an index of their own, and asyncio."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from pitstop import PitstopError, ScheduleError, Unsupported
from pitstop._decisions._search import query_of
from pitstop.abc import LAST_INSTANT, Capability, Damaged, Query, has_failed
from pitstop_memory import MemoryBackend


NOW_US = 1_600_000_000_000_000
NOTHING = {"state": None, "kind": None, "prefix": None, "due_before": None, "due_after": None, "failing": None}


def query(**given):
    return query_of(NOW_US, **(NOTHING | given))


@pytest.mark.parametrize(
    ("given", "instant"),
    [
        (datetime(2020, 9, 13, 12, 26, 40, tzinfo=UTC), 1_600_000_000_000),
        (datetime(2020, 9, 13, 12, 26, 40, 1, tzinfo=UTC), 1_600_000_000_001),
        (timedelta(0), 1_600_000_000_000),
        ("1s", 1_600_000_001_000),
        ("-1s", 1_599_999_999_000),
        (timedelta(microseconds=-1), 1_600_000_000_000),
        (timedelta(days=-365_000), 0),
        (datetime(1900, 1, 1, tzinfo=UTC), 0),
        (datetime.max.replace(tzinfo=UTC), LAST_INSTANT + 1),
        (timedelta(days=10_000_000), LAST_INSTANT + 1),
    ],
    ids=str,
)
def test_a_bound_is_the_first_millisecond_that_is_not_before_it(given, instant):
    assert query(due_before=given) == Query(due_before=instant)
    assert query(due_after=given) == Query(due_from=instant)


@pytest.mark.parametrize("wrong", ["soon", "", "-", "--1s", 7, datetime(2020, 1, 1), b"1s", True], ids=repr)
def test_a_bound_that_is_no_time_is_named(wrong):
    with pytest.raises(ScheduleError, match="due_before="):
        query(due_before=wrong)


@pytest.mark.parametrize("wrong", [7, b"a", ["a"], "a\0", "\udc80"], ids=ascii)
def test_a_prefix_that_no_id_has_is_named(wrong):
    with pytest.raises(PitstopError, match="prefix="):
        query(prefix=wrong)


def test_texts_of_other_types_become_plain_ones():
    class Text(str):
        __slots__ = ()

        def startswith(self, *_):
            raise AssertionError

    found = query(prefix=Text("a"), kind=Text("mail"), state=Text("due"))
    assert found == Query(prefix="a", kind="mail", state="due")
    assert {type(found.prefix), type(found.kind), type(found.state)} == {str}


def test_a_dead_document_fails_and_one_that_cannot_be_read_does_not():
    assert has_failed(Damaged("a", "Damaged.", None, None), 5)
    assert not has_failed(Damaged("a", "Damaged.", 1, "t"), 5)


class Plain(MemoryBackend):
    """A backend that is older than searches, and has no kinds."""

    capabilities = Capability.CONDITIONAL
    find = pitstop.abc.Backend.find
    tally_by_kind = pitstop.abc.Backend.tally_by_kind


def test_a_backend_without_an_index_is_scanned_page_by_page():
    backend = Plain()
    sizes = []

    def scan(state, limit, after, scan=backend.scan):
        sizes.append(limit)
        return scan(state, limit, after)

    backend.scan = scan
    with pitstop.init({"type": backend}) as pit:
        pit.store_many([({"id": f"{n % 2}:{n:04}"}, timedelta(seconds=n)) for n in range(2500)])
        found = pit.entries(prefix="1:", limit=3)
        assert [each.id for each in found] == ["1:0001", "1:0003", "1:0005"]
        assert [each.id for each in pit.entries(prefix="1:", limit=2, after=found[-1])] == ["1:0007", "1:0009"]
        assert max(sizes) <= 1000
        assert [each.id for each in pit.entries("scheduled", due_after="2499s", due_before="1h")] == []
        assert len(pit.entries(due_before="-1ms", limit=5)) <= 5
        assert pit.stats(by="kind") == {"": pit.stats()}
        with pytest.raises(Unsupported, match="KINDS"):
            pit.entries(kind="mail")
        assert len(pit.entries(kind="", limit=4)) == 4


def test_a_search_without_conditions_is_a_scan():
    """Backends that are older than searches answer it as before."""

    class Scanned(MemoryBackend):
        def find(self, *_):
            raise AssertionError

    with pitstop.init({"type": Scanned()}) as pit:
        pit.store({"id": "a"})
        assert [each.id for each in pit.entries()] == [each.id for each in pit.entries("due")] == ["a"]
