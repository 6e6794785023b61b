"""``pitstop store``."""

from __future__ import annotations

import json
import subprocess

from datetime import UTC, datetime, timedelta

import pytest

from pitstop.abc import Capability


def stored(pit, result):
    assert result.exit_code == 0, result.stderr
    return pit.get(result.stdout.strip())


def test_it_prints_the_id_of_the_stored_message(invoke, pit):
    entry = stored(pit, invoke("store", '{"msg": "object"}'))
    assert entry.message == {"id": entry.id, "msg": "object"}
    assert entry.state == "due"


def test_it_has_a_kind(invoke, pit):
    assert stored(pit, invoke("store", "{}", "--kind", "mail")).kind == "mail"
    assert invoke("store", "-", "--kind", "mail", input='{"id": "a"}\n{"id": "b"}\n').exit_code == 0
    assert {each.kind for each in pit.entries()} == {"mail"}
    refused = invoke("store", "{}", "--kind", "*")
    assert (refused.exit_code, "stands for all other kinds" in refused.stderr) == (1, True)


def test_it_has_policies(invoke, pit):
    options = ("--retry", "delay=5s", "--retry", "max_attempts=3", "--lock-time", "2h", "--expires", "10m")
    found = stored(pit, invoke("store", "{}", *options))
    invoke("store", *options, input='{"id": "a"}\n')
    for entry in (found, pit.get("a")):
        assert entry.retry == {"delay": timedelta(seconds=5), "max_attempts": 3}
        assert (entry.lock_time, entry.expires) == (timedelta(hours=2), timedelta(minutes=10))


@pytest.mark.parametrize(
    ("options", "code", "why"),
    [
        (("--retry", "soon"), 2, "--retry soon has no key and value. Write it as in '--retry delay=5s'."),
        (("--retry", "delays=5s"), 1, "Unknown retry key 'delays'"),
        (("--lock-time", "0s"), 1, "--lock-time 0s cannot be used"),
        (("--expires", "soon"), 2, "'soon' is no duration"),
    ],
)
def test_policies_that_cannot_be_used_are_named(invoke, pit, options, code, why):
    refused = invoke("store", "{}", *options)
    assert refused.exit_code == code
    assert why in refused.stderr
    assert pit.entries() == []


def test_json_prints_the_id_as_an_object(invoke, pit, lines):
    (line,) = lines(invoke("store", '{"id": "a"}', "--json").stdout)
    assert line == {"id": "a"}
    assert pit.get("a") is not None


def test_a_message_that_exists_is_kept_updated_or_refused(invoke, pit, lines):
    def store(message, *options):
        return invoke("store", message, "--id", "a", "--in", "1h", "--every", "1d", *options)

    for options, message, told, note in [
        (["--if-exists", "keep"], '{"n": 1}', "created", ""),
        (["--if-exists", "keep"], '{"n": 2}', "kept", "The message exists already, and was kept.\n"),
        (
            ["--keep-schedule"],
            '{"n": 3}',
            "updated",
            "The message exists already. Its body was replaced, and its schedule stays.\n",
        ),
        (
            ["--if-exists", "keep", "--jitter", "1m"],
            '{"n": 4}',
            "replaced",
            "It took the place of a message with another schedule.\n",
        ),
    ]:
        before = pit.get("a")
        result = store(message, *options)
        assert (result.stdout, result.stderr) == ("a\n", note)
        if before is None:
            pit.remove("a")
        else:
            pit.store(before.message, before.due, None, before.every, jitter=before.jitter)
        assert lines(store(message, *options, "--json").stdout) == [{"id": "a", "outcome": told}]

    result = store("{}", "--if-exists", "error")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The message 'a' exists already: it is due at ")
    assert result.stderr.endswith("or store with --if-exists keep or replace.\n")
    result = store("{}", "--if-exists", "error", "--keep-schedule")
    assert result.exit_code == 2
    assert "Give one." in result.stderr


def test_of_json_lines_those_that_exist_are_counted(invoke, pit, lines):
    found = '{"id": "a"}\n{"id": "b"}\n'
    invoke("store", "--every", "1d", input='{"id": "a"}\n')
    result = invoke("store", "--every", "1d", "--if-exists", "keep", "--json", input=found)
    assert lines(result.stdout) == [{"id": "a", "outcome": "kept"}, {"id": "b", "outcome": "created"}]
    assert result.stderr.startswith("Stored 1 message in ")
    assert result.stderr.endswith(" s. 1 message existed already, and was kept.\n")


def test_an_id_does_not_steer_the_terminal_and_json_has_it_exactly(invoke, pit, lines):
    id = "e\x1b[31mx\x9b\n"
    assert invoke("store", "{}", "--id", id).stdout == "e\\x1b[31mx\\x9b\\n\n"
    assert lines(invoke("store", "{}", "--id", id, "--json").stdout) == [{"id": id}]
    assert [entry.id for entry in pit.entries()] == [id]


@pytest.mark.parametrize("options", [{"args": ("{}", "--id", "a")}, {"args": (), "input": '{"id": "a"}'}])
def test_a_store_that_ends_with_the_command_is_warned_of_in_one_line(invoke, options):
    result = invoke("store", *options["args"], "--url", "memory://", "--json", input=options.get("input"))
    assert result.exit_code == 0
    assert result.stdout == '{"id":"a"}\n'
    assert result.stderr.splitlines()[0] == (
        "Warning: memory:// lives in this process: its messages are lost when this command ends. "
        "Name a durable store by --url or PITSTOP_URL, such as sqlite:///pitstop.db."
    )
    assert result.stderr.count("Warning") == 1


def test_a_store_that_others_share_and_that_is_not_durable_is_warned_of(invoke, monkeypatch):
    monkeypatch.setattr("pitstop_sqlite.SqliteBackend.capabilities", Capability.MULTI_PROCESS)
    result = invoke("store", "{}")
    assert result.exit_code == 0
    assert "is not durable: its messages may be lost when it restarts." in result.stderr
    assert result.stderr.count("\n") == 1


def test_of_a_durable_store_nothing_is_said(invoke):
    assert invoke("store", "{}").stderr == ""


def test_in_counts_from_now(invoke, pit):
    before = pit.now()
    entry = stored(pit, invoke("store", "{}", "--in", "1h30m"))
    # now() is rounded down to whole milliseconds, and a due time is rounded up.
    assert before <= entry.due - timedelta(minutes=90) <= pit.now() + timedelta(milliseconds=1)


@pytest.mark.parametrize("at", ["2031-05-04T12:00:00+02:00", "2031-05-04T10:00Z", "20310504T100000.000Z"])
def test_at_takes_iso_times_with_a_zone(invoke, pit, at):
    assert stored(pit, invoke("store", "{}", "--at", at)).due == datetime(2031, 5, 4, 10, tzinfo=UTC)


def test_at_refuses_a_naive_time_and_says_how_to_write_it(invoke, pit):
    result = invoke("store", "{}", "--at", "2031-05-04T12:00")
    assert result.exit_code == 2
    assert "does not say in which zone. Add it: '2031-05-04T12:00Z' is UTC" in result.stderr
    assert pit.stats().scheduled == 0


@pytest.mark.parametrize("until", ["3h", "2031-05-04T13:00Z"])
def test_every_until(invoke, pit, until):
    entry = stored(pit, invoke("store", "{}", "--every", "1h", "--until", until))
    assert entry.every == timedelta(hours=1)
    wanted = pit.now() + timedelta(hours=3) if until == "3h" else datetime(2031, 5, 4, 13, tzinfo=UTC)
    assert abs(entry.end - wanted) < timedelta(minutes=1)


def test_catch_up_and_grace_are_kept(invoke, pit):
    """An occurrence older than the grace is not emitted."""
    args = ["--at", "2020-01-01T00:00Z", "--every", "3650d", "--catch-up", "skip", "--grace", "1h"]
    entry = stored(pit, invoke("store", "{}", *args))
    assert invoke("listen", "--once").stdout == ""
    assert pit.get(entry.id).due > pit.now()


def test_the_same_id_again_replaces_message_and_schedule(invoke, pit):
    assert invoke("store", '{"v": 1}', "--id", "a").stdout == "a\n"
    assert invoke("store", '{"v": 2, "id": "a"}', "--id", "a", "--in", "1h").stdout == "a\n"
    assert pit.get("a").message == {"id": "a", "v": 2}
    assert pit.get("a").state == "scheduled"


def test_bytes_and_times_have_a_json_form_which_comes_out_as_it_went_in(invoke, pit, lines):
    message = {"b": {"$bytes": "AP8="}, "t": {"$time": 1700000000123}, "m": {"$map": [["$time", 5]]}, "$bytes": 1}
    entry = stored(pit, invoke("store", json.dumps(message)))
    moment = datetime(2023, 11, 14, 22, 13, 20, 123000, tzinfo=UTC)
    assert entry.message == {"id": entry.id, "b": b"\x00\xff", "t": moment, "m": {"$time": 5}, "$bytes": 1}
    assert lines(invoke("show", entry.id, "--json").stdout)[0]["message"] == {"id": entry.id, **message}
    assert lines(invoke("listen", "--once").stdout)[0]["msg"] == {"id": entry.id, **message}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ('{"a":', "no JSON: Expecting value at column 6"),
        ("hello", "no JSON"),
        ("[1]", "must be a mapping"),
        ("{}", None),
        ('{"id": ""}', "The id is empty"),
        ('{"id": 7}', "The id must be a str"),
        ('{"a": [0, 18446744073709551616]}', "msg['a'][1] is an int beyond 64 bits"),
        ('{"a": "\\ud800"}', "msg['a'] holds a lone surrogate"),
        ('{"a": {"$bytes": "?"}}', "malformed $bytes"),
        ('{"a": {"$time": "noon"}}', "malformed $time"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "levels deep"),
        ('{"a": ' + "[" * 100_000 + "}", "too deep"),
    ],
)
def test_a_message_that_cannot_be_stored_is_refused_with_its_path(invoke, pit, message, text):
    result = invoke("store", message)
    if text is None:
        assert result.exit_code == 0
        return
    assert result.exit_code == 2
    assert text in result.stderr
    assert result.stderr.count("\n") == 1
    assert pit.entries() == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["{}", "--in", "1h", "--at", "2031-01-01T00:00Z"], "Give one of them"),
        (["{}", "--until", "1h"], "Give --every, --cron or --rrule, too"),
        (["{}", "--grace", "1h"], "Give --every, --cron or --rrule, too"),
        (["{}", "--every", "1h", "--catch-up", "skip"], "go together"),
        (["{}", "--every", "1h", "--grace", "1m"], "go together"),
        (["{}", "--in", "-1h"], "no duration"),
        (["{}", "--at", "tomorrow"], "no ISO-8601 time"),
        (["--id", "x"], "--id names one message"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(invoke, pit, args, text):
    result = invoke("store", *args, input='{"a": 1}\n')
    assert result.exit_code == 2
    assert text in result.stderr
    assert pit.entries() == []


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--every", "0"], "--every 0s is not positive"),
        (["--every", "0.0015"], "--every 1.5ms is not a whole number of milliseconds"),
        (["--every", "1h", "--in", "2h", "--until", "1h"], "--until 1h is not after the start, --in 2h. A duration"),
        (
            ["--every", "1h", "--at", "2031-01-01T00:00Z", "--until", "1h"],
            "--until 1h is not after the start, --at 2031-01-01T00:00:00+00:00.",
        ),
        (
            ["--every", "1h", "--until", "2020-01-01T00:00+02:00"],
            "--until 2020-01-01T00:00:00+02:00 is not after the start, now.",
        ),
        (["--at", "1960-01-01T00:00Z"], "--at 1960-01-01T00:00:00+00:00 is outside of the years"),
    ],
)
def test_schedules_that_make_no_sense_are_refused_by_core(invoke, pit, args, text):
    for message, lines in ([["{}"], None], [[], "{}"]):
        result = invoke("store", *message, *args, input=lines)
        assert result.exit_code == 1
        assert text in result.stderr
        assert result.stderr.count("\n") == 1
        assert "datetime" not in result.stderr
        assert pit.entries() == []
    assert "items[" not in invoke("store", "{}", *args).stderr


def test_an_id_in_the_message_and_another_one_in_the_option_is_an_error(invoke):
    result = invoke("store", '{"id": "a"}', "--id", "b")
    assert result.exit_code == 2
    assert "Leave out one of the two" in result.stderr


def test_two_thousand_json_lines_from_a_pipe(spawn, pit):
    process = spawn("store", "--in", "1h", stdin=subprocess.PIPE)
    out, err = process.communicate("".join(f'{{"id": "{n:04}", "n": {n}}}\n' for n in range(2000)))
    assert process.returncode == 0
    assert out == ""
    assert err.startswith("Stored 2,000 messages in ")
    assert err.count("\n") == 1, "a progress bar is printed without a terminal"
    assert pit.stats().scheduled == 2000
    assert pit.get("1999").message == {"id": "1999", "n": 1999}


def test_two_thousand_json_lines_from_a_file_with_their_ids_as_json(spawn, pit, tmp_path, lines):
    path = tmp_path / "messages.jsonl"
    path.write_text("".join(f'{{"n": "{"x" * 300}{n}"}}\n' for n in range(2000)))
    with path.open() as file:
        out, _ = spawn("store", "--json", stdin=file).communicate()
    ids = [line["id"] for line in lines(out)]
    assert len(set(ids)) == 2000
    assert pit.stats().due == 2000
    assert pit.get(ids[7]).message["n"].endswith("x7")


def test_a_line_is_stored_although_the_writer_goes_on(spawn, pit):
    """``tail -f log | pitstop store``: no message waits until a batch is full."""
    process = spawn("store", "--json", stdin=subprocess.PIPE)
    process.stdin.write('{"id": "a"}\n{"id": "b", "half":')
    process.stdin.flush()
    assert process.stdout.readline() == '{"id":"a"}\n'
    assert pit.get("a") is not None
    assert pit.get("b") is None
    out, _ = process.communicate(" 1}")
    assert out == '{"id":"b"}\n'
    assert pit.get("b").message == {"id": "b", "half": 1}


@pytest.mark.parametrize("bad", ['{"n":', '["n"]', '{"id": 5}', b"\xff"])
def test_a_bad_line_stops_with_its_number_and_all_before_it_are_stored(invoke, pit, bad):
    head = "".join(f'{{"id": "{n}"}}\n' for n in range(2500)).encode()
    bad = bad if isinstance(bad, bytes) else bad.encode()
    result = invoke("store", input=head + b"\n" + bad + b'\n{"id": "after"}\n')
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Line 2502: ")
    assert "Before it, 2,500 messages were stored." in result.stderr
    assert pit.stats().due == 2500
    assert pit.get("after") is None


def test_catch_up_holds_for_each_line(invoke, pit):
    args = ["--at", "2020-01-01T00:00Z", "--every", "365d", "--until", "2022-01-01T00:00Z", "--catch-up", "all"]
    assert invoke("store", *args, input='{"id": "a"}\n{"id": "b"}').exit_code == 0
    assert len(invoke("listen", "--once").stdout.splitlines()) == 6


def test_empty_lines_and_an_empty_stdin_are_nothing(invoke, pit):
    assert invoke("store", input="\n \n").stderr.startswith("Stored 0 messages")
    assert invoke("store", "-", input="").exit_code == 0
    assert pit.entries() == []


def test_an_edit_of_a_message_that_has_changed_fails_and_says_so(invoke, pit, lines):
    pit.store({"id": "a", "n": 1}, timedelta(hours=1))
    (entry,) = lines(invoke("show", "a", "--json").stdout)
    edit = ("store", '{"id": "a", "n": 2}', "--in", "1h", "--if-revision", entry["revision"])
    assert lines(invoke(*edit, "--json").stdout) == [{"id": "a", "outcome": "replaced"}]
    failed = invoke(*edit)
    assert failed.exit_code == 1
    assert "'a' was not stored, because it has changed since it was read: it is due at" in failed.stderr
    assert "Look at it again with 'pitstop show'" in failed.stderr
    pit.remove("a")
    assert "To emit it again, store it without --if-revision." in invoke(*edit).stderr
    assert pit.get("a") is None


def test_an_edit_says_when_the_message_comes(invoke, pit):
    """Without a time, ``store`` means now: an edit of the body alone would emit a message of next month."""
    pit.store({"id": "a", "n": 1}, timedelta(hours=1))
    edit = ("store", '{"id": "a", "n": 2}', "--if-revision", pit.get("a").revision)
    refused = invoke(*edit)
    assert (refused.exit_code, "Give the time, too, as in --in 0s for now" in refused.stderr) == (2, True)
    assert pit.get("a").message["n"] == 1
    assert invoke(*edit, "--keep-schedule").exit_code == 0
    assert (pit.get("a").message["n"], pit.get("a").state) == (2, "scheduled")
    assert invoke(*edit[:3], pit.get("a").revision, "--in", "0s").exit_code == 0
    assert pit.get("a").state == "due"


def test_an_edit_is_about_one_message_with_an_id(invoke):
    assert "so --if-revision names no message" in invoke("store", "{}", "--in", "1h", "--if-revision", "x").stderr
    assert "--if-revision is about one message" in invoke("store", "--if-revision", "x", input="{}").stderr
    twice = invoke("store", '{"id": "a"}', "--if-revision", "x", "--if-exists", "keep")
    assert (twice.exit_code, "Give one." in twice.stderr) == (2, True)
