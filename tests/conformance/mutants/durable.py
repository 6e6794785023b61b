"""Mutants of a store that outlives its process: made of the SQLite backend."""

from __future__ import annotations

import copy
import os
import sqlite3
import threading
import uuid

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import closing, contextmanager
from typing import ClassVar

import attrs

from conformance.mutants.registry import mutant, round_trip
from pitstop.abc import Damaged, Record, Settlement, Watch
from pitstop_sqlite import SqliteBackend, _statements
from pitstop_sqlite._rows import bindable, new_row, read_leased_row


@mutant("test_what_was_stored_is_there_when_it_is_opened_again")
class ForgetsOnReopen(SqliteBackend):
    """Says that it is durable, and keeps everything in memory. It is gone with the last handle."""

    _handles: ClassVar[Counter[str]] = Counter()

    def __init__(self, config=None):
        super().__init__(config)
        self._handles[self._path] += 1
        self._open = True

    def close(self) -> None:
        if self._open:
            self._open = False
            self._handles[self._path] -= 1
            if not self._handles[self._path]:
                with self._database.lock, self._database as connection:
                    connection.execute("DELETE FROM pitstop_messages")
        super().close()


@mutant(
    "test_what_was_stored_is_there_when_it_is_opened_again",
    "test_a_lease_may_be_settled_through_a_peer",
)
class FreesLeasesAtStart(SqliteBackend):
    """Gives all leases back when it is opened, to clean up after a crash. Others are still at work on them."""

    def __init__(self, config=None):
        super().__init__(config)
        with self._database.lock, self._database as connection:
            connection.execute(
                "UPDATE pitstop_messages SET due = scheduled_for, token = NULL WHERE token IS NOT NULL AND due IS NOT NULL"
            )


@mutant("test_a_peer_sees_what_was_put")
class AcknowledgedBeforeCommitted(SqliteBackend):
    """Returns from a store before it is committed. Whatever this handle does next commits it; a crash loses it."""

    def __init__(self, config=None):
        super().__init__(config)
        self._behind: list[Record] = []
        self._behind_lock = threading.Lock()

    def put(self, records: Sequence[Record]) -> None:
        self._flush()
        with self._behind_lock:
            self._behind.extend(copy.deepcopy(list(records)))

    def delete(self, id: str) -> bool:
        self._flush()
        return super().delete(id)

    def get(self, id: str) -> Record | Damaged | None:
        self._flush()
        return super().get(id)

    def scan(self, state, limit, after):
        self._flush()
        return super().scan(state, limit, after)

    def tally(self):
        self._flush()
        return super().tally()

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        self._flush()
        return super().lease(limit, duration, kinds)

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        self._flush()
        return super().settle(settlements)

    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        self._flush()
        return super().next_due(kinds)

    def close(self) -> None:
        self._flush()
        super().close()

    def _flush(self) -> None:
        with self._behind_lock:
            # One may be there twice: the last one counts.
            super().put(list({each.id: each for each in self._behind}.values()))
            self._behind.clear()


_behind: defaultdict[str, tuple[list[Record], threading.Lock]] = defaultdict(lambda: ([], threading.Lock()))


@mutant("test_what_was_put_before_a_kill_is_there_whole")
class CommittedByTheWay(AcknowledgedBeforeCommitted):
    """Returns from a store before it is committed, and all handles of the process know of it. Only a crash tells."""

    def __init__(self, config=None):
        super().__init__(config)
        self._behind, self._behind_lock = _behind[self._path]


class _ReadsThenWrites(SqliteBackend):
    """Claims in two statements, and no transaction holds them together."""

    def _claim(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        token, now = os.urandom(16).hex(), self._now_ms()
        with self._database.lock, self._database as connection:
            rows = connection.execute(_statements.READ_DUE, (now, limit)).fetchall()
        round_trip()
        with self._database.lock, self._database as connection:
            for row in rows:
                connection.execute(
                    "UPDATE pitstop_messages SET due = ?, attempts = attempts + 1, "
                    "first_leased = coalesce(first_leased, ?), token = ? WHERE id = ?",
                    (now + duration, now, token, row[0].decode()),
                )
        return [read_leased_row(row, token.encode(), now, now + duration) for row in rows]


@mutant("test_many_claimers_lease_each_record_once")
class ClaimInTwoStatements(_ReadsThenWrites):
    """Reads what is due, then writes the leases, without a transaction around both."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        return self._claim(limit, duration) if kinds is None else super().lease(limit, duration, kinds)


@mutant("test_an_ack_never_deletes_a_version_that_was_stored_since", "test_a_lease_is_settled_by_one_of_many")
class FenceInPython(SqliteBackend):
    """Reads the token and compares it, then writes by id. A version that is stored in between is lost."""

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        return [self._settle_one(each) for each in settlements]

    def _settle_one(self, settlement: Settlement) -> bool:
        found = self.get(settlement.id)
        if found is None:
            return False
        due, token = (
            (found.due, found.token) if isinstance(found, Damaged) else (found.progress.due, found.progress.token)
        )
        if token != settlement.token or (due is not None and due <= self._now_ms()):
            return False
        round_trip()
        if settlement.progress is None:
            self.delete(settlement.id)
            return True
        # The fence of the statement, given what it will find.
        with self._database.lock, self._database as connection:
            connection.execute(
                "UPDATE pitstop_messages SET token = CAST(? AS TEXT) WHERE id = CAST(? AS TEXT)",
                (bindable(settlement.token), bindable(settlement.id)),
            )
        super().settle([settlement])
        return True


@mutant("test_put_takes_the_place_of_the_record_with_its_id", "test_concurrent_stores_of_one_id_leave_one_whole_record")
class NoUniqueIndex(SqliteBackend):
    """Looks whether the id is there, and inserts if it is not; no index sees to it. A store that is repeated inserts twice."""

    def __init__(self, config=None):
        super().__init__(config)
        with self._database.lock, self._database as connection:
            (sql,) = connection.execute("SELECT sql FROM sqlite_schema WHERE name = 'pitstop_messages'").fetchone()
            if b" UNIQUE" in sql:
                connection.execute("DROP TABLE pitstop_messages")
                connection.execute(sql.decode().replace(" UNIQUE", ""))

    def put(self, records: Sequence[Record]) -> None:
        statement, _, _ = _statements.PUT.partition(" ON CONFLICT")
        with self._database.lock, self._database as connection:
            for each in records:
                connection.execute(statement, new_row(each))


@mutant("test_a_watch_notices_what_a_peer_stores", slow=True)
class WatchIsDeaf(SqliteBackend):
    """Watches, and never notices anything. It asks its own connection, which knows of its own changes."""

    def watch(self) -> Watch:
        return _Deaf()


class _Deaf:
    pause = 0.05

    def poll(self) -> int | None:
        return None

    def close(self) -> None:
        pass


_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


@mutant("test_processes_claim_and_settle_each_record_once")
class LockOfOneProcess(_ReadsThenWrites):
    """Holds a lock of the process around a claim, and says that several processes may share the store."""

    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        with _locks[self._path]:
            return self._claim(limit, duration) if kinds is None else super().lease(limit, duration, kinds)


@mutant("test_handles_that_are_closed_hold_neither_threads_nor_files", slow=True)
class CloseKeepsOpen(SqliteBackend):
    """Gives nothing back when it is closed. A service that opens a handle per request runs out of files."""

    _kept: ClassVar[list[SqliteBackend]] = []

    def close(self) -> None:
        self._kept.append(self)


class _AnHourLate:
    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self.pause = watch.pause

    def poll(self) -> int | None:
        return None if self._watch.poll() is None else 1_577_836_800_000 + 3_600_000

    def close(self) -> None:
        self._watch.close()


@mutant("test_a_watch_notices_what_a_peer_stores")
class WatchTellsAnHourLate(SqliteBackend):
    """Tells of what others stored, with a time that is an hour late. Listeners sleep on until then."""

    def watch(self) -> Watch | None:
        watch = super().watch()
        return None if watch is None else _AnHourLate(watch)


@mutant("test_a_handle_that_is_carried_over_a_fork_works_there_or_says_that_it_does_not")
class BrokenAfterFork(SqliteBackend):
    """Loses silently all messages that are stored through a handle that was carried over a fork."""

    def __init__(self, config=None):
        super().__init__(config)
        self._pid = os.getpid()

    def put(self, records: Collection[Record]) -> None:
        if os.getpid() == self._pid:
            super().put(records)


@mutant("test_a_child_does_not_wait_for_a_thread_that_was_inside_at_the_fork", slow=True)
class KeepsTheLockOfAParentsThread(SqliteBackend):
    """Has a lock that is not renewed in the child of a fork. If a thread of the parent held it, the child hangs."""

    def __init__(self, config=None):
        super().__init__(config)
        self._plain = threading.Lock()

    def put(self, records: Collection[Record]) -> None:
        with self._plain:
            super().put(list(records))


@mutant("test_what_was_removed_before_a_kill_stays_removed")
class RemovesLaterThanTold(SqliteBackend):
    """Says that a record is removed, and removes it with what the process does next. A kill forgets it."""

    _removed: ClassVar[dict[str, set[str]]] = defaultdict(set)
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def _flush(self) -> None:
        with self._lock:
            ids = self._removed[self._path]
            while ids:
                super().delete(ids.pop())

    def delete(self, id: str) -> bool:
        with self._lock:
            there = id not in self._removed[self._path] and super().get(id) is not None
            if there:
                self._removed[self._path].add(id)
            return there

    def put(self, records: Collection[Record]) -> None:
        self._flush()
        super().put(records)

    def get(self, id: str) -> Record | Damaged | None:
        self._flush()
        return super().get(id)

    def close(self) -> None:
        self._flush()
        super().close()


@mutant("test_a_scratch_leaves_nothing_behind", "test_a_scratch_leaves_nothing_behind_when_its_block_raises")
class ScratchStays(SqliteBackend):
    """Closes a scratch, and forgets its file."""

    @contextmanager
    def scratch(self):
        path = f"{self.config.path}.check_{uuid.uuid4().hex}"
        with closing(type(self)(attrs.evolve(self.config, path=path, create=True))) as scratch:
            yield scratch


@mutant("test_a_read_leaves_no_transaction_open[get]", "test_a_read_leaves_no_transaction_open[tally]")
class ReadsStayOpen(SqliteBackend):
    """Reads in transactions that its driver begins, and ends none of them."""

    def look(self):
        self._reader = sqlite3.connect(self.config.path, isolation_level=None, check_same_thread=False)
        self._reader.execute("BEGIN")
        self._reader.execute("SELECT count(*) FROM pitstop_messages").fetchone()

    def get(self, id):
        self.look()
        return super().get(id)

    def tally(self):
        self.look()
        return super().tally()

    def close(self):
        if hasattr(self, "_reader"):
            self._reader.close()
        super().close()


class _Hint(Watch):
    """Passes the hints of another watch on."""

    def __init__(self, watch: Watch, due) -> None:
        self.pause, self._watch, self._due = watch.pause, watch, due

    def poll(self):
        told = self._watch.poll()
        return None if told is None else self._due()

    def close(self):
        self._watch.close()


@mutant("test_a_watch_hears_a_batch_at_its_earliest_time")
class HintOfTheLatest(SqliteBackend):
    """Gives the latest due of a batch as the hint. A listener sleeps on until then."""

    def watch(self):
        return _Hint(super().watch(), lambda: max(each.progress.due or 0 for each in self.scan(None, 100, None)))


@mutant("test_a_watch_hears_a_message_that_is_released")
class HintsForStoresAlone(SqliteBackend):
    """Gives hints for records that are new. A message that another program releases is noticed late."""

    def watch(self):
        seen = set()

        def news():
            new = [each for each in self.scan(None, 100, None) if each.id not in seen]
            seen.update(each.id for each in new)
            return min((each.progress.due or 0 for each in new), default=None)

        return _Hint(super().watch(), news)


class _OwnConnection(Watch):
    pause = 0.02

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._seen = self._version()

    def _version(self):
        return self._connection.execute("PRAGMA data_version").fetchone()

    def poll(self):
        seen, self._seen = self._seen, self._version()
        return None if seen == self._seen else 0

    def close(self):
        self._connection.close()


@mutant("test_a_watch_does_not_hear_its_own_handle")
class HearsItself(SqliteBackend):
    """Watches by a connection of its own, to which the writes of the handle are those of another program."""

    def watch(self):
        return _OwnConnection(self.config.path)
