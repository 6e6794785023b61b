"""The particular traits of a folder: other users of it, files that they leave there, and errors if it cannot be used."""

from __future__ import annotations

import fcntl
import os
import shutil

from pathlib import Path

import pytest

import pitstop

from pitstop.abc import AllBut, Outcome, Progress, Record, Settlement
from pitstop_filesystem import FilesystemBackend, FilesystemConfig


def record(id, due=1):
    return Record(id, {"secret": "s3cr3t"}, None, f"revision of {id}", Progress(due, 1))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def backend(path):
    return FilesystemBackend.from_options({"path": path, "sync": False, "busy_timeout": "10ms"})


def test_a_folder_that_another_process_holds_is_unavailable_and_then_not(backend, path):
    with (path / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(pitstop.BackendUnavailable, match=r"is locked: .* for 0\.01 s \(busy_timeout\)"):
            backend.put([record("a")])

    backend.put([record("a")])
    assert backend.get("a") == record("a")


def test_an_id_that_stands_for_no_bytes_keeps_no_search_from_the_others(path):
    r"""JSON can write any surrogate, as in ``\ud800``. Such an id has no place in the order of ids."""
    with pitstop.init({"type": "filesystem", "path": path, "sync": False}) as pit:
        pit.store_many([({"id": f"a{n}"}, "1h") for n in range(3)])
        damaged = next(each for each in (path / "messages").iterdir() if b'"a1"' in each.read_bytes())
        damaged.write_bytes(damaged.read_bytes().replace(b'"a1"', rb'"a\ud800"'))

        assert [each.id for each in pit.entries(prefix="a")] == ["a0", "a2"]
        page = pit.entries(limit=2)
        assert [each.id for each in page] == ["a0", "a2"]
        assert pit.entries(after=page[-1]) == []
        assert pit.remove_many(prefix="a") == 2


def test_a_folder_that_is_gone_is_unavailable(backend, path):
    shutil.rmtree(path)

    with pytest.raises(pitstop.BackendUnavailable, match="No such file or directory"):
        backend.next_due()


@pytest.mark.parametrize(
    "name", ["README", "1-2-3-key", "0-0-0-0-0", f"{10**15 - 1:015}-{1:015}-0-key", "dead-x-0-key"]
)
def test_a_file_of_another_program_is_left_alone(backend, path, name):
    backend.put([record("a")])
    (path / "messages" / name).write_text("not ours")

    assert [each.id for each in backend.lease(10, 1000)] == ["a"]
    assert (path / "messages" / name).read_text() == "not ours"
    assert sum(vars_of(backend.tally())) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": 5}'])
def test_a_file_without_a_readable_id_is_set_aside_and_the_others_go_on(backend, path, caplog, content):
    backend.put([record("a"), record("b")])
    (spoiled,) = [each for each in (path / "messages").iterdir() if '"a"' in each.read_text()]
    spoiled.write_text(content)

    assert [each.id for each in backend.lease(1, 1000)] == ["b"]
    assert [each.read_text() for each in (path / "unreadable").iterdir()] == [content]
    assert backend.get("a") is None
    assert caplog.messages == [f"{spoiled.name} cannot be read and was moved to {path / 'unreadable'}"]
    backend.put([record("a")])
    assert backend.get("a") == record("a")


def test_a_file_without_a_readable_id_is_of_no_kind(backend, path):
    """A claim that names kinds leaves it. A claim of all but some kinds sets it aside."""
    backend.put([record("a"), record("b")])
    (spoiled,) = [each for each in (path / "messages").iterdir() if '"a"' in each.read_text()]
    spoiled.write_text("{")

    assert [each.id for each in backend.lease(1, 1000, [""])] == ["b"]
    assert backend.next_due(["", "mail"]) != 1
    assert spoiled.exists()
    assert backend.next_due(AllBut([""])) == 1
    assert backend.lease(1, 1000, AllBut([""])) == []
    assert backend.next_due(AllBut([""])) is None
    assert not spoiled.exists()


@pytest.mark.parametrize(("failing", "error"), [(1, pitstop.BackendUnavailable), (2, pitstop.OutcomeUnknown)])
def test_a_write_that_fails_says_whether_something_was_changed(path, monkeypatch, failing, error):
    backend = FilesystemBackend.from_options({"path": path})
    synced = []

    def full(file):
        synced.append(file)
        if len(synced) == failing:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(pitstop.BackendUnavailable, match="No space left on device") as raised:
        backend.put([record("a"), record("b")])

    assert type(raised.value) is error
    assert "s3cr3t" not in str(raised.value)
    assert getattr(raised.value, "ids", ()) == (("a", "b") if failing == 2 else ())
    assert [each.id for each in backend.scan(None, 10, None)] == ["a", "b"][: failing - 1]


@pytest.mark.parametrize("operation", ["lease", "settle"])
def test_a_claim_or_an_ack_that_fails_half_way_says_about_which_messages(path, monkeypatch, operation):
    backend = FilesystemBackend.from_options({"path": path, "sync": False})
    backend.put([record("a"), record("b"), record("c")])
    leased = [] if operation == "lease" else backend.lease(2, 60_000)
    stale = Settlement("c", "stale", Outcome.COMPLETE, None)
    acks = [stale, *(Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased)]

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(pitstop.OutcomeUnknown, match="Read-only file system") as raised:
        backend.lease(2, 60_000) if operation == "lease" else backend.settle(acks)

    assert raised.value.ids == ("a", "b")


def test_a_scratch_is_in_no_listing_and_gone_at_the_end(backend, path):
    backend.put([record("a")])
    before = sorted(path.iterdir())

    with backend.scratch() as scratch:
        scratch.put([record("b")])
        (made,) = set(path.iterdir()) - set(before)
        assert made.name.startswith("check-")
        assert [each.id for each in backend.scan(None, 10, None)] == ["a"]

    assert sorted(path.iterdir()) == before


def test_a_scratch_that_cannot_be_made_or_taken_away_is_told(backend, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", full)
        with pytest.raises(pitstop.BackendUnavailable) as raised:
            backend.scratch().__enter__()
    assert "in which things can be tried, cannot be made: " in str(raised.value)
    assert "No space left on device" in str(raised.value)

    with monkeypatch.context() as patched, pytest.raises(pitstop.BackendUnavailable) as raised, backend.scratch():
        patched.setattr(shutil, "rmtree", full)
    assert "cannot be deleted: No space left on device. Delete it by hand" in str(raised.value)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "path is missing"),
        ({"path": ""}, "cannot name a folder"),
        ({"path": 5}, "path=5 is a int"),
        ({"path": "x", "sync": "maybe"}, "sync='maybe' is neither true nor false"),
        ({"path": "x", "sync": 1.5}, "sync=1.5 is neither"),
        ({"url": "filesystem://host/x"}, "three slashes"),
        ({"url": "filesystem:///"}, "three slashes"),
        ({"url": "filesystem:///x#y"}, "%23"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_used_is_told_by_its_name(options, text):
    with pytest.raises(pitstop.ConfigError, match=text):
        FilesystemConfig.from_options(options)


def test_a_path_that_cannot_be_a_folder_is_told(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(pitstop.ConfigError, match=r"path=.* cannot be used: .* Give a folder"):
        FilesystemBackend.from_options({"path": tmp_path / "file"})
    with pytest.raises(pitstop.ConfigError, match=r"path=.* cannot be used: No such file .* if its parent is there"):
        FilesystemBackend.from_options({"path": tmp_path / "no" / "such"})


def test_a_folder_that_is_not_there_is_not_made_if_none_is_to_be(tmp_path):
    with pytest.raises(pitstop.ConfigError, match=r"There is no store in .*, and none is made here \(create=False\)"):
        FilesystemBackend.from_options({"path": tmp_path / "new", "create": False})
    assert not list(tmp_path.iterdir())
    FilesystemBackend.from_options({"path": tmp_path / "new"}).close()
    backend = FilesystemBackend.from_options({"path": tmp_path / "new", "create": False})
    with backend.scratch() as scratch:
        scratch.put([record("a")])


def test_the_location_can_be_used_as_url(tmp_path):
    backend = FilesystemBackend.from_options({"path": tmp_path / "with space & ü", "sync": False})

    again = FilesystemBackend.from_options({"url": f"{backend.location}?sync=false&lock_time=5m"})

    assert again.location == backend.location
    backend.put([record("a")])
    assert again.get("a") == record("a")


def vars_of(tally):
    return (tally.scheduled, tally.due, tally.leased, tally.dead)
