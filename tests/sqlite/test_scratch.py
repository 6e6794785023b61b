"""A file beside the store's in which things are tried. It leaves nothing behind, and the store's own file is not written to."""

from __future__ import annotations

import os
import re

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from pitstop import BackendUnavailable
from pitstop_sqlite import SqliteBackend


#: The store's own files while it is open.
OWN = {"pitstop.db", "pitstop.db-wal", "pitstop.db-shm"}


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def use(backend: Any, record: Any, *, fail: bool = False) -> None:
    backend.put([record("a"), record("b")])
    backend.lease(1, 60_000)
    if fail:
        raise ZeroDivisionError


def test_it_is_a_file_beside_the_store_and_nothing_is_left(backend: SqliteBackend, path: Path, record) -> None:
    with backend.scratch() as scratch:
        use(scratch, record)
        (made,) = (each for each in names(path.parent) - OWN if re.fullmatch(r"pitstop\.db\.check-[0-9a-f]{16}", each))
        assert scratch.location.endswith(made)

    assert names(path.parent) == OWN


def test_nothing_is_left_when_something_is_raised_in_it(backend: SqliteBackend, path: Path, record) -> None:
    with pytest.raises(ZeroDivisionError), backend.scratch() as scratch:
        use(scratch, record, fail=True)

    assert names(path.parent) == OWN


def test_the_stores_file_is_not_written_to_so_no_listener_wakes(backend: SqliteBackend, open_backend, record) -> None:
    watch = open_backend().watch()
    while watch.poll() is not None:
        pass
    with backend.scratch() as scratch:
        use(scratch, record)

    assert watch.poll() is None


def test_it_has_the_options_of_the_store(open_backend) -> None:
    backend = open_backend(synchronous="normal", busy_timeout="3s")
    with backend.scratch() as scratch, scratch._database.lock, scratch._database as connection:
        assert connection.execute("PRAGMA synchronous").fetchone() == (1,)
        assert connection.patience == 3


def test_behind_a_link_it_is_on_the_disk_of_the_file_itself(tmp_path: Path, open_backend, record) -> None:
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link.db"
    link.symlink_to(real / "pitstop.db")
    with open_backend(path=link).scratch() as scratch:
        use(scratch, record)
        assert any(each.startswith("pitstop.db.check-") for each in names(real))
    assert names(real) == OWN
    assert names(tmp_path) == {"real", "link.db"}


def test_a_folder_in_which_no_file_can_be_made_is_told(
    shared_folder: Path, as_nobody: AbstractContextManager[None], open_backend
) -> None:
    path = shared_folder / "pitstop.db"
    shared_folder.chmod(0o777)
    with as_nobody():
        backend = open_backend(path=path)
    shared_folder.chmod(0o555)
    with as_nobody(), pytest.raises(BackendUnavailable) as caught, backend.scratch():
        pass
    text = str(caught.value)
    assert text.startswith("A file beside the store, in which things can be tried, cannot be made: ")
    assert "Let this user read and write the file and its folder" in text


def test_one_that_cannot_be_deleted_is_told_with_its_name(backend: SqliteBackend, path: Path, monkeypatch) -> None:
    def refused(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", os.fspath(self))

    with pytest.raises(BackendUnavailable) as caught, backend.scratch() as scratch:
        monkeypatch.setattr(Path, "unlink", refused)
    assert str(caught.value) == (
        f"{scratch._path!r}, which was made to try things in, cannot be deleted (Permission denied). Delete it by hand, "
        f"together with the files beside it whose names begin with its name; it holds none of the store's messages."
    )
