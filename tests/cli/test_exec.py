"""``pitstop listen --exec``: messages that cannot be given to a command, and commands that cannot be started."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess

from datetime import timedelta

import pytest

import pitstop

from pitstop.cli import _command


NOW = timedelta(0)
WORKERS = pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one", "workers"])


@pytest.fixture
def as_id(monkeypatch):
    """Give the deliveries of the message "bad" another id and key, as for a record of another program."""

    def show_as(id):
        for name in ("id", "key"):
            shown = getattr(pitstop.Delivery, name)

            def other(self, shown=shown):
                found = shown.fget(self)
                return found.replace("bad", id)

            monkeypatch.setattr(pitstop.Delivery, name, property(other))

    return show_as


@WORKERS
@pytest.mark.parametrize(("id", "reason"), [("ba\0d", "a NUL character"), ("ba\ud800d", "a lone surrogate")])
def test_an_id_that_no_environment_can_hold_is_nacked_with_the_reason_and_the_others_go_on(
    invoke, pit, as_id, tmp_path, workers, id, reason
):
    as_id(id)
    for name in ("bad", "good", "later"):
        pit.store({"id": name}, NOW)
    result = invoke("listen", "--once", *workers, "--exec", f"echo $PITSTOP_ID >> {tmp_path}/handled")
    assert result.exit_code == 0
    assert sorted((tmp_path / "handled").read_text().split()) == ["good", "later"]
    (left,) = pit.entries()
    assert (left.id, left.state) == ("bad", "scheduled")
    assert left.last_error == (
        f"the command was not started: the id holds {reason}, which no environment variable can hold. "
        f"Handle the message in Python, or store it under another id."
    )
    assert f"Failed: {id!r} attempt 1: the command was not started" in result.stderr


def test_a_record_of_another_program_with_nul_in_its_id_stops_nothing_and_is_kept(invoke, pit, tmp_path):
    for name in ("bad", "good"):
        pit.store({"id": name}, NOW)
    with sqlite3.connect(tmp_path / "test.db") as database:
        database.execute("update pitstop_messages set id = ? where id = 'bad'", ("ba\0d",))
    database.close()
    result = invoke("listen", "--once", "--exec", f"echo $PITSTOP_ID >> {tmp_path}/handled")
    assert result.exit_code == 0
    assert (tmp_path / "handled").read_text() == "good\n"
    (left,) = pit.entries()
    assert left.id == "ba\0d"
    assert "NUL" in left.last_error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("", b""),
        ("a\0b", b"a\\x00b"),
        ("a\ud800b", b"a\\ud800b"),
        ("Zoë", "Zoë".encode()),
        ("y" * 16_384, b"y" * 16_384),
        ("y" * 200_000, b"y" * 16_381 + "…".encode()),
        ("ë" * 10_000, "ë".encode() * 8_190 + "…".encode()),
        ("\0" * 16_384, b"\\x00" * 4_095 + b"\\" + "…".encode()),
    ],
    ids=["none", "NUL", "surrogate", "UTF-8", "all that fits", "too long", "not in a character", "longer when escaped"],
)
def test_a_last_error_is_made_to_fit_the_environment(invoke, pit, tmp_path, monkeypatch, error, told):
    """The last error is only information. A message is handled even if that error is long or odd."""
    monkeypatch.setattr(pitstop.Delivery, "last_error", property(lambda self: error or None))
    pit.store({"id": "a"}, NOW)
    result = invoke("listen", "--once", "--exec", f'printf %s "$PITSTOP_LAST_ERROR" > {tmp_path}/told')
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / "told").read_bytes() == told
    assert pit.entries() == []


def test_ids_are_utf8_in_the_environment_whatever_the_locale(spawn, pit, tmp_path):
    pit.store({"id": "Zoë €"}, NOW)
    environment = {**os.environ, "PITSTOP_URL": pit._session.location, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    process = spawn(
        "listen", "--once", "--exec", f'printf %s "$PITSTOP_ID" > {tmp_path}/id', env={**environment, "PYTHONUTF8": "0"}
    )
    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert (tmp_path / "id").read_text(encoding="utf-8") == "Zoë €"


@WORKERS
@pytest.mark.parametrize("command", ["", "  \n"])
def test_an_empty_command_is_refused_and_acknowledges_nothing(invoke, pit, workers, command):
    """The variable that had it is unset. A shell would do nothing, and succeed."""
    pit.store({"id": "a"})
    result = invoke("listen", "--once", *workers, "--exec", command)
    assert result.exit_code == 2
    assert "'--exec': It is empty. Is a variable of the shell unset?" in result.stderr
    assert pit.get("a").state == "due"


@WORKERS
@pytest.mark.parametrize(
    ("number", "said"),
    [
        (
            errno.E2BIG,
            "Argument list too long. Make the environment of 'pitstop listen', the command or the id shorter.",
        ),
        (errno.EAGAIN, "Resource temporarily unavailable"),
        (errno.ENOMEM, "Cannot allocate memory"),
        (errno.EMFILE, "Too many open files"),
        (errno.ENOENT, "No such file or directory"),
    ],
)
def test_a_command_that_cannot_be_started_is_a_failure_of_its_message(invoke, pit, monkeypatch, workers, number, said):
    begin, tries = subprocess.Popen, []

    def start(*args, **options):
        tries.append(options["env"][b"PITSTOP_ID"])
        if tries[-1] == b"a":
            raise OSError(number, os.strerror(number), "/bin/sh")
        return begin(*args, **options)

    monkeypatch.setattr(_command.subprocess, "Popen", start)
    for id in "abc":
        pit.store({"id": id}, NOW)
    result = invoke("listen", "--once", *workers, "--exec", "true")
    assert result.exit_code == 0
    assert sorted(tries) == [b"a", b"b", b"c"]
    (left,) = pit.entries()
    assert (left.id, left.last_error) == ("a", f"the command could not be started: {said}")


def test_an_environment_beyond_the_kernels_limit_is_a_failure_of_each_message(spawn, pit):
    """The test sets so many variables that there is no room for those of a message."""
    # Whatever the limit of the stack is, Linux takes at most 6 MiB.
    limit, part = min(os.sysconf("SC_ARG_MAX"), 6 << 20), 60_000
    pit.store_many([({"id": f"{n:03}" + "x" * 500}, NOW) for n in range(3)])
    # As much as the command itself can just be given.
    filler = {f"FILLER_{number}": "x" * part for number in range(limit // part - 1)}
    filler["REST"] = "x" * (part + limit % part)
    process = None
    while process is None:
        try:
            process = spawn(
                "listen", "--once", "--exec", "true", env={"PITSTOP_URL": pit._session.location, "HOME": "/", **filler}
            )
        except OSError as error:
            assert error.errno == errno.E2BIG
            filler["REST"] = filler["REST"][:-256]
    _, said = process.communicate()
    assert process.returncode == 0
    assert said.count("Failed: ") == 3
    (error,) = {entry.last_error for entry in pit.entries()}
    assert error.startswith("the command could not be started: Argument list too long. Make the environment")


def test_it_goes_on_in_a_folder_that_is_gone(spawn, pit, tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    process = spawn("listen", "--json", "--exec", "cat > /dev/null", cwd=folder)
    folder.rmdir()
    pit.store({"id": "a"}, NOW)
    assert '"outcome":"acked"' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0


def test_a_process_left_behind_that_floods_stderr_does_not_keep_its_message(invoke, pit, monkeypatch):
    """After the end of the command, no more of its stderr is read than a pipe holds."""
    reads = []

    def read(pipes):
        if pipes._child.returncode is not None:
            reads.append(pipes)
        assert len(reads) < 1000, "it reads without end"
        return 1 << 16

    monkeypatch.setattr(_command._Pipes, "_listen", read)
    pit.store({"id": "a"}, NOW)
    assert invoke("listen", "--once", "--exec", "true").exit_code == 0
    assert reads
    assert pit.entries() == []


@WORKERS
def test_a_stderr_that_takes_nothing_ends_no_command(spawn, pit, tmp_path, workers):
    """The disk of the log is full: the messages are handled nevertheless, and the reasons are kept with them."""
    for id in "abc":
        pit.store({"id": id}, NOW)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        process = spawn("listen", "--once", *workers, "--exec", "echo oh >&2; test $PITSTOP_ID != a", stderr=full)
        assert process.wait() == 0
    assert [(entry.id, entry.last_error) for entry in pit.entries()] == [("a", "exit code 1: oh")]
