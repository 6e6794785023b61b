"""The view of a Pitstop after a failed test; also for tests that pytest does not run."""

from __future__ import annotations

from datetime import timedelta

import pitstop

from pitstop import testing
from pitstop.testing import ManualClock


HOUR = timedelta(hours=1)


def test_shows_the_time_the_stored_messages_and_the_events(any_pit):
    any_pit.store({"id": "a", "to": "ada"}, HOUR, None, HOUR)
    any_pit.run_for("1h", lambda msg: None)

    text = testing.explain(any_pit)

    assert text.startswith(f"It is 2020-01-01 01:00:00 UTC in {any_pit!r}.\n\n1 message stored\n")
    assert "2020-01-01 02:00:00  scheduled  a   0         1h     -           {'id': 'a', 'to': 'ada'}" in text
    assert "4 events" in text
    assert "faults" not in text


def test_of_an_empty_one_is_short(pit):
    assert testing.explain(pit).splitlines()[2:] == ["no messages stored", "", "0 events"]


def test_shows_the_first_of_many(pit):
    pit.store_many([({"n": n}, n * HOUR) for n in range(30)])

    text = testing.explain(pit)

    assert "more than 20 messages (the first 20) stored" in text
    assert "{'id': 'msg-20', 'n': 19}" in text
    assert "{'id': 'msg-21', 'n': 20}" not in text


def test_sets_no_fault_off_and_tells_those_that_struck(pit):
    pit.store({"id": "a"}, HOUR)
    pit.faults.fail_next("lease")
    pit.faults.fail_next("entries")
    pit.run_for("1h", lambda msg: None)

    assert "lease" in testing.explain(pit)
    assert [fault.operation for fault in pit.faults.log] == ["lease"]


def test_takes_the_pitstop_of_an_application():
    with pitstop.init({"type": "memory", "clock": ManualClock()}) as pit:
        pit.store({"id": "a"}, HOUR)
        assert "scheduled  a" in testing.explain(pit)


def test_of_a_closed_pitstop_shows_that_and_the_events(pit):
    pit.store({"id": "a"}, HOUR)
    pit.close()

    text = testing.explain(pit)

    assert text.startswith("<Pitstop on memory:// (closed)> cannot be read: This Pitstop was closed.")
    assert "1 event\n" in text
