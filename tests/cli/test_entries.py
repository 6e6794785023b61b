"""``pitstop list``, ``show``, ``remove``, ``redrive`` and ``stats``."""

from __future__ import annotations

import sqlite3

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from pitstop._decisions._announce import Listens, announcement
from pitstop._pitstop import session_of
from pitstop.abc import LAST_INSTANT, AllBut


NOW = timedelta(0)


@pytest.fixture
def dead(pit, url):
    """Make messages that are dead."""

    def make(*ids):
        with __import__("pitstop").init(f"{url}?retry.max_attempts=1") as strict:
            for id in ids:
                strict.store({"id": id}, NOW)
                with strict.listen() as listener:
                    listener.get().nack("it never works")

    return make


def test_list_shows_whole_ids_states_and_errors_without_colours_or_folding(invoke, pit):
    long = "x" * 300
    pit.store({"id": long}, datetime(2031, 5, 4, 10, tzinfo=UTC))
    pit.store({"id": "again"}, timedelta(hours=3), every=timedelta(hours=1))
    pit.store({"id": "failed"}, NOW)
    with pit.listen() as listener:
        listener.get().nack("E" * 200)
    out = invoke("list").stdout
    assert "\x1b" not in out
    head, rule, failed, again, far = (line.rstrip() for line in out.splitlines())
    assert head.split() == ["id", "state", "due", "every", "attempts", "last", "error"]
    assert set(rule) == {"─"}
    assert failed.split()[:2] == ["failed", "scheduled"]
    assert failed.endswith("E" * 59 + "…")
    assert "in 2h59m" in again
    assert again.split()[-3:] == ["1h", "0", "-"]
    assert far.startswith(f"{long}   scheduled   2031-05-04T10:00:00.000Z")


def test_the_content_of_a_message_does_not_steer_the_terminal(invoke, pit):
    pit.store({"id": "[red]a\x1b[2J\x9b", "text": "\x1b[2J\x9b\n"}, NOW)
    with pit.listen() as listener:
        listener.get().nack("\x1b]0;gotcha\a")
    for args in (["list"], ["show", "[red]a\x1b[2J\x9b"], ["list", "--json"], ["remove", "[red]a\x1b[2J\x9b"]):
        out = invoke(*args).stdout
        assert "[red]a" in out
        assert not {"\x1b", "\x9b", "\a"} & set(out), args


def test_list_json_has_one_entry_per_line(invoke, pit, lines):
    start = datetime(2031, 5, 4, 10, tzinfo=UTC)
    pit.store({"id": "a", "b": b"hi"}, start, start + timedelta(days=1), timedelta(hours=1))
    (entry,) = lines(invoke("list", "--json").stdout)
    assert entry.pop("revision")
    assert entry == {
        "id": "a",
        "kind": "",
        "state": "scheduled",
        "due": "2031-05-04T10:00:00.000Z",
        "scheduled_for": "2031-05-04T10:00:00.000Z",
        "every": {"v": 1, "kind": "every", "ms": 3600000},
        "start": "2031-05-04T10:00:00.000Z",
        "end": "2031-05-05T10:00:00.000Z",
        "catch_up": "latest",
        "grace": None,
        "jitter": None,
        "retry": None,
        "lock_time": None,
        "expires": None,
        "attempts": 0,
        "last_error": None,
        "leased_until": None,
        "paused_until": None,
        "message": {"id": "a", "b": {"$bytes": "aGk="}},
    }


def test_list_says_when_there_are_more_and_all_pages_through_them(invoke, pit, lines):
    pit.store_many([({"id": f"{n:04}"}, timedelta(hours=1)) for n in range(2345)])
    some = invoke("list", "--limit", "10", "--json")
    assert [line["id"] for line in lines(some.stdout)] == [f"{n:04}" for n in range(10)]
    assert "more than 10" in some.stderr
    assert "more than 100" in invoke("list").stderr
    everything = invoke("list", "--all", "--json")
    assert [line["id"] for line in lines(everything.stdout)] == [f"{n:04}" for n in range(2345)]
    assert everything.stderr == ""
    assert invoke("list", "--limit", "2345").stderr == ""


def test_list_by_state(invoke, pit, lines):
    pit.store({"id": "due"}, NOW)
    pit.store({"id": "scheduled"}, timedelta(hours=1))
    assert [line["id"] for line in lines(invoke("list", "--state", "due", "--json").stdout)] == ["due"]


def test_show_answers_why_a_message_has_not_come(invoke, pit, dead):
    dead("dead")
    pit.store({"id": "due"}, NOW)
    with pit.listen() as listener:
        first = listener.get()
        leased = invoke("show", "due").stdout
        first.nack("oh no", delay=timedelta(hours=1))
    pit.store({"id": "fresh"}, NOW)
    pit.store({"id": "later"}, timedelta(days=2))
    assert "A listener has it (attempt 1). It comes back in 14m" in leased
    assert "It failed once and comes back in 59m" in invoke("show", "due").stdout
    assert "no listener has taken it" in invoke("show", "fresh").stdout
    assert "Its time comes in 1d23h59m" in invoke("show", "later").stdout
    assert "set aside" in invoke("show", "dead").stdout
    assert "it never works" in invoke("show", "dead").stdout


def test_show_has_all_that_was_stored_with_a_series(invoke, pit, lines):
    start = datetime(2031, 5, 4, 10, tzinfo=UTC)
    rule = pitstop.Cron("0 9 * * *", tz="Europe/Berlin")
    pit.store({"id": "a"}, start, every=rule, catch_up="skip", grace="2h", jitter="5m")
    out = invoke("show", "a").stdout.replace("catch up", "catch_up")
    shown = dict(line.strip().split(maxsplit=1) for line in out.splitlines()[:-1])
    assert (shown["start"], shown["end"], shown["catch_up"]) == ("2031-05-04T10:00:00.000Z", "-", "skip")
    assert (shown["grace"], shown["jitter"]) == ("2h", "5m")
    (document,) = lines(invoke("show", "a", "--json").stdout)
    assert (document["catch_up"], document["grace"], document["jitter"]) == ("skip", "2h", "5m")


def test_show_has_the_kind_and_the_policies(invoke, pit, lines):
    retry = {"delay": "5s", "max_attempts": 3}
    pit.store({"id": "a"}, NOW, kind="mail", retry=retry, lock_time="2h", expires="10m")
    out = invoke("show", "a").stdout
    for text in ("mail", "delay=5s, max_attempts=3", "2h", "10m after its time", "takes the kind 'mail'"):
        assert text in " ".join(out.split())
    for command in (("show", "a"), ("list",)):
        (document,) = lines(invoke(*command, "--json").stdout)
        assert document["kind"] == "mail"
        assert (document["retry"], document["lock_time"], document["expires"]) == (retry, "2h", "10m")


def test_show_says_that_a_message_is_later_than_its_expires(invoke, pit):
    pit.store({"id": "late"}, pit.now() - timedelta(hours=1), expires="10m")
    pit.store({"id": "in time"}, pit.now() - timedelta(hours=1), expires="2h")
    assert "longer ago than its expires." in " ".join(invoke("show", "late").stdout.split())
    assert "no listener has taken it" in " ".join(invoke("show", "in time").stdout.split())


def test_show_counts_the_attempts_of_a_due_message_that_came_back(invoke, pit):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        listener.get().nack("oh no", delay=timedelta(0))
    out = " ".join(invoke("show", "a").stdout.split())
    assert "after attempt 1, and no listener has taken it since" in out


def test_show_counts_the_failures(invoke, pit):
    pit.store({"id": "a"}, NOW)
    with pit.listen() as listener:
        listener.get().nack("first", delay=NOW)
        listener.get(timeout=5).nack("second", delay=timedelta(hours=1))
    assert "It failed 2 times and comes back in 59m" in invoke("show", "a").stdout


def test_show_prints_the_message(invoke, pit, lines):
    pit.store({"id": "a", "text": "grüß dich"}, NOW)
    assert invoke("show", "a").stdout.endswith('{"id":"a","text":"grüß dich"}\n')
    assert lines(invoke("show", "a", "--json").stdout)[0]["message"]["text"] == "grüß dich"


@pytest.mark.parametrize("command", ["show", "remove", "redrive", "emit-now", "release"])
@pytest.mark.usefixtures("pit")
def test_an_unknown_id_is_an_error(invoke, command):
    result = invoke(command, "nope")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: There is no message 'nope'")
    assert result.stderr.count("\n") == 1


def test_remove_removes_existing_messages_and_fails_for_the_others(invoke, pit, lines):
    for id in "abc":
        pit.store({"id": id}, NOW)
    assert invoke("remove", "a").stdout == "Removed a\n"
    result = invoke("remove", "b", "x", "c", "--json")
    assert result.exit_code == 1
    assert lines(result.stdout) == [
        {"id": "b", "removed": True},
        {"id": "x", "removed": False},
        {"id": "c", "removed": True},
    ]
    assert pit.entries() == []


def test_redrive_makes_dead_messages_due(invoke, pit, dead, lines):
    dead("a", "b", "c")
    pit.store({"id": "alive"}, NOW)
    assert invoke("redrive", "a").stdout == "Redriven a\n"
    assert pit.get("a").state == "due"
    result = invoke("redrive", "alive", "b", "--json")
    assert result.exit_code == 1
    assert "'alive' is not dead but due" in result.stderr
    assert [line["redriven"] for line in lines(result.stdout)] == [False, True]
    assert invoke("redrive", "--all").stdout == "Redriven c\n"
    assert invoke("redrive", "--all").stderr == "No message is dead.\n"


def test_redrive_all_goes_on_past_a_damaged_one(invoke, pit, dead, url):
    dead("a", "b", "c")
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        (table,) = connection.execute("SELECT name FROM sqlite_master WHERE sql LIKE '%last_error%'").fetchone()
        connection.execute(f"UPDATE {table} SET msg = 'no json' WHERE id = 'b'")
    connection.close()
    result = invoke("redrive", "--all")
    assert result.exit_code == 1
    assert result.stdout == "Redriven a\nRedriven c\n"
    assert "'b' cannot be redriven" in result.stderr
    assert "Damaged" in invoke("list", "--state", "dead").stdout


def test_redrive_wants_ids_or_all(invoke):
    assert invoke("redrive").exit_code == 2
    assert invoke("redrive", "a", "--all").exit_code == 2
    assert invoke("redrive", "--help").stdout.startswith("Usage: pitstop redrive [OPTIONS] [ID...|-]\n")


def test_stats(invoke, pit, dead, lines):
    dead("d")
    pit.store({"id": "s"}, timedelta(hours=1))
    pit.store({"id": "u"}, datetime(2024, 5, 4, 10, tzinfo=UTC))
    (counts,) = lines(invoke("stats", "--json").stdout)
    assert counts == {
        "scheduled": 1,
        "due": 1,
        "leased": 0,
        "dead": 1,
        "paused": 0,
        "oldest_due": "2024-05-04T10:00:00.000Z",
        "paused_kinds": {},
    }
    assert "oldest due  2024-05-04T10:00:00.000Z (" in invoke("stats").stdout


def test_a_message_is_rescheduled(invoke, pit, lines):
    pit.store({"id": "a"}, timedelta(hours=1))
    out = invoke("reschedule", "a", "2031-05-04T12:00+02:00").stdout
    assert out == "Rescheduled a to 2031-05-04T10:00:00.000Z\n"
    assert pit.get("a").scheduled_for == datetime(2031, 5, 4, 10, tzinfo=UTC)
    (line,) = lines(invoke("reschedule", "a", "0s", "--json").stdout)
    assert (line["rescheduled"], pit.get("a").state) == (True, "due")
    assert line["due"].startswith("20")


def test_a_message_comes_now(invoke, pit, lines):
    pit.store({"id": "a"}, timedelta(hours=1))
    pit.store({"id": "b"}, timedelta(hours=1))
    assert invoke("emit-now", "a").stdout == "Due now: a\n"
    assert lines(invoke("emit-now", "b", "--json").stdout) == [{"id": "b", "emitted_now": True, "error": None}]
    assert pit.stats().due == 2


def test_a_lease_is_released(invoke, pit, lines):
    pit.store({"id": "a"}, NOW)
    delivery = pit.listen().get()
    leased = invoke("emit-now", "a")
    assert (leased.exit_code, "If the listener is dead, use 'pitstop release'." in leased.stderr) == (1, True)
    assert invoke("release", "a").stdout == "Released a\n"
    with pytest.raises(pitstop.LeaseLost):
        delivery.ack()
    again = invoke("release", "a", "--json")
    (line,) = lines(again.stdout)
    assert (line["released"], line["error"]) == (
        False,
        "'a' is not leased but due. Only a leased message can be released.",
    )
    assert again.exit_code == 1


def test_a_dead_message_does_not_come_now(invoke, dead):
    dead("a")
    result = invoke("emit-now", "a")
    assert (result.exit_code, "'a' is dead. Use 'pitstop redrive'." in result.stderr) == (1, True)


def test_messages_are_paused_and_resumed(invoke, pit, lines):
    pit.store_many([({"id": id}, timedelta(hours=1)) for id in "abc"])
    assert invoke("pause", "a", "b").stdout == "Paused a\nPaused b\n"
    result = invoke("pause", "c", "gone", "--until", "2031-05-04T12:00+02:00", "--json")
    assert [(line["id"], line["paused"]) for line in lines(result.stdout)] == [("c", True), ("gone", False)]
    assert (result.exit_code, "There is no message 'gone'" in result.stderr) == (1, True)
    assert pit.get("c").paused_until == datetime(2031, 5, 4, 10, tzinfo=UTC)

    listed = lines(invoke("list", "--state", "paused", "--json").stdout)
    assert [(each["id"], each["state"], each["paused_until"]) for each in listed] == [
        ("c", "paused", "2031-05-04T10:00:00.000Z"),
        ("a", "paused", None),
        ("b", "paused", None),
    ]
    (counts,) = lines(invoke("stats", "--json").stdout)
    assert (counts["paused"], counts["scheduled"], counts["dead"]) == (3, 0, 0)
    assert "paused" in invoke("stats").stdout
    assert "It is paused, and is not emitted until 'pitstop resume'." in invoke("show", "a").stdout
    assert "It is paused until 2031-05-04T10:00:00.000Z" in invoke("show", "c").stdout

    assert invoke("resume", "a", "b").stdout == "Resumed a\nResumed b\n"
    assert lines(invoke("resume", "c", "--json").stdout) == [{"id": "c", "resumed": True, "error": None}]
    assert pit.stats().scheduled == 3


def test_a_kind_is_paused_and_resumed(invoke, pit, lines):
    pit.store({"id": "a"}, NOW, kind="mail")
    assert invoke("pause", "--kind", "mail", "--until", "2031-05-04T12:00+02:00").stdout == "Paused the kind mail\n"
    assert pit.paused_kinds() == {"mail": datetime(2031, 5, 4, 10, tzinfo=UTC)}
    (counts,) = lines(invoke("stats", "--json").stdout)
    assert (counts["due"], counts["paused_kinds"]) == (1, {"mail": "2031-05-04T10:00:00.000Z"})
    assert "paused kinds  'mail' until 2031-05-04T10:00:00.000Z" in invoke("stats").stdout
    assert "Its kind 'mail' is paused until 2031-05-04T10:00:00.000Z, or" in invoke("show", "a").stdout
    assert lines(invoke("pause", "--kind", "mail", "--json").stdout) == [{"kind": "mail", "paused": True}]
    assert "is paused until 'pitstop resume --kind mail'." in invoke("show", "a").stdout
    assert invoke("resume", "--kind", "mail").stdout == "Resumed the kind mail\n"
    again = invoke("resume", "--kind", "mail", "--json")
    assert (again.exit_code, lines(again.stdout)) == (1, [{"kind": "mail", "resumed": False}])
    assert "The kind 'mail' is not paused." in again.stderr


def test_a_message_that_cannot_be_paused_or_resumed_has_a_reason(invoke, pit, dead):
    dead("a")
    assert "'a' is dead, so it is not emitted anyway." in invoke("pause", "a").stderr
    pit.store({"id": "b"}, NOW)
    assert "'b' is not paused but due. Only a paused message can be resumed." in invoke("resume", "b").stderr
    assert "has passed" in invoke("pause", "b", "--until", "0s").stderr
    pit.pause("b")
    assert "'b' is paused. Use 'pitstop resume' first." in invoke("emit-now", "b").stderr
    assert "'b' is not leased but paused." in invoke("release", "b").stderr
    assert "'b' is not dead but paused." in invoke("redrive", "b").stderr


@pytest.mark.parametrize(
    "command",
    [
        ("reschedule", "a", "soon"),
        ("reschedule", "a"),
        ("emit-now",),
        ("release",),
        ("pause",),
        ("resume",),
        ("pause", "a", "--kind", "b"),
        ("resume", "a", "--kind", "b"),
        ("pause", "a", "--until", "soon"),
    ],
)
def test_a_change_needs_its_arguments(invoke, command):
    assert invoke(*command).exit_code == 2


def test_explain_says_why_a_message_has_not_come(invoke, pit, lines):
    pit.store({"id": "a", "body": "private"}, timedelta(0), every="1h", kind="mail")
    shown = invoke("explain", "a").stdout
    assert "no listener has taken it. No consumer that takes the kind 'mail' was seen lately." in " ".join(
        shown.split()
    )
    assert len([line for line in shown.splitlines() if line.rstrip().endswith("UTC")]) == 5, shown
    assert "private" not in shown
    pit.pause(kind="mail")
    (found,) = lines(invoke("explain", "a", "--json").stdout)
    assert found["why"] == "Its kind 'mail' is paused until 'pitstop resume --kind mail'."
    assert (found["state"], found["kind_paused"], found["kind_paused_until"]) == ("due", True, None)
    assert (found["since"], len(found["occurrences"]), found["attempts"]) == (found["due"], 5, 0)
    assert found["clock_skew"] in {"0s", "1ms", "-1ms"}
    unknown = invoke("explain", "none")
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "There is no message 'none'" in unknown.stderr


def test_consumers_lists_the_processes_that_have_said_so(invoke, pit, lines):
    assert invoke("consumers").stderr == "No consumer was seen lately.\n"
    assert invoke("consumers", "--json").stdout == ""
    listens = [Listens({"mail", ""}, 0, True), Listens(AllBut({"mail"}), 2, False), Listens(None, 0, True)]
    who = {
        "host": "host",
        "pid": 7,
        "name": "worker",
        "since": 0,
        "now": int(pit.now().timestamp() * 1000),
        "skew": -90,
    }
    session_of(pit).backend.note("consumer:1", announcement(listens, ["a", "b"], **who), LAST_INSTANT)
    shown = " ".join(invoke("consumers").stdout.split())
    assert "worker host 7 '', mail; all but mail; all 2 2 1970-01-01" in shown
    assert "-90ms the store did not answer it" in shown
    (found,) = lines(invoke("consumers", "--json").stdout)
    assert (found["pid"], found["kinds"]) == (7, [["", "mail"], {"all_but": ["mail"]}, None])
    assert (found["in_handlers"], found["handling"], found["healthy"]) == (2, ["a", "b"], False)
    pit.store({"id": "a"}, timedelta(0), kind="mail")
    (why,) = lines(invoke("explain", "a", "--json").stdout)
    assert why["consumers"] == [found]
    assert "worker on host, pid 7, 2 in handlers" in " ".join(invoke("explain", "a").stdout.split())
