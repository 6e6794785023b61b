"""The warnings of ``pitstop check`` about a store in which nothing is broken."""

from __future__ import annotations

import sqlite3
import sys

import pytest


@pytest.fixture
def fixed(monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))


@pytest.mark.parametrize(("version", "affected"), [((3, 51, 2), 1), ((3, 51, 3), 0)])
def test_a_version_with_the_bug_of_the_log_is_told(backend, monkeypatch, version, affected):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    monkeypatch.setattr(sqlite3, "sqlite_version", ".".join(map(str, version)))
    told = [each for each in backend.concerns() if "rare bug" in each]
    assert len(told) == affected
    assert all(each.startswith("SQLite 3.51.2 has a rare bug") for each in told)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
@pytest.mark.usefixtures("fixed")
class TestPermissions:
    @pytest.fixture
    def backend(self, shared_folder, open_backend):
        return open_backend(path=shared_folder / "x.db", mode="0600")

    def test_a_file_of_the_owners_alone_is_fine(self, backend):
        assert backend.concerns() == []

    @pytest.mark.parametrize(("mode", "may"), [(0o644, "read"), (0o602, "change"), (0o666, "read and change")])
    def test_a_file_that_everybody_can_read_or_change(self, backend, shared_folder, mode, may):
        (shared_folder / "x.db").chmod(mode)
        (told,) = backend.concerns()
        assert told.startswith(
            f"Every user of this machine can {may} the messages: the permissions of '{shared_folder}/x.db' are {mode:04o}."
        )
        assert "'chmod o= x.db*'" in told

    def test_a_file_of_a_group_is_the_groups(self, backend, shared_folder):
        (shared_folder / "x.db").chmod(0o660)
        assert backend.concerns() == []

    def test_a_file_in_a_folder_that_no_other_user_can_enter_is_fine(self, backend, shared_folder):
        (shared_folder / "x.db").chmod(0o666)
        shared_folder.chmod(0o770)
        assert backend.concerns() == []

    def test_a_folder_in_which_everybody_can_replace_the_file(self, backend, shared_folder):
        shared_folder.chmod(0o777)
        (told,) = backend.concerns()
        assert told.startswith("Every user of this machine can delete or replace the file: ")
        shared_folder.chmod(0o1777)
        assert backend.concerns() == []
