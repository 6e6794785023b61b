"""``get``, ``entries``, ``stats`` and ``redrive``, also with damaged documents in the store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop import State
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_NOW = at(START)
_MINUTE = timedelta(minutes=1)


class Look(Kit):
    """Reads of messages, and redrives."""

    rule = "pitstop.Pitstop.entries, stats and redrive"

    @pytest.fixture
    def full(self, make_pit: Callable[..., pitstop.Pitstop]) -> pitstop.Pitstop:
        """A store with a message in each state. The id of a message is its state."""
        pit = make_pit(retry={"max_attempts": 1})
        listener = pit.listen()
        pit.store({"id": "dead", "n": 1}, _NOW)
        next_of(listener).nack("boom")
        pit.store({"id": "leased", "n": 2}, _NOW)
        next_of(listener)
        pit.store({"id": "due", "n": 3}, _NOW - _MINUTE)
        pit.store({"id": "scheduled", "n": 4}, _NOW + _MINUTE, _NOW + 5 * _MINUTE, _MINUTE)
        return pit

    def test_get_of_an_unknown_id_is_none(self, full: pitstop.Pitstop) -> None:
        assert full.get("never-stored") is None

    def test_an_entry_shows_a_message_that_is_scheduled(self, full: pitstop.Pitstop) -> None:
        entry = full.get("scheduled")
        assert entry is not None
        assert entry.message == {"id": "scheduled", "n": 4}
        assert (entry.id, entry.state, entry.due, entry.scheduled_for) == (
            *("scheduled", "scheduled", _NOW + _MINUTE, _NOW + _MINUTE),
        )
        assert (entry.every, entry.end) == (_MINUTE, _NOW + 5 * _MINUTE)
        assert (entry.attempts, entry.last_error, entry.leased_until) == (0, None, None)

    def test_an_entry_shows_a_message_that_is_due(self, full: pitstop.Pitstop) -> None:
        entry = full.get("due")
        assert entry is not None
        assert (entry.state, entry.due, entry.scheduled_for) == ("due", _NOW - _MINUTE, _NOW - _MINUTE)
        assert (entry.every, entry.end, entry.attempts, entry.leased_until) == (None, None, 0, None)

    def test_an_entry_shows_a_message_that_is_leased(self, full: pitstop.Pitstop) -> None:
        entry = full.get("leased")
        assert entry is not None
        until = _NOW + timedelta(minutes=15)
        assert (entry.state, entry.due, entry.leased_until) == ("leased", until, until)
        assert (entry.scheduled_for, entry.attempts) == (_NOW, 1)

    def test_an_entry_shows_a_message_that_is_dead(self, full: pitstop.Pitstop) -> None:
        entry = full.get("dead")
        assert entry is not None
        assert (entry.state, entry.due, entry.leased_until) == ("dead", None, None)
        assert (entry.last_error, entry.scheduled_for, entry.attempts) == ("boom", _NOW, 1)

    def test_entries_are_ordered_by_due_time_with_the_dead_last(self, full: pitstop.Pitstop) -> None:
        assert [each.id for each in full.entries()] == ["due", "scheduled", "leased", "dead"]

    @pytest.mark.parametrize("state", ["scheduled", "due", "leased", "dead"])
    def test_entries_of_a_state(self, full: pitstop.Pitstop, state: State) -> None:
        assert [(each.id, each.state) for each in full.entries(state)] == [(state, state)]

    def test_entries_are_what_get_shows(self, full: pitstop.Pitstop) -> None:
        assert [full.get(each.id) for each in full.entries()] == full.entries()

    def test_stats_count_by_state(self, full: pitstop.Pitstop, clock: ManualClock) -> None:
        stats = full.stats()
        assert (stats.scheduled, stats.due, stats.leased, stats.dead) == (1, 1, 1, 1)
        assert stats.oldest_due == _NOW - _MINUTE

        clock.advance(timedelta(minutes=15))

        stats = full.stats()
        assert (stats.scheduled, stats.due, stats.leased, stats.dead) == (0, 3, 0, 1)

    def test_stats_of_an_empty_store_are_zero(self, pit: pitstop.Pitstop) -> None:
        stats = pit.stats()
        assert (stats.scheduled, stats.due, stats.leased, stats.dead, stats.oldest_due) == (0, 0, 0, 0, None)

    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_entries_page_over_ties_without_a_gap(self, pit: pitstop.Pitstop, size: int) -> None:
        pit.store_many([({"id": f"{n:02}"}, _NOW + timedelta(minutes=n % 2)) for n in range(17)])

        seen: list[pitstop.Entry] = []
        while page := pit.entries(limit=size, after=seen[-1] if seen else None):
            assert len(page) <= size
            seen.extend(page)
            # A page that repeats messages would make this loop endless.
            assert len(seen) <= 17, "no page repeats a message of an earlier page"

        assert [each.id for each in seen] == [f"{n:02}" for n in (*range(0, 17, 2), *range(1, 17, 2))]

    def test_entries_page_over_the_dead(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store_many([({"id": id}, _NOW) for id in "cabd"])
        for each in iter(pit.listen().get, None):
            each.nack("x")

        first = pit.entries("dead", limit=3)
        second = pit.entries("dead", limit=3, after=first[-1])

        assert [each.id for each in first] == ["a", "b", "c"]
        assert [each.id for each in second] == ["d"]
        assert pit.entries(after=second[-1]) == []

    def test_a_page_goes_on_behind_a_message_that_was_removed(self, pit: pitstop.Pitstop) -> None:
        pit.store_many([({"id": id}, _NOW) for id in "abcd"])
        page = pit.entries(limit=2)
        pit.remove("b")

        assert [each.id for each in pit.entries(after=page[-1])] == ["c", "d"]

    def test_entries_are_a_hundred_unless_said(self, pit: pitstop.Pitstop) -> None:
        pit.store_many([({"n": n}, _NOW) for n in range(101)])

        assert len(pit.entries()) == 100
        assert len(pit.entries(limit=200)) == 101

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"state": "dead?"}, "state='dead\\?' is unknown"),
            ({"limit": 0}, "limit=0"),
            ({"limit": -1}, "limit=-1"),
            ({"limit": True}, "limit=True"),
            ({"limit": "5"}, "limit='5'"),
            ({"after": "abc"}, "after='abc' is no Entry"),
        ],
        ids=["state", "limit_zero", "limit_negative", "limit_bool", "limit_text", "after"],
    )
    def test_wrong_questions_are_refused(self, pit: pitstop.Pitstop, options: Any, text: Any) -> None:
        with pytest.raises(pitstop.PitstopError, match=text):
            pit.entries(**options)

    def test_looking_changes_nothing(self, full: pitstop.Pitstop) -> None:
        before = full.entries()

        full.stats()
        full.get("due")
        full.entries("due")

        assert full.entries() == before

    def test_an_entry_is_a_picture_of_its_moment(self, full: pitstop.Pitstop) -> None:
        before = full.get("due")
        full.remove("due")

        assert before is not None
        assert before.state == "due"
        assert before.message == {"id": "due", "n": 3}

    def test_now_is_the_time_by_the_stores_clock_in_whole_milliseconds(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(microseconds=1999))

        assert pit.now() == at(START + 1)

    def test_a_ping_says_nothing_where_all_is_well(self, full: pitstop.Pitstop) -> None:
        before = full.entries()

        full.ping()

        assert full.entries() == before

    def test_nothing_works_once_it_is_closed(self, pit: pitstop.Pitstop) -> None:
        pit.close()
        pit.close()

        calls = (pit.stats, pit.entries, pit.now, pit.ping, pit.listen, lambda: pit.get("a"), lambda: pit.remove("a"))
        for call in calls:
            with pytest.raises(pitstop.BackendUnavailable, match="closed"):
                call()
        with pytest.raises(pitstop.BackendUnavailable, match="closed"):
            pit.store({"a": 1}, _NOW)

    def test_a_damaged_message_is_set_aside_and_the_others_are_emitted(
        self, open_backend: Handles, clock: ManualClock
    ) -> None:
        backend = open_backend()
        pit = pitstop.init({"type": backend})
        pit.store_many([({"id": id, "secret": "s3cr3t"}, _NOW) for id in "abc"])
        self.damage(backend, "a")

        emitted = [each.id for each in iter(pit.listen().get, None)]

        assert emitted == ["b", "c"]
        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due, entry.message) == ("dead", None, {"id": "a"})
        assert entry.last_error
        assert "s3cr3t" not in entry.last_error
        assert pit.entries("dead") == [entry]
        assert pit.stats().dead == 1
        clock.advance(timedelta(days=1))
        assert "a" not in [each.id for each in iter(pit.listen().get, None)]

    def test_a_damaged_message_is_seen_before_it_is_due(self, open_backend: Handles) -> None:
        backend = open_backend()
        pit = pitstop.init({"type": backend})
        pit.store({"id": "a"}, _NOW + _MINUTE)
        self.damage(backend, "a")

        entry = pit.get("a")

        assert entry is not None
        assert (entry.state, entry.due) == ("scheduled", _NOW + _MINUTE)
        assert "Damaged" in (entry.last_error or "")
        assert pit.entries() == [entry]

    def test_a_damaged_message_is_not_redriven_but_can_be_removed_or_stored_anew(self, open_backend: Handles) -> None:
        backend = open_backend()
        pit = pitstop.init({"type": backend})
        pit.store_many([({"id": id}, _NOW) for id in "ab"])
        for id in "ab":
            self.damage(backend, id)
        listener = pit.listen()
        assert listener.get() is None

        with pytest.raises(pitstop.MessageError, match="'a' cannot be redriven"):
            pit.redrive("a")

        assert pit.remove("a") is True
        pit.store({"id": "b", "n": 1}, _NOW)
        assert next_of(listener).msg == {"id": "b", "n": 1}
        assert [each.id for each in pit.entries()] == ["b"]
