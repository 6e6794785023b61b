"""``consume`` at a rate and in batches, by many schedules: each message is handled once, none is out of reach, and the end comes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pitstop import Handle
from schedules.suite import RUNS, Cases
from schedules.world import World


#: A `consume` has many points, so that each schedule takes long.
cases = Cases(RUNS // 5)


def noting(world: World, seen: list[str]):
    def handler(batch):
        for each in batch:
            world.note_handled(each.msg)
            seen.append(each.id)

    return handler


@cases.add()
def two_workers_handle_batches_until_idle(world: World):
    world.open()
    seen: list[str] = []
    with world.scheduler.calm():
        world.store_many(*"abcde")

    summary = world.pit.consume(noting(world, seen), batch=2, workers=2, until_idle=True)

    assert sorted(seen) == list("abcde"), seen
    assert (summary.acked, summary.handled) == (5, 5), summary
    world.check_at_rest()
    world.finish()


@cases.add()
def batches_end_after_max_messages(world: World):
    world.open()
    seen: list[str] = []
    with world.scheduler.calm():
        world.store_many(*"abcde")

    summary = world.pit.consume(noting(world, seen), batch=2, workers=2, max_messages=3)

    assert (len(seen), summary.acked, summary.reason) == (3, 3, "max_messages"), (seen, summary)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_batches_are_handled(world: World):
    """Messages that no handler saw are given back, and those that one has are acked."""
    world.open()
    seen: list[str] = []
    with world.scheduler.calm():
        world.store_many(*"abcd")

    def consume():
        world.closing(lambda: world.pit.consume(noting(world, seen), batch=3, workers=2))

    def close():
        world.pit.close()

    world.together(consume, close)
    world.check_closed()


@cases.add()
def a_message_is_stored_anew_while_a_batch_is_handled(world: World):
    world.open()
    seen: list[str] = []
    with world.scheduler.calm():
        world.store_many(*"abc")

    def consume():
        world.pit.consume(noting(world, seen), batch=3, until_idle=True)

    def store():
        world.store("b", timedelta(minutes=1))

    world.together(consume, store)
    assert {"a", "c"} <= set(seen) <= set("abc"), seen
    world.finish()


@cases.add()
def two_kinds_share_a_rate_until_idle(world: World):
    """A lane that is refused because the other one asks meanwhile, and finds nothing, is not kept waiting for an hour."""
    world.open()
    seen: list[str] = []
    with world.scheduler.calm():
        world.store("m", kind="mail")
    begun = world.seconds

    def handler(message):
        world.note_handled(message)
        seen.append(message["id"])

    summary = world.pit.consume({"mail": handler, "report": handler}, rate="1/h", until_idle=True)

    assert (seen, summary.acked) == (["m"], 1)
    assert world.seconds - begun < 60, "nothing was due any more"
    world.finish()


@cases.add()
def a_lane_is_not_refused_by_another_one_that_finds_nothing(world: World):
    world.open()
    seen: list[str] = []
    begun = world.seconds

    def handler(message):
        world.note_handled(message)
        seen.append(message["id"])

    def consume():
        world.pit.consume({"mail": handler, "report": handler}, rate="1/h", max_messages=1)
        took = world.seconds - begun
        assert took < 2, f"a message that was due was handled {took:.1f} s later"

    def store():
        world.store("m", kind="mail")

    world.together(consume, store)
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_a_rate_holds_messages_back(world: World):
    world.open()
    seen: list[str] = []
    with world.scheduler.calm():
        world.store_many(*"ab")
    begun = world.seconds

    def handler(message):
        world.note_handled(message)
        seen.append(message["id"])

    def consume():
        world.closing(lambda: world.pit.consume(handler, rate="1/h", workers=2))

    def close():
        world.pit.close()

    world.together(consume, close)
    assert world.seconds - begun < 60
    world.check_closed()


@cases.add()
def each_message_has_a_turn_of_its_own(world: World):
    world.open()
    times: list[float] = []
    with world.scheduler.calm():
        world.store_many(*"abcd")

    def handler(message):
        world.note_handled(message)
        times.append(world.seconds)

    summary = world.pit.consume({"*": Handle(handler, workers=3)}, rate="1/s", until_idle=True)

    assert summary.acked == 4
    apart = [later - earlier for earlier, later in zip(sorted(times), sorted(times)[1:], strict=False)]
    assert all(each > 0.5 for each in apart), times
    assert max(times) - min(times) < 10, times
    world.finish()


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name: str) -> None:
    cases.run(name)
