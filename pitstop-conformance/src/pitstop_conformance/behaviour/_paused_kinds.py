"""``pause(kind=)`` and ``resume(kind=)``: kinds whose messages wait."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop.abc import Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
_NOW = at(START)


def _handled(listener: pitstop.Listener) -> list[str]:
    """Return the ids of all messages that come now, and acknowledge them."""
    handled = []
    for each in iter(listener.get, None):
        handled.append(each.id)
        each.ack()
    return handled


class PausedKinds(Kit):
    """No listener claims a message of a paused kind."""

    rule = 'docs/changing-messages.md, "Pause a kind"'

    @pytest.fixture
    def kinds(self, pit: pitstop.Pitstop, backend: Backend) -> pitstop.Pitstop:
        """A Pitstop whose store keeps paused kinds, with a message of each of three kinds."""
        needs(backend, Capability.PAUSES)
        for kind in ("mail", "bulk", ""):
            pit.store({"id": kind or "none"}, _NOW, kind=kind)
        return pit

    def test_a_paused_kind_that_the_store_cannot_keep_is_refused(self, pit: pitstop.Pitstop, backend: Backend) -> None:
        if Capability.PAUSES in backend.capabilities:
            assert pit.pause(kind="mail") is True
            assert pit.paused_kinds() == {"mail": None}
            return
        for call in (lambda: pit.pause(kind="mail"), lambda: pit.resume(kind="mail"), pit.paused_kinds):
            with pytest.raises(pitstop.Unsupported, match="capability PAUSES"):
                call()

    @pytest.mark.parametrize("chosen", [None, ["mail", "bulk", ""], ["mail"]], ids=["all", "some", "it alone"])
    @pytest.mark.parametrize("prefetch", [1, 10])
    def test_messages_of_a_paused_kind_come_after_its_resume(
        self, kinds: pitstop.Pitstop, chosen: Any, prefetch: int
    ) -> None:
        others = ["bulk", "none"] if chosen != ["mail"] else []
        assert kinds.pause(kind="mail") is True
        kinds.store({"id": "later"}, _NOW, kind="mail")
        with kinds.listen(kinds=chosen, prefetch=prefetch) as listener:
            assert sorted(_handled(listener)) == others
            entry = kinds.get("mail")
            assert entry is not None
            assert (entry.state, entry.attempts) == ("due", 0)
            assert kinds.resume(kind="mail") is True
            assert sorted(_handled(listener)) == ["later", "mail"]
        assert kinds.resume(kind="mail") is False

    def test_a_listener_of_other_kinds_goes_on(self, kinds: pitstop.Pitstop) -> None:
        kinds.pause(kind="")
        kinds.pause(kind="bulk")
        handled: list[str] = []
        summary = kinds.consume(
            {"mail": lambda message: handled.append(message["id"]), "*": lambda message: handled.append(message["id"])},
            until_idle=True,
        )
        assert (handled, summary.acked) == (["mail"], 1)
        kinds.resume(kind="")
        with kinds.listen() as listener:
            assert _handled(listener) == ["none"]

    def test_the_pause_of_a_kind_with_an_end_ends_by_itself(self, kinds: pitstop.Pitstop, clock: ManualClock) -> None:
        assert kinds.pause(kind="mail", until="1h") is True
        assert kinds.pause(kind="bulk", until=_NOW + 2 * _HOUR) is True
        assert kinds.paused_kinds() == {"bulk": _NOW + 2 * _HOUR, "mail": _NOW + _HOUR}
        with kinds.listen() as listener:
            assert _handled(listener) == ["none"]
            clock.advance(_HOUR - timedelta(milliseconds=1))
            assert _handled(listener) == []
            clock.advance(timedelta(milliseconds=1))
            assert _handled(listener) == ["mail"]
            assert kinds.paused_kinds() == {"bulk": _NOW + 2 * _HOUR}
            assert kinds.pause(kind="bulk") is True
            clock.advance(2 * _HOUR)
            assert _handled(listener) == []
            kinds.resume(kind="bulk")
            assert _handled(listener) == ["bulk"]

    def test_a_listener_of_another_process_notices_it_within_its_loop_time(
        self, kinds: pitstop.Pitstop, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        operator = make_pit()
        with kinds.listen(loop_time=_MINUTE) as listener:
            assert sorted(_handled(listener)) == ["bulk", "mail", "none"]
            operator.pause(kind="mail")
            clock.advance(_MINUTE)
            operator.store({"id": "later"}, _NOW, kind="mail")
            assert _handled(listener) == []
            operator.resume(kind="mail")
            clock.advance(_MINUTE)
            assert _handled(listener) == ["later"]

    def test_a_message_that_a_listener_has_is_handled(self, kinds: pitstop.Pitstop, clock: ManualClock) -> None:
        with kinds.listen(kinds=["mail"], prefetch=1) as listener:
            delivery = next_of(listener)
            kinds.pause(kind="mail")
            delivery.nack("failed", _MINUTE)
            clock.advance(_MINUTE)
            assert listener.get() is None
            kinds.resume(kind="mail")
            again = next_of(listener)
            assert again.attempt == 2
            kinds.pause(kind="mail")
            again.ack()
            assert kinds.get("mail") is None

    @pytest.mark.usefixtures("conditional")
    def test_a_message_may_be_paused_by_itself_in_a_paused_kind(self, kinds: pitstop.Pitstop, backend: Backend) -> None:
        needs(backend, Capability.POLICIES)
        kinds.pause(kind="mail")
        assert kinds.pause("mail") is True
        kinds.resume(kind="mail")
        with kinds.listen(kinds=["mail"]) as listener:
            assert listener.get() is None
            assert kinds.resume("mail") is True
            assert _handled(listener) == ["mail"]

    @pytest.mark.parametrize("arguments", [{}, {"id": "a", "kind": "mail"}], ids=["neither", "both"])
    def test_an_id_or_a_kind_has_to_be_given(self, pit: pitstop.Pitstop, arguments: Any) -> None:
        for call in (pit.pause, pit.resume):
            with pytest.raises(pitstop.PitstopError, match="Give one of them"):
                call(**arguments)
