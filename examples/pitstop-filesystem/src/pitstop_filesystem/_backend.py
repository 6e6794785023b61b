"""The backend: the contract of :class:`pitstop.abc.Backend`, in terms of files.

Each method is one ``with self._folder.locked()`` block. That alone makes it atomic. The time is read inside the block: the
lock may have been waited for, and a lease lasts from the moment at which the lock was taken.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, ClassVar, get_args
from urllib.parse import quote

import attrs

from pitstop import BackendUnavailable, ConfigError, State
from pitstop.abc import (
    LAST_INSTANT,
    PORTION,
    Aside,
    Backend,
    BackendConfig,
    Capability,
    Damaged,
    Progress,
    Query,
    Record,
    Settlement,
    Tally,
    dump_message,
    is_chosen,
    load_message,
    read_record,
    state_of,
)
from pitstop_filesystem._config import FilesystemConfig
from pitstop_filesystem._folder import Folder, Name, key_of, take_away


__all__ = ["FilesystemBackend"]


@attrs.frozen
class _Document:
    """The content of a file: a line of JSON with all but message and ``due``, and the message as a line of JSON.

    They are separate so that a damaged message leaves its id and token readable. It can still be leased and set aside.
    """

    header: dict[str, Any]
    message: bytes

    @classmethod
    def of(cls, record: Record) -> _Document:
        series = None if record.series is None else dict(record.series)
        header = {"id": record.id, "revision": record.revision, "series": series, **_fields(record.progress)}
        if record.kind:
            header["kind"] = record.kind
        if record.policy is not None:
            header["policy"] = dict(record.policy)
        # JSON text holds line ends only as escapes. dump_message also writes values that JSON does not have: bytes, times.
        return cls(header, dump_message(record.message).encode())

    @classmethod
    def parse(cls, content: bytes) -> _Document | None:
        """Return the document of a file; None if not even the id can be read."""
        first, _, message = content.partition(b"\n")
        try:
            header = json.loads(first)
        except (ValueError, RecursionError):
            return None
        return cls(header, message) if isinstance(header, dict) and _is_id(header.get("id")) else None

    def dump(self) -> bytes:
        return json.dumps(self.header).encode() + b"\n" + self.message

    @property
    def kind(self) -> str | None:
        """The kind of the record; None if it cannot be read."""
        kind = self.header.get("kind", "")
        return kind if isinstance(kind, str) else None

    def changed(self, fields: dict[str, Any]) -> _Document:
        return _Document({**self.header, **fields}, self.message)

    def record(self, due: int | None) -> Record | Damaged:
        try:
            message = load_message(self.message.decode())
        except ValueError:
            # Not a mapping: read_record finds the message damaged, with the same words for all backends.
            message = None
        get = self.header.get
        return read_record(
            id=self.header["id"],
            message=message,
            series=get("series"),
            revision=get("revision"),
            due=due,
            scheduled_for=get("scheduled_for"),
            attempts=get("attempts"),
            first_leased=get("first_leased"),
            last_error=get("last_error"),
            token=get("token"),
            unsettled=get("unsettled"),
            ahead=get("ahead"),
            excused=get("excused"),
            kind=get("kind"),
            policy=get("policy"),
        )


class FilesystemBackend(Backend):
    """Messages in a folder that several processes of one machine may use at the same time."""

    #: The version of the contract that the class was written for, and of the suite that it passed. They are numbers, because
    #: the class is not proved by the versions that the next pitstop-core will have.
    api_version: ClassVar[int] = 1
    suite_version: ClassVar[int | None] = 6
    Config: ClassVar[type[BackendConfig]] = FilesystemConfig
    capabilities: ClassVar[Capability] = (
        Capability.DURABLE
        | Capability.MULTI_PROCESS
        | Capability.SCRATCH
        | Capability.CONDITIONAL
        | Capability.KINDS
        | Capability.POLICIES
        | Capability.BULK
        | Capability.PAUSES
    )

    def __init__(self, config: FilesystemConfig) -> None:
        super().__init__(config)
        self._config = config
        self._folder = Folder(config.path, sync=config.sync, busy_timeout=config.busy_timeout, create=config.create)

    @property
    def location(self) -> str:
        return f"filesystem://{quote(os.fsencode(self._folder.path))}"

    def now(self) -> int:
        return self.clock.time_us()

    def put(self, records: Sequence[Record]) -> None:
        with self._folder.locked() as names:
            self._write(names, records)

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        with self._folder.locked() as names:
            name = names.get(key_of(record.id))
            if (name is None) != (revision is None):
                return False
            if name is not None and not self._is_expected(name, revision, progress):
                return False
            self._write(names, [record])
            return True

    def delete(self, id: str) -> bool:
        with self._folder.locked() as names:
            name = names.get(key_of(id))
            if name is not None:
                self._folder.commit({}, [name], [id])
            return name is not None

    # Each of the next four takes the lock once for all records, and lists the folder once. Searches do without: the default of
    # `find` reads pages of scan(), which is what a folder affords.
    def delete_many(self, ids: Sequence[str], query: Query | None = None) -> Sequence[bool]:
        with self._folder.locked() as names:
            now = self._now_ms()
            gone: dict[str, Name] = {}
            for id in ids:
                name = names.get(key_of(id))
                if name is not None and (query is None or self._matches(name, query, now)):
                    gone[id] = name
            self._folder.commit({}, list(gone.values()), list(gone))
        return [id in gone for id in ids]

    def put_new(self, records: Sequence[Record]) -> Sequence[bool]:
        with self._folder.locked() as names:
            new = {record.id: record for record in records if key_of(record.id) not in names}
            self._write(names, list(new.values()))
        return [record.id in new for record in records]

    def put_many_if(self, items: Sequence[tuple[Record, str, Progress]]) -> Sequence[bool]:
        stored: dict[str, Record] = {}
        with self._folder.locked() as names:
            for record, revision, progress in items:
                name = names.get(key_of(record.id))
                if name is not None and self._is_expected(name, revision, progress):
                    stored[record.id] = record
            self._write(names, list(stored.values()))
        return [record.id in stored for record, *_ in items]

    def get_many(self, ids: Sequence[str]) -> Sequence[Record | Damaged]:
        with self._folder.locked() as names:
            found = [names.get(key_of(id)) for id in ids]
            return [record for name in found if name is not None and (record := self._record(name)) is not None]

    def get_portion(self, ids: Sequence[str]) -> tuple[Sequence[Record | Damaged], Sequence[str]]:
        found: list[Record | Damaged] = []
        size = 0
        with self._folder.locked() as names:
            for number, id in enumerate(ids, start=1):
                name = names.get(key_of(id))
                document = None if name is None else _Document.parse(self._folder.read(name))
                if name is not None and document is not None:
                    size += len(document.message)
                    found.append(document.record(name.due))
                if size >= PORTION:
                    return found, ids[number:]
        return found, ()

    # The default would hold pages of messages. This one holds a message at a time, and reads all files that may match.
    def find_places(
        self, query: Query, limit: int, after: tuple[int | None, str] | None
    ) -> Sequence[tuple[int | None, str]]:
        behind = (False, -1) if after is None or query.by_id else _place(*after)[:2]
        with self._folder.locked() as names:
            now = self._now_ms()
            ahead = (self._record(name) for name in names.values() if _place(name.due, "")[:2] >= behind)
            found = (
                (query.in_order(each), (_held(each).due, each.id))
                for each in ahead
                if each is not None and query.matches(each, now) and query.is_behind(each, after)
            )
            return [place for _, place in heapq.nsmallest(limit, found)]

    def get(self, id: str) -> Record | Damaged | None:
        with self._folder.locked() as names:
            name = names.get(key_of(id))
            return None if name is None else self._record(name)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        behind = (False, -1, "") if after is None else _place(*after)
        with self._folder.locked() as names:
            now = self._now_ms()
            ahead = [name for name in names.values() if _place(name.due, "")[:2] >= behind[:2]]
            found = (
                each
                for each in self._in_order(ahead)
                if state in {None, _state(each, now)} and _place(_held(each).due, each.id) > behind
            )
            return list(itertools.islice(found, limit))

    def tally(self) -> Tally:
        with self._folder.locked() as names:
            now = self._now_ms()
            counts: dict[State, int] = dict.fromkeys(get_args(State), 0)
            for name in names.values():
                state = state_of(name.due, None, now)
                # The name says everything about the state except whether the message is leased, or paused.
                if state != "due" and (record := self._record(name)) is not None:
                    state = _state(record, now)
                counts[state] += 1
            dues = [name.due for name in names.values() if name.due is not None and name.due <= now]
        return Tally(**counts, oldest_due=min(dues, default=None))

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        token = os.urandom(16).hex()
        leased: list[Record | Damaged] = []
        written: dict[Name, bytes] = {}
        replaced: list[Name] = []
        with self._folder.locked() as names:
            now = self._now_ms()
            until = min(now + duration, LAST_INSTANT)
            due = [name for name in names.values() if name.due is not None and name.due <= now]
            # The kind stands in the file alone, so a claim of some kinds reads the files of all others that are due before. A
            # folder of thousands of messages affords that. A store with indexes must not copy it: it needs an index of
            # (kind, due), so that a backlog of other kinds costs nothing.
            for name in sorted(due, key=Name.place):
                if len(leased) == limit:
                    break
                document = _Document.parse(self._folder.read(name))
                if not is_chosen(None if document is None else document.kind, kinds):
                    continue
                if document is None:
                    self._folder.set_aside(name)
                    continue
                record = document.record(name.due)
                if isinstance(record, Record):
                    document = document.changed(_fields(record.progress.leased(token, now, until, limit)))
                else:
                    # To set the document aside, only a token is needed. The rest stays as it was found.
                    document = document.changed({"token": token})
                leased.append(document.record(until))
                written[name.next(until)] = document.dump()
                replaced.append(name)
            self._folder.commit(written, replaced, [record.id for record in leased])
        return leased

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        applied: list[bool] = []
        written: dict[Name, bytes] = {}
        gone: list[Name] = []
        with self._folder.locked() as names:
            now = self._now_ms()
            for each in settlements:
                name = names.get(key_of(each.id))
                document = None if name is None else _Document.parse(self._folder.read(name))
                # The fence: the token is that of the last claim, and the lease still runs. (Or the record is dead: a redrive.)
                held = document is not None and document.header.get("token") == each.token
                if name is None or document is None or not held or (name.due is not None and name.due <= now):
                    applied.append(False)
                    continue
                applied.append(True)
                gone.append(name)
                if isinstance(each.progress, Aside):
                    written[name.next(None)] = document.changed({"last_error": each.progress.last_error}).dump()
                elif each.progress is not None:
                    written[name.next(each.progress.due)] = document.changed(_fields(each.progress)).dump()
            self._folder.commit(
                written, gone, [each.id for each, done in zip(settlements, applied, strict=True) if done]
            )
        return applied

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        with self._folder.locked() as names:
            dues = sorted((name for name in names.values() if name.due is not None), key=Name.place)
            # For all kinds, the first name is the answer. For some, files are read up to the first of these kinds: see lease().
            return next((name.due for name in dues if kinds is None or is_chosen(self._kind(name), kinds)), None)

    def pause_kind(self, kind: str, until: int | None) -> None:
        with self._folder.locked():
            self._folder.write_pauses(json.dumps(self._pauses() | {kind: until}).encode())

    def resume_kind(self, kind: str) -> bool:
        with self._folder.locked():
            pauses = self._pauses()
            found = kind in pauses
            pauses.pop(kind, None)
            if found:
                self._folder.write_pauses(json.dumps(pauses).encode())
            return found

    def paused_kinds(self) -> Mapping[str, int | None]:
        with self._folder.locked():
            return self._pauses()

    def _pauses(self) -> dict[str, int | None]:
        now, content = self._now_ms(), self._folder.read_pauses()
        try:
            found = json.loads(content or b"{}")
            return {str(kind): end for kind, end in found.items() if end is None or end > now}
        except (ValueError, AttributeError, TypeError):
            raise BackendUnavailable(
                "The paused kinds cannot be read: the file paused.json is damaged. Delete it, and pause the kinds again."
            ) from None

    @contextmanager
    def scratch(self) -> Iterator[Backend]:
        """Yield a folder of its own in the store's, beside ``messages/``: on the same disk, and in no listing."""
        path = self._folder.path / f"check-{os.urandom(8).hex()}"
        try:
            try:
                scratch = type(self)(attrs.evolve(self._config, path=path, create=True))
            except ConfigError as error:
                # The store's own path is fine, so the problem is the permissions, or the disk.
                raise BackendUnavailable(
                    f"A folder in the store's, in which things can be tried, cannot be made: {error}"
                ) from error
            with closing(scratch):
                yield scratch
        finally:
            take_away(path)

    def _write(self, names: Mapping[str, Name], records: Sequence[Record]) -> None:
        written: dict[Name, bytes] = {}
        replaced: list[Name] = []
        order = max((name.order for name in names.values()), default=0)
        for record in records:
            due, old = record.progress.due, names.get(key_of(record.id))
            if old is None:
                order += 1
                name = Name(due, order, 0, key_of(record.id))
            else:
                name = old.next(due)
                replaced.append(old)
            written[name] = _Document.of(record).dump()
        self._folder.commit(written, replaced, [record.id for record in records])

    def _is_expected(self, name: Name, revision: str | None, progress: Progress | None) -> bool:
        document = _Document.parse(self._folder.read(name))
        if document is None or document.header.get("revision") != revision:
            return False
        if progress is None:
            return True
        record = document.record(name.due)
        return isinstance(record, Record) and record.progress == progress

    def _matches(self, name: Name, query: Query, now: int) -> bool:
        record = self._record(name)
        return record is not None and query.matches(record, now)

    def _kind(self, name: Name) -> str | None:
        document = _Document.parse(self._folder.read(name))
        return None if document is None else document.kind

    def _record(self, name: Name) -> Record | Damaged | None:
        document = _Document.parse(self._folder.read(name))
        return None if document is None else document.record(name.due)

    def _in_order(self, names: Collection[Name]) -> Iterator[Record | Damaged]:
        # The order is (due, id). Ids stand only inside the files, so all files with one due are read to be sorted. No more
        # files are read than the caller's iteration needs.
        for _, ties in itertools.groupby(sorted(names, key=Name.place), key=lambda name: name.due):
            records = [record for name in ties if (record := self._record(name)) is not None]
            yield from sorted(records, key=lambda record: record.id)

    def _now_ms(self) -> int:
        return self.clock.time_us() // 1000


def _is_id(found: object) -> bool:
    """Whether a value may be an id, sound or damaged. JSON can write surrogates that stand for no bytes."""
    try:
        return isinstance(found, str) and bool(found.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return False


def _fields(progress: Progress) -> dict[str, Any]:
    return attrs.asdict(progress, filter=attrs.filters.exclude("due"))


def _place(due: int | None, id: str) -> tuple[bool, int, str]:
    return (due is None, due or 0, id)


def _held(record: Record | Damaged) -> Progress | Damaged:
    """Return the object that has a record's ``due`` and ``token``."""
    return record if isinstance(record, Damaged) else record.progress


def _state(record: Record | Damaged, now: int) -> State:
    held = _held(record)
    return state_of(held.due, held.token, now)
