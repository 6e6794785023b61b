"""The log stays while the file is in use, whatever else the program does with the database's files."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import sqlite3
import sys
import threading

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

import pitstop

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop_sqlite import _descriptors


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Other systems have no locks of open file descriptions")

LATER = timedelta(hours=1)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def look(path: Path, start_child) -> str:
    (seen,) = start_child("look", path).finish()
    return seen


def open_descriptors(path: Path) -> int:
    """Return how many descriptors of this process are on files of the database."""
    return sum(os.path.realpath(each).startswith(str(path)) for each in Path("/proc/self/fd").iterdir())


def descriptors_on(key: tuple[int, int]) -> set[int]:
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            status = os.fstat(int(each.name))
            if (status.st_dev, status.st_ino) == key:
                found.add(int(each.name))
    return found


def read_all(folder: Path) -> None:
    """Open and close each file, like a checksum or a copy of the whole folder."""
    for each in folder.iterdir():
        each.read_bytes()


@pytest.mark.parametrize("handles", [1, 2])
def test_a_program_that_reads_its_own_files_keeps_the_log(path, start_child, handles):
    """Closing a descriptor drops all POSIX locks of a process on that file, including SQLite's."""
    pits = [pitstop.init({"type": "sqlite", "path": path}) for _ in range(handles)]
    pits[-1].store({"id": "a"}, LATER)
    for each in pits[:-1]:
        each.close()

    read_all(path.parent)
    assert look(path, start_child) == "a"
    assert names(path.parent) == ["pitstop.db", "pitstop.db-shm", "pitstop.db-wal"]
    read_all(path.parent)
    pits[-1].store({"id": "b"}, LATER)

    assert look(path, start_child) == "a b"
    pits[-1].close()
    assert names(path.parent) == ["pitstop.db"], "the last connection to close did not delete the log"


def test_a_copy_of_the_folder_while_it_is_in_use_costs_nothing(path, tmp_path_factory, start_child):
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        for number in range(3):
            pit.store({"id": f"{number}"}, LATER)
            shutil.copytree(path.parent, tmp_path_factory.mktemp("copy") / "of")
            assert look(path, start_child) == " ".join(f"{each}" for each in range(number + 1))


def test_closing_leaves_the_locks_of_the_programs_own_connections(path, start_child):
    """The end of a Pitstop does not drop the write lock of the program's own transaction on the same file."""
    pit = pitstop.init({"type": "sqlite", "path": path})
    pit.store({"id": "a"}, LATER)
    with closing(sqlite3.connect(path, isolation_level=None)) as own:
        own.execute("BEGIN IMMEDIATE")
        pit.close()
        assert start_child("write_at_once", path).finish() == ["database is locked"]
        own.execute("COMMIT")
        assert start_child("write_at_once", path).finish() == ["free"]
        assert look(path, start_child) == "a"


def test_descriptors_are_given_back(path):
    for _ in range(5):
        pits = [pitstop.init({"type": "sqlite", "path": path}) for _ in range(3)]
        for each in pits:
            each.close()
    assert open_descriptors(path) == 0


def test_descriptors_that_have_to_wait_for_a_connection_of_the_programs_own_are_used_again(path):
    with pitstop.init({"type": "sqlite", "path": path}), closing(sqlite3.connect(path)) as own:
        own.execute("SELECT count(*) FROM pitstop_messages").fetchone()
        with pitstop.init({"type": "sqlite", "path": path}):
            at_first = open_descriptors(path)
        for _ in range(5):
            with pitstop.init({"type": "sqlite", "path": path}):
                assert open_descriptors(path) == at_first
    with pitstop.init({"type": "sqlite", "path": path}):
        pass
    assert open_descriptors(path) == 0


def test_no_descriptor_is_closed_while_another_thread_opens_the_file(path, monkeypatch):
    """Closing it would drop the locks that SQLite has just taken for the other thread."""
    open_elsewhere, close = _descriptors._open_elsewhere, _descriptors._close
    begun, opened, dropped = threading.Event(), threading.Event(), []

    def open_another():
        begun.set()
        with pitstop.init({"type": "sqlite", "path": path}):
            opened.set()

    other = threading.Thread(target=open_another)

    def slow():
        found = open_elsewhere()
        if not begun.is_set():
            other.start()
            opened.wait(0.3)
        return found

    def closing_one(file):
        dropped.append(bool(descriptors_on(file.key) - set(file.descriptors)))
        close(file)

    monkeypatch.setattr(_descriptors, "_open_elsewhere", slow)
    monkeypatch.setattr(_descriptors, "_close", closing_one)
    pitstop.init({"type": "sqlite", "path": path}).close()
    other.join()
    assert dropped
    assert not any(dropped)
    assert open_descriptors(path) == 0


class TestWithoutSuchLocks:
    """As on macOS, a deleted log is noticed."""

    @pytest.fixture(autouse=True)
    def _unsupported(self, monkeypatch):
        monkeypatch.setattr(_descriptors, "_SUPPORTED", False)

    def test_an_unknown_outcome_names_the_ids_and_all_is_there_when_they_are_stored_again(self, path, start_child):
        with pitstop.init({"type": "sqlite", "path": path}) as pit:
            pit.store({"id": "a"}, LATER)
            path.read_bytes()
            assert look(path, start_child) == "a"
            with pytest.raises(OutcomeUnknown, match="was deleted while it was in use") as caught:
                pit.store_many([({"id": "b"}, LATER), ({"id": "c"}, LATER)])
            assert caught.value.ids == ("b", "c")
            pit.store_many([({"id": "b"}, LATER), ({"id": "c"}, LATER)])
            pit.store({"id": "d"}, LATER)
            assert look(path, start_child) == "a b c d"
        assert look(path, start_child) == "a b c d"
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_the_content_of_a_log_that_was_deleted_by_hand_is_written_back(path, start_child):
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        pit.store({"id": "before"}, LATER)
        path.with_name("pitstop.db-wal").unlink()
        with pytest.raises(OutcomeUnknown, match="was deleted while it was in use"):
            pit.store({"id": "then"}, LATER)
        pit.store({"id": "after"}, LATER)
    assert look(path, start_child) == "after before then"


def test_no_new_log_is_begun_while_others_write_to_the_one_that_was_deleted(open_backend, path, record):
    backend, other = open_backend(), open_backend()
    backend.put([record("a")])
    path.with_name("pitstop.db-wal").unlink()
    with pytest.raises(OutcomeUnknown, match="was deleted while it was in use"):
        backend.put([record("b")])
    with pytest.raises(BackendUnavailable, match=r"others still use the file\. Stop all programs"):
        backend.put([record("c")])
    with pytest.raises(OutcomeUnknown, match="was deleted while it was in use"):
        other.put([record("d")])
    backend.put([record("e")])
    backend.close()
    other.put([record("f")])
    assert sorted(each.id for each in other.scan(None, 10, None)) == ["a", "b", "d", "e", "f"]


# Python 3.13 warns of a connection that was not closed. This test leaves one open on purpose.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_end_of_a_handle_that_was_forgotten_deletes_the_log(path, open_backend, record):
    backend = open_backend()
    backend.put([record("a")])
    backend._database._connection = None
    gc.collect()
    assert names(path.parent) == ["pitstop.db"]
