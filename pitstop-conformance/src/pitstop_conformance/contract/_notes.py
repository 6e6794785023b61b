"""The contract of ``note``, ``forget_note`` and ``notes``."""

from __future__ import annotations

import pytest

from pitstop import Unsupported
from pitstop.abc import LAST_INSTANT, Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import MINUTE, START, ids, lease_all, make_record


_KEYS = ["a", "consumer:0a1b", "$where", "b'c\"d", "a.b", "é\U0001f3ce", "x" * 200]


class Notes(Kit):
    """A store keeps a few short texts until they end. They change no record and no claim."""

    rule = "pitstop.abc.Backend.note, forget_note and notes"

    @pytest.fixture
    def noted(self, backend: Backend) -> Backend:
        """A store, if it can keep notes."""
        needs(backend, Capability.NOTES)
        return backend

    def test_a_backend_without_notes_refuses_them(self, backend: Backend) -> None:
        if Capability.NOTES in backend.capabilities:
            return
        for call in (lambda: backend.note("a", "", LAST_INSTANT), lambda: backend.forget_note("a"), backend.notes):
            with pytest.raises(Unsupported, match="capability NOTES"):
                call()

    def test_notes_are_there_until_they_are_forgotten(self, noted: Backend) -> None:
        assert dict(noted.notes()) == {}
        for key in _KEYS:
            noted.note(key, f"{key} $x 1 {{}}", LAST_INSTANT)
        assert dict(noted.notes()) == {key: f"{key} $x 1 {{}}" for key in _KEYS}
        for key in _KEYS:
            noted.forget_note(key)
            noted.forget_note(key)
            assert key not in noted.notes()
        assert dict(noted.notes()) == {}

    @pytest.mark.parametrize("text", ["", " ", "1", "x" * 16_000, "\n\u2028\x01é\U0001f3ce'\"$"])
    def test_a_text_comes_back_as_it_was(self, noted: Backend, text: str) -> None:
        noted.note("a", text, LAST_INSTANT)
        assert dict(noted.notes()) == {"a": text}

    def test_a_second_note_replaces_the_text_and_the_end(self, noted: Backend, clock: ManualClock) -> None:
        noted.note("a", "one", START + MINUTE)
        noted.note("a", "two", START + 2 * MINUTE)
        clock.advance(MINUTE / 1000)
        assert dict(noted.notes()) == {"a": "two"}

    def test_a_note_ends_in_its_very_millisecond(self, noted: Backend, clock: ManualClock) -> None:
        noted.note("a", "one", START + 10)
        noted.note("b", "two", START + 20)
        clock.advance(0.009)
        assert dict(noted.notes()) == {"a": "one", "b": "two"}
        clock.advance(0.001)
        assert dict(noted.notes()) == {"b": "two"}
        noted.note("c", "three", START + 30)
        clock.advance(0.01)
        assert dict(noted.notes()) == {"c": "three"}

    def test_another_handle_sees_a_note_at_once(self, noted: Backend, open_backend: Handles) -> None:
        other = open_backend.peer()
        assert dict(noted.notes()) == dict(other.notes()) == {}
        noted.note("a", "one", LAST_INSTANT)
        assert dict(other.notes()) == {"a": "one"}
        other.note("b", "two", LAST_INSTANT)
        other.forget_note("a")
        assert dict(noted.notes()) == {"b": "two"}

    def test_a_note_is_no_record_and_no_pause(self, noted: Backend) -> None:
        noted.put([make_record("a")])
        tally = noted.tally()
        noted.note("a", "one", LAST_INSTANT)
        assert noted.tally() == tally
        assert ids(noted.scan(None, 10, None)) == ["a"]
        assert noted.next_due() == START
        if Capability.PAUSES in noted.capabilities:
            assert dict(noted.paused_kinds()) == {}
            noted.pause_kind("a", None)
            noted.resume_kind("a")
        assert ids(lease_all(noted)) == ["a"]
        assert dict(noted.notes()) == {"a": "one"}
