"""Changes of many messages: changes by others between the search and the write, lost replies, and backends without batches."""

from __future__ import annotations

import asyncio

from datetime import timedelta
from functools import partial

import attrs
import pytest

import pitstop

from pitstop import BackendUnavailable, Conflict, OutcomeUnknown, PitstopError, Unsupported, testing
from pitstop._storing import MOST_READS
from pitstop.abc import Backend, Capability, Outcome, Progress, Query
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig


HOUR = timedelta(hours=1)


class Racing(MemoryBackend):
    """A store in which another program changes messages between the search of a batch and its write."""

    def __init__(self, between):
        super().__init__()
        self.between = between

    def delete_many(self, ids, query=None):
        self.between(self)
        return super().delete_many(ids, query)

    def put_many_if(self, items):
        self.between(self)
        return super().put_many_if(items)


def moves(id, due_in_ms):
    """Return a change of another program: the message comes at another time."""

    def change(backend):
        record = backend.get(id)
        if record is not None and record.progress.due < backend.now() // 1000 + 600_000:
            due = backend.now() // 1000 + due_in_ms
            backend.put([attrs.evolve(record, revision="other", progress=Progress(due, due))])

    return change


def claims(backend):
    backend.lease(1, 60_000)


def stored(pit, count=3, when=timedelta(minutes=1), **options):
    pit.store_many([({"id": f"a{n}"}, when) for n in range(count)], **options)


def test_a_message_that_was_rescheduled_out_of_the_search_meanwhile_is_not_removed():
    with pitstop.init({"type": Racing(moves("a1", 3_600_000))}) as pit:
        stored(pit)
        assert pit.remove_many(due_before="10m") == 2
        assert [each.id for each in pit.entries()] == ["a1"]


def test_a_message_that_is_claimed_meanwhile_is_removed_only_if_it_still_matches():
    with pitstop.init({"type": Racing(claims)}) as pit:
        stored(pit, when=None)
        assert pit.remove_many(state="due") == 2
        assert [each.state for each in pit.entries()] == ["leased"]
    with pitstop.init({"type": Racing(claims)}) as pit:
        stored(pit, when=None)
        assert pit.remove_many(prefix="a") == 3


def test_a_message_that_was_rescheduled_out_of_the_search_meanwhile_is_not_rescheduled():
    with pitstop.init({"type": Racing(moves("a1", 3_600_000))}) as pit:
        stored(pit)
        assert pit.reschedule_many(due_before="10m", when="2m") == 2
        assert pit.get("a1").due > pit.now() + timedelta(minutes=50)


def test_a_message_that_was_changed_and_still_matches_is_rescheduled():
    with pitstop.init({"type": Racing(moves("a1", 120_000))}) as pit:
        stored(pit)
        assert pit.reschedule_many(prefix="a", when="2h") == 3
        assert {each.due for each in pit.entries()} == {pit.get("a1").due}


def test_a_message_that_changes_all_the_time_is_a_conflict():
    number = iter(range(1000))

    def change(backend):
        due = backend.now() // 1000 + next(number)
        backend.put([attrs.evolve(backend.get("a0"), revision=f"r{due}", progress=Progress(due, due))])

    with pitstop.init({"type": Racing(change)}) as pit:
        stored(pit, 1)
        with pytest.raises(Conflict, match="'a0' was not rescheduled") as conflict:
            pit.reschedule_many(["a0"], when="2h")
        assert conflict.value.id == "a0"


def test_a_reschedule_ends_no_lease_of_a_message_that_it_has_made_due_itself():
    """A listener claims the messages of a page at once. The ends of their leases are their new places in the search."""
    claimed = []
    with testing.init({"type": "memory", "lock_time": "3h"}) as pit:
        pit.store_many([({"id": f"a{n:04}"}, HOUR) for n in range(1200)])
        with pit.listen(prefetch=1) as listener:

            def claim(count):
                assert count <= 1200
                claimed.extend(iter(listener.get, None))

            assert pit.reschedule_many(due_before="1d", when=None, progress=claim) == 1200
            assert len(claimed) == 1200
            for each in claimed:
                each.ack(wait=True)
        assert pit.entries() == []


def test_the_last_try_may_be_the_one_that_succeeds():
    number = iter(range(1000))

    def change(backend):
        if (n := next(number)) < MOST_READS - 1:
            backend.put([attrs.evolve(backend.get("a0"), revision=f"r{n}", progress=Progress(n, n))])

    with pitstop.init({"type": Racing(change)}) as pit:
        stored(pit, 1)
        assert pit.reschedule_many(["a0"], when="2h") == 1
        assert next(number) == MOST_READS


@pytest.mark.parametrize("by", ["ids", "search"])
def test_a_lost_reply_names_the_messages_that_may_be_gone(by):
    with testing.init() as pit:
        stored(pit, 3, None)
        with pit.listen(prefetch=3) as listener:
            listener.get().ack()
            pit.faults.lose_reply("remove")

            with pytest.raises(OutcomeUnknown) as unknown:
                pit.remove_many(["a1", "a2"]) if by == "ids" else pit.remove_many(prefix="a")

            assert unknown.value.ids == ("a1", "a2")
            # They were claimed ahead. They are not emitted, as if they were there.
            assert listener.get(0) is None
            assert pit.remove_many(prefix="a") == 0


class CutShort(MemoryBackend):
    """A backend that is older than batches, in which the second change of a batch fails."""

    delete_many, put_many_if = Backend.delete_many, Backend.put_many_if
    error: BaseException | None = None

    def delete(self, id):
        self._fail(id)
        return super().delete(id)

    def put_if(self, record, revision, progress=None):
        self._fail(record.id)
        return super().put_if(record, revision, progress)

    def _fail(self, id):
        if self.error is not None and id == "a2":
            raise self.error


@pytest.mark.parametrize(
    "error",
    [BackendUnavailable("gone"), OutcomeUnknown("lost", ids=("a2",)), KeyboardInterrupt(), MemoryError()],
    ids=lambda each: type(each).__name__,
)
@pytest.mark.parametrize("deed", ["remove", "reschedule"])
def test_a_batch_that_fails_in_the_middle_leaves_no_message_of_it_with_a_listener(deed, error):
    store = CutShort()
    with pitstop.init({"type": store}) as pit:
        stored(pit, 4, None)
        with pit.listen(prefetch=4) as listener:
            listener.get().ack()
            store.error = error
            change = pit.remove_many if deed == "remove" else partial(pit.reschedule_many, when="2h")
            with pytest.raises(type(error)):
                change(["a1", "a2", "a3"])
            store.error = None
            assert {each.id for each in iter(listener.get, None)} == {"a2", "a3"}, "a1 was changed before"


def test_a_lost_reply_to_a_reschedule_names_the_messages():
    with testing.init() as pit:
        stored(pit)
        pit.faults.lose_reply("store")
        with pytest.raises(OutcomeUnknown) as unknown:
            pit.reschedule_many(prefix="a", when="2h")
        assert unknown.value.ids == ("a0", "a1", "a2")
        assert pit.reschedule_many(prefix="a", when="2h") in {0, 3}


def test_a_redrive_whose_outcome_is_not_known_names_the_messages(monkeypatch):
    with testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
        stored(pit, 2, None)
        with pit.listen() as listener:
            for _ in range(2):
                listener.get().nack("boom")
        settle = pit.faults._backend.inner.settle
        monkeypatch.setattr(pit.faults._backend.inner, "settle", lambda batch: [None, *settle(batch)[1:]])
        with pytest.raises(OutcomeUnknown, match="may have been redriven") as unknown:
            pit.redrive_many(state="dead")
        assert unknown.value.ids == ("a0",)


def test_a_redrive_leaves_paused_messages_alone():
    with testing.init() as pit:
        stored(pit, 3, None)
        pit.pause("a0")
        pit.pause("a1", HOUR)
        before = pit.entries()
        assert pit.redrive_many(["a0", "a1", "a2"]) == 0
        assert pit.redrive_many(prefix="a") == 0
        assert pit.entries() == before


def test_a_refused_batch_leaves_the_batches_before_it_done():
    with testing.init() as pit:
        pit.store_many([({"id": f"a{n:04}"}, HOUR) for n in range(1200)])
        done = []

        def progress(count):
            done.append(count)
            pit.faults.fail_next("remove")

        with pytest.raises(BackendUnavailable):
            pit.remove_many(prefix="a", progress=progress)
        assert pit.stats().scheduled == 1200 - done[0]
        pit.faults.clear()
        assert pit.remove_many(prefix="a") == 1200 - done[0]


def test_each_batch_takes_one_write_and_searches_become_longer():
    """Among messages with one ``due``, each search reads all of them."""
    with testing.init() as pit:
        pit.store_many([({"id": f"a{n:04}"}, HOUR) for n in range(1200)])
        calls = pit.faults._backend.calls
        calls.clear()
        assert pit.remove_many(prefix="a") == 1200
        assert (calls["entries"], calls["remove"]) == (2, 3)
        pit.store_many([({"id": f"a{n:05}"}, HOUR) for n in range(10_000)])
        calls.clear()
        assert pit.remove_many(prefix="a") == 10_000
        assert (calls["entries"], calls["remove"]) == (3, 20)
        pit.store_many([({"id": f"a{n:04}"}, HOUR) for n in range(1200)])
        calls.clear()
        assert pit.reschedule_many((f"a{n:04}" for n in range(1200)), when="2h") == 1200
        assert (calls["get"], calls["store"]) == (3, 3)


class Asked(MemoryBackend):
    """Notes how many places each search asks for. A search may take a while."""

    def __init__(self, seconds):
        super().__init__(MemoryConfig(clock=ManualClock()))
        self.seconds = seconds
        self.asked = []

    def find_places(self, query, limit, after):
        self.asked.append(limit)
        self.clock.advance(self.seconds)
        return super().find_places(query, limit, after)


@pytest.mark.parametrize(
    ("seconds", "conditions", "asked"),
    [
        (0, {"prefix": "a"}, [500, 2000]),
        (1, {"prefix": "a"}, [500, 500, 500]),
        (0, {"failing": False}, [500, 500, 500]),
    ],
    ids=["quick", "slow", "whole messages"],
)
def test_a_search_that_is_slow_or_reads_whole_messages_is_followed_by_none_for_more(seconds, conditions, asked):
    backend = Asked(seconds)
    with pitstop.init({"type": backend}) as pit:
        pit.store_many([({"id": f"a{n:04}"}, HOUR) for n in range(1200)])
        assert pit.remove_many(**conditions) == 1200
    assert backend.asked == asked


def test_the_pitstop_may_be_closed_between_two_batches():
    pit = pitstop.init("memory://")
    pit.store_many([({"id": f"a{n:04}"}, HOUR) for n in range(1200)])
    with pytest.raises(BackendUnavailable, match="closed"):
        pit.remove_many(prefix="a", progress=lambda _: pit.close())


class Plain(MemoryBackend):
    """A backend that is older than batches."""

    capabilities = Capability.CONDITIONAL
    find, find_places, get_many = Backend.find, Backend.find_places, Backend.get_many
    delete_many, put_many_if = Backend.delete_many, Backend.put_many_if


class Unconditional(Plain):
    capabilities = Capability(0)
    put_if = Backend.put_if


def test_a_backend_without_batches_changes_one_after_the_other():
    with pitstop.init({"type": Plain()}) as pit:
        stored(pit, 5)
        assert pit.reschedule_many(prefix="a", when="2h") == 5
        assert pit.remove_many(due_after="1h", prefix="a1") == 1
        assert pit.remove_many(["a0", "b"]) == 1
        assert [each.id for each in pit.entries()] == ["a2", "a3", "a4"]


def test_a_backend_without_batches_keeps_a_record_that_does_not_match_any_more():
    class Late(Plain):
        def put_if(self, record, revision, progress=None):
            if self.get(record.id).revision != "other":
                moves(record.id, 3_600_000)(self)
            return super().put_if(record, revision, progress)

    with pitstop.init({"type": Late()}) as pit:
        stored(pit, 1)
        assert pit.remove_many(due_before="10m") == 0
        assert pit.get("a0").state == "scheduled"


def test_a_removal_that_was_cut_short_leaves_a_dead_message_that_says_so():
    class Cut(Plain):
        def settle(self, settlements):
            raise BackendUnavailable("gone")

    backend = Cut()
    with pitstop.init({"type": backend}) as pit:
        stored(pit, 1)
        with pytest.raises(BackendUnavailable):
            pit.remove_many(prefix="a")
        entry = pit.get("a0")
        assert entry.state == "dead"
        assert "being removed" in entry.last_error
        assert pit.remove_many(["a0"]) == 1


def test_a_backend_without_conditions_removes_by_ids_alone():
    with pitstop.init({"type": Unconditional()}) as pit:
        stored(pit)
        with pytest.raises(Unsupported, match="CONDITIONAL"):
            pit.remove_many(prefix="a")
        with pytest.raises(Unsupported, match="CONDITIONAL"):
            pit.reschedule_many(["a0"], when="1h")
        assert pit.remove_many(["a0", "a1"]) == 2


def test_a_settlement_of_a_message_that_is_being_removed_is_stale():
    """The token of the removal is a new one: a listener's ack cannot end it, and its nack cannot bring the message back."""
    backend = Plain()
    with pitstop.init({"type": backend}) as pit:
        stored(pit, 1, None)
        (leased,) = backend.lease(1, 60_000)
        seen = []
        settle = backend.settle

        def watched(settlements):
            stale = pitstop.abc.Settlement("a0", leased.progress.token, Outcome.RELEASE, Progress(0, 0))
            seen.extend(settle([stale]))
            return settle(settlements)

        backend.settle = watched
        assert backend.delete_many(["a0"], Query(prefix="a")) == [True]
        assert seen == [False]
        assert pit.get("a0") is None


def test_asyncio_has_the_same_methods():
    async def main():
        async with pitstop.init_async("memory://") as pit:
            await pit.store_many([({"id": f"a{n}"}, HOUR) for n in range(6)])
            seen = []
            assert await pit.reschedule_many(prefix="a", when="2h", progress=seen.append) == 6
            assert await pit.remove_many(f"a{n}" for n in range(2)) == 2
            assert await pit.remove_many(due_after="1h", prefix="a2") == 1
            assert await pit.redrive_many(state="dead") == 0
            with pytest.raises(PitstopError, match="all messages"):
                await pit.remove_many()
            assert len(await pit.entries()) == 3
            assert seen == [6]

    asyncio.run(main())
