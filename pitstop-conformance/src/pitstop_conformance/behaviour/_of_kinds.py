"""Listeners and consumers of some kinds, on one store."""

from __future__ import annotations

import asyncio

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

import pitstop

from pitstop.abc import Backend, Capability, Damaged, Record
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._listener import InAThread, advance_until


_NOW = at(START)


class OfKinds(Kit):
    """Messages with kinds, and listeners that choose by them."""

    rule = 'docs/listening.md, "Kinds"'

    @pytest.fixture
    def kinded_pit(self, pit: pitstop.Pitstop, backend: Backend) -> pitstop.Pitstop:
        needs(backend, Capability.KINDS)
        return pit

    def test_a_kind_that_the_store_cannot_keep_is_refused(self, pit: pitstop.Pitstop, backend: Backend) -> None:
        """Then no message gets lost among those of other kinds."""
        if Capability.KINDS in backend.capabilities:
            pit.store({"id": "a"}, kind="mail")
            assert [each.kind for each in pit.entries()] == ["mail"]
            return
        with pytest.raises(pitstop.Unsupported, match="capability KINDS"):
            pit.store({"id": "a"}, kind="mail")
        with pytest.raises(pitstop.Unsupported, match="capability KINDS"):
            pit.store_many([({"id": "a"}, None)], kind="mail")
        with pytest.raises(pitstop.Unsupported, match="capability KINDS"):
            pit.listen(kinds=["mail"])
        assert pit.entries() == []

    def test_a_listener_of_a_kind_gets_its_messages_alone(self, kinded_pit: pitstop.Pitstop) -> None:
        kinded_pit.store({"id": "plain"}, _NOW)
        kinded_pit.store_many([({"id": f"mail-{n}"}, _NOW) for n in range(3)], kind="mail")
        kinded_pit.store_many([({"id": f"report-{n}"}, _NOW) for n in range(3)], kind="report")
        got: list[tuple[str, str]] = []
        with kinded_pit.listen(kinds=["mail", ""]) as listener:
            while (delivery := listener.get()) is not None:
                got.append((delivery.id, delivery.kind))
                delivery.ack()

        assert sorted(got) == [("mail-0", "mail"), ("mail-1", "mail"), ("mail-2", "mail"), ("plain", "")]
        assert [(each.id, each.kind, each.attempts) for each in kinded_pit.entries()] == [
            (f"report-{n}", "report", 0) for n in range(3)
        ]
        with kinded_pit.listen() as listener:
            delivery = listener.get()
            assert delivery is not None
            assert delivery.kind == "report"

    def test_a_series_keeps_its_kind(self, kinded_pit: pitstop.Pitstop, clock: ManualClock) -> None:
        kinded_pit.store({"id": "a"}, _NOW, None, timedelta(hours=1), kind="mail")
        for _ in range(3):
            with kinded_pit.listen(kinds=["mail"]) as listener:
                delivery = listener.get()
                assert delivery is not None
                delivery.ack()
                assert listener.get() is None
            clock.advance(3600)

        entry = kinded_pit.get("a")
        assert entry is not None
        assert entry.kind == "mail"

    def test_ids_are_unique_over_all_kinds(self, kinded_pit: pitstop.Pitstop) -> None:
        kinded_pit.store({"id": "a", "n": 1}, _NOW, kind="mail")
        kinded_pit.store({"id": "a", "n": 2}, _NOW, kind="report")

        with kinded_pit.listen(kinds=["mail"]) as listener:
            assert listener.get() is None
        with kinded_pit.listen(kinds=["report"]) as listener:
            delivery = listener.get()
            assert delivery is not None
            assert delivery.msg == {"id": "a", "n": 2}

    def test_a_change_of_the_kind_while_leased_ends_the_lease(self, kinded_pit: pitstop.Pitstop) -> None:
        kinded_pit.store({"id": "a"}, _NOW, kind="mail")
        with kinded_pit.listen(kinds=["mail"]) as listener:
            delivery = listener.get()
            assert delivery is not None
            kinded_pit.store({"id": "a"}, _NOW, kind="report")
            with pytest.raises(pitstop.LeaseLost):
                delivery.ack()
            assert listener.get() is None

        assert [each.kind for each in kinded_pit.entries("due")] == ["report"]

    @pytest.mark.usefixtures("conditional")
    def test_a_store_that_keeps_the_message_compares_its_kind(self, kinded_pit: pitstop.Pitstop) -> None:
        def outcome(kind: str, **options: Any) -> str:
            return kinded_pit.store({"id": "a"}, _NOW, None, timedelta(hours=1), kind=kind, **options).outcome

        assert outcome("mail", if_exists="keep") == "created"
        assert outcome("mail", if_exists="keep") == "kept"
        assert outcome("report", if_exists="keep") == "replaced"
        assert outcome("report", keep_schedule=True) == "kept"
        assert outcome("mail", keep_schedule=True) == "updated"
        entry = kinded_pit.get("a")
        assert entry is not None
        assert entry.kind == "mail"

    def test_consume_of_some_kinds_ends_when_none_of_these_is_due(self, kinded_pit: pitstop.Pitstop) -> None:
        kinded_pit.store_many([({}, _NOW) for _ in range(20)], kind="bulk")
        kinded_pit.store_many([({}, _NOW) for _ in range(20)], kind="mail")

        summary = kinded_pit.consume(lambda message: None, workers=3, until_idle=True, kinds=["mail"])

        assert (summary.acked, summary.reason) == (20, "idle")
        assert kinded_pit.stats().due == 20

    @pytest.mark.parametrize("rest", [False, True], ids=["without_the_rest", "with_the_rest"])
    def test_the_handler_of_the_rest_has_messages_whose_kind_cannot_be_read_set_aside(
        self, kinded_pit: pitstop.Pitstop, backend: Backend, rest: bool
    ) -> None:
        """No handler gets such a message. Without a handler of the rest, it stays as it is."""
        kinded_pit.store_many([({"id": f"{n}"}, _NOW) for n in range(5)], kind="mail")
        kinded_pit.store({"id": "other"}, _NOW)
        for id in ("0", "3"):
            self.damage_kind(backend, id)
        handled: list[str] = []
        handlers: dict[str, Any] = {"mail": lambda message: handled.append(message["id"])}

        kinded_pit.consume({**handlers, "*": lambda message: None} if rest else handlers, until_idle=True)

        assert sorted(handled) == ["1", "2", "4"]
        assert [each.id for each in kinded_pit.entries("dead")] == (["0", "3"] if rest else [])
        assert [each.id for each in kinded_pit.entries("due")] == ([] if rest else ["0", "3", "other"])

    def test_consume_of_some_kinds_in_an_event_loop(self, open_backend: Handles) -> None:
        backend = open_backend()
        needs(backend, Capability.KINDS)
        got: list[str] = []

        async def handle(delivery: pitstop.AsyncDelivery) -> None:
            got.append(delivery.kind)

        async def run() -> None:
            async with asyncio.timeout(60), pitstop.init_async({"type": backend}) as apit:
                await apit.store({}, _NOW, kind="mail")
                await apit.store_many([({}, _NOW)], kind="report")
                await apit.store({}, _NOW)
                await apit.consume(handle, until_idle=True, kinds=["mail"])
                with pytest.raises(pitstop.ConfigError, match="kinds"):
                    apit.listen(kinds="mail")
                async with apit.listen(kinds=["report"]) as listener:
                    delivery = await listener.get()
                    assert delivery is not None
                    got.append(delivery.kind)

        asyncio.run(run())
        assert got == ["mail", "report"]

    def test_a_listener_sleeps_until_its_own_next_message(
        self, backend: Backend, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """However many messages of other kinds are due."""
        needs(backend, Capability.KINDS)
        claims: list[datetime] = []
        lease = backend.lease

        def counted(*arguments: Any) -> Sequence[Record | Damaged]:
            claims.append(clock.now())
            return lease(*arguments)

        monkeypatch.setattr(backend, "lease", counted)
        with pitstop.init({"type": backend}) as pit:
            pit.store_many([({}, _NOW) for _ in range(5)], kind="bulk")
            pit.store({"id": "a"}, _NOW + timedelta(seconds=5), kind="mail")
            with pit.listen(kinds=["mail"], loop_time=timedelta(days=1)) as listener:
                loop = InAThread(lambda: (next(listener).id, clock.now()))

                woke = advance_until(clock, loop, timedelta(milliseconds=50))

        assert woke[0] == "a"
        assert woke[1] >= _NOW + timedelta(seconds=5)
        # The watch of a store may wake the listener some times for the messages that were stored before.
        early = [each for each in claims if each < _NOW + timedelta(seconds=5)]
        assert len(early) < 20, "the listener does not wake up for messages of other kinds"

    def test_a_nacked_message_comes_back_to_its_kind(self, kinded_pit: pitstop.Pitstop) -> None:
        kinded_pit.store({"id": "a"}, _NOW, kind="mail")
        with kinded_pit.listen(kinds=["mail"]) as mails, kinded_pit.listen(kinds=["report"]) as reports:
            delivery = mails.get()
            assert delivery is not None
            delivery.nack("failed", delay=timedelta(0))
            assert reports.get() is None
            again = mails.get()
            assert again is not None
            assert (again.attempt, again.kind) == (2, "mail")
