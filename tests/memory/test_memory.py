"""What is particular to the memory backend. What it shares with the others is in the shared suite."""

from __future__ import annotations

import gc
import uuid
import weakref

from datetime import timedelta

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig


_NOW = timedelta(0)


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
    """Nothing piles up in a long run of tests."""
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
    """The heap holds an item for each time a message had; it is swept before it outgrows the messages."""
    clock = ManualClock()
    backend = MemoryBackend(MemoryConfig(clock=clock))
    pit = pitstop.init({"type": backend})
    pit.store_many([({"id": f"{n}"}, timedelta(hours=1)) for n in range(10)])
    for n in range(5000):
        pit.store({"id": f"{n % 10}"}, timedelta(hours=1, seconds=n))

    assert len(backend._room.shelf._heap) < 200

    clock.advance(timedelta(hours=3))
    assert [each.id for each in iter(pit.listen().get, None)] == [f"{n % 10}" for n in range(4990, 5000)]


def test_messages_that_are_stored_and_removed_take_no_more_room():
    backend = MemoryBackend()
    pit = pitstop.init({"type": backend})
    for n in range(5000):
        pit.store({"id": f"{n}"}, timedelta(hours=1))
        assert pit.remove(f"{n}")

    assert len(backend._room.shelf._heap) < 200
    assert len(backend._room.shelf) == 0


def test_a_scratch_has_no_name_that_others_could_share_and_is_gone_with_its_handle(name: str):
    backend = MemoryBackend(MemoryConfig(name=name))
    with backend.scratch() as scratch:
        assert (backend.location, scratch.location) == (f"memory://{name}", "memory://")
        room = weakref.ref(scratch._room)
    del scratch
    gc.collect()

    assert room() is None
