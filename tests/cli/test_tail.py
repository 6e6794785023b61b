"""``pitstop tail``: follow what happens to messages, and take none of them."""

from __future__ import annotations

import json
import select
import signal

from datetime import timedelta

import pytest

import pitstop

from pitstop.cli._following import Window, events
from pitstop.cli._settings import Settings
from pitstop.cli._tail import _Follower


@pytest.fixture
def look(pit: pitstop.Pitstop):
    """Return the changes since the last look, as pairs of event and id."""
    windows = []

    def run(size=100):
        windows.append(Window(pit.entries(limit=size), size))
        if len(windows) == 1:
            return []
        return [(each.kind, each.entry.id) for each in events(*windows[-2:], lambda old: pit.get(old.id))]

    run()
    return run


NOW = timedelta(0)


def test_a_message_is_followed_from_its_store_to_its_ack(pit, look):
    pit.store({"id": "a"}, NOW)
    assert look() == [("stored", "a")]
    assert look() == []
    with pit.listen() as listener:
        delivery = listener.get()
        assert look() == [("emitted", "a")]
        assert look() == []
        delivery.ack()
        assert look() == [("gone", "a")]


def test_a_failure_is_followed_to_the_end(look, tmp_path):
    with pitstop.init(f"sqlite:///{tmp_path}/test.db?retry.max_attempts=2&retry.delay=0s") as other:
        other.store({"id": "a"}, NOW)
        look()
        with other.listen() as listener:
            delivery = listener.get()
            assert look() == [("emitted", "a")]
            delivery.nack("it failed", delay="1h")
            assert look() == [("back", "a")]
            other.emit_now("a")
            assert look() == [("due", "a")]
            listener.get().nack("it failed again")
            assert look() == [("dead", "a")]
        other.redrive("a")
        assert look() == [("changed", "a")]


def test_a_series_goes_on(pit, look):
    start = pit.now() - timedelta(minutes=1)
    pit.store({"id": "a"}, start, None, timedelta(hours=1))
    assert look() == [("stored", "a")]
    with pit.listen() as listener:
        delivery = listener.get()
        assert look() == [("emitted", "a")]
        delivery.ack()
    assert look() == [("settled", "a")]


def test_an_occurrence_that_was_handled_between_two_looks_counts_as_settled(pit, look):
    pit.store({"id": "a"}, pit.now() - timedelta(minutes=1), None, timedelta(hours=1))
    look()
    with pit.listen() as listener:
        listener.get().ack()
    assert look() == [("settled", "a")]


def test_a_pause_and_its_end_and_an_edit_are_followed(pit, look):
    pit.store({"id": "a"}, timedelta(hours=1))
    look()
    pit.pause("a")
    assert look() == [("paused", "a")]
    pit.resume("a")
    assert look() == [("resumed", "a")]
    pit.store({"id": "a", "n": 2}, timedelta(hours=2))
    assert look() == [("changed", "a")]


def test_an_extended_lease_is_no_event(pit, look):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        delivery = listener.get()
        look()
        delivery.extend("1h")
        assert look() == []


def test_a_message_that_moves_into_the_window_is_not_taken_for_a_new_one(pit, look):
    for n in range(6):
        pit.store({"id": f"m{n}"}, timedelta(hours=1 + n))
    look(3)
    assert look(3) == []
    pit.remove("m0")
    assert look(3) == [("gone", "m0")]
    pit.store({"id": "new"}, timedelta(minutes=90))
    assert look(3) == [("stored", "new")]


def test_a_message_that_was_moved_out_of_the_window_is_not_gone(pit, look):
    for n in range(4):
        pit.store({"id": f"m{n}"}, timedelta(hours=1 + n))
    look(2)
    pit.reschedule("m0", timedelta(days=1))
    assert ("changed", "m0") in look(2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_a_line_for_each_event_until_a_signal(spawn, pit, number):
    pit.store({"id": "before"}, timedelta(hours=1))
    process = spawn("tail", "--json", "--interval", "10ms")
    # The first look shows nothing, and nothing says when it is over.
    stored = 0
    while not select.select([process.stdout], [], [], 0.05)[0]:
        pit.store({"id": f"m{stored}", "body": "private"}, NOW, kind="mail")
        stored += 1
    line = process.stdout.readline()
    seen = json.loads(line)
    assert (seen["event"], seen["kind"], seen["state"]) == ("stored", "mail", "due")
    assert seen["id"].startswith("m")
    assert "private" not in line
    assert pit.stats().leased == 0
    process.send_signal(number)
    assert process.wait(30) == 0


def test_many_messages_that_leave_at_once_are_counted_and_not_asked_for_one_by_one(pit, capsys):
    pit.store_many([({"id": f"m{n:03}"}, timedelta(hours=1)) for n in range(300)])
    follower = _Follower(Settings(), pit, None)
    follower.look()
    assert pit.remove_many(prefix="m") == 300
    follower.look()
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 100
    assert all("gone" in each for each in out.splitlines())
    assert "200 more messages have left the first 1,000" in err


def test_only_messages_of_a_kind(pit, capsys):
    follower = _Follower(Settings(), pit, "mail")
    follower.look()
    pit.store({"id": "a"}, NOW, kind="mail")
    pit.store({"id": "b"}, NOW)
    follower.look()
    (line,) = capsys.readouterr().out.splitlines()
    assert "stored" in line
    assert "  a  kind mail  due " in line
