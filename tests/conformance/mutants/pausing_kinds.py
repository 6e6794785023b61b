"""Mutants that keep paused kinds wrongly."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.mutants.registry import mutant
from pitstop_memory import MemoryBackend


@mutant("test_a_pause_with_an_end_ends_in_its_very_millisecond")
class ListsPausesThatHaveEnded(MemoryBackend):
    """Returns the stored pauses as they are: core knows the ends."""

    def _lasting(self) -> dict[str, int | None]:
        return dict(self._room.pauses)


@mutant("test_a_second_pause_replaces_the_end")
class KeepsTheFirstEnd(MemoryBackend):
    """Leaves a kind that is paused as it is: ``INSERT OR IGNORE``."""

    def pause_kind(self, kind: str, until: int | None) -> None:
        if kind not in self.paused_kinds():
            super().pause_kind(kind, until)


@mutant("test_another_handle_sees_a_pause_at_once")
class RemembersPauses(MemoryBackend):
    """Reads the paused kinds once."""

    _known: Mapping[str, int | None] | None = None

    def paused_kinds(self) -> Mapping[str, int | None]:
        if self._known is None:
            self._known = super().paused_kinds()
        return self._known


@mutant("test_paused_kinds_are_listed_until_they_are_resumed")
class AlwaysResumed(MemoryBackend):
    """Answers that a kind was paused whenever it is not paused afterwards."""

    def resume_kind(self, kind: str) -> bool:
        super().resume_kind(kind)
        return True


@mutant("test_paused_kinds_are_listed_until_they_are_resumed", "test_messages_of_a_paused_kind_come_after_its_resume")
class PausedWithoutCase(MemoryBackend):
    """Keeps paused kinds in capital letters, and those of messages as they are."""

    def pause_kind(self, kind: str, until: int | None) -> None:
        super().pause_kind(kind.upper(), until)


@mutant("test_a_pause_is_no_record_and_changes_none")
class PausesInItsClaims(MemoryBackend):
    """Leaves paused kinds out of its claims by itself. ``next_due`` and ``tally`` then disagree with them."""

    def lease(self, limit, duration, kinds=None):
        leased = super().lease(limit, duration, kinds)
        return [each for each in leased if each.kind not in self.paused_kinds()]
