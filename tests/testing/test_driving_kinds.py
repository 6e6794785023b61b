"""A test drives handlers by kind, and kinds that it chooses."""

from __future__ import annotations

import asyncio

from datetime import timedelta

import pytest

import pitstop

from pitstop import Handle, PitstopError, testing
from pitstop_memory import MemoryBackend


NOW = timedelta(0)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


def ok(msg):
    pass


def of(report):
    return [(step.id, step.outcome) for step in report]


@pytest.fixture(params=["plain", "async"])
def run(request):
    """Call a driving method by name, as it is or as its async variant."""

    def plain(pit, name, *args, **options):
        return getattr(pit, name)(*args, **options)

    def awaited(pit, name, *args, **options):
        return asyncio.run(getattr(pit, f"a{name}")(*args, **options))

    return plain if request.param == "plain" else awaited


@pytest.fixture
def stored(any_pit):
    """A mail and a report a minute, and one of another kind."""
    for n in range(3):
        any_pit.store({"id": f"report {n}"}, n * MINUTE, kind="report")
        any_pit.store({"id": f"mail {n}"}, n * MINUTE + timedelta(seconds=1), kind="mail")
    any_pit.store({"id": "other"}, NOW)
    return any_pit


def test_each_kind_goes_to_its_handler_in_the_order_of_due_times(stored, run):
    seen = []
    handlers = {
        "mail": lambda msg: seen.append(("mail", msg["id"])),
        "report": Handle(lambda delivery: seen.append(("report", delivery.id)), workers=1),
    }
    stored.clock.advance(timedelta(seconds=61))

    report = run(stored, "run_until_idle", handlers)

    order = ["report 0", "mail 0", "report 1", "mail 1"]
    assert report.ids == order
    assert seen == [(each.split()[0], each) for each in order]
    assert run(stored, "run_for", HOUR, handlers).ids == ["report 2", "mail 2"]
    assert [each.id for each in stored.entries()] == ["other"]


def test_a_star_takes_the_rest(stored, run):
    rest = []
    report = run(stored, "drain", {"mail": ok, "*": lambda msg: rest.append(msg["id"])})
    assert report.acked == 7
    assert sorted(rest) == ["other", "report 0", "report 1", "report 2"]


def test_messages_that_wait_in_a_claim_of_several_are_handled_before_the_clock_moves(stored, run):
    stored.clock.advance(HOUR)
    report = run(stored, "run_until_idle", {"mail": Handle(ok, prefetch=3), "report": ok})
    assert report.acked == 6
    assert set(report.times) == {stored.clock.now()}


def test_drain_ends_when_no_message_of_a_chosen_kind_is_left(stored, run):
    report = run(stored, "drain", ok, kinds=["mail"])
    assert report.ids == ["mail 0", "mail 1", "mail 2"]
    assert report[-1].at == stored.clock.now()
    assert len(stored.entries()) == 4


@pytest.mark.parametrize("name", ["run_until_idle", "run_for", "run_until"])
def test_other_kinds_do_not_move_the_clock_or_keep_a_run_from_its_end(stored, run, name):
    place = {"run_for": [HOUR], "run_until": [stored.clock.now() + HOUR]}.get(name, [])
    assert run(stored, name, *place, ok, kinds=["nothing"]).ids == []


def test_the_functions_take_them_too():
    clock = testing.ManualClock()
    with pitstop.init({"type": "memory", "clock": clock}) as pit:
        for kind in ("a", "b", "c"):
            pit.store({"id": kind}, kind=kind)
        assert testing.run_until_idle(pit, ok, kinds=["a"]).ids == ["a"]
        assert testing.run_for(pit, "1s", {"b": ok}).ids == ["b"]
        assert testing.drain(pit, {"*": ok}).ids == ["c"]


def test_the_lock_time_of_a_handle_holds(pit, run):
    leased = []
    pit.store({}, kind="report")
    handler = Handle(lambda delivery: leased.append(delivery.leased_until - pit.clock.now()), lock_time="2h")
    run(pit, "run_until_idle", {"report": handler})
    assert leased == [timedelta(hours=2)]


def test_a_heartbeat_of_a_handle_has_no_effect(pit, run):
    """A run has no other thread."""
    pit.store({}, kind="report")

    def handle(msg):
        pit.clock.advance(HOUR)

    handlers = {"report": Handle(handle, heartbeat=True, max_lease="5h", lock_time="1m")}
    assert run(pit, "run_for", "1m", handlers).outcomes[0] == "lost"


def test_a_kind_whose_handler_fails_is_nacked_and_the_others_go_on(pit, run):
    def fail(msg):
        raise ValueError

    for kind in ("bad", "good"):
        pit.store({"id": kind}, kind=kind)
    report = run(pit, "run_until_idle", {"bad": fail, "good": ok}, raise_errors=False)
    assert of(report) == [("bad", "nacked"), ("good", "acked")]


def test_a_claim_of_one_kind_that_the_test_lets_fail_is_done_again(pit, run):
    for kind in ("a", "b"):
        pit.store({"id": kind}, kind=kind)
    pit.faults.fail_next("lease", times=3)
    assert run(pit, "run_until_idle", {"a": ok, "b": ok}).ids == ["a", "b"]


def test_a_handler_stores_for_the_kind_of_another(pit, run):
    seen = []

    def first(msg):
        if len(seen) < 3:
            pit.store({"id": f"second {len(seen)}"}, kind="second")

    def second(msg):
        seen.append(msg["id"])
        pit.store({"id": f"first {len(seen)}"}, kind="first")

    pit.store({"id": "first"}, kind="first")
    run(pit, "run_until_idle", {"second": second, "first": first})
    assert seen == ["second 0", "second 1", "second 2"]
    assert not pit.entries()


def test_no_end_names_messages_of_the_chosen_kinds_alone(pit):
    for kind in ("mail", "report"):
        pit.store({"id": kind}, None, None, HOUR, kind=kind)
    with pytest.raises(PitstopError, match=r"Left: 'mail' \(due .*, every 1h\)\. Give"):
        pit.drain(ok, kinds=["mail"], max_jumps=3)


def test_no_end_beyond_many_messages_of_other_kinds(pit):
    pit.store_many([({"id": f"report {n}"}, NOW) for n in range(1000)], kind="report")
    pit.store({"id": "mail"}, None, None, HOUR, kind="mail")
    with pytest.raises(PitstopError, match="Left: messages beyond the first 1000"):
        pit.drain(ok, kinds=["mail"], max_jumps=3)


@pytest.mark.parametrize(
    ("handlers", "options", "why"),
    [
        ({}, {}, "empty mapping"),
        ({"mail": 7}, {}, "The handler of 'mail': The handler is a int"),
        ({"mail": Handle(ok, lock_time="soon")}, {}, "The handler of 'mail': lock_time"),
        ({"mail": Handle(ok, deliveries=1)}, {}, "The handler of 'mail': deliveries=1"),
        ({"mail": ok}, {"kinds": ["mail"]}, "Leave kinds out"),
        (ok, {"kinds": "mail"}, "Give a list of kinds"),
        (Handle(ok), {}, "belongs to a kind"),
    ],
)
def test_what_is_refused_before_anything_is_claimed(pit, handlers, options, why, run):
    pit.store({}, kind="mail")
    with pytest.raises(PitstopError, match=why):
        run(pit, "run_until_idle", handlers, **options)
    pit.assert_no_leases()
    assert run(pit, "run_until_idle", ok).acked == 1, "the run that was refused is over"


def test_an_async_handler_of_a_kind_is_refused_in_a_plain_run(pit):
    async def handle(msg):
        pass

    with pytest.raises(PitstopError, match=r"The handler of 'mail': The handler is async.*arun_until_idle"):
        pit.run_until_idle({"mail": handle})


def test_a_store_without_kinds_refuses_and_the_next_run_goes_on():
    class Plain(MemoryBackend):
        capabilities = pitstop.abc.Capability(0)

    with testing.init({"type": Plain.from_options({"clock": testing.ManualClock()})}) as pit:
        pit.store({})
        with pytest.raises(pitstop.Unsupported, match="capability KINDS"):
            pit.run_until_idle({"mail": ok})
        assert pit.run_until_idle({"*": ok}).acked == 1
