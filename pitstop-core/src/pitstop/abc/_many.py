"""Many: the part of a backend that searches and changes many records, with the defaults of backends that are older than it."""

from __future__ import annotations

import os

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import attrs

from pitstop._errors import Conflict
from pitstop._values._entry import State
from pitstop.abc._query import Query, by_scan, tallies_by_scan
from pitstop.abc._record import Damaged, Outcome, Progress, Record, Settlement, Tally


__all__ = ["PORTION", "Many"]

#: How often a removal begins again because the record has changed since it was read.
_MOST_READS = 50
#: About how many bytes of messages :meth:`Many.get_portion` returns at most.
PORTION = 8 * 1024 * 1024
#: How many records the default of :meth:`Many.find_places` reads at a time.
_PAGE = 500
_BEING_REMOVED = "It is being removed. If this error stays, the removal was cut short: remove the message again."


class _Store(Protocol):
    """The methods that the defaults call. Every backend has them."""

    def now(self) -> int: ...
    def get(self, id: str) -> Record | Damaged | None: ...
    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]: ...
    def find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]: ...
    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool: ...
    def delete(self, id: str) -> bool: ...
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]: ...
    def scan(
        self, state: State | None, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[Record | Damaged]: ...


class Many:
    """A part of :class:`pitstop.abc.Backend`."""

    def find(
        self: _Store, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[Record | Damaged]:
        """Return up to ``limit`` records that match, in the order of the search: see :class:`Query`.

        Without :attr:`pitstop.abc.Capability.FIND` this filters pages of :meth:`pitstop.abc.Backend.scan`.

        :param after: only records behind this ``(due, id)`` in that order. The record with it need not exist any more.
        """
        return by_scan(query, limit, after, self.now() // 1000, self.scan)

    def find_places(
        self: _Store, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        """Return the ``(due, id)`` of each record that :meth:`find` returns, in the same order.

        Changes of many messages search by it. Override it so that the messages themselves are not read, or not all of them are in
        the memory at once: each may have 16 MB. Without an override this reads whole pages of records, with up to 500 each.

        :param limit: in the tens of thousands for long changes, so that few searches are made.
        """
        places: list[tuple[int | None, str]] = []
        while (wanted := min(limit - len(places), _PAGE)) > 0:
            found = self.find(query, wanted, places[-1] if places else after)
            places += [((each.due if isinstance(each, Damaged) else each.progress.due), each.id) for each in found]
            if len(found) < wanted:
                break
        return places

    def tally_by_kind(self: _Store) -> Mapping[str, Tally]:
        """Return for each kind that has a record what :meth:`pitstop.abc.Backend.tally` returns for its records.

        A record whose kind cannot be read is in none of them. Without an override this reads all records.
        """
        return tallies_by_scan(self.now() // 1000, self.scan)

    def get_many(self: _Store, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        """Return the records with these distinct ids as they are now, in any order. Ids without a record are left out."""
        return [stored for id in ids if (stored := self.get(id)) is not None]

    def get_portion(self: _Store, ids: Sequence[str]) -> tuple[Sequence[Record | Damaged], Sequence[str]]:
        """Return records as :meth:`get_many` does, but only some of them if they are large, and the ids that are left to be read.

        Override it so that one answer holds not much more than :data:`pitstop.abc.PORTION` bytes of messages. At least one id is
        dealt with. Without an override this returns all records.
        """
        return self.get_many(ids), ()

    def delete_many(self: _Store, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        """Remove the records with these distinct ids, leased or not. Return for each whether it was removed.

        Each removal is atomic, and the batch need not be. After a lost reply, a record that was there before and is gone counts
        as removed. In doubt about some of them the method raises :class:`pitstop.OutcomeUnknown` with their ids.

        :param query: remove only records that match at the moment of the removal. A record that was changed in between, so that
            it does not match any more, stays. None: remove all.
        :raises pitstop.Conflict: with a ``query``, if other programs change one of the records all the time. The others of the
            batch may be removed.
        :raises pitstop.Unsupported: with a ``query``, without :attr:`pitstop.abc.Capability.BULK` and :attr:`pitstop.abc.Capability.CONDITIONAL`.
        """
        if query is None:
            return [self.delete(id) for id in ids]
        return [_delete_matching(self, id, query) for id in ids]

    def put_new(self: _Store, records: Sequence[Record]) -> Sequence[bool]:
        """Store records with distinct ids, those whose ids no stored record has. Return for each whether it was stored.

        A stored record with one of the ids stays as it is, also a damaged one. Each store is atomic, and the batch need not be.
        If a record is stored, it is stored as :meth:`pitstop.abc.Backend.put` stores it. Copies from another store come by this
        method. Without an override this calls :meth:`pitstop.abc.Backend.put_if` for each record.

        :raises pitstop.OutcomeUnknown: in doubt about some of them, with their ids.
        :raises pitstop.Unsupported: without :attr:`pitstop.abc.Capability.CONDITIONAL`.
        """
        return [self.put_if(record, None) for record in records]

    def put_many_if(self: _Store, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        """Store records with distinct ids as :meth:`pitstop.abc.Backend.put_if` does. Return for each whether it was stored.

        Each store is atomic, and the batch need not be. In doubt about some of them the method raises
        :class:`pitstop.OutcomeUnknown` with their ids.

        :param items: each a record, and the revision and the progress of the expected one.
        :raises pitstop.Unsupported: without :attr:`pitstop.abc.Capability.CONDITIONAL`.
        """
        return [self.put_if(*item) for item in items]


def _delete_matching(store: _Store, id: str, query: Query) -> bool:
    """Remove a record if it matches. Return whether it was removed.

    No method of every backend removes a record on a condition. So the record is first made a dead one with a new token, on the
    condition that it has not changed, and then deleted under that token. If the process dies in between, the record stays dead.

    :raises pitstop.Unsupported: if the backend cannot store on a condition.
    """
    for _ in range(_MOST_READS):
        present = store.get(id)
        if present is None or not query.matches(present, store.now() // 1000):
            return False
        if isinstance(present, Damaged):
            # No condition finds it. Only a store under its id changes it.
            return store.delete(id)
        token = os.urandom(16).hex()
        dying = attrs.evolve(present.progress, due=None, token=token, last_error=_BEING_REMOVED)
        buried = attrs.evolve(present, revision=os.urandom(16).hex(), progress=dying)
        if store.put_if(buried, present.revision, present.progress):
            (applied,) = store.settle([Settlement(id, token, Outcome.COMPLETE, None)])
            # None: another user has changed or removed the record just now, which then was dead already.
            return applied is not False
    raise Conflict(
        f"The message {id!r} was not removed, because other programs have changed it {_MOST_READS} times meanwhile. Try again.",
        id=id,
    )
