"""``pitstop listen``: its output and its commands."""

from __future__ import annotations

import os
import signal

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from patience import with_some_lease
from pitstop.cli import _listen
from pitstop.cli._streams import StdoutFailed


NOW = timedelta(0)


def test_a_line_has_everything_that_a_delivery_has(invoke, pit, lines):
    due = datetime(2024, 5, 4, 10, tzinfo=UTC)
    pit.store({"id": "a", "b": b"hi"}, due)
    with pit.listen() as listener:
        listener.get().nack("no luck", delay=NOW)
    result = invoke("listen", "--once")
    assert lines(result.stdout) == [
        {
            "id": "a",
            "msg": {"id": "a", "b": {"$bytes": "aGk="}},
            "kind": "",
            "scheduled_for": "2024-05-04T10:00:00.000Z",
            "attempt": 2,
            "missed": 0,
            "key": f"a:{due.timestamp() * 1000:.0f}",
            "last_error": "no luck",
        }
    ]
    assert result.stderr == ""
    assert pit.get("a") is None, "it was not acknowledged after its line was written"


def test_it_takes_messages_of_the_kinds_that_are_given(invoke, pit, lines):
    for kind in ("", "mail", "report"):
        pit.store({"id": f"a {kind}"}, NOW, kind=kind)
    printed = lines(invoke("listen", "--once", "--kind", "mail", "--kind", "").stdout)
    assert sorted((each["id"], each["kind"]) for each in printed) == [("a ", ""), ("a mail", "mail")]
    result = invoke("listen", "--once", "--kind", "report", "--exec", "echo $PITSTOP_KIND")
    assert result.exit_code == 0
    assert pit.entries() == []


@pytest.mark.parametrize("options", [(), ("--exec", "cat"), ("--exec", "cat", "--workers", "2")])
def test_once_at_a_rate_waits_for_the_turn_of_each_message(invoke, pit, options):
    for n in range(3):
        pit.store({"id": f"m{n}"}, NOW)
    result = invoke("listen", "--once", "--rate", "20/s", *options)
    assert result.exit_code == 0
    assert list(pit.entries()) == []


def test_a_rate_that_is_none_is_refused_with_an_example(invoke):
    result = invoke("listen", "--once", "--rate", "50")
    assert result.exit_code == 2
    assert "Give text such as '50/s', '100/m' or '1000/15m'." in " ".join(result.stderr.split())


def test_once_drains_due_messages_and_ends(invoke, pit, lines):
    pit.store_many([({"id": f"{n:03}"}, datetime(2024, 1, 1, tzinfo=UTC)) for n in range(200)])
    pit.store({"id": "later"}, timedelta(hours=1))
    out = invoke("listen", "--once", "--prefetch", "50").stdout
    assert [line["id"] for line in lines(out)] == [f"{n:03}" for n in range(200)]
    assert pit.stats().scheduled == 1
    assert invoke("listen", "--once").stdout == ""


@pytest.mark.parametrize(
    "error",
    [StdoutFailed(BrokenPipeError()), StdoutFailed(OSError(28, "No space left on device")), KeyboardInterrupt()],
    ids=["no reader", "full", "interrupted"],
)
def test_a_message_that_could_not_be_written_comes_back_at_once(invoke, pit, monkeypatch, error):
    def fail(document):
        raise error

    monkeypatch.setattr(_listen, "print_json_for_people", fail)
    pit.store({"id": "a"}, NOW)
    result = invoke("listen", "--once")
    assert result.exit_code == (0 if getattr(error, "unread", False) else 1)
    entry = pit.get("a")
    assert entry.state == "due"
    assert "could not print it" in entry.last_error


def test_exec_gives_the_message_to_the_command_and_acks_when_it_succeeds(invoke, pit, tmp_path, lines):
    due = datetime(2024, 5, 4, 10, tzinfo=UTC)
    pit.store({"id": "a'; touch gotcha; '", "b": b"hi"}, due)
    result = invoke("listen", "--once", "--exec", f"cat > {tmp_path}/in; env > {tmp_path}/env")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert lines((tmp_path / "in").read_text()) == [{"id": "a'; touch gotcha; '", "b": {"$bytes": "aGk="}}]
    environment = (tmp_path / "env").read_text().splitlines()
    assert "PITSTOP_ID=a'; touch gotcha; '" in environment
    assert "PITSTOP_SCHEDULED_FOR=2024-05-04T10:00:00.000Z" in environment
    assert {"PITSTOP_ATTEMPT=1", "PITSTOP_MISSED=0", "PITSTOP_LAST_ERROR="} <= set(environment)
    assert f"PITSTOP_KEY=a'; touch gotcha; ':{due.timestamp() * 1000:.0f}" in environment
    assert pit.entries() == []


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("exit 3", "exit code 3"),
        ("echo first >&2; echo last words >&2; exit 4", "exit code 4: first\nlast words"),
        ("kill -9 $$", "ended by SIGKILL"),
        ("yes x | head -c 5000 >&2; exit 1", "exit code 1: " + "\n".join("x" * 500)),
        ("no-such-command-anywhere", "exit code 127: "),
    ],
)
def test_exec_nacks_with_exit_code_and_the_tail_of_stderr_when_it_fails(invoke, pit, command, error):
    pit.store({"id": "a"}, NOW)
    result = invoke("listen", "--once", "--lock-time", "1h", "--exec", command)
    assert result.exit_code == 0
    assert "Failed: 'a' attempt 1: " in result.stderr
    entry = pit.get("a")
    assert entry.last_error.startswith(error)
    assert entry.state == "scheduled"
    assert entry.due - pit.now() > timedelta(minutes=59), (
        "without a retry's delay it must come back when its lease ends"
    )


@pytest.mark.parametrize(
    "command",
    [
        "cat > /dev/null",
        "true",
        "exec < /dev/null; exit 0",
        "head -c 3000000 /dev/zero | tr '\\0' x >&2; cat > /dev/null",
        "exec 2>&-; cat > /dev/null",
    ],
    ids=["reads all", "reads nothing", "closes stdin", "talks before it reads", "closes stderr"],
)
def test_a_large_message_and_a_command_never_wait_for_each_other(invoke, pit, command):
    pit.store({"id": "a", "data": "x" * 2_000_000}, NOW)
    assert invoke("listen", "--once", "--exec", command).exit_code == 0
    assert pit.entries() == []


def test_a_command_that_leaves_a_process_behind_is_done_all_the_same(invoke, pit, tmp_path):
    """The remaining process has our pipes open. The listener does not wait for it."""
    pit.store({"id": "a"}, NOW)
    invoke("listen", "--once", "--exec", f"sleep 100 & echo $! > {tmp_path}/pid")
    left = int((tmp_path / "pid").read_text())
    os.kill(left, signal.SIGKILL)  # raises if the listener waited for the process
    assert pit.entries() == []


def test_the_lease_is_extended_while_the_command_runs(invoke, pit, lines):
    def show(lease):
        pit.store({"id": "a"}, NOW)
        options = ("--once", "--json", "--lock-time", f"{lease}s", "--prefetch", "2")
        result = invoke("listen", *options, "--exec", f"sleep {2.5 * lease}")
        told = [(line["id"], line["attempt"], line["outcome"], line["error"]) for line in lines(result.stdout)]
        assert told == [("a", 1, "acked", None)]
        assert result.stderr == ""
        assert pit.entries() == []

    with_some_lease(show)


def test_a_message_that_is_stored_anew_while_its_command_runs_stays(invoke, pit, tmp_path, url, lines):
    pit.store({"id": "a", "v": 1}, NOW)
    command = f"{__import__('sys').executable} -m pitstop store '{{\"v\": 2}}' --id a --in 1h >&2"
    result = invoke("listen", "--once", "--json", "--exec", command)
    (line,) = lines(result.stdout)
    assert (line["outcome"], line["error"]) == ("lost", None)
    assert "The lease of 'a' (attempt 1) is over" in result.stderr
    assert pit.get("a").message == {"id": "a", "v": 2}


def test_json_with_exec_prints_outcomes(invoke, pit, lines):
    pit.store({"id": "a"}, NOW)
    pit.store({"id": "b"}, NOW)
    result = invoke("listen", "--once", "--json", "--exec", "test $PITSTOP_ID = a")
    assert [(line["id"], line["outcome"], line["error"]) for line in lines(result.stdout)] == [
        ("a", "acked", None),
        ("b", "nacked", "exit code 1"),
    ]


def test_an_ack_that_fails_does_not_end_the_listener(invoke, pit, monkeypatch, lines):
    pit.store({"id": "a"}, NOW)
    pit.store({"id": "b"}, NOW)
    ack = pitstop.Delivery.ack

    def fail(delivery):
        if delivery.id == "a":
            raise pitstop.BackendUnavailable("away")
        ack(delivery)

    monkeypatch.setattr(pitstop.Delivery, "ack", fail)
    result = invoke("listen", "--once")
    assert [line["id"] for line in lines(result.stdout)] == ["a", "b"]
    assert result.stderr == "Warning: away\n"
    assert pit.get("b") is None
    assert pit.get("a").state == "leased"


def test_a_lease_that_cannot_be_extended_is_tried_again_and_told_once(invoke, pit, monkeypatch, tmp_path):
    pit.store({"id": "a"}, NOW)
    tries, extend = [], pitstop.Delivery.extend

    def flaky(delivery, duration=None):
        tries.append(delivery)
        if len(tries) < 4:
            raise pitstop.BackendUnavailable("away")
        extend(delivery, duration)
        (tmp_path / "extended").touch()

    monkeypatch.setattr(pitstop.Delivery, "extend", flaky)
    # Half of the lease is left for the extension, even on a busy machine.
    command = f"until test -e {tmp_path}/extended; do sleep 0.05; done"
    result = invoke("listen", "--once", "--lock-time", "4s", "--exec", command)
    assert len(tries) >= 4
    assert result.stderr == "Warning: the lease of 'a' could not be extended yet: away\n"
    assert pit.entries() == []


def test_a_store_that_is_away_when_the_command_begins_does_not_end_the_listener(invoke, pit, monkeypatch):
    pit.store({"id": "a"}, NOW)
    now, away = pitstop.Pitstop.now, [True]

    def flaky(self):
        if away:
            away.pop()
            raise pitstop.BackendUnavailable("away")
        return now(self)

    monkeypatch.setattr(pitstop.Pitstop, "now", flaky)
    result = invoke("listen", "--once", "--exec", "true")
    assert (result.exit_code, result.stderr, away) == (0, "", [])
    assert pit.entries() == []


def test_signal_handlers_are_put_back(invoke):
    before = signal.getsignal(signal.SIGTERM)
    invoke("listen", "--once")
    assert signal.getsignal(signal.SIGTERM) is before


def test_workers_without_a_command_are_refused(invoke):
    result = invoke("listen", "--once", "--workers", "2")
    assert result.exit_code == 2
    assert "--exec CMD" in result.stderr
