"""Iteration over many messages: several are claimed at once, and their acks are written together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._listener import InAThread, until


_NOW = timedelta(0)
_HOUR = timedelta(hours=1)


def _fill(pit: pitstop.Pitstop, count: int) -> list[pitstop.Stored]:
    return pit.store_many([({"id": f"m{number:03}", "n": number}, _NOW) for number in range(count)])


def _some(listener: pitstop.Listener, count: int) -> Iterator[pitstop.Delivery]:
    """Yield this number of messages of an iteration, which would then wait for more."""
    for _ in range(count):
        yield next(listener)


class Batches(Kit):
    """Iteration with acks that are written together."""

    rule = 'docs/listening.md, "When acks are written"'

    def test_what_is_acked_in_an_iteration_is_done_and_each_was_its_first_attempt(self, pit: pitstop.Pitstop) -> None:
        stored = _fill(pit, 300)
        with pit.listen() as listener:
            seen = []
            for delivery in _some(listener, 300):
                seen.append((delivery.id, delivery.attempt, delivery.msg["n"]))
                delivery.ack()

            assert sorted(seen) == [(id, 1, number) for number, id in enumerate(stored)]
            assert pit.stats() == pitstop.Stats(scheduled=0, due=0, leased=0, dead=0, oldest_due=None)
            assert listener.get() is None

    @pytest.mark.parametrize("end", ["stop", "close"])
    def test_what_an_iteration_leaves_is_there_for_others_at_once(
        self, make_pit: Callable[..., pitstop.Pitstop], end: str
    ) -> None:
        pit, other = make_pit(), make_pit()
        _fill(pit, 60)
        with pit.listen() as listener:
            for delivery in _some(listener, 20):
                delivery.ack()
            getattr(listener, end)()
            if end == "stop":
                # The wait is bounded. On a busy machine, or if the store is slow, another thread gives the messages back.
                until(lambda: pit.stats().due == 40)
            assert pit.stats().due == 40

            with other.listen() as second:
                left = [each.attempt for each in iter(second.get, None)]
        assert left == [1] * 40

    def test_the_end_of_a_pitstop_writes_what_was_acked(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        other = make_pit()
        with make_pit() as pit:
            _fill(pit, 60)
            listener = pit.listen()
            for delivery in _some(listener, 20):
                delivery.ack()

        stats = other.stats()
        assert (stats.due, stats.leased) == (40, 0)

    def test_two_that_iterate_share_what_is_there(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit, other = make_pit(), make_pit()
        stored = _fill(pit, 300)
        listeners = [pit.listen(), other.listen()]
        seen: Counter[str] = Counter()

        def consume(listener: pitstop.Listener) -> None:
            for delivery in listener:
                seen[delivery.id] += 1
                delivery.ack()
                if len(seen) == len(stored):
                    for each in listeners:
                        each.stop()

        threads = [InAThread(partial(consume, each)) for each in listeners]
        for thread in threads:
            thread.join()
        for listener in listeners:
            listener.close()

        assert sorted(seen) == stored
        assert set(seen.values()) == {1}
        assert pit.stats().due + pit.stats().leased == 0

    def test_a_nack_among_acks_comes_back_and_they_do_not(self, pit: pitstop.Pitstop) -> None:
        _fill(pit, 60)
        with pit.listen() as listener:
            for delivery in _some(listener, 60):
                if delivery.msg["n"] % 20 == 7:
                    delivery.nack("not today", delay=_HOUR)
                else:
                    delivery.ack()

            there = pit.entries()
        assert [(each.id, each.attempts, each.last_error) for each in there] == [
            (id, 1, "not today") for id in ("m007", "m027", "m047")
        ]

    def test_recurring_messages_that_are_acked_together_go_on_to_their_next_times(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        pit.store_many([({"id": f"m{number:03}"}, _NOW, None, _HOUR) for number in range(40)])
        pit.store_many([({"id": f"once{number:03}"}, _NOW) for number in range(40)])
        with pit.listen() as listener:
            for round in range(3):
                for delivery in _some(listener, 80 if round == 0 else 40):
                    assert (delivery.attempt, delivery.missed) == (1, 0)
                    assert delivery.scheduled_for == at(START) + round * _HOUR
                    delivery.ack()
                there = pit.entries()
                assert {(each.due, each.attempts) for each in there} == {(at(START) + (round + 1) * _HOUR, 0)}
                assert len(there) == 40
                clock.advance(_HOUR)

    def test_recurring_messages_of_different_times_that_are_acked_together_keep_their_own(
        self, pit: pitstop.Pitstop
    ) -> None:
        every = {f"m{number:02}": timedelta(hours=1 + number) for number in range(40)}
        pit.store_many([({"id": id}, _NOW, None, each) for id, each in every.items()])
        with pit.listen(prefetch=50) as listener:
            for delivery in _some(listener, 40):
                delivery.ack()
            assert {each.id: each.due for each in pit.entries()} == {id: at(START) + each for id, each in every.items()}

    @pytest.mark.parametrize("act", ["update", "remove"])
    def test_the_ack_of_what_another_one_updated_or_removed_changes_nothing(
        self, make_pit: Callable[..., pitstop.Pitstop], act: str
    ) -> None:
        pit, other = make_pit(), make_pit()
        _fill(pit, 16)
        with pit.listen(prefetch=8) as listener:
            first = next(listener)
            # The listener has claimed it, and has not handed it out.
            if act == "update":
                other.store({"id": "m003", "n": "new"}, _HOUR)
            else:
                assert other.remove("m003")
            first.ack()
            acked = []
            for each in _some(listener, 15):
                with suppress(pitstop.LeaseLost):
                    each.ack()
                acked.append(each)

            there = [(each.id, each.message["n"], each.state) for each in pit.entries()]
            told = [each.id for each in acked if each.lost]
            # A store cannot tell whose ack deleted a message that is gone.
            assert told == ["m003"] or (act == "remove" and told == [])
        assert there == ([("m003", "new", "scheduled")] if act == "update" else [])

    @pytest.mark.parametrize("act", ["update", "remove"])
    def test_what_this_one_updates_or_removes_is_not_handed_out_of_its_hand(
        self, pit: pitstop.Pitstop, act: str
    ) -> None:
        _fill(pit, 16)
        with pit.listen(prefetch=8) as listener:
            next(listener).ack()
            if act == "update":
                pit.store({"id": "m003", "n": "new"}, _HOUR)
            else:
                assert pit.remove("m003")
            rest = []
            for each in _some(listener, 14):
                rest.append(each.id)
                each.ack()
            assert "m003" not in rest
            assert [each.id for each in pit.entries()] == (["m003"] if act == "update" else [])

    def test_an_ack_that_waits_is_there_for_all_to_see(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit, other = make_pit(), make_pit()
        _fill(pit, 16)
        with pit.listen(prefetch=8) as listener:
            first, second = _some(listener, 2)
            first.ack()
            second.ack(wait=True)
            assert other.get(second.id) is None
            stats = other.stats()
            assert (stats.due, stats.leased) in ((8, 6), (8, 7))
