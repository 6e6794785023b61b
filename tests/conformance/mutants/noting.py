"""Mutants that keep notes wrongly."""

from __future__ import annotations

from collections.abc import Mapping

from conformance.mutants.registry import mutant
from pitstop_memory import MemoryBackend


@mutant("test_a_note_ends_in_its_very_millisecond")
class ListsNotesThatHaveEnded(MemoryBackend):
    """Leaves the end of a note to a job that removes old rows."""

    def notes(self) -> Mapping[str, str]:
        return {key: text for key, (text, _) in self._room.notes.items()}


@mutant("test_a_second_note_replaces_the_text_and_the_end")
class KeepsTheFirstEndOfANote(MemoryBackend):
    """Replaces the text, and leaves the end as it was: ``ON CONFLICT DO UPDATE SET text``."""

    def note(self, key: str, text: str, until: int) -> None:
        first = self._room.notes.get(key)
        super().note(key, text, until if first is None else first[1])


@mutant("test_another_handle_sees_a_note_at_once")
class RemembersNotes(MemoryBackend):
    """Reads the notes once."""

    _known: Mapping[str, str] | None = None

    def notes(self) -> Mapping[str, str]:
        if self._known is None:
            self._known = super().notes()
        return self._known


@mutant("test_notes_are_there_until_they_are_forgotten")
class CutsKeysOfNotes(MemoryBackend):
    """Keeps the first hundred characters of a key."""

    def note(self, key: str, text: str, until: int) -> None:
        super().note(key[:100], text, until)


@mutant("test_a_text_comes_back_as_it_was")
class StripsNotes(MemoryBackend):
    """Drops the white space at the ends of a text."""

    def note(self, key: str, text: str, until: int) -> None:
        super().note(key, text.strip(), until)


@mutant("test_a_note_is_no_record_and_no_pause")
class NotesAmongThePauses(MemoryBackend):
    """Keeps notes and paused kinds in one table."""

    def note(self, key: str, text: str, until: int) -> None:
        super().note(key, text, until)
        self.pause_kind(key, until)
