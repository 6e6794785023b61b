"""Assertions that explain: the wanted values, and how the nearest stored messages differ."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from unittest import mock

import pytest

import pitstop

from pitstop import PitstopError, testing
from pitstop._recurrence._every import Every


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

    def test_finds_a_series_by_its_properties(self, stored):
        assert stored.assert_stored(every=DAY).id == "report"
        assert stored.assert_stored(end=START + 10 * DAY).id == "report"

    def test_finds_a_message_by_its_original_values_though_stores_keep_less(self, pit):
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
        assert "msg does not fit " in text
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

    def test_of_an_unknown_field_is_refused_with_a_hint(self, pit):
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

    def test_refuses_values_that_no_message_could_have(self, stored):
        naive = datetime(2020, 1, 1, 1)
        for unusable, said in [
            ({"state": "Scheduled"}, "no state 'Scheduled'. Did you mean 'scheduled'"),
            ({"id": 5}, "id=5 is a int. Give text"),
            ({"attempts": "0"}, "attempts='0' is a str. Give a whole number"),
            ({"scheduled_for": naive}, "is naive"),
            ({"end": naive}, "is naive"),
            ({"leased_until": "soon"}, "is no datetime"),
            ({"every": "often"}, "every='often'"),
            ({"last_error": ValueError("x")}, "Give text"),
            ({"du_in": "1h"}, "Did you mean 'due_in'"),
        ]:
            with pytest.raises(PitstopError) as raised:
                stored.refute_stored(**unusable)
            assert said in str(raised.value)

    def test_takes_a_recurrence_as_text_and_seconds(self, stored):
        for every in ("1d", 86400, DAY, Every(DAY)):
            assert stored.assert_stored(every=every).id == "report"
            with pytest.raises(AssertionError):
                stored.refute_stored(every=every)


class TestNearest:
    def test_is_what_has_most_of_it(self, pit):
        pit.store_many([({"id": f"invoice-{n}", "kind": "invoice"}, HOUR) for n in range(4)])
        pit.store({"id": "trial", "user": {"name": "ada", "lang": "en", "plan": "pro"}}, DAY)
        text = says(lambda: pit.assert_stored({"user": {"name": "ada", "lang": "de", "plan": "pro"}}))
        assert text.splitlines()[1].startswith("  'trial'")
        assert says(lambda: pit.assert_stored(id="trail")).splitlines()[1].startswith("  'trial'")

    def test_shows_times_that_differ_as_different(self, pit):
        pit.store({"id": "a", "when": START}, NOW)
        other = START.astimezone(timezone(HOUR))
        text = says(lambda: pit.assert_stored({"when": other - HOUR}))
        assert "2019-12-31 23:00:00 wanted, 2020-01-01 00:00:00 found" in text
        text = says(lambda: pit.assert_stored(scheduled_for=START + timedelta(microseconds=1)))
        assert "2020-01-01 00:00:00.000001 wanted, 2020-01-01 00:00:00 found" in text
        assert "(naive) wanted" in says(lambda: pit.assert_stored({"when": START.replace(tzinfo=None)}))

    def test_shows_where_long_values_differ(self, pit):
        pit.store({"text": "x" * 500 + "y"}, NOW)
        text = says(lambda: pit.assert_stored({"text": "x" * 500 + "z"}))
        assert "z' wanted, " in text
        assert "y' found" in text

    def test_says_that_a_function_found_no_such_key(self, stored):
        assert stored.assert_stored(lambda msg: msg["to"]["age"] == 36).id == "mail"
        assert "it raised KeyError: 'tu'" in says(lambda: stored.assert_stored(lambda msg: msg["tu"]))

    def test_of_a_function_that_is_wrong_is_its_error(self, stored):
        with pytest.raises(AttributeError):
            stored.refute_stored(lambda msg: msg.nosuch)


@pytest.mark.parametrize("call", [testing.assert_stored, testing.refute_stored, testing.assert_dead])
def test_without_a_pitstop_an_assertion_says_where_it_goes(call):
    with pytest.raises(PitstopError, match=r"A dict was given where a Pitstop should be\. It comes first"):
        call({"kind": "mail"})
    with pytest.raises(PitstopError, match="A list was given where a Pitstop"):
        testing.assert_no_leases([])


class TestAssertEmitted:
    def test_refuses_fields_that_events_do_not_have(self, stored):
        report = stored.run_for(HOUR, ok)
        for asked in ({"outcome": "acked"}, {"error": "x"}, {"due": START}, {"missed": 0}):
            for times in (None, 0):
                with pytest.raises(PitstopError, match=r"testing\.assert_emitted\(report, "):
                    stored.assert_emitted(times=times, **asked)
        with pytest.raises(PitstopError, match="There is no field 'kind'"):
            testing.assert_emitted(report, kind="emitted")
        testing.assert_emitted(report, outcome="acked")
        with pytest.raises(PitstopError, match=r"There is no outcome 'ackd'\. Did you mean 'acked'"):
            testing.assert_emitted(report, outcome="ackd", times=0)
        with pytest.raises(PitstopError, match="There is no outcome 'skipped'"):
            testing.assert_emitted(report, outcome="skipped", times=0)

    def test_refuses_values_without_emissions(self, stored):
        with pytest.raises(PitstopError, match=r"A TestPitstop was given.*pit\.events"):
            testing.assert_emitted(stored)
        with pytest.raises(PitstopError, match="int is not an emission"):
            testing.assert_emitted([1])
        with pytest.raises(PitstopError, match="int has no emissions"):
            testing.assert_emitted(1)

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
            "Nothing was emitted with match={'kind': 'call'}, at=2020-01-01 00:00:00. 1 emission in all; the nearest:",
            "  'mail' at 2020-01-01 01:00:00",
            "    msg['kind']: 'call' wanted, 'mail' found",
            "    at=2020-01-01 00:00:00 wanted, 2020-01-01 01:00:00 found",
        ]
        assert says(lambda: testing.assert_emitted([], id="a")).endswith("0 emissions in all.")

    def test_of_an_unknown_field_is_refused(self, pit):
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
            assert says(lambda: pit.assert_dead(error="bang")).endswith(
                "\n    error='bang' wanted in it, last_error='ValueError: boom' found"
            )

    def test_chooses_by_the_error_too(self):
        def of(msg):
            raise ValueError(f"bad {msg['id']}")

        with testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
            pit.store({"id": "a"}, NOW)
            pit.store({"id": "b"}, NOW)
            pit.run_until_idle(of, raise_errors=False)
            assert pit.assert_dead(error="bad b").id == "b"
            with pytest.raises(PitstopError, match="error is a ValueError"):
                pit.assert_dead(error=ValueError("bad b"))


class TestAssertNoLeases:
    def test_names_the_leased_message(self, any_pit):
        any_pit.store({"id": "a"}, NOW)
        any_pit.assert_no_leases()
        with any_pit.listen() as listener:
            delivery = listener.get()
            assert says(any_pit.assert_no_leases) == (
                "1 message is leased: 'a' (attempt 1, until 2020-01-01 00:15:00). "
                "Neither an ack nor a nack came for it."
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
