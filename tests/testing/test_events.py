"""The events of messages, in order and with times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from pitstop import testing
from pitstop.testing import Event, Events, ManualClock


NOW, HOUR = timedelta(0), timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


def ok(msg):
    pass


def fail(msg):
    raise ValueError("boom")


def test_of_a_message_that_fails_once_are_written_down_in_order():
    with testing.init({"type": "memory", "retry": {"delay": "1h"}}) as pit:
        pit.store({"id": "a", "n": 1}, HOUR)
        pit.run_for(HOUR, fail, raise_errors=False)
        pit.run_for(HOUR, ok)

    assert list(pit.events) == [
        Event("stored", "a", START, START + HOUR, None, START + HOUR, None, {"id": "a", "n": 1}),
        Event("emitted", "a", START + HOUR, START + HOUR, 1, msg={"id": "a", "n": 1}),
        Event("nacked", "a", START + HOUR, START + HOUR, 1, START + 2 * HOUR, "ValueError: boom"),
        Event("emitted", "a", START + 2 * HOUR, START + HOUR, 2, msg={"id": "a", "n": 1}),
        Event("acked", "a", START + 2 * HOUR, START + HOUR, 2),
    ]


def test_of_a_series_that_is_given_up_and_of_a_message_that_dies():
    with testing.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit:
        pit.store({"id": "s"}, NOW, None, HOUR)
        pit.store({"id": "a"}, NOW)
        pit.run_until_idle(fail, raise_errors=False)

    assert [(each.kind, each.id, each.error) for each in pit.events if each.kind not in {"stored", "emitted"}] == [
        ("advanced", "s", "ValueError: boom"),
        ("dead", "a", "ValueError: boom"),
    ]
    assert pit.events[3].scheduled_for == START + HOUR


def test_of_a_lease_that_was_lost(pit):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        pit.clock.advance("1h")
        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()
    assert [each.kind for each in pit.events] == ["stored", "emitted", "lost"]


def test_of_a_message_that_its_own_handler_removes(pit):
    """The handler knows of it, so the lease does not count as lost."""
    pit.store({"id": "a"}, NOW)
    pit.run_until_idle(lambda msg: pit.remove("a"))
    assert [each.kind for each in pit.events] == ["stored", "emitted"]


def test_are_found_by_id_and_by_kind(pit):
    pit.store({"id": "a"}, NOW)
    pit.store({"id": "b"}, NOW)
    pit.run_until_idle(ok)

    assert [each.kind for each in pit.events.of("a")] == ["stored", "emitted", "acked"]
    assert [each.id for each in pit.events.of(kind="acked")] == ["a", "b"]
    assert [each.id for each in pit.events.of("b", "acked")] == ["b"]
    assert len(pit.events) == 6
    assert pit.events[-1].id == "b"


def test_may_be_forgotten(pit):
    pit.store({"id": "a"}, NOW)
    pit.events.clear()
    assert list(pit.events) == []


def test_keep_the_message_as_it_was_emitted(pit):
    pit.store({"id": "a", "list": []}, NOW)
    pit.run_until_idle(lambda msg: msg["list"].append(1))
    assert pit.events.of(kind="emitted")[0].msg == {"id": "a", "list": []}


def test_are_a_plugin_for_any_pitstop():
    clock = ManualClock()
    events = Events(clock)
    with pitstop.init({"type": "memory", "clock": clock}, plugins=[events]) as pit:
        pit.store({"id": "a"}, NOW)
        clock.advance(HOUR)
        pit.listen().get().ack()
    assert [(each.kind, each.at) for each in events] == [
        ("stored", START),
        ("emitted", START + HOUR),
        ("acked", START + HOUR),
    ]


@pytest.mark.parametrize("count", [1, 100])
def test_are_a_table_for_people_without_messages(pit, count):
    pit.store_many([({"secret": n}, HOUR) for n in range(count)])
    lines = str(pit.events).splitlines()
    assert lines[0] == ("1 event" if count == 1 else "100 events (the last 40)")
    assert lines[1].split() == ["at", "what", "id", "scheduled", "for", "attempt", "due", "error"]
    assert len(lines) == 2 + min(count, 40)
    assert "secret" not in str(pit.events) + repr(pit.events) + repr(pit.events[0])
