"""Mutants that store, replace, remove and read wrongly."""

from __future__ import annotations

import fnmatch
import unicodedata

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs

from conformance.mutants.registry import mutant, round_trip
from pitstop.abc import Progress, Record, Settlement
from pitstop_memory import MemoryBackend, MemoryConfig


@mutant("test_what_was_put_does_not_change_with_the_callers_object")
class KeepsTheCallersObject(MemoryBackend):
    """Keeps the very message that it was given. Later changes by the caller change the stored message."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        super().__init__(config)
        self._given: dict[str, dict[str, Any]] = {}

    def _put(self, records: Sequence[Record]) -> None:
        super()._put(records)
        self._given |= {each.id: each.message for each in records}

    def get(self, id: str) -> Record | None:
        stored = super().get(id)
        return stored if stored is None or id not in self._given else attrs.evolve(stored, message=self._given[id])


@mutant("test_what_was_read_does_not_change_what_is_stored")
class HandsOutTheStored(MemoryBackend):
    """Hands out the very message that it keeps. Changes by a handler are there at the next attempt."""

    def get(self, id: str) -> Record | None:
        with self._room.lock:
            return self._room.shelf.get(id)

    def _lease(self, limit: int, duration: int) -> list[Record]:
        leased = super()._lease(limit, duration)
        return [self._room.shelf.get(each.id) or each for each in leased]


@mutant("test_put_ends_a_lease", "test_an_update_while_leased_holds_at_once_and_the_old_delivery_is_stale")
class RestoreKeepsTheLease(MemoryBackend):
    """Leaves a lease when it stores anew: only message and revision are replaced. The old holder acknowledges the new."""

    def _put(self, records: Sequence[Record]) -> None:
        now = self._now_ms()
        for each in records:
            old = self._room.shelf.get(each.id)
            leased = old is not None and old.progress.token is not None and (old.progress.due or 0) > now
            super()._put([attrs.evolve(each, progress=old.progress) if old and leased else each])


@mutant("test_put_takes_the_place_of_the_record_with_its_id", "test_an_update_by_id_replaces_message_and_schedule")
class MergesMessages(MemoryBackend):
    """Lays the new message over the old one. ``$set`` of its fields, or ``dict.update``."""

    def _put(self, records: Sequence[Record]) -> None:
        for each in records:
            old = self._room.shelf.get(each.id)
            super()._put([attrs.evolve(each, message={**(old.message if old else {}), **each.message})])


@mutant("test_put_takes_the_place_of_the_record_with_its_id", "test_an_update_by_id_replaces_message_and_schedule")
class KeepsTheFirst(MemoryBackend):
    """Leaves a record that is there already. ``INSERT OR IGNORE``, so that a repeated store does no harm."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([each for each in records if self._room.shelf.get(each.id) is None])


@mutant("test_an_update_keeps_the_place_among_ties")
class UpdateGoesToTheEnd(MemoryBackend):
    """Deletes and inserts where it should update: ``INSERT OR REPLACE``. A store that is repeated loses its place."""

    def _put(self, records: Sequence[Record]) -> None:
        for each in records:
            self._room.shelf.delete(each.id)
        super()._put(records)


@mutant("test_an_update_is_never_seen_half_done")
class ReplacesInTwoSteps(MemoryBackend):
    """Deletes the old record, and then stores the new one. A read in between finds no record."""

    def put(self, records: Sequence[Record]) -> None:
        for each in records:
            self.delete(each.id)
        round_trip()
        super().put(records)


@mutant("test_an_update_is_never_seen_half_done")
class PutNotWhole(MemoryBackend):
    """Writes the message, and then its revision and schedule. A read in between returns a record that was never stored."""

    def put(self, records: Sequence[Record]) -> None:
        with self._room.lock:
            for each in records:
                old = self._room.shelf.get(each.id)
                self._put([each if old is None else attrs.evolve(old, message=each.message)])
        round_trip()
        super().put(records)


@mutant("test_a_record_that_is_not_there_is_stored_by_one_of_many")
class LooksAndThenPuts(MemoryBackend):
    """Looks whether the expected record is there, and then stores. Another thread stores in between."""

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        present = self.get(record.id)
        if revision != (None if present is None else present.revision):
            return False
        if present is not None and progress not in (None, present.progress):
            return False
        round_trip()
        self.put([record])
        return True


@mutant("test_put_if_none_changes_nothing_if_the_id_is_there")
class TakesNoneForAny(MemoryBackend):
    """Takes the revision None for "any revision". An optional argument, as its author thought."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        if revision is None:
            self._put([record])
            return True
        return super()._put_if(record, revision, progress)


@mutant("test_put_if_with_a_revision_stores_nothing_if_the_record_is_not_there")
class PutIfUpserts(MemoryBackend):
    """Stores the record if it was removed meanwhile. ``upsert=True``, copied from the store without a condition."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        if self._room.shelf.get(record.id) is None:
            revision, progress = None, None
        return super()._put_if(record, revision, progress)


@mutant(
    "test_put_if_changes_nothing_if_the_record_was_claimed_meanwhile",
    "test_no_interleaving_of_an_edit_and_a_run_emits_twice",
)
class ComparesTheRevisionAlone(MemoryBackend):
    """Does not compare the progress. A claim that came meanwhile is overwritten."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        return super()._put_if(record, revision, None)


@mutant("test_a_message_comes_now_and_all_else_stays")
class NeverBeforeTheNominalTime(MemoryBackend):
    """Stores the nominal time as ``due`` if that is later. A message that a person lets come now does not come."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        due = record.progress.due
        later = due if due is None else max(due, record.progress.scheduled_for)
        record = attrs.evolve(record, progress=attrs.evolve(record.progress, due=later))
        return super()._put_if(record, revision, progress)


@mutant("test_put_if_changes_nothing_under_another_revision")
class EndsTheLeaseAnyway(MemoryBackend):
    """Frees the record first, and compares then. A store that is refused takes the lease from its holder."""

    def _put_if(self, record: Record, revision: str | None, progress: Progress | None) -> bool:
        stored = super()._put_if(record, revision, progress)
        present = self._room.shelf.get(record.id)
        if not stored and present is not None:
            self._room.shelf.change(record.id, attrs.evolve(present.progress, token=None))
        return stored


@mutant("test_an_id_is_only_ever_itself", "test_an_id_is_data")
class RemoveIgnoresCase(MemoryBackend):
    """Removes every record whose id is equal when case is ignored. A column with ``COLLATE NOCASE``."""

    def delete(self, id: str) -> bool:
        with self._room.lock:
            found = [each.id for each in self._room.shelf if each.id.casefold() == id.casefold()]
            return sum(self._room.shelf.delete(each) for each in found) > 0


@mutant("test_an_id_is_only_ever_itself")
class IdsAreTrimmed(MemoryBackend):
    """Takes ids without the spaces around them for the same. A column of type ``CHAR``."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, id=each.id.strip()) for each in records])


@mutant("test_an_id_is_only_ever_itself")
class IdsAreNormalised(MemoryBackend):
    """Brings ids into one form of Unicode. Some file systems do that to names."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, id=unicodedata.normalize("NFC", each.id)) for each in records])


@mutant("test_an_id_is_only_ever_itself")
class IdsArePatterns(MemoryBackend):
    """Takes the id for a pattern when it removes. ``LIKE``, ``glob`` or a regular expression, for convenience."""

    def delete(self, id: str) -> bool:
        with self._room.lock:
            found = [each.id for each in self._room.shelf if each.id == id or fnmatch.fnmatchcase(each.id, id)]
            return sum(self._room.shelf.delete(each) for each in found) > 0


@mutant("test_delete_says_whether_it_was_there", "test_a_removed_message_is_never_emitted")
class DeleteAlwaysTrue(MemoryBackend):
    """Returns True for every removal. The statement succeeded, after all."""

    def delete(self, id: str) -> bool:
        super().delete(id)
        return True


@mutant("test_delete_takes_a_leased_record", "test_a_message_removed_while_leased_is_gone_and_never_comes_back")
class DeleteSparesTheLeased(MemoryBackend):
    """Does not remove a leased message. Its author wanted to be kind to the handler."""

    def delete(self, id: str) -> bool:
        now = self._now_ms()
        with self._room.lock:
            old = self._room.shelf.get(id)
            leased = old is not None and old.progress.token is not None and (old.progress.due or 0) > now
            return not leased and self._room.shelf.delete(id)


@mutant("test_what_a_peer_changes_is_seen_at_once")
class CachesReads(MemoryBackend):
    """Remembers the records that it read, until it writes itself. Other handles write too."""

    _cache: dict[str, Record]

    def __init__(self, config=None):
        super().__init__(config)
        self._cache = {}

    def get(self, id: str) -> Record | None:
        if id not in self._cache:
            record = super().get(id)
            if record is None:
                return None
            self._cache[id] = record
        return self._cache[id]

    def put(self, records: Sequence[Record]) -> None:
        self._cache.clear()
        super().put(records)

    def delete(self, id: str) -> bool:
        self._cache.clear()
        return super().delete(id)

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record]:
        self._cache.clear()
        return super().lease(limit, duration, kinds)

    def settle(self, settlements):
        self._cache.clear()
        return super().settle(settlements)


@mutant("test_a_batch_of_more_than_a_thousand_is_put_whole", "test_more_than_a_thousand_are_settled_in_one_batch")
class AThousandAtMost(MemoryBackend):
    """Writes the first thousand of a batch, and says that it wrote all. The loop over the chunks ends too early."""

    def put(self, records: Collection[Record]) -> None:
        super().put(list(records)[:1000])

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        done = super().settle(list(settlements)[:1000])
        return [*done, *[True] * (len(settlements) - len(done))]


@mutant("test_a_message_of_a_megabyte_comes_back_equal")
class MessagesOfAMegabyte(MemoryBackend):
    """Cuts texts after a megabyte. A column of that size, in a store that is not strict."""

    def put(self, records: Collection[Record]) -> None:
        super().put([attrs.evolve(each, message=_cut(each.message)) for each in records])


def _cut(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value[:1_000_000] if isinstance(value, str) else value for key, value in message.items()}
