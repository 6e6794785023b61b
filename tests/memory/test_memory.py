"""The particular traits of the memory backend. The shared suite tests the traits that all backends have."""

from __future__ import annotations

import gc
import sys
import uuid
import weakref

from datetime import timedelta

import pytest

import pitstop

from pitstop.abc import AllBut, Outcome, Progress, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig
from pitstop_memory._shelf import Shelf


_NOW = timedelta(0)


def record(id: str, *, kind: str = "") -> Record:
    return Record(id, {}, None, "r", Progress(0, 0), kind)


def items(shelf: Shelf) -> int:
    """Return the number of items in all heaps of a shelf, and of ids in its bunches."""
    lines = shelf._lines
    kinds = [] if lines is None else lines._heaps.values()
    # An empty heap takes room as well.
    held = sum(len(heap) + 1 for heap in kinds)
    assert lines is None or lines.items == held - len(kinds)
    return held + sum(len(ids) if order < 0 else 1 for _, order, ids in shelf._heap)


def steps(call) -> int:
    """Return the number of lines of the memory backend's code that a call runs."""
    counted = 0

    def trace(frame, event, _):
        nonlocal counted
        if "pitstop_memory" not in frame.f_code.co_filename:
            return None
        counted += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return counted


@pytest.fixture
def name() -> str:
    return uuid.uuid4().hex


def test_a_handle_without_a_name_has_messages_of_its_own():
    one, other = pitstop.init({"type": "memory"}), pitstop.init({"type": "memory"})
    one.store({"id": "a"}, _NOW)

    assert other.entries() == []
    assert [each.id for each in one.entries()] == ["a"]


def test_handles_with_one_name_share_their_messages(name: str):
    one, other = pitstop.init({"type": "memory", "name": name}), pitstop.init({"type": "memory", "name": name})
    one.store({"id": "a"}, _NOW)

    delivery = other.listen().get()
    assert delivery is not None
    delivery.ack()

    assert one.get("a") is None


def test_handles_with_other_names_do_not(name: str):
    one, other = pitstop.init({"type": "memory", "name": name}), pitstop.init({"type": "memory", "name": name + "x"})
    one.store({"id": "a"}, _NOW)

    assert other.get("a") is None


def test_messages_go_with_the_last_handle(name: str):
    """The memory does not grow in a long run of tests."""
    one, other = pitstop.init({"type": "memory", "name": name}), pitstop.init({"type": "memory", "name": name})
    one.store({"id": "a"}, _NOW)
    one.close()
    del one
    gc.collect()
    assert other.get("a") is not None

    other.close()
    del other
    gc.collect()

    assert pitstop.init({"type": "memory", "name": name}).get("a") is None


def test_messages_stay_while_a_handle_is_open_though_another_was_closed(name: str):
    one = pitstop.init({"type": "memory", "name": name})
    with pitstop.init({"type": "memory", "name": name}) as other:
        other.store({"id": "a"}, _NOW)

    assert one.get("a") is not None


@pytest.mark.parametrize("scheme", ["memory", "MEMORY"])
def test_a_url_says_the_same_as_a_mapping(name: str, scheme: str):
    one = pitstop.init(f"{scheme}://{name}?lock_time=90s&retry.max_attempts=1")
    other = pitstop.init({"type": "memory", "name": name})
    one.store({"id": "a"}, _NOW)

    delivery = one.listen().get()
    assert delivery is not None
    assert timedelta(seconds=89) < delivery.leased_until - one.now() <= timedelta(seconds=90)
    delivery.nack("boom")

    assert [each.last_error for each in other.entries("dead")] == ["boom"]


def test_a_url_without_a_name_has_messages_of_its_own():
    one, other = pitstop.init("memory://"), pitstop.init("memory://")
    one.store({"id": "a"}, _NOW)

    assert other.get("a") is None


def test_a_url_with_a_path_is_refused():
    with pytest.raises(pitstop.ConfigError, match="A memory URL has no path"):
        pitstop.init("memory://name/path")


@pytest.mark.parametrize("wrong", ["", 5, b"x"], ids=repr)
def test_a_name_that_is_no_text_is_refused(wrong):
    with pytest.raises(pitstop.ConfigError, match="name="):
        pitstop.init({"type": "memory", "name": wrong})


def test_a_class_and_an_instance_serve_as_type(name: str):
    by_class = pitstop.init({"type": MemoryBackend, "name": name})
    by_instance = pitstop.init({"type": MemoryBackend(MemoryConfig(name=name))})
    by_class.store({"id": "a"}, _NOW)

    assert by_instance.get("a") is not None
    assert pitstop.init({"type": MemoryBackend()}).get("a") is None


def test_the_repr_says_where_the_messages_are(name: str):
    assert repr(MemoryBackend()) == "<MemoryBackend memory://>"
    assert repr(MemoryBackend(MemoryConfig(name=name))) == f"<MemoryBackend memory://{name}>"


def test_messages_that_are_updated_again_and_again_take_no_more_room():
    """The heap holds an item for each time that a message had. It is swept before it outgrows the messages."""
    clock = ManualClock()
    backend = MemoryBackend(MemoryConfig(clock=clock))
    pit = pitstop.init({"type": backend})
    pit.store_many([({"id": f"{n}"}, timedelta(hours=1)) for n in range(10)])
    for n in range(5000):
        pit.store({"id": f"{n % 10}"}, timedelta(hours=1, seconds=n))

    assert items(backend._room.shelf) < 200

    clock.advance(timedelta(hours=3))
    assert [each.id for each in iter(pit.listen().get, None)] == [f"{n % 10}" for n in range(4990, 5000)]


def test_messages_that_are_stored_and_removed_take_no_more_room():
    backend = MemoryBackend()
    pit = pitstop.init({"type": backend})
    for n in range(5000):
        pit.store({"id": f"{n}"}, timedelta(hours=1))
        assert pit.remove(f"{n}")

    assert items(backend._room.shelf) < 200
    assert len(backend._room.shelf) == 0


def test_messages_that_are_claimed_together_and_settled_take_no_more_room():
    """The messages of a claim stay in the heap until the end of their lease, unless they are gone before."""
    backend = MemoryBackend()
    pit = pitstop.init({"type": backend})
    for _ in range(100):
        pit.store_many([({}, _NOW)] * 50)
        leased = backend.lease(50, 60_000)
        assert all(
            backend.settle([Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased])
        )

    assert items(backend._room.shelf) < 200
    assert len(backend._room.shelf) == 0


@pytest.mark.parametrize("kinds", [["none"], ["kind-7", "kind-8"], AllBut(["kind-7"])], ids=["none", "two", "rest"])
def test_messages_of_many_kinds_that_are_gone_take_no_more_room(kinds):
    """A kind without messages leaves no heap behind, also if no claim of that kind ever comes."""
    backend = MemoryBackend()
    pit = pitstop.init({"type": backend})
    pit.store({"id": "stays"}, timedelta(hours=1), kind="kind-7")
    for n in range(5000):
        pit.store({"id": f"{n}"}, timedelta(hours=1), kind=f"kind-{n}")
        assert backend.lease(10, 60_000, kinds) == []
        assert pit.remove(f"{n}")

    shelf = backend._room.shelf
    assert items(shelf) < 400
    assert len(shelf) == 1
    assert backend.next_due(["kind-7"]) == backend.next_due() is not None


def test_messages_that_change_their_kind_take_no_more_room():
    backend = MemoryBackend()
    pit = pitstop.init({"type": backend})
    pit.store_many([({"id": f"{n}"}, timedelta(hours=1)) for n in range(50)])
    for n in range(5000):
        pit.store({"id": f"{n % 50}"}, timedelta(hours=1), kind=f"kind-{n % 70}")
        assert backend.lease(10, 60_000, ["kind-1"]) == []

    assert items(backend._room.shelf) < 600


@pytest.mark.parametrize("kinds", [["mail"], AllBut(["none"])], ids=["some", "rest"])
def test_messages_that_are_claimed_by_kind_and_settled_take_no_more_room(kinds):
    backend = MemoryBackend()
    for batch in range(100):
        backend.put([record(f"{batch}-{n}", kind="mail") for n in range(50)])
        leased = backend.lease(50, 60_000, kinds)
        assert len(leased) == 50
        assert all(
            backend.settle([Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased])
        )

    assert items(backend._room.shelf) < 400
    assert len(backend._room.shelf) == 0


@pytest.mark.parametrize("limit", [1, 10])
def test_a_claim_without_kinds_does_as_many_steps_whatever_the_number_of_kinds(limit: int):
    """A listener without kinds does not pay for the kinds that others store. Once a listener chooses, each message costs a little."""

    def counts(kinds: int, *, chosen_before: bool) -> int:
        backend = MemoryBackend()
        backend.put([record(f"{n}", kind=f"kind-{n % kinds}") for n in range(600)])
        if chosen_before:
            backend.next_due(["kind-0"])
        return steps(lambda: [backend.next_due(), *backend.lease(limit, 60_000)])

    assert counts(600, chosen_before=False) == counts(1, chosen_before=False)
    assert counts(600, chosen_before=True) <= counts(1, chosen_before=True) + 2 * limit
    assert counts(1, chosen_before=True) <= counts(1, chosen_before=False) + 10 * limit


@pytest.mark.parametrize("limit", [1, 10])
def test_a_claim_of_some_kinds_does_as_many_steps_whatever_the_number_of_other_kinds(limit: int):
    def counts(kinds: int) -> int:
        backend = MemoryBackend()
        backend.put([record(f"{n}", kind=f"kind-{n % kinds}") for n in range(600)])
        backend.put([record(f"mail-{n}", kind="mail") for n in range(20)])
        backend.next_due(["mail"])
        return steps(lambda: backend.lease(limit, 60_000, ["mail", "other"]))

    assert counts(600) == counts(1)


def test_the_rest_of_a_claim_comes_back_at_the_end_of_the_lease_in_the_order_of_its_ids():
    """This holds whatever became of the others meanwhile, and for other messages that are due at that time."""
    clock = ManualClock()
    backend = MemoryBackend(MemoryConfig(clock=clock))
    pit = pitstop.init({"type": backend})
    pit.store_many([({"id": f"{n}"}, _NOW) for n in range(6)])
    pit.store({"id": "6"}, timedelta(minutes=1))
    first, second = backend.lease(3, 60_000), backend.lease(3, 60_000)
    assert [each.id for each in (*first, *second)] == [f"{n}" for n in range(6)]
    end = first[0].progress.due
    assert backend.next_due() == end
    pit.remove("1")
    pit.store({"id": "4"}, timedelta(minutes=2))
    done = second[2]
    assert backend.settle([Settlement(done.id, done.progress.token, Outcome.COMPLETE, None)]) == [True]

    assert backend.lease(10, 60_000) == []
    clock.advance(60)

    assert backend.next_due() == end
    assert [each.id for each in backend.lease(2, 60_000)] == ["0", "2"]
    assert [each.id for each in backend.lease(10, 60_000)] == ["3", "6"]
    clock.advance(60)
    assert [(each.id, each.progress.attempts) for each in backend.lease(10, 60_000)] == [
        ("0", 3),
        ("2", 3),
        ("3", 3),
        ("4", 1),
        ("6", 2),
    ]


def test_a_scratch_has_no_name_that_others_could_share_and_is_gone_with_its_handle(name: str):
    backend = MemoryBackend(MemoryConfig(name=name))
    with backend.scratch() as scratch:
        assert (backend.location, scratch.location) == (f"memory://{name}", "memory://")
        room = weakref.ref(scratch._room)
    del scratch
    gc.collect()

    assert room() is None
