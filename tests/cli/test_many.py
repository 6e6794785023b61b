"""``remove``, ``redrive`` and ``reschedule`` of many messages: by options, by ids on stdin, and as a dry run."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess

from contextlib import closing
from datetime import timedelta

import pytest

from consume.kit import until
from pitstop import BackendUnavailable, Pitstop


@pytest.fixture
def shop(pit):
    pit.store_many([({"id": f"order-7:{n:02}"}, timedelta(hours=n + 1)) for n in range(12)])
    pit.store_many([({"id": f"order-8:{n:02}"}, timedelta(hours=n + 1)) for n in range(3)], kind="mail")
    return pit


@pytest.fixture
def dead(pit, url):
    with __import__("pitstop").init(f"{url}?retry.max_attempts=1") as strict:
        for id in ("dead-1", "dead-2", "other"):
            strict.store({"id": id}, timedelta(0))
            with strict.listen() as listener:
                listener.get().nack("it never works")
    return pit


def ids(pit, **search):
    return [each.id for each in pit.entries(**search)]


def test_a_dry_run_counts_and_changes_nothing(invoke, shop):
    for command in (["remove"], ["redrive", "--state", "scheduled"], ["reschedule", "2h"]):
        result = invoke(*command, "--prefix", "order-7:", "--dry-run")
        assert result.exit_code == 0
        lines = result.stdout.splitlines()
        if command[0] == "redrive":
            assert lines == ["Would redrive 0 messages. Nothing was changed: leave out --dry-run to do it."]
            continue
        assert lines[:2] == ["order-7:00", "order-7:01"]
        assert len(lines) == 12
        assert lines[-2:] == [
            "…",
            f"Would {command[0]} 12 messages. Nothing was changed: leave out --dry-run to do it.",
        ]
    assert len(ids(shop)) == 15
    assert ids(shop, due_before="90m") == ["order-7:00", "order-8:00"]


def test_a_dry_run_as_json(invoke, lines, shop):
    assert lines(invoke("remove", "--kind", "mail", "--dry-run", "--json").stdout) == [{"dry_run": True, "matching": 3}]


def test_messages_are_removed_by_options(invoke, lines, shop):
    result = invoke("remove", "--prefix", "order-7:", "--due-before", "3h30m")
    assert result.stdout == "Removed 3 messages\n"
    assert result.stderr == "", "no progress bar without a terminal"
    assert ids(shop, prefix="order-7:")[0] == "order-7:03"
    assert lines(invoke("remove", "--kind", "mail", "--json").stdout) == [{"removed": 3}]
    assert invoke("remove", "--kind", "none").stdout == "Removed 0 messages\n"


def test_messages_are_removed_by_ids_on_stdin(invoke, shop):
    result = invoke("remove", "-", input="order-7:00\r\n\norder-7:01\nnone\norder-8:00")
    assert result.stdout == "Removed 3 messages\n"
    assert len(ids(shop)) == 12
    assert (
        invoke("remove", "-", "--dry-run", input="order-7:02\nnone\n")
        .stdout.splitlines()[-1]
        .startswith("Would remove 1 message.")
    )
    assert invoke("remove", "-", input="").stdout == "Removed 0 messages\n"


def test_an_id_on_stdin_that_cannot_be_one_is_an_error_that_tells_the_count(invoke, shop):
    result = invoke("remove", "-", input="order-7:00\n" + "none\n" * 499 + "x" * 600 + "\n")
    assert result.exit_code == 1
    assert "600 characters" in result.stderr
    assert "Before that, 1 message was removed." in result.stderr
    assert invoke("remove", "-", input=b"\xff\n").exit_code == 1


def test_an_error_of_the_arguments_tells_no_count(invoke, shop):
    for arguments in (["remove", "--kind", "k" * 600], ["reschedule", "--prefix", "\0", "2h"], ["remove", "-"]):
        result = invoke(*arguments, input="x" * 600 + "\n")
        assert result.exit_code == 1
        assert result.stderr
        assert "Before that" not in result.stderr
    assert len(ids(shop)) == 15


def test_a_store_that_fails_tells_the_count(invoke, shop, monkeypatch):
    def fail(*_, **options):
        raise BackendUnavailable("gone")

    monkeypatch.setattr(Pitstop, "remove_many", fail)
    result = invoke("remove", "--kind", "mail")
    assert result.exit_code != 0
    assert "Before that, 0 messages were removed. Run the command again to go on." in " ".join(result.stderr.split())


def test_messages_are_rescheduled_by_options_and_by_several_ids(invoke, shop):
    assert invoke("reschedule", "--kind", "mail", "0s").stdout == "Rescheduled 3 messages\n"
    assert ids(shop, state="due") == ["order-8:00", "order-8:01", "order-8:02"]
    assert invoke("reschedule", "-", "30m", input="order-8:00\n").stdout == "Rescheduled 1 message\n"
    result = invoke("reschedule", "order-7:00", "order-7:01", "none", "20m")
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["order-7:00", "order-7:01"]
    assert result.exit_code == 1
    assert "'none'" in result.stderr
    assert ids(shop, state="scheduled", due_before="40m") == ["order-7:00", "order-7:01", "order-8:00"]


def test_dead_messages_are_redriven_by_options(invoke, lines, dead):
    shown = invoke("redrive", "--prefix", "dead", "--dry-run").stdout.splitlines()
    assert shown == ["dead-1", "dead-2", "Would redrive 2 messages. Nothing was changed: leave out --dry-run to do it."]
    assert invoke("redrive", "--prefix", "dead").stdout == "Redriven 2 messages\n"
    assert ids(dead, state="dead") == ["other"]
    assert lines(invoke("redrive", "--all", "--dry-run", "--json").stdout) == [{"dry_run": True, "matching": 1}]
    assert lines(invoke("redrive", "-", "--json", input="dead-1\nother\n").stdout) == [{"redriven": 1}]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["remove"], "Give ids, '-'"),
        (["reschedule", "2h"], "Give ids, '-'"),
        (["reschedule", "order-8:00"], "It comes last, after the ids."),
        (["remove", "-", "order-8:00"], "'-' reads the ids from stdin. Give it alone"),
        (["redrive"], "Give ids, '-'"),
        (["remove", "a", "--prefix", "b"], "not both"),
        (["redrive", "--all", "--kind", "mail"], "or --all"),
        (["remove", "a", "--dry-run"], "no effect"),
        (["remove", "--prefix", ""], "all messages would be changed"),
        (["remove", "--prefix", "", "--dry-run"], "all messages would be changed"),
        (["redrive", "--prefix", "", "--dry-run"], "all messages would be changed"),
        (["reschedule", "--prefix", "", "--dry-run", "2h"], "all messages would be changed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_names_no_messages_or_names_them_twice_is_an_error(invoke, shop, arguments, text):
    result = invoke(*arguments)
    assert result.exit_code != 0
    assert text in " ".join(result.stderr.split())
    assert len(ids(shop)) == 15


def test_a_dry_run_counts_an_id_that_comes_twice_once_as_the_change_does(invoke, lines, shop):
    twice = "order-7:00\nnone\norder-7:00\norder-7:01\n" + "none\n" * 600 + "order-7:01\n"
    for command in (["remove", "-"], ["reschedule", "-", "5d"]):
        shown = lines(invoke(*command, "--dry-run", "--json", input=twice).stdout)
        assert shown == [{"dry_run": True, "matching": 2}]
    assert lines(invoke("reschedule", "-", "5d", "--json", input=twice).stdout) == [{"rescheduled": 2}]
    assert lines(invoke("remove", "-", "--json", input=twice).stdout) == [{"removed": 2}]


@pytest.mark.parametrize("by", [["--prefix", "order-7:0"], ["-"]], ids=["search", "ids"])
def test_a_dry_run_leaves_out_damaged_messages_that_the_change_leaves_out(invoke, lines, shop, tmp_path, by):
    with closing(sqlite3.connect(tmp_path / "test.db")) as connection, connection:
        connection.execute("UPDATE pitstop_messages SET msg = 'no json' WHERE id = 'order-7:00'")
        connection.execute(
            "UPDATE pitstop_messages SET due = NULL, token = 't' WHERE id IN ('order-7:00', 'order-7:01')"
        )
    given = "".join(f"order-7:0{n}\n" for n in range(10))
    for command, name in ((["redrive"], "redriven"), (["reschedule", "5d"], "rescheduled"), (["remove"], "removed")):
        arguments = [command[0], *by, *command[1:], "--json"]
        shown = lines(invoke(*arguments, "--dry-run", input=given).stdout)
        (done,) = lines(invoke(*arguments, input=given).stdout)
        assert shown == [{"dry_run": True, "matching": done[name]}]
        assert done[name] == {"redriven": 1, "rescheduled": 9, "removed": 10}[name]


@pytest.mark.parametrize("arguments", [["-1h"], ["-1h30m"], ["--", "-1h"]], ids=" ".join)
def test_a_message_is_rescheduled_into_the_past(invoke, shop, arguments):
    assert invoke("reschedule", "order-8:00", *arguments).exit_code == 0
    assert ids(shop, state="due", due_before="-59m") == ["order-8:00"]
    assert invoke("reschedule", "--due-before", "-59m", "--prefix", "order-8:", *arguments).stdout in {
        "Rescheduled 1 message\n",
        "Rescheduled 0 messages\n",
    }
    assert ids(shop, state="due") == ["order-8:00"]


def test_a_time_in_the_past_goes_with_all_other_arguments(invoke, shop):
    assert invoke("reschedule", "-", "-2h", input="order-8:00\norder-8:01").stdout == "Rescheduled 2 messages\n"
    assert invoke("reschedule", "-1h", "--prefix", "order-8:").stdout == "Rescheduled 3 messages\n"
    assert ids(shop, state="due", due_before="-59m") == ["order-8:00", "order-8:01", "order-8:02"]
    result = invoke("reschedule", "order-8:00", "-1x")
    assert result.exit_code == 2
    assert "'1x' is no duration" in " ".join(result.stderr.split())
    assert "No such option" in invoke("reschedule", "order-8:00", "-x").stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["store", "{}", "--every", "90m", "--jitter", "2h"], "--jitter 2h is not shorter than the 1h30m"),
        (["store", "{}", "--cron", "*/90 * * * *"], "as in --every 90m."),
        (["store", "{}", "--cron", "@every 2h"], "Give --every 2h in place of it."),
        (["store", "{}", "--cron", "H * * * *"], "and --jitter."),
        (["store", "{}", "--rrule", "FREQ=DAILY;COUNT=3"], "Give an end in place of it: --until."),
        (["store", "{}", "--rrule", "FREQ=DAILY;UNTIL=20310101T000000Z"], "The end of the series is given by --until"),
        (["preview", "*/90 * * * *"], "as in '90m'."),
        (["pause", "order-7:00", "--until", "0s"], "--until 0s has passed"),
        (["pause", "--kind", "mail", "--until", "0s"], "or leave --until out: then 'pitstop resume' ends the pause."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_errors_name_options_and_no_python(invoke, shop, arguments, text):
    result = invoke(*arguments)
    assert result.exit_code != 0
    said = " ".join(result.stderr.split())
    assert text in said
    for python in ("timedelta", "Every(", "store(", "resume()"):
        assert python not in said


def test_a_message_argument_that_is_no_message_is_a_usage_error(invoke, shop):
    # The last error holds a byte that is escaped in the line that is printed.
    for text in ("no json", "[1]", '{"id": 1}', '{"id": "a"}\0'):
        assert invoke("store", text).exit_code == 2


def test_a_list_that_is_cut_names_a_higher_limit(invoke, shop):
    assert "Give a higher --limit, or --all." in invoke("list", "--limit", "2").stderr


def test_ctrl_c_tells_how_many_were_done(spawn, pit):
    pit.store_many([({"id": f"x{n:04}"}, timedelta(hours=1)) for n in range(1200)])
    process = spawn("remove", "-", stdin=subprocess.PIPE)
    process.stdin.write("".join(f"x{n:04}\n" for n in range(1200)))
    process.stdin.flush()
    # Two batches of 500 are removed. The command waits for the rest of the third one.
    until(lambda: pit.stats().scheduled == 200)

    process.send_signal(signal.SIGINT)

    stdout, stderr = process.communicate(timeout=30)
    assert stdout == ""
    assert "Before that, 1,000 messages were removed. Run the command again to go on." in stderr
    assert process.returncode == 1
    assert "Traceback" not in stderr
    assert pit.stats().scheduled == 200


def test_a_change_whose_count_has_no_reader_is_done(spawn, shop):
    reader, writer = os.pipe()
    os.close(reader)
    process = spawn("remove", "--prefix", "order-7:", stdout=writer)
    os.close(writer)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    assert ids(shop) == ["order-8:00", "order-8:01", "order-8:02"]
