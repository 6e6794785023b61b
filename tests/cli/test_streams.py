"""Standard streams that are closed, full, without a reader, or not of the usual kind."""

from __future__ import annotations

import json
import os
import select
import shlex
import sqlite3
import subprocess
import sys

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

import pitstop


NOW = timedelta(0)
PYTHON = (sys.executable, "-m", "pitstop")
SCRIPT = (str(Path(sys.executable).parent / "pitstop"),)

#: Each command, and its exit code. "due" and "dead" are messages in these states.
COMMANDS = {
    "store": (("store", '{"id": "new"}'), 0),
    "listen": (("listen", "--once"), 0),
    "listen --exec": (("listen", "--once", "--exec", "cat > /dev/null"), 0),
    "listen --exec --json": (("listen", "--once", "--json", "--exec", "cat > /dev/null"), 0),
    "listen --workers": (("listen", "--once", "--workers", "2", "--exec", "cat > /dev/null"), 0),
    "list": (("list",), 0),
    "show": (("show", "due"), 0),
    "remove": (("remove", "due"), 0),
    "redrive": (("redrive", "dead"), 0),
    "stats": (("stats",), 0),
    "ping": (("ping",), 0),
    "check": (("check",), 0),
    "backends": (("backends",), 0),
    "--help": (("--help",), 0),
    "list --help": (("list", "--help"), 0),
    # The demo needs an empty store.
    "demo": (("demo", "--url", "{url}"), 1),
    # The command is for MongoDB.
    "adopt": (("adopt",), 1),
    "wrong": (("lsit",), 2),
}
#: Commands that refuse a closed stdout, because they only print.
ONLY_PRINT = {"listen", "list", "show", "stats", "backends"}
#: Commands that print nothing on stdout themselves.
SILENT = {"listen --exec", "listen --workers", "demo", "adopt", "wrong"}
CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-", "all": "<&- >&- 2>&-"}


@pytest.fixture
def filled(pit, url):
    """A store with a due message and a dead one."""
    with pitstop.init(f"{url}?retry.max_attempts=1") as other, other.listen() as listener:
        other.store({"id": "dead"}, NOW)
        listener.get().nack("it never works")
    pit.store({"id": "due"}, NOW)
    return pit


@pytest.fixture
def run(url, tmp_path):
    """Run the command as a shell does, with redirections. Return its exit code, stdout and stderr."""

    def run(arguments, redirections="", program=PYTHON, **options):
        line = (
            f"exec {shlex.join([*program, *(each.format(url=url) if '{url}' in each else each for each in arguments)])}"
        )
        done = subprocess.run(
            ["sh", "-c", f"{line} {redirections}"],
            **{"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": 200, **options},
            cwd=tmp_path,
            env={**os.environ, "PITSTOP_URL": url},
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    return run


def assert_done(pit, command):
    """Assert that the command did its work, and that the database is sound."""
    ids = {entry.id: entry.state for entry in pit.entries()}
    assert ("new" in ids) == (command == "store")
    assert ("due" in ids) == (command != "remove" and not command.startswith("listen"))
    assert ids["dead"] == ("due" if command == "redrive" else "dead")
    assert_sound(pit)


def assert_sound(pit):
    path = pit._session.location.removeprefix("sqlite:///").partition("?")[0]
    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
    database.close()


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_works_with_closed_streams_or_says_in_one_line_why_not(run, filled, command, closed):
    arguments, code = COMMANDS[command]
    result, out, err = run(arguments, CLOSED[closed])
    assert "Traceback" not in err
    if closed in {"stdout", "all"} and command in ONLY_PRINT:
        assert result == 1
        assert filled.stats().due == 1, "a message was taken"
        if closed == "stdout":
            assert err == (
                f"Error: stdout is closed, and printing is all that 'pitstop {command}' does. Open it, as in '> file'; "
                f"/dev/null drops the output.\n"
            )
        return
    assert result == code
    assert_done(filled, command)
    if code == 1 and closed in {"stdin", "stdout"}:
        assert err.startswith("Error: ")
        assert err.count("\n") == 1
    if closed in {"stdout", "all"}:
        assert out == ""


@pytest.mark.parametrize("program", [PYTHON, SCRIPT], ids=["python -m", "script"])
@pytest.mark.parametrize("arguments", [("store", "--in", "1h"), ("store", "-")], ids=["no message", "dash"])
def test_json_lines_from_a_closed_stdin_are_a_wrong_use(run, pit, program, arguments):
    code, out, err = run(arguments, "<&-", program)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        "Error: stdin is closed, so there are no JSON lines to read. Give a message as"
    )


@pytest.mark.parametrize("program", [PYTHON, SCRIPT], ids=["python -m", "script"])
def test_the_places_of_closed_streams_are_taken_by_nothing_else(run, filled, program):
    """Otherwise a socket or a database would get the text that is written to stderr."""
    for options in ((), ("--json",)):
        filled.store({"id": "due"}, NOW)
        # With --json the command's stdout is our stderr.
        arguments = ("listen", "--once", *options, "--exec", "test /dev/fd/1 -ef /dev/null")
        assert run(arguments, "<&- >&- 2>&-", program)[0] == 0
        assert filled.get("due") is None, "the command failed"
    assert_sound(filled)


def test_a_command_without_the_extra_says_so_although_streams_are_closed(run):
    code = "import sys; sys.modules['click'] = None; from pitstop.cli import main; sys.exit(main())"
    for redirections in ("<&- >&-", "2>&-"):
        result, _, err = run((), redirections, (sys.executable, "-c", code))
        assert result == 1
        assert "Traceback" not in err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_behind_stdout_is_reported_and_the_work_is_done(run, filled, command):
    arguments, code = COMMANDS[command]
    result, _, err = run(arguments, "> /dev/full")
    assert "Traceback" not in err
    if command in SILENT:
        assert result == code
    else:
        assert result == 1
        last = err.splitlines()[-1]
        assert last.startswith("Error: stdout cannot be written: No space left on device. Make room there, or send the")
        if command == "store":
            assert last.endswith("The message was stored; its id is 'new'.")
    if command == "listen":
        assert filled.get("due").state == "due"
    else:
        assert_done(filled, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_of_stdout_that_went_away_is_no_error(run, filled, command):
    arguments, code = COMMANDS[command]
    reading, writing = os.pipe()
    os.close(reading)
    result, _, err = run(arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert result == code
    if code == 0 and command != "check":
        assert err == ""
    assert "Traceback" not in err
    if command == "listen":
        assert filled.get("due").state == "due"
    elif command == "listen --exec --json":
        # The command ends at once, before or after it has taken the message.
        assert (left := filled.get("due")) is None or left.state == "due"
    else:
        assert_done(filled, command)


@pytest.mark.parametrize(
    ("command", "stderr"), [*((each, "full") for each in COMMANDS), ("listen --exec", "unread"), ("wrong", "unread")]
)
def test_a_stderr_that_cannot_be_written_changes_nothing(run, filled, command, stderr):
    arguments, code = COMMANDS[command]
    if stderr == "full":
        result, _, _ = run(arguments, "2> /dev/full")
    else:
        reading, writing = os.pipe()
        os.close(reading)
        result, _, _ = run(arguments, capture_output=False, stdout=subprocess.PIPE, stderr=writing)
        os.close(writing)
    assert result == code
    assert_done(filled, command)


@pytest.mark.parametrize("place", ["/dev/full", "unread"])
def test_all_lines_are_stored_although_their_ids_cannot_be_printed(run, pit, tmp_path, place):
    """5,000 lines make several batches. All are stored although the ids of the first batch are not read."""
    path = tmp_path / "messages.jsonl"
    path.write_text("".join(f'{{"id": "{n}", "text": "{"x" * 200}"}}\n' for n in range(5000)))
    arguments = ("store", "--json", "--in", "1h")
    if place == "unread":
        reading, writing = os.pipe()
        os.close(reading)
        code, _, err = run(arguments, f"< {path}", capture_output=False, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        assert code == 0
    else:
        code, _, err = run(arguments, f"< {path} > {place}")
        assert code == 1
        assert "stdout cannot be written: No space left on device" in err.splitlines()[-1]
    assert err.splitlines()[0].startswith("Stored 5,000 messages in ")
    assert pit.stats().scheduled == 5000


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one", "workers"])
@pytest.mark.parametrize("place", ["/dev/full", "unread"])
def test_outcomes_that_cannot_be_printed_end_listen_and_the_handled_message_is_done(run, pit, workers, place):
    for id in "abcdefgh":
        pit.store({"id": id}, NOW)
    arguments = ("listen", "--json", *workers, "--prefetch", "8", "--exec", "cat > /dev/null")
    if place == "unread":
        reading, writing = os.pipe()
        os.close(reading)
        code, _, err = run(arguments, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
    else:
        code, _, err = run(arguments, f"> {place}")
    assert code == (0 if place == "unread" else 1)
    assert "Traceback" not in err
    assert "attempt" not in err
    stats = pit.stats()
    assert stats.leased == 0, "the other messages were not given back"
    assert all(entry.attempts == 0 for entry in pit.entries())
    if place == "/dev/full":
        assert stats.due < 8


def test_a_stdin_that_cannot_be_read_is_told(run, pit, tmp_path):
    code, _, err = run(("store", "--in", "1h"), f"0> {tmp_path}/file")
    assert code == 1
    assert err == (
        "Error: stdin cannot be read: Bad file descriptor. Give a file or a pipe, as in 'pitstop store < messages.jsonl'. "
        "Before it, 0 messages were stored.\n"
    )


def test_a_stdin_that_does_not_block_is_read_to_its_end(spawn, pit):
    """Another process that shares a pipe or a terminal may make it non-blocking."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    process = spawn("store", "--json", stdin=reading)
    os.close(reading)
    with open(writing, "w") as pipe:  # noqa: PTH123 - a descriptor
        for id in "abc":
            # Each time the command has read all that there was, and waits for more.
            pipe.write(f'{{"id": "{id}"}}\n')
            pipe.flush()
            assert process.stdout.readline() == f'{{"id":"{id}"}}\n'
    assert process.wait() == 0
    assert pit.stats().due == 3


def test_a_stdout_that_does_not_block_gets_everything(spawn, pit):
    pit.store_many([({"id": f"{n:04}", "text": "x" * 1000}, NOW) for n in range(500)])
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    process = spawn("list", "--all", "--json", stdout=writing)
    while process.poll() is None and select.select([], [writing], [], 0)[1]:
        # The command reads only when the pipe is full.
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    os.close(writing)
    with open(reading) as pipe:  # noqa: PTH123 - a descriptor
        ids = [json.loads(line)["id"] for line in pipe]
    assert ids == [f"{n:04}" for n in range(500)]
    assert process.wait() == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["ascii", "latin-1", "C", "unbuffered"],
)
@pytest.mark.parametrize("arguments", [("list",), ("listen", "--once"), ("redrive", "--all")])
def test_characters_that_an_encoding_lacks_are_escaped(spawn, pit, environment, arguments):
    url = f"{pit._session.location}?retry.max_attempts=1"
    with pitstop.init(url) as other, other.listen() as listener:
        other.store({"id": "dead €"}, NOW)
        listener.get().nack("それは動かない")
    pit.store({"id": "Zoë €", "text": "日本語"}, NOW)
    process = spawn(*arguments, env={**os.environ, "PITSTOP_URL": url, **environment}, text=False)
    out, err = process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in err
    assert "€".encode() in out or b"\\u20ac" in out


def test_without_any_stream_objects_as_with_pythonw(run, pit):
    """With pythonw the streams are None, and their descriptors are closed."""
    code = (
        "import os, sys\n"
        "sys.stdin = sys.stdout = sys.stderr = sys.__stdin__ = sys.__stdout__ = sys.__stderr__ = None\n"
        "os.closerange(0, 3)\n"
        "from pitstop.cli import main\n"
        "os._exit(main())\n"
    )
    assert run(("store", '{"id": "a"}'), "", (sys.executable, "-c", code))[0] == 0
    assert pit.get("a") is not None
    assert run(("list",), "", (sys.executable, "-c", code))[0] == 1


def test_streams_in_memory_are_left_as_they_are(run, pit):
    """A program may call main() with streams of its own."""
    code = (
        "import io, sys\n"
        "out, sys.stdout = sys.stdout, io.StringIO()\n"
        "from pitstop.cli import main\n"
        "code = main()\n"
        "out.write(f'{code} {sys.stdout.getvalue()}')\n"
    )
    assert run(("stats",), "", (sys.executable, "-c", code))[1].startswith("0 scheduled")
