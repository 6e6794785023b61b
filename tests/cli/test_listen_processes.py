"""``pitstop listen`` in real processes: signals, kills and closed pipes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess

from contextlib import suppress
from datetime import timedelta

import pytest


NOW = timedelta(0)


@pytest.fixture
def gate(tmp_path):
    """A command that prints its beginning on stdout, and runs until the test lets it end."""
    path = tmp_path / "gate"
    os.mkfifo(path)

    class Gate:
        command = f'echo "begun $PITSTOP_ID"; read word < {path}; echo "done $PITSTOP_ID"'

        @staticmethod
        def let_go():
            path.write_text("go\n")

    return Gate


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_an_idle_listener_cleanly(spawn, pit, number):
    pit.store({"id": "a"}, NOW)
    process = spawn("listen", "--loop-time", "1h")
    assert json.loads(process.stdout.readline())["id"] == "a"
    process.send_signal(number)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_running_command_finish_and_gives_back_the_rest(spawn, pit, gate, number):
    for id in "abc":
        pit.store({"id": id}, NOW)
    process = spawn("listen", "--prefetch", "10", "--exec", gate.command)
    assert process.stdout.readline() == "begun a\n"
    assert pit.stats().leased == 3
    os.killpg(process.pid, number)  # like Ctrl-C in a terminal: the whole process group gets the signal
    assert "Ending after the command that is running" in process.stderr.readline()
    assert (pit.get("b").state, pit.get("b").attempts, pit.get("b").last_error) == ("due", 0, None)
    assert pit.get("a").state == "leased"
    gate.let_go()
    assert process.communicate() == ("done a\n", "")
    assert process.returncode == 0
    assert pit.get("a") is None
    assert pit.stats().due == 2


def test_a_second_signal_ends_the_command_too(spawn, pit, gate):
    pit.store({"id": "a"}, NOW)
    process = spawn("listen", "--exec", gate.command)
    assert process.stdout.readline() == "begun a\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline()
    # A signal within half a second is an echo of the first, so several are sent. None is sent once one has worked: at its very
    # end Python is interrupted like any other program.
    while pit.get("a").last_error is None:
        process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.wait(20) == 0
    assert pit.get("a").last_error == "ended by SIGTERM"


def test_a_killed_listeners_message_is_printed_by_another_one_after_the_lock(spawn, pit, gate):
    pit.store({"id": "a"}, NOW)
    first = spawn("listen", "--lock-time", "1500ms", "--exec", gate.command)
    assert first.stdout.readline() == "begun a\n"
    until = pit.get("a").leased_until
    first.kill()
    second = spawn("listen")
    line = json.loads(second.stdout.readline())
    assert pit.now() >= until
    assert (line["id"], line["attempt"]) == ("a", 2)
    gate.let_go()


def test_a_reader_that_goes_away_ends_an_idle_listener_at_once(spawn, pit):
    """``pitstop listen | head -1``, and no further message comes."""
    pit.store({"id": "a"}, NOW)
    process = spawn("listen", "--loop-time", "1h")
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == ""


def test_a_reader_that_goes_away_loses_no_message_that_was_not_written(spawn, pit):
    """Lines in the pipe or at the reader were written and acknowledged. No other message is missing or leased."""
    pit.store_many([({"id": f"{n:05}", "data": "x" * 1000}, NOW) for n in range(2000)])
    process = spawn("listen", "--prefetch", "100")
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == ""
    stats = pit.stats()
    # 64 KiB fit into the pipe, and some into the reader's own buffer.
    assert 1800 <= stats.due < 2000
    assert stats.leased == 0


def test_a_reader_that_was_never_there(spawn, pit):
    pit.store({"id": "a"}, NOW)
    reading, writing = os.pipe()
    os.close(reading)
    process = spawn("listen", stdout=writing)
    os.close(writing)
    assert process.wait() == 0
    assert process.stderr.read() == ""
    assert pit.get("a").state == "due"


def test_a_full_disk_behind_stdout_is_an_error_and_the_message_comes_back(spawn, pit):
    pit.store({"id": "a"}, NOW)
    with open("/dev/full", "w") as full:  # noqa: PTH123 - a device
        process = spawn("listen", stdout=full)
        assert process.wait() == 1
    assert process.stderr.read() == (
        "Error: stdout cannot be written: No space left on device. Make room there, or send the output elsewhere.\n"
    )
    assert pit.get("a").state == "due"


def test_it_prints_a_message_at_its_time(measure_lateness, record_property):
    """It is never early, and not late, within a bound that a busy machine keeps."""
    _, lateness = measure_lateness()
    record_property("lateness_ms", lateness)
    print(f"lateness on SQLite, another process, in ms: {lateness}")
    assert min(lateness) >= 0
    # This bounds most of them: a busy machine may stand still for a second or two.
    assert sorted(lateness)[len(lateness) // 2] < 2000


def test_on_a_terminal_it_says_what_it_does_in_colour_and_ctrl_c_ends_it(spawn, pit):
    pit.store({"id": "a", "text": "[bold]x"}, NOW)
    terminal, ours = pty.openpty()
    process = spawn(
        "listen", stdin=ours, stdout=ours, stderr=ours, env={**os.environ, "PITSTOP_URL": _url(pit), **_TERM}
    )
    os.close(ours)
    seen = b""
    while b"last_error" not in seen:
        seen += os.read(terminal, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while chunk := os.read(terminal, 4096):
            seen += chunk
    except OSError:  # Linux raises EIO if the other side of a terminal is closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    text = seen.decode()
    assert "Listening on sqlite:" in text
    assert "until Ctrl-C." in text
    assert "\x1b[" in text
    assert "[bold]x" in text
    assert "1 done, 0 failed." in text


_TERM = {"TERM": "xterm-256color", "COLUMNS": "40"}


def _url(pit) -> str:
    return pit._session.location


def test_workers_run_so_many_commands_at_once_and_a_signal_lets_all_finish(spawn, pit, tmp_path):
    gate = tmp_path / "gate"
    command = f'echo "begun $PITSTOP_ID"; while [ ! -e {gate} ]; do sleep 0.05; done; echo "done $PITSTOP_ID"'
    for id in "abcde":
        pit.store({"id": id}, NOW)
    process = spawn("listen", "--workers", "3", "--exec", command)
    begun = {process.stdout.readline() for _ in range(3)}
    assert len(begun) == 3
    os.killpg(process.pid, signal.SIGINT)
    assert "Ending after the commands that are running" in process.stderr.readline()
    gate.touch()
    out, errors = process.communicate()
    assert sorted(out.splitlines()) == sorted(line.strip().replace("begun", "done") for line in begun)
    assert (process.returncode, errors) == (0, "")
    stats = pit.stats()
    assert (stats.due, stats.leased) == (2, 0)


def test_a_second_signal_ends_all_commands(spawn, pit, tmp_path):
    for id in "ab":
        pit.store({"id": id}, NOW)
    process = spawn("listen", "--workers", "2", "--exec", 'echo "begun $PITSTOP_ID"; exec sleep 60')
    assert {process.stdout.readline() for _ in range(2)} == {"begun a\n", "begun b\n"}
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline()
    while None in {pit.get(id).last_error for id in "ab"} and process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    assert process.wait(20) == 0
    assert {pit.get(id).last_error for id in "ab"} <= {"ended by SIGTERM", "ended by SIGKILL"}


def test_workers_take_each_due_message_once_and_fail_apart(spawn, pit):
    for id in "abcdefgh":
        pit.store({"id": id}, NOW)
    process = spawn("listen", "--once", "--json", "--workers", "4", "--exec", 'test "$PITSTOP_ID" != c')
    out, errors = process.communicate()
    assert process.returncode == 0
    outcomes = {each["id"]: each["outcome"] for each in map(json.loads, out.splitlines())}
    assert outcomes == {**dict.fromkeys("abdefgh", "acked"), "c": "nacked"}
    assert "Failed: 'c' attempt 1" in errors
    assert pit.get("c").last_error == "exit code 1"
    assert [each.id for each in pit.entries()] == ["c"]
