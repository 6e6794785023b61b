"""The contract of ``pause_kind``, ``resume_kind`` and ``paused_kinds``."""

from __future__ import annotations

import pytest

from pitstop import Unsupported
from pitstop.abc import LAST_INSTANT, Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import MINUTE, START, ids, lease_all, make_record


_KINDS = ["mail", "", "Mail", "a.b", "$where", "b'c\"d", "é\U0001f3ce", "x" * 64]


class Pauses(Kit):
    """A store keeps its paused kinds. They change no record and no claim."""

    rule = "pitstop.abc.Backend.pause_kind, resume_kind and paused_kinds"

    @pytest.fixture
    def pauses(self, backend: Backend) -> Backend:
        """A store, if it can keep paused kinds."""
        needs(backend, Capability.PAUSES)
        return backend

    def test_a_backend_without_paused_kinds_refuses_them(self, backend: Backend) -> None:
        if Capability.PAUSES in backend.capabilities:
            assert Capability.KINDS in backend.capabilities, "PAUSES needs KINDS"
            return
        for call in (lambda: backend.pause_kind("a", None), lambda: backend.resume_kind("a"), backend.paused_kinds):
            with pytest.raises(Unsupported, match="capability PAUSES"):
                call()

    def test_paused_kinds_are_listed_until_they_are_resumed(self, pauses: Backend) -> None:
        assert dict(pauses.paused_kinds()) == {}
        for kind in _KINDS:
            pauses.pause_kind(kind, None)
        assert dict(pauses.paused_kinds()) == dict.fromkeys(_KINDS)
        for kind in _KINDS:
            assert pauses.resume_kind(kind) is True
            assert pauses.resume_kind(kind) is False
            assert kind not in pauses.paused_kinds()
        assert dict(pauses.paused_kinds()) == {}

    def test_a_pause_with_an_end_ends_in_its_very_millisecond(self, pauses: Backend, clock: ManualClock) -> None:
        pauses.pause_kind("a", START + 10)
        pauses.pause_kind("b", START + 20)
        pauses.pause_kind("c", LAST_INSTANT)
        clock.advance(0.009)
        assert dict(pauses.paused_kinds()) == {"a": START + 10, "b": START + 20, "c": LAST_INSTANT}
        clock.advance(0.001)
        assert dict(pauses.paused_kinds()) == {"b": START + 20, "c": LAST_INSTANT}
        assert pauses.resume_kind("a") is False, "its pause has ended"
        assert pauses.resume_kind("b") is True
        pauses.pause_kind("a", None)
        assert dict(pauses.paused_kinds()) == {"a": None, "c": LAST_INSTANT}

    def test_a_second_pause_replaces_the_end(self, pauses: Backend) -> None:
        for end in (START + MINUTE, None, START + 2 * MINUTE, START + 1):
            pauses.pause_kind("a", end)
            assert dict(pauses.paused_kinds()) == {"a": end}

    def test_another_handle_sees_a_pause_at_once(self, pauses: Backend, open_backend: Handles) -> None:
        other = open_backend.peer()
        assert dict(pauses.paused_kinds()) == dict(other.paused_kinds()) == {}
        pauses.pause_kind("a", None)
        assert dict(other.paused_kinds()) == {"a": None}
        other.pause_kind("b", START + MINUTE)
        assert other.resume_kind("a") is True
        assert dict(pauses.paused_kinds()) == {"b": START + MINUTE}

    def test_a_pause_is_no_record_and_changes_none(self, pauses: Backend) -> None:
        before = make_record("a", kind="mail")
        pauses.put([before])
        tally = pauses.tally()
        pauses.pause_kind("mail", None)
        pauses.pause_kind("bulk", START + MINUTE)
        assert pauses.get("a") == before
        assert pauses.tally() == tally
        assert ids(pauses.scan(None, 10, None)) == ["a"]
        assert pauses.next_due() == START
        assert ids(lease_all(pauses)) == ["a"], "core leaves the kind out of its claims"
