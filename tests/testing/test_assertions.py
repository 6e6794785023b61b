"""Assertions that explain: what was wanted, and how the nearest of what is there differs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from unittest import mock

import pytest

import pitstop

from pitstop import PitstopError, testing


NOW, MINUTE, HOUR, DAY = timedelta(0), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


def ok(msg):
    pass


def fail(msg):
    raise ValueError("boom")


def says(call):
    with pytest.raises(AssertionError) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def stored(any_pit):
    any_pit.store({"id": "mail", "kind": "mail", "to": {"name": "ada", "age": 36}, "tags": ("x", "y")}, HOUR)
    any_pit.store({"id": "call", "kind": "call", "to": {"name": "bob", "age": 50}}, 2 * HOUR)
    any_pit.store({"id": "report", "kind": "report"}, DAY, 10 * DAY, DAY)
    return any_pit


def _is_young(msg):
    return msg["to"]["age"] < 40 if "to" in msg else False


class TestAssertStored:
    @pytest.mark.parametrize(
        "criteria",
        [
            {"match": {"kind": "mail"}},
            {"match": {"to": {"name": "ada"}}},
            {"match": {"tags": ("x", "y")}},
            {"match": {"kind": mock.ANY, "tags": mock.ANY}},
            {"match": _is_young},
            {"id": "mail"},
            {"due_in": HOUR},
            {"due_in": "1h"},
            {"due_in": 3600},
            {"due": START + HOUR},
            {"due": (START + HOUR).astimezone(timezone(timedelta(hours=5)))},
            {"match": {"to": {}}, "due_in": HOUR, "every": None, "state": "scheduled", "attempts": 0, "end": None},
        ],
        ids=lambda criteria: repr(criteria).partition(" at 0x")[0],
    )
    def test_returns_the_one_entry_that_is_like_this(self, stored, criteria):
        assert stored.assert_stored(**criteria) == testing.assert_stored(stored, **criteria) == stored.get("mail")

    def test_finds_a_series_by_what_it_is_like(self, stored):
        assert stored.assert_stored(every=DAY).id == "report"
        assert stored.assert_stored(end=START + 10 * DAY).id == "report"

    def test_finds_what_it_was_stored_with_though_stores_keep_less(self, pit):
        when = datetime(2020, 5, 5, 1, 2, 3, 456789, tzinfo=timezone(timedelta(hours=-3)))
        pit.store({"when": when, "pairs": [(1, 2)]}, timedelta(milliseconds=1, microseconds=1))
        assert pit.assert_stored({"when": when, "pairs": [(1, 2)]}, due_in=timedelta(microseconds=1001))

    def test_tells_how_the_nearest_ones_differ(self, stored):
        text = says(lambda: stored.assert_stored({"kind": "mail", "to": {"name": "bob", "agee": 3}}, due_in="2h"))
        assert text.splitlines() == [
            (
                "No message is stored with match={'kind': 'mail', 'to': {'name': 'bob', 'agee': 3}}, due_in=2h. "
                "3 messages are stored; the nearest:"
            ),
            "  'call' (scheduled, due in 2h)",
            "    msg['kind']: 'mail' wanted, 'call' found",
            "    msg['to']['agee']: 3 wanted, there is no such key. Did you mean 'age'?",
            "  'mail' (scheduled, due in 1h)",
            "    msg['to']['name']: 'bob' wanted, 'ada' found",
            "    msg['to']['agee']: 3 wanted, there is no such key. Did you mean 'age'?",
            "    due_in=2h wanted, 1h found",
            "  'report' (scheduled, due in 1d, every 1d)",
            "    msg['kind']: 'mail' wanted, 'report' found",
            "    msg['to']: {'name': 'bob', 'agee': 3} wanted, there is no such key.",
            "    due_in=2h wanted, 1d found",
        ]

    def test_tells_that_a_function_wants_another_one(self, pit):
        pit.store({"id": "a"}, HOUR)

        def is_nice(msg):
            return False

        text = says(lambda: pit.assert_stored(is_nice, every=HOUR))
        assert "is_nice wants" in text
        assert "every=1h wanted, None found" in text

    def test_tells_when_nothing_is_stored(self, pit):
        assert says(pit.assert_stored) == "No message is stored with anything in it. Nothing is stored at all."

    def test_names_them_when_there_are_several(self, stored):
        text = says(lambda: stored.assert_stored(every=None))
        assert text.startswith("2 messages are stored with every=None, not one: 'mail' (scheduled, due in 1h), 'call'")

    def test_looks_through_more_than_a_page(self, pit):
        pit.store_many([({"n": n}, n * MINUTE) for n in range(2500)])
        assert pit.assert_stored({"n": 2499}).due == START + 2499 * MINUTE
        assert "2500 messages are stored" in says(lambda: pit.assert_stored({"n": -1}))

    def test_of_what_is_unknown_is_refused_with_a_hint(self, pit):
        with pytest.raises(PitstopError, match=r"There is no field 'evry'\. Did you mean 'every'\?"):
            pit.assert_stored(evry=HOUR)
        with pytest.raises(PitstopError, match="match is a str"):
            pit.assert_stored("mail")
        with pytest.raises(PitstopError, match="Give one"):
            pit.assert_stored(due_in=HOUR, due=START)

    def test_looks_at_any_pitstop(self):
        with pitstop.init({"type": "memory"}) as pit:
            pit.store({"id": "a", "n": 1}, DAY)
            assert testing.assert_stored(pit, {"n": 1}, state="scheduled").id == "a"


class TestRefuteStored:
    def test_passes_when_none_is_like_this(self, stored):
        stored.refute_stored({"kind": "fax"})
        stored.refute_stored(due_in=3 * HOUR)
        stored.drain(ok)
        stored.refute_stored()

    def test_names_the_one_that_should_not_be(self, stored):
        assert says(lambda: stored.refute_stored({"kind": "call"})) == (
            "1 message is stored with match={'kind': 'call'}, and none should be: 'call' (scheduled, due in 2h)."
        )
        assert says(stored.refute_stored).startswith("3 messages are stored with anything in it")


class TestAssertEmitted:
    def test_finds_it_in_a_report_and_in_events(self, stored):
        report = stored.run_for(HOUR, ok)
        (step,) = testing.assert_emitted(report, {"to": {"name": "ada"}}, at=START + HOUR, attempt=1, outcome="acked")
        (event,) = stored.assert_emitted({"to": {"name": "ada"}}, at=START + HOUR)
        assert step.id == event.id == "mail"

    def test_counts(self, stored):
        report = stored.run_for(5 * DAY, ok)
        assert len(testing.assert_emitted(report, id="report", times=5)) == 5
        testing.assert_emitted(report, {"kind": "fax"}, times=0)
        text = says(lambda: testing.assert_emitted(report, id="report", times=4))
        assert text.startswith("5 times a message was emitted with id='report', not 4 times.\n  'report' at 2020-01-02")

    def test_tells_how_the_nearest_ones_differ(self, stored):
        report = stored.run_for(HOUR, ok)
        assert says(lambda: testing.assert_emitted(report, {"kind": "call"}, at=START)).splitlines() == [
            "Nothing was emitted with match={'kind': 'call'}, at=2020-01-01 00:00:00. 1 emissions in all; the nearest:",
            "  'mail' at 2020-01-01 01:00:00",
            "    msg['kind']: 'call' wanted, 'mail' found",
            "    at=2020-01-01 00:00:00 wanted, 2020-01-01 01:00:00 found",
        ]
        assert says(lambda: testing.assert_emitted([], id="a")).endswith("0 emissions in all.")

    def test_of_what_is_unknown_is_refused(self, pit):
        with pytest.raises(PitstopError, match=r"There is no field 'atempt'\. Did you mean 'attempt'"):
            pit.assert_emitted(atempt=1)
        with pytest.raises(PitstopError, match="times=-1"):
            pit.assert_emitted(times=-1)


class TestAssertDead:
    def test_returns_the_entry(self):
        with testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
            pit.store({"id": "a", "n": 1}, NOW)
            assert says(pit.assert_dead).endswith("\n    state='dead' wanted, 'due' found")
            pit.run_until_idle(fail, raise_errors=False)
            assert pit.assert_dead({"n": 1}, error="boom").attempts == 1
            assert says(lambda: pit.assert_dead(error="bang")) == (
                "'a' is dead, but not of 'bang': its last error is 'ValueError: boom'."
            )


class TestAssertNoLeases:
    def test_names_who_is_held(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.assert_no_leases()
        with any_pit.listen() as listener:
            delivery = listener.get()
            assert says(any_pit.assert_no_leases) == (
                "1 messages are leased: 'a' (attempt 1, until 2020-01-01 00:15:00). "
                "Somebody took them, and neither ack nor nack came."
            )
            delivery.ack()
        any_pit.assert_no_leases()


def test_looking_sets_no_fault_off(pit):
    pit.store({"id": "a"}, HOUR)
    pit.faults.fail_next("entries")
    pit.faults.fail_next("stats")
    pit.faults.fail_next("get")
    pit.assert_stored()
    assert pit.faults.log == ()
