"""The MongoDB backend: one collection, one index on the field that decides, and a token that guards every write."""

from __future__ import annotations

import logging

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import timedelta
from functools import wraps
from typing import Any, ClassVar, Concatenate, ParamSpec, TypeVar

import attrs

from pitstop import State
from pitstop.abc import (
    Aside,
    Backend,
    BackendConfig,
    Capability,
    Damaged,
    Legacy,
    LegacyPage,
    Progress,
    Query,
    Record,
    Settlement,
    Tally,
    Watch,
    Writes,
    log_fields,
    tallies_by_scan,
)
from pitstop_mongo._adopt.adopter import Adopter
from pitstop_mongo._client.config import MongoConfig
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.notes import Notes
from pitstop_mongo._client.pauses import Pauses
from pitstop_mongo._client.scratch import is_scratch, scratch_collection, scratch_name
from pitstop_mongo._messages.batches import Batches
from pitstop_mongo._messages.claimer import Claimer
from pitstop_mongo._messages.claimers import Claimers
from pitstop_mongo._messages.finder import Finder
from pitstop_mongo._messages.settler import Settler
from pitstop_mongo._messages.storer import Storer
from pitstop_mongo._messages.transaction import Transaction
from pitstop_mongo._messages.unleasable import Unleasable
from pitstop_mongo._messages.viewer import Viewer
from pitstop_mongo._wakeup.wakeups import SUFFIX, Wakeups
from pitstop_mongo._wakeup.watch import Watcher


__all__ = ["MongoBackend"]

_log = logging.getLogger("pitstop.mongo")

#: Capabilities that a replacement for a server, such as mongomock, does not have.
_OF_A_SERVER = (
    Capability.DURABLE
    | Capability.MULTI_PROCESS
    | Capability.WATCH
    | Capability.TRANSACTIONS
    | Capability.ADOPT
    | Capability.FIND
    | Capability.BULK
)

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _one_call(
    method: Callable[Concatenate[MongoBackend, _P], _T],
) -> Callable[Concatenate[MongoBackend, _P], _T]:
    """Decorate a method that uses the driver. A thread that is already inside such a method gets an error."""

    @wraps(method)
    def call(self: MongoBackend, /, *args: _P.args, **options: _P.kwargs) -> _T:
        with self._connection.calls.enter():
            return method(self, *args, **options)

    return call


class MongoBackend(Backend):
    """Messages in a collection of a MongoDB server. The backend connects at its first use."""

    api_version: ClassVar[int] = 1
    suite_version: ClassVar[int | None] = 6
    Config: ClassVar[type[BackendConfig]] = MongoConfig
    capabilities: ClassVar[Capability] = (
        Capability.SCRATCH
        | Capability.CONDITIONAL
        | Capability.KINDS
        | Capability.POLICIES
        | Capability.PAUSES
        | Capability.NOTES
        | _OF_A_SERVER
    )

    def __init__(self, config: MongoConfig | None = None) -> None:
        config = config or MongoConfig()
        super().__init__(config)
        self._config = config
        self._client = config.client
        self._connection = Connection(config, self.clock)
        if config.in_the_open:
            _log.warning(
                "%s is used with a user but without TLS: on the network, others can read the messages and change "
                "them. Set tls to true (and tls_ca_file). If you want no TLS, set tls to false.",
                self.location,
                extra=log_fields("no_tls", backend="mongodb"),
            )
        if not self._connection.dialect.batches:
            # It depends on the client, so it is set on the instance.
            self.capabilities = self.capabilities & ~_OF_A_SERVER  # type: ignore[misc]
        self._adopter = Adopter(self._connection)
        self._unleasable = Unleasable(self._connection.dialect, self.clock, self._connection.location)
        self._claimers = Claimers(self._new_claimer)
        self._settler = Settler(self._connection, self._unleasable)
        self._storer = Storer(self._connection)
        self._pauses = Pauses(self._connection)
        self._notes = Notes(self._connection)
        self._viewer = Viewer(self._connection, self._unleasable)
        self._finder = Finder(self._connection, self._viewer)
        self._batches = Batches(self._connection, self._storer)
        # The only process that uses a collection of scratch() is this one. A wake-up that is on its way when the collection
        # is dropped would make it again.
        muted = is_scratch(config.coll)
        self._wakeups = Wakeups(self._connection, self.clock, config.loop_time, muted=muted)
        self._watcher = Watcher(self._connection, self._wakeups)
        #: How often the outcome of a call was unknown, and how often it became known, by name: ``claim_unknown``,
        #: ``claim_recovered``, ``outcome_unknown`` (of stores, removals and settlements), ``store_recovered``.
        self.counters: Counter[str] = self._connection.counters

    @property
    def location(self) -> str:
        return self._connection.location

    @_one_call
    def now(self) -> int:
        return self._connection.now_us()

    @_one_call
    def put(self, records: Sequence[Record]) -> None:
        progresses = _distinct(records)
        try:
            self._storer.put(records)
        finally:
            # Also when it failed: it may have been done in part.
            self._claimers.written(min((progress.due or 0 for progress in progresses), default=None))
            self._unleasable.forget(record.id for record in records)
        self._wakeups.announce(_least(progresses))

    @_one_call
    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        due = record.progress.due
        try:
            stored = self._storer.put_if(record, revision, progress)
        finally:
            self._claimers.written(due or 0)
            self._unleasable.forget([record.id])
        if stored:
            self._wakeups.announce(_least([record.progress]))
        return stored

    @_one_call
    def delete(self, id: str) -> bool:
        self._unleasable.forget([id])
        return self._storer.delete(id)

    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        # The default calls other methods, each of which is a call of its own.
        return (
            self._delete_many(ids, query) if Capability.BULK in self.capabilities else super().delete_many(ids, query)
        )

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        return self._put_new(records) if Capability.BULK in self.capabilities else super().put_new(records)

    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        return self._put_many_if(items) if Capability.BULK in self.capabilities else super().put_many_if(items)

    @_one_call
    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        return self._viewer.get_many(ids)

    @_one_call
    def get_portion(self, ids: Sequence[str]) -> tuple[Sequence[Record | Damaged], Sequence[str]]:
        return self._viewer.get_portion(ids)

    @_one_call
    def get(self, id: str) -> Record | Damaged | None:
        return self._viewer.get(id)

    @_one_call
    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._viewer.scan(state, limit, after)

    @_one_call
    def find(self, query: Query, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._finder.find(query, limit, after)

    @_one_call
    def find_places(
        self, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        return self._finder.find_places(query, limit, after)

    @_one_call
    def tally_by_kind(self) -> Mapping[str, Tally]:
        if not self._connection.dialect.describes_collections:
            now = self._connection.now_us() // 1000
            return tallies_by_scan(now, self._viewer.scan)
        return self._finder.tally_by_kind()

    @_one_call
    def tally(self) -> Tally:
        return self._viewer.tally()

    @_one_call
    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        claimer = self._claimers.all if kinds is None else self._claimers.of(kinds)
        # A listener claims again by itself, and logs the outage after one failed claim.
        with self._connection.bounded():
            return claimer.lease(limit, duration)

    @_one_call
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        applied = self._settler.settle(settlements)
        written = [
            (each.progress, done) for each, done in zip(settlements, applied, strict=True) if each.progress is not None
        ]
        for progress, _ in written:
            if isinstance(progress, Progress):
                self._claimers.written(progress.due)
        self._wakeups.announce(_least(progress for progress, done in written if done))
        return applied

    @_one_call
    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        return self._viewer.next_due(kinds)

    @_one_call
    def pause_kind(self, kind: str, until: int | None) -> None:
        self._pauses.pause(kind, until)

    @_one_call
    def resume_kind(self, kind: str) -> bool:
        return self._pauses.resume(kind)

    @_one_call
    def paused_kinds(self) -> Mapping[str, int | None]:
        # As of a claim: a listener asks again by itself.
        with self._connection.bounded():
            return self._pauses.kinds()

    @_one_call
    def note(self, key: str, text: str, until: int) -> None:
        self._notes.write(key, text, until)

    @_one_call
    def forget_note(self, key: str) -> None:
        self._notes.forget(key)

    @_one_call
    def notes(self) -> Mapping[str, str]:
        return self._notes.all()

    @_one_call
    def watch(self) -> Watch | None:
        return self._watcher.watch()

    def within(self, session: object) -> Writes:
        return Transaction(self._connection, self._client, session, self._connection.async_handles)

    @_one_call
    def concerns(self) -> Sequence[str]:
        return self._viewer.concerns()

    @_one_call
    def ping(self) -> None:
        self._connection.ping()

    @_one_call
    def legacy(self, after: Any = None, *, locked_after: int | None = None) -> LegacyPage:
        if Capability.ADOPT not in self.capabilities:
            return super().legacy(after, locked_after=locked_after)
        return self._adopter.legacy(after, locked_after)

    @_one_call
    def adopt(self, items: Sequence[tuple[Legacy, Record]]) -> Sequence[bool]:
        if Capability.ADOPT not in self.capabilities:
            return super().adopt(items)
        try:
            return self._adopter.adopt(items)
        finally:
            # Also when it failed: it may have been done in part.
            self._claimers.written(min((record.progress.due or 0 for _, record in items), default=None))

    @contextmanager
    def scratch(self) -> Iterator[Backend]:
        """Open a backend on a collection of its own beside the store's: ``<coll>.check_<random>``."""
        config = attrs.evolve(self._config, coll=scratch_name(self._config.coll), create=True, announce=timedelta(0))
        with closing(type(self)(config)) as backend, scratch_collection(config, self.clock, suffix=SUFFIX):
            yield backend

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        return self._connection.bounded(seconds)

    @_one_call
    def close(self) -> None:
        self._connection.close()

    @_one_call
    def _delete_many(self, ids: Sequence[str], query: Query | None) -> Sequence[bool]:
        self._unleasable.forget(ids)
        return self._batches.delete(ids, query)

    @_one_call
    def _put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        try:
            stored = self._batches.put_new(records)
        finally:
            # Also when it failed: it may have been done in part.
            self._claimers.written(min((record.progress.due or 0 for record in records), default=None))
            self._unleasable.forget(record.id for record in records)
        self._wakeups.announce(_least(record.progress for record, done in zip(records, stored, strict=True) if done))
        return stored

    @_one_call
    def _put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        records = [record for record, *_ in items]
        try:
            stored = self._batches.put_if(items)
        finally:
            # Also when it failed: it may have been done in part.
            self._claimers.written(min((record.progress.due or 0 for record in records), default=None))
            self._unleasable.forget(record.id for record in records)
        self._wakeups.announce(_least(record.progress for record, done in zip(records, stored, strict=True) if done))
        return stored

    def _new_claimer(self, kinds: Collection[str] | None) -> Claimer:
        remember = self._config.clock is None
        return Claimer(self._connection, self.clock, self._unleasable, remember=remember, kinds=kinds)


def _distinct(records: Sequence[Record]) -> list[Progress]:
    """Return the progress of each record, once for records in a row that share it, as those of one batch often do."""
    found: list[Progress] = []
    last = None
    for record in records:
        progress = record.progress
        if progress is not last:
            last = progress
            found.append(progress)
    return found


def _least(written: Iterable[Progress | Aside | None]) -> int | None:
    """Return the least ``due`` of the messages that may be claimed then. A lease that was extended is none of them."""
    free = (each.due for each in written if isinstance(each, Progress) and each.token is None)
    return min((due for due in free if due is not None), default=None)
