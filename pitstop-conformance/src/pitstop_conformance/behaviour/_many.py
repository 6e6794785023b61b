"""``remove_many``, ``redrive_many`` and ``reschedule_many``: many messages by their ids, or by a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

import pitstop

from pitstop import LeaseLost, MessageError, PitstopError
from pitstop.abc import Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_NOW = at(START)
_HOUR, _MINUTE = timedelta(hours=1), timedelta(minutes=1)
#: More messages than one batch has.
_MANY = 1100


def _ids(pit: pitstop.Pitstop, **search: Any) -> list[str]:
    return [each.id for each in pit.entries(limit=10_000, **search)]


def _in_each_state(pit: pitstop.Pitstop, listener: pitstop.Listener, batch: str, *, pauses: bool) -> None:
    """Store a message in each state, and series. Their ids begin with ``batch``."""
    pit.store({"id": f"{batch}-dead"})
    next_of(listener).nack("boom")
    pit.store({"id": f"{batch}-leased"})
    next_of(listener)
    pit.store({"id": f"{batch}-due"})
    pit.store({"id": f"{batch}-scheduled"}, _HOUR)
    pit.store({"id": f"{batch}-series"}, _NOW + _HOUR, None, _HOUR)
    if pauses:
        pit.store({"id": f"{batch}-paused"}, _HOUR)
        pit.pause(f"{batch}-paused")
        pit.store({"id": f"{batch}-paused-until"}, _NOW + _HOUR, None, _HOUR)
        pit.pause(f"{batch}-paused-until", 3 * _HOUR)


class ManyMessages(Kit):
    """Many messages that are removed, redriven or rescheduled at once."""

    rule = 'docs/changing-messages.md, "Change many messages"'

    @pytest.fixture
    def orders(self, pit: pitstop.Pitstop, backend: Backend) -> pitstop.Pitstop:
        needs(backend, Capability.CONDITIONAL)
        for n in range(4):
            pit.store({"id": f"order-7:{n}"}, n * _HOUR)
            pit.store({"id": f"order-70:{n}"}, n * _HOUR)
        return pit

    @pytest.fixture
    def graves(self, make_pit: Callable[..., pitstop.Pitstop], backend: Backend) -> pitstop.Pitstop:
        needs(backend, Capability.CONDITIONAL)
        pit = make_pit(retry={"max_attempts": 1})
        pit.store_many([({"id": f"dead-{n}"}, None) for n in range(4)])
        # Where it can be stored, a message whose write at a redrive is another one.
        pit.store({"id": "expires"}, expires="1h" if Capability.POLICIES in backend.capabilities else None)
        with pit.listen() as listener:
            for _ in range(5):
                next_of(listener).nack("boom")
        pit.store({"id": "alive"}, _HOUR)
        return pit

    def test_messages_are_removed_by_their_ids(self, orders: pitstop.Pitstop) -> None:
        assert orders.remove_many(["order-7:0", "none", "order-7:2", "order-7:0"]) == 2
        assert orders.remove_many(each for each in ["order-7:0", "order-7:1"]) == 1
        assert orders.remove_many([]) == 0
        assert _ids(orders, prefix="order-7:") == ["order-7:3"]
        assert len(_ids(orders)) == 5

    def test_messages_are_removed_by_a_search(self, orders: pitstop.Pitstop) -> None:
        assert orders.remove_many(prefix="order-7:", due_after=_MINUTE) == 3
        assert _ids(orders) == ["order-70:0", "order-7:0", "order-70:1", "order-70:2", "order-70:3"]
        assert orders.remove_many(state="due") == 2
        assert orders.remove_many(prefix="order-7:") == 0
        assert orders.remove_many(due_before=2 * _HOUR + _MINUTE) == 2
        assert _ids(orders) == ["order-70:3"]

    def test_messages_of_a_kind_are_removed(self, orders: pitstop.Pitstop, backend: Backend) -> None:
        needs(backend, Capability.KINDS)
        orders.store_many([({"id": f"m{n}"}, n * _HOUR) for n in range(3)], kind="mail")

        assert orders.remove_many(kind="mail", due_after=_MINUTE) == 2
        assert _ids(orders, kind="mail") == ["m0"]
        assert len(_ids(orders)) == 9

    def test_more_than_a_batch_is_removed_batch_by_batch(self, orders: pitstop.Pitstop) -> None:
        orders.store_many([({"id": f"x{n:04}"}, n * _MINUTE) for n in range(_MANY)])
        seen: list[int] = []

        assert orders.remove_many(prefix="x", progress=seen.append) == _MANY

        assert seen == sorted(seen)
        assert seen[-1] == _MANY
        assert len(seen) >= 2
        assert len(_ids(orders)) == 8

    def test_a_generator_of_ids_is_not_read_at_once_and_may_use_the_store(self, orders: pitstop.Pitstop) -> None:
        left: list[int] = []

        def given() -> Iterator[str]:
            for n in range(_MANY):
                if n % 500 == 0:
                    left.append(len(_ids(orders)))
                yield f"order-7:{n}"

        assert orders.remove_many(given()) == 4
        assert left == [8, 4, 4], "a batch is removed before the next one is read"

    def test_an_id_that_cannot_be_one_ends_the_call_after_the_batches_before_it(self, orders: pitstop.Pitstop) -> None:
        with pytest.raises(MessageError):
            orders.remove_many([*(f"order-7:{n}" for n in range(500)), ""])
        assert _ids(orders, prefix="order-7:") == []

    def test_a_call_can_be_stopped_and_goes_on_later(self, orders: pitstop.Pitstop) -> None:
        orders.store_many([({"id": f"x{n:04}"}, _HOUR) for n in range(_MANY)])

        def stop(count: int) -> None:
            raise KeyError(count)

        with pytest.raises(KeyError) as stopped:
            orders.remove_many(prefix="x", progress=stop)
        (first,) = stopped.value.args
        assert 0 < first < _MANY
        assert orders.remove_many(prefix="x") == _MANY - first

    @pytest.mark.parametrize("by", ["ids", "search"])
    def test_a_message_that_a_listener_has_is_removed(self, orders: pitstop.Pitstop, by: str) -> None:
        with orders.listen(prefetch=1) as listener:
            delivery = next_of(listener)

            removed = orders.remove_many([delivery.id]) if by == "ids" else orders.remove_many(state="leased")

            assert removed == 1
            with pytest.raises(LeaseLost):
                delivery.ack(wait=True)
        assert orders.get(delivery.id) is None

    @pytest.mark.parametrize("by", ["ids", "search"])
    def test_messages_that_were_claimed_ahead_are_not_emitted_after_their_removal(
        self, pit: pitstop.Pitstop, backend: Backend, by: str
    ) -> None:
        needs(backend, Capability.CONDITIONAL)
        pit.store_many([({"id": f"{'ab'[n % 2]}{n}"}, None) for n in range(8)])
        with pit.listen(prefetch=8) as listener:
            next_of(listener).ack()

            gone = [f"b{n}" for n in range(1, 8, 2)]
            assert (pit.remove_many(gone) if by == "ids" else pit.remove_many(prefix="b")) == 4

            assert [next_of(listener).id for _ in range(3)] == ["a2", "a4", "a6"]
            assert listener.get(timeout=0) is None

    def test_messages_that_were_claimed_ahead_come_at_their_new_time(
        self, pit: pitstop.Pitstop, backend: Backend, clock: ManualClock
    ) -> None:
        needs(backend, Capability.CONDITIONAL)
        pit.store_many([({"id": f"{'ab'[n % 2]}{n}"}, None) for n in range(6)])
        with pit.listen(prefetch=6) as listener:
            next_of(listener).ack()

            assert pit.reschedule_many(prefix="b", when=_HOUR) == 3

            for id in ("a2", "a4"):
                delivery = next_of(listener)
                assert delivery.id == id
                delivery.ack()
            assert listener.get(timeout=0) is None
            clock.advance(_HOUR)
            assert sorted(next_of(listener).id for _ in range(3)) == ["b1", "b3", "b5"]

    def test_an_ack_that_returned_comes_before_a_removal(self, pit: pitstop.Pitstop, backend: Backend) -> None:
        needs(backend, Capability.CONDITIONAL)
        pit.store_many([({"id": f"a{n}"}, None) for n in range(3)])
        with pit.listen(prefetch=3) as listener:
            for delivery in listener:
                delivery.ack()
                break
            assert pit.remove_many(prefix="a") == 2

    def test_a_handler_that_removes_its_own_message_ends_quietly(self, orders: pitstop.Pitstop) -> None:
        with orders.listen() as listener, next_of(listener) as delivery:
            assert orders.remove_many(prefix=delivery.id) >= 1
        assert orders.get(delivery.id) is None

    def test_dead_messages_are_redriven_by_their_ids(self, graves: pitstop.Pitstop) -> None:
        assert graves.redrive_many(["dead-0", "dead-2", "none", "alive", "expires"]) == 3
        assert sorted(_ids(graves, state="due")) == ["dead-0", "dead-2", "expires"]
        assert _ids(graves, state="dead") == ["dead-1", "dead-3"]
        assert graves.redrive_many(["dead-0"]) == 0

    def test_dead_messages_are_redriven_by_a_search(self, graves: pitstop.Pitstop, clock: ManualClock) -> None:
        clock.advance(2 * _HOUR)
        assert graves.redrive_many(prefix="al") == 0
        assert graves.redrive_many(state="due") == 0
        assert graves.redrive_many(prefix="dead-") == 4
        assert graves.redrive_many(state="dead") == 1
        assert _ids(graves, failing=True) == []
        with graves.listen() as listener:
            # A message that a person has asked for is not too late.
            assert sorted(next_of(listener).id for _ in range(6)) == [
                "alive",
                *(f"dead-{n}" for n in range(4)),
                "expires",
            ]

    def test_messages_are_rescheduled_by_their_ids(self, orders: pitstop.Pitstop) -> None:
        assert orders.reschedule_many(["order-7:0", "none", "order-7:3"], when=9 * _HOUR) == 2
        assert _ids(orders, due_after=8 * _HOUR) == ["order-7:0", "order-7:3"]
        assert orders.reschedule_many(["order-7:0"], when=None) == 1
        assert _ids(orders, state="due") == ["order-70:0", "order-7:0"]

    def test_messages_are_rescheduled_by_a_search(self, orders: pitstop.Pitstop) -> None:
        assert orders.reschedule_many(prefix="order-7:", when=_NOW + 9 * _HOUR) == 4
        assert _ids(orders, due_after=_NOW + 9 * _HOUR) == [f"order-7:{n}" for n in range(4)]
        assert orders.reschedule_many(prefix="order-7:", when=_NOW + 9 * _HOUR) == 0, "they come at that time already"
        assert orders.reschedule_many(state="due", when=_HOUR) == 1
        assert _ids(orders, state="due") == []

    @pytest.mark.parametrize("when", [_MINUTE, 30 * _MINUTE, 3000 * _MINUTE], ids=["before", "among", "behind"])
    def test_a_message_that_still_matches_at_its_new_time_is_counted_once(
        self, pit: pitstop.Pitstop, backend: Backend, when: timedelta
    ) -> None:
        needs(backend, Capability.CONDITIONAL)
        pit.store_many([({"id": f"x{n:04}"}, 2 * _MINUTE + n * timedelta(seconds=10)) for n in range(_MANY)])
        there = len([each for each in pit.entries(limit=_MANY) if each.due == _NOW + when])

        assert pit.reschedule_many(due_before=9000 * _MINUTE, when=_NOW + when) == _MANY - there

        assert {each.due for each in pit.entries(limit=_MANY)} == {_NOW + when}

    def test_a_series_that_is_rescheduled_keeps_its_occurrences(
        self, pit: pitstop.Pitstop, backend: Backend, clock: ManualClock
    ) -> None:
        needs(backend, Capability.CONDITIONAL)
        pit.store_many([({"id": f"s{n}"}, _NOW, None, _HOUR) for n in range(3)])
        assert pit.reschedule_many(prefix="s", when=_MINUTE) == 3

        clock.advance(_MINUTE)
        with pit.listen() as listener:
            for _ in range(3):
                delivery = next_of(listener)
                assert delivery.scheduled_for == _NOW
                delivery.ack()
        assert {each.due for each in pit.entries()} == {_NOW + _HOUR}

    @pytest.mark.parametrize("by", ["ids", "search"])
    @pytest.mark.parametrize("deed", ["remove", "redrive", "reschedule"])
    def test_a_message_in_each_state_is_changed_as_by_itself(
        self, make_pit: Callable[..., pitstop.Pitstop], backend: Backend, deed: str, by: str
    ) -> None:
        needs(backend, Capability.CONDITIONAL)
        pit = make_pit(retry={"max_attempts": 1})
        with pit.listen(prefetch=1) as listener:
            found: list[dict[str, Any]] = []
            for batch in ("one", "many"):
                # The other batch comes to no listener meanwhile.
                _in_each_state(pit, listener, batch, pauses=Capability.POLICIES in backend.capabilities)
                names = sorted(_ids(pit, prefix=batch))
                if batch == "one":
                    for id in names:
                        pit.reschedule(id, 2 * _HOUR) if deed == "reschedule" else getattr(pit, deed)(id)
                else:
                    change = getattr(pit, f"{deed}_many")
                    options = {"when": 2 * _HOUR} if deed == "reschedule" else {}
                    change(names, **options) if by == "ids" else change(prefix=batch, **options)
                found.append(
                    {
                        each.id.removeprefix(batch): (
                            each.state,
                            each.due,
                            each.scheduled_for,
                            each.attempts,
                            each.paused_until,
                        )
                        for each in pit.entries(prefix=batch)
                    }
                )
                pit.remove_many(prefix=batch)
            assert found[0] == found[1]

    def test_damaged_messages_are_removed_and_not_changed(self, orders: pitstop.Pitstop, backend: Backend) -> None:
        self.damage(backend, "order-7:1")

        assert orders.reschedule_many(prefix="order-7:", when=5 * _HOUR) == 3
        assert orders.redrive_many(["order-7:1"]) == 0
        assert orders.remove_many(prefix="order-7:") == 4
        assert len(_ids(orders)) == 4

    def test_a_call_without_ids_and_conditions_changes_nothing(self, orders: pitstop.Pitstop) -> None:
        for call in (orders.remove_many, orders.redrive_many, partial(orders.reschedule_many, when="1h")):
            with pytest.raises(PitstopError, match="all messages"):
                call()
            with pytest.raises(PitstopError, match="all messages"):
                call(prefix="")
        for wrong in ("order-7:0", b"order", {"order-7:0": 1}, 7):
            with pytest.raises(PitstopError, match="ids="):
                orders.remove_many(wrong)  # type: ignore[arg-type]
        with pytest.raises(PitstopError, match="Both ids and conditions"):
            orders.remove_many(["order-7:0"], prefix="order")
        with pytest.raises(PitstopError, match="when"):
            orders.reschedule_many(prefix="order", when="soon")
        assert len(_ids(orders)) == 8
