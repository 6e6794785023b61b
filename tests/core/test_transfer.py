"""Moves between stores: other programs in between, backends that lack something, and wrong arguments."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import attrs
import pytest

import pitstop

from pitstop import Conflict, OutcomeUnknown, PitstopError, Transfer, Unsupported
from pitstop._decisions._portable import fingerprint
from pitstop._pitstop import session_of
from pitstop.abc import Backend, Capability
from pitstop_conformance._records import make_record
from pitstop_memory import MemoryBackend


class Plain(MemoryBackend):
    """A backend that is older than batches, searches, kinds and pauses."""

    capabilities = Capability.CONDITIONAL
    find, find_places, get_many, get_portion = Backend.find, Backend.find_places, Backend.get_many, Backend.get_portion
    delete_many, put_many_if, put_new = Backend.delete_many, Backend.put_many_if, Backend.put_new


class Watched(MemoryBackend):
    """A store in which another program acts at the next write of new messages, or after it."""

    before = after = staticmethod(lambda backend: None)

    def put_new(self, records):
        self.before(self)
        stored = super().put_new(records)
        self.after(self)
        return stored


@pytest.fixture
def pit():
    with pitstop.init("memory://") as pit:
        pit.store_many([({"id": f"a{n:04}"}, None) for n in range(1200)])
        yield pit


def entries(pit):
    return sorted(pit.entries(limit=10_000), key=lambda each: each.id)


def test_a_backend_without_batches_and_searches_is_moved(pit):
    with pitstop.init({"type": Plain()}) as other, pitstop.init("memory://") as back:
        assert pit.copy_to(other).written == 1200
        assert other.copy_to(back).written == 1200
        assert other.copy_to(back).unchanged == 1200
        assert entries(pit) == entries(other) == entries(back)


@pytest.mark.parametrize("what", ["kind", "policy", "pause"])
def test_a_backend_that_cannot_keep_something_is_refused_before_it_is_written(what):
    with pitstop.init("memory://") as pit, pitstop.init({"type": Plain()}) as other:
        if what == "pause":
            pit.store({"id": "a"})
            pit.pause(kind="mail")
        else:
            pit.store({"id": "a"}, kind="mail" if what == "kind" else "", expires="1h" if what == "policy" else None)
        with pytest.raises(Unsupported, match="does not have the capability"):
            pit.copy_to(other)
        with pytest.raises(Unsupported, match="does not have the capability"):
            other.import_lines(pit.export_lines())
        assert other.entries() == []


def test_a_target_without_conditions_is_refused(pit):
    class Unconditional(Plain):
        capabilities = Capability(0)
        put_if = Backend.put_if

    with pitstop.init({"type": Unconditional()}) as other:
        with pytest.raises(Unsupported, match="CONDITIONAL"):
            pit.copy_to(other)
        other.store({"id": "b"})
        assert other.copy_to(pit).written == 1, "it can be left"


def test_a_message_that_another_program_stores_at_that_moment_is_not_overwritten(pit):
    backend = Watched()
    mine = make_record("a0007")
    backend.before = lambda backend: None if backend.get("a0007") else backend.put([mine])
    with pitstop.init({"type": backend}) as other:
        assert pit.copy_to(other).kept == 1
        assert backend.get("a0007") == mine


def test_a_replacement_looks_again_if_the_message_has_changed_meanwhile(pit):
    changes = []

    class Racing(MemoryBackend):
        def put_many_if(self, items):
            if len(changes) < 3:
                changes.append(items)
                self.put([make_record(record.id) for record, *_ in items])
            return super().put_many_if(items)

    with pitstop.init({"type": Racing()}) as other:
        other.store({"id": "a0007", "other": 1})
        assert pit.copy_to(other, if_exists="replace").replaced == 1
        assert entries(other) == entries(pit)


def test_a_replacement_that_never_succeeds_ends(pit):
    class Busy(MemoryBackend):
        def put_many_if(self, items):
            return [False] * len(items)

    with pitstop.init({"type": Busy()}) as other:
        other.store({"id": "a0007", "other": 1})
        with pytest.raises(Conflict, match="'a0007' was not replaced"):
            pit.copy_to(other, if_exists="replace")


def test_a_store_that_does_not_keep_what_it_is_given_is_noticed(pit):
    class Careless(MemoryBackend):
        def put_new(self, records):
            return super().put_new(
                [attrs.evolve(each, message={"n": 1.0}) if each.id == "a0007" else each for each in records]
            )

    with (
        pitstop.init({"type": Careless()}) as other,
        pytest.raises(PitstopError, match=r"'a0007' was written to .* with other"),
    ):
        pit.copy_to(other, live=True)


@pytest.mark.parametrize("deed", ["claims", "removes"])
def test_a_consumer_of_the_target_that_is_not_seen_is_noticed(pit, deed):
    backend = Watched()

    def act(backend):
        if deed == "claims":
            backend.lease(1, 60_000)
        else:
            backend.delete("a0001")

    backend.after = act
    with pitstop.init({"type": backend}) as other:
        with pytest.raises(PitstopError, match="If consumers use that store, stop them"):
            pit.copy_to(other)
        backend.delete_many([each.id for each in other.entries(limit=2000)])
        assert pit.copy_to(other, live=True).overtaken >= 1


def test_a_source_that_is_used_is_noticed(pit):
    with pitstop.init("memory://") as other:
        with pytest.raises(PitstopError, match="has 1,201 messages now, and 1,200 were read"):
            pit.copy_to(other, progress=lambda count: pit.store({"id": "0"}))
        assert pit.copy_to(other).written == 1


def test_a_lost_reply_is_found_out_by_the_next_run(pit):
    class Losing(MemoryBackend):
        lost = 0

        def put_new(self, records):
            stored = super().put_new(records)
            self.lost += 1
            if self.lost == 2:
                raise OutcomeUnknown("the reply was lost", ids=tuple(each.id for each in records))
            return stored

    with pitstop.init({"type": Losing()}) as other:
        with pytest.raises(OutcomeUnknown):
            pit.copy_to(other)
        assert pit.copy_to(other) == Transfer(messages=1200, written=200, unchanged=1000)


def test_a_listener_of_this_process_is_woken_and_gives_back_a_replaced_message(pit):
    with pitstop.init("memory://") as other:
        other.store({"id": "a0007", "other": 1})
        with other.listen() as listener:
            delivery = listener.get(5)
            assert pit.copy_to(other, if_exists="replace", live=True).replaced == 1
            with pytest.raises(pitstop.LeaseLost):
                delivery.ack(wait=True)
            assert listener.get(5) is not None


def test_numbers_that_are_equal_in_python_are_not_the_same():
    values = [1, 1.0, True, 0, 0.0, -0.0, False, None, "1", float("nan"), b"1"]
    prints = {fingerprint(make_record("a", message={"v": each}, revision="r")) for each in values}
    assert len(prints) == len(values)
    one, other = ({"v": float("nan"), "w": {"a": 1, "b": 2}}, {"w": {"b": 2, "a": 1}, "v": -float("nan")})
    assert fingerprint(make_record("a", message=one, revision="r")) == fingerprint(
        make_record("a", message=other, revision="r")
    )


def test_wrong_arguments(pit):
    with pitstop.init("memory://") as other:
        with pytest.raises(PitstopError, match="is no Pitstop"):
            pit.copy_to("sqlite:///x.db")
        with pytest.raises(PitstopError, match="Both stores"):
            pit.copy_to(pit)
        for wrong in ("error", None, 1):
            with pytest.raises(PitstopError, match="if_exists="):
                pit.copy_to(other, if_exists=wrong)
        with pytest.raises(PitstopError, match="live="):
            pit.export_lines(live="no")
        with pytest.raises(PitstopError, match="bytes or text"):
            other.import_lines([1])
        assert other.import_lines(line.decode() for line in pit.export_lines()).written == 1200


def test_progress_may_end_a_copy_and_use_the_store(pit):
    def stop(count):
        assert pit.get("a0000") is not None
        raise RuntimeError(f"{count}")

    with pitstop.init("memory://") as other:
        with pytest.raises(RuntimeError, match="500"):
            pit.copy_to(other, progress=stop)
        assert len(entries(other)) == 500
        assert session_of(other).backend.tally().due == 500


def test_asyncio_has_the_same_methods(pit):
    async def main():
        async with pitstop.init_async("memory://") as first, pitstop.init_async("memory://") as second:
            seen = []
            done = await first.import_lines(pit.export_lines(), progress=seen.append)
            assert done.written == seen[-1] == 1200
            assert (await first.copy_to(second, progress=seen.append)).written == 1200
            lines = [line async for line in second.export_lines()]
            assert (await first.import_lines(lines)).unchanged == 1200
            with pytest.raises(PitstopError, match="is no AsyncPitstop"):
                await first.copy_to(pit)
            await first.store({"id": "b"}, timedelta(hours=1))
            copying = asyncio.create_task(first.copy_to(second))
            await asyncio.sleep(0)
            copying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying

    asyncio.run(main())
