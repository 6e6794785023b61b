"""One file under one name, which is the file that was opened. All else is refused, or noticed before a store is confirmed."""

from __future__ import annotations

import os
import sys

from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

import pitstop

from pitstop import BackendUnavailable, ConfigError
from pitstop.abc import Outcome, Settlement
from pitstop_sqlite import _file
from pitstop_sqlite._file import DatabaseFile


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows deletes and replaces no file that is open")

LATER = timedelta(hours=1)


def ids(backend):
    return sorted(each.id for each in backend.scan(None, 100, None))


class TestNames:
    def test_a_file_with_a_second_name_is_refused_and_left_alone(self, path, tmp_path, open_backend, record):
        open_backend().put([record("a")])
        open_backend().close()
        os.link(path, tmp_path / "second.db")
        before = path.read_bytes()
        for each in (path, tmp_path / "second.db"):
            with pytest.raises(
                ConfigError, match=r"has 2 names \(hard links\)\. SQLite would keep a log for each name"
            ) as caught:
                open_backend(path=each)
            assert str(each) in str(caught.value)
        assert path.read_bytes() == before

    def test_a_second_name_that_came_later_is_noticed_by_ping_and_named_by_check(self, path, tmp_path, open_backend):
        backend = open_backend()
        backend.ping()
        os.link(path, tmp_path / "second.db")
        with pytest.raises(BackendUnavailable, match=r"cannot be used any more: it has 2 names"):
            backend.ping()
        assert any("it has 2 names" in each for each in backend.concerns())
        (tmp_path / "second.db").unlink()
        backend.ping()

    def test_links_lead_to_one_log(self, path, tmp_path, open_backend, record):
        """SQLite names the log after the real file."""
        (tmp_path / "link.db").symlink_to(path)
        (tmp_path / "folder").symlink_to(tmp_path)
        by_link, by_folder = open_backend(path=tmp_path / "link.db"), open_backend(path=tmp_path / "folder" / "link.db")
        by_link.put([record("a")])
        by_folder.put([record("b")])
        assert ids(by_link) == ids(by_folder) == ids(open_backend()) == ["a", "b"]
        assert sum(each.name.endswith("-wal") for each in tmp_path.iterdir()) == 1

    @pytest.mark.parametrize("name", ["pitstop.db", "with space\tand\\.db"])
    def test_a_file_that_is_mounted_alone_is_refused(self, tmp_path, open_backend, monkeypatch, name):
        """A container has such a mount if it was given the file and not the folder."""
        path = tmp_path / name
        open_backend(path=path).close()
        escaped = str(path).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
        mounts = tmp_path / "mountinfo"
        mounts.write_text(f"36 35 98:0 / / rw - ext4 /dev/root rw\n37 36 98:0 /x {escaped} rw - ext4 /dev/root rw\n")
        monkeypatch.setattr(_file, "_MOUNTS", str(mounts))
        with pytest.raises(ConfigError, match=r"the file itself is mounted\. .* Mount the folder"):
            open_backend(path=path)
        open_backend(path=tmp_path / "other.db")


WORK = {
    "put": lambda backend, make, leased: backend.put([make("x")]),
    "put_many": lambda backend, make, leased: backend.put([make("x"), make("y")]),
    "delete": lambda backend, make, leased: backend.delete("a"),
    "lease": lambda backend, make, leased: backend.lease(1, 1000),
    "settle": lambda backend, make, leased: backend.settle(leased[:1]),
    "settle_many": lambda backend, make, leased: backend.settle(leased),
    "ping": lambda backend, make, leased: backend.ping(),
}


@pytest.fixture
def leased(backend, record):
    backend.put([record(each) for each in "abcd"])
    return [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in backend.lease(3, 60_000)]


@pytest.mark.parametrize("work", WORK.values(), ids=list(WORK))
class TestGone:
    def test_a_file_that_was_deleted_is_noticed_before_anything_is_confirmed(self, path, backend, record, leased, work):
        path.unlink()
        with pytest.raises(BackendUnavailable, match=r"was deleted or moved while it was in use.*Put the file back"):
            work(backend, record, leased)
        with pytest.raises(BackendUnavailable, match="no empty file is made in its place"):
            backend.get("a")
        assert not path.exists(), "an empty file hides that the messages are gone"

    def test_an_empty_one_in_its_place_is_not_taken_for_the_store(self, path, backend, record, leased, work):
        path.rename(path.with_name("moved.db"))
        path.touch()
        with pytest.raises(BackendUnavailable, match="was replaced while it was in use"):
            work(backend, record, leased)
        for each in path.parent.glob(f"{path.name}-*"):
            each.unlink()
        with pytest.raises(BackendUnavailable, match="was replaced by a file without Pitstop's tables"):
            backend.get("a")

    def test_one_that_was_moved_and_is_put_back_is_used_again(self, path, backend, record, leased, work):
        path.rename(path.with_name("moved.db"))
        with pytest.raises(BackendUnavailable, match="was deleted or moved"):
            work(backend, record, leased)
        path.with_name("moved.db").rename(path)
        assert {"a", "d"} & set(ids(backend))
        backend.put([record("z")])
        assert backend.get("z") is not None

    def test_one_that_was_replaced_is_noticed_and_the_new_one_is_used_then(
        self, path, backend, open_backend, record, leased, work
    ):
        new = open_backend(path=path.with_name("new.db"))
        new.put([record("n")])
        new.close()
        for end in ("-wal", "-shm"):
            # Otherwise SQLite would take these files for those of the new database.
            path.with_name(path.name + end).unlink()
        path.with_name("new.db").rename(path)
        other = open_backend()
        other.put([record("o")])
        with pytest.raises(
            BackendUnavailable, match=r"was replaced while it was in use.*The next call uses the new file"
        ):
            work(backend, record, leased)
        assert ids(backend) == ids(other) == ["n", "o"]
        assert path.with_name("pitstop.db-wal").exists(), "the end of the old database deleted the log of the new one"
        backend.put([record("p")])
        other.close()
        backend.close()
        assert ids(open_backend()) == ["n", "o", "p"]


def test_a_listener_with_nothing_to_do_notices_that_the_file_is_gone(path, backend):
    path.unlink()
    with pytest.raises(BackendUnavailable, match="was deleted or moved"):
        backend.lease(1, 1000)


@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("first", [True, False], ids=["at first", "again"])
def test_one_that_goes_while_it_is_being_opened_is_noticed_and_not_written_to(
    path, open_backend, record, monkeypatch, how, first
):
    open_backend().close()
    open_backend(path=path.with_name("new.db")).close()
    protect, backend = DatabaseFile.protect, None if first else open_backend()

    def too_late(file):
        path.unlink()
        if how == "replaced":
            path.with_name("new.db").rename(path)
        protect(file)

    if backend is not None:
        backend._database.rest(1)
    monkeypatch.setattr(DatabaseFile, "protect", too_late)
    with pytest.raises(BackendUnavailable, match="was deleted or replaced while it was being opened"):
        open_backend() if backend is None else backend.put([record("a")])
    monkeypatch.undo()
    if how == "replaced":
        again = open_backend() if backend is None else backend
        again.put([record("b")])
        assert ids(open_backend()) == ["b"]


def test_a_closed_handle_leaves_the_log_of_a_new_file_alone(path, backend, open_backend, record):
    backend.put([record("a")])
    path.unlink()
    path.with_name("pitstop.db-wal").unlink()
    path.with_name("pitstop.db-shm").unlink()
    new = open_backend()
    new.put([record("n")])
    backend.close()
    assert path.with_name("pitstop.db-wal").exists()
    new.put([record("o")])
    assert ids(open_backend()) == ["n", "o"]


def test_files_that_can_no_longer_be_checked_are_used_as_before(shared_folder, open_backend, record, as_nobody):
    """A program may open its files and then give up its rights."""
    backend = open_backend(path=shared_folder / "x.db")
    shared_folder.chmod(0o700)
    with as_nobody():
        backend.put([record("a")])
        backend.ping()
    assert ids(backend) == ["a"]


class TestCreate:
    @pytest.mark.parametrize("given", [{"create": False}, {"create": "false"}])
    def test_no_file_is_made_if_none_is_to_be(self, path, open_backend, given):
        with pytest.raises(
            ConfigError, match=r"There is no file .*pitstop\.db', and none is made here \(create=False\)"
        ):
            open_backend(**given)
        assert not list(path.parent.iterdir())

    def test_one_that_is_there_is_opened(self, path, open_backend, record):
        open_backend().put([record("a")])
        assert ids(open_backend(create=False)) == ["a"]
        with open_backend(create=False).scratch() as scratch:
            scratch.put([record("b")])

    def test_one_that_is_no_store_is_left_alone(self, path, open_backend):
        path.touch()
        with pytest.raises(ConfigError, match="does not have Pitstop's tables, and none are made here"):
            open_backend(create=False)
        assert path.stat().st_size == 0


@contextmanager
def umask(mask):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def permissions(folder: Path) -> dict[str, int]:
    return {each.name: each.stat().st_mode & 0o777 for each in folder.iterdir()}


class TestMode:
    @pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
    @pytest.mark.parametrize("mode", [0o600, 0o660, 0o664])
    def test_a_file_that_is_made_has_it_whatever_the_umask_is_and_so_have_those_beside_it(
        self, path, open_backend, record, mode, mask
    ):
        with umask(mask):
            open_backend(mode=mode).put([record()])
        assert permissions(path.parent) == dict.fromkeys(["pitstop.db", "pitstop.db-shm", "pitstop.db-wal"], mode)

    def test_without_it_the_umask_decides(self, path, open_backend):
        with umask(0o027):
            open_backend()
        assert set(permissions(path.parent).values()) == {0o640}

    def test_a_file_that_is_there_keeps_its_own(self, path, open_backend):
        with umask(0o022):
            open_backend().close()
        open_backend(mode="0600")
        assert set(permissions(path.parent).values()) == {0o644}

    def test_it_is_there_before_anything_is_written_and_never_more(self, path, open_backend, monkeypatch):
        made = os.open
        seen = []

        def spy(file, flags, mode=0o777, **options):
            descriptor = made(file, flags, mode, **options)
            if os.fspath(file) == str(path) and flags & os.O_CREAT:
                seen.append((bool(flags & os.O_EXCL), os.fstat(descriptor).st_mode & 0o777))
            return descriptor

        monkeypatch.setattr(os, "open", spy)
        with umask(0):
            open_backend(mode="0600")
        assert seen == [(True, 0o600)]

    def test_a_file_that_another_process_made_in_the_meantime_is_used(self, path, open_backend, record, monkeypatch):
        def too_late(file, mode):
            path.touch()
            raise FileExistsError

        monkeypatch.setattr(_file, "make_file", too_late)
        open_backend(mode="0600").put([record()])

    def test_a_url_says_it(self, path):
        with pitstop.init(f"sqlite:///{path}?mode=0600") as pit:
            pit.store({}, LATER)
        assert permissions(path.parent) == {"pitstop.db": 0o600}
