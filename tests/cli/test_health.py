"""``pitstop listen --health`` and ``pitstop stats --fail-if-late``."""

from __future__ import annotations

import signal
import socket
import threading

from datetime import timedelta

import pytest

from click.testing import Result

import pitstop

from health.kit import connect, probe, until


@pytest.fixture
def listening(spawn):
    """Start ``listen --health`` in a process. Return it with its place."""

    def start(*args, health="127.0.0.1:0"):
        process = spawn("listen", "--health", health, *args)
        line = process.stderr.readline()
        assert line.startswith("The health is at "), line
        return process, line.removeprefix("The health is at ").rstrip(".\n")

    return start


@pytest.mark.parametrize(
    "args", [(), ("--exec", "cat"), ("--exec", "cat", "--workers", "2")], ids=["", "exec", "workers"]
)
def test_listen_answers_probes_until_it_ends(listening, args):
    process, place = listening(*args)
    assert probe(place, "/livez").status == 200
    until(lambda: probe(place, "/readyz").status == 200)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    with pytest.raises(ConnectionError):
        connect(place)


def test_a_command_that_runs_long_is_no_fault(listening, pit: pitstop.Pitstop, tmp_path):
    process, place = listening(
        "--exec", f"touch {tmp_path}/begun; cat > /dev/null; while ! test -e {tmp_path}/end; do sleep 0.05; done"
    )
    pit.store({"id": "a"}, timedelta(0))
    until((tmp_path / "begun").exists)
    # Far beyond the limit.
    for _ in range(20):
        assert probe(place).status == 200
        threading.Event().wait(0.05)
    (tmp_path / "end").touch()
    until(lambda: pit.get("a") is None)
    assert process.poll() is None


def test_a_port_that_is_taken_is_one_line(invoke):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result: Result = invoke("listen", "--health", f"127.0.0.1:{taken.getsockname()[1]}")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "cannot be used" in result.stderr


def test_a_wrong_place_is_wrong_use(invoke):
    result: Result = invoke("listen", "--health", "8080")
    assert result.exit_code == 2
    assert "Give a host and a port" in result.stderr


class TestFailIfLate:
    def test_it_exits_with_0_while_no_message_is_late(self, invoke, pit: pitstop.Pitstop):
        pit.store({}, timedelta(minutes=-4))
        pit.store({}, timedelta(hours=1))
        result = invoke("stats", "--fail-if-late", "5m")
        assert (result.exit_code, result.stderr) == (0, "")
        assert "due" in result.stdout

    def test_it_exits_with_3_and_says_how_late_the_oldest_message_is(self, invoke, pit: pitstop.Pitstop, lines):
        pit.store({}, timedelta(minutes=-6))
        result = invoke("stats", "--fail-if-late", "5m", "--json")
        assert result.exit_code == 3
        assert result.stderr.startswith("Late: a message has been due for 6m")
        assert lines(result.stdout)[0]["due"] == 1

    @pytest.mark.parametrize("by", [(), ("--by", "kind")])
    def test_a_message_that_is_handled_or_paused_or_dead_is_not_late(self, invoke, pit: pitstop.Pitstop, by):
        for id in ("handled", "paused"):
            pit.store({"id": id}, timedelta(hours=-1))
        pit.pause("paused")
        with pit.listen() as listener:
            delivery = listener.get()
            assert delivery.id == "handled"
            assert invoke("stats", "--fail-if-late", "1m", *by).exit_code == 0
            delivery.ack()

    @pytest.mark.parametrize("by", [(), ("--by", "kind")])
    def test_messages_of_a_paused_kind_are_not_late(self, invoke, pit: pitstop.Pitstop, by):
        pit.store({}, timedelta(hours=-1), kind="mail")
        assert invoke("stats", "--fail-if-late", "1m", *by).exit_code == 3
        pit.pause(kind="mail")
        assert invoke("stats", "--fail-if-late", "1m", *by).exit_code == 0
        pit.store({}, timedelta(minutes=-2), kind="report")
        result = invoke("stats", "--fail-if-late", "1m", *by)
        assert result.exit_code == 3
        assert "for 2m" in result.stderr

    def test_zero_is_any_message_that_is_due(self, invoke, pit: pitstop.Pitstop):
        assert invoke("stats", "--fail-if-late", "0s").exit_code == 0
        pit.store({}, timedelta(seconds=-1))
        assert invoke("stats", "--fail-if-late", "0s").exit_code == 3

    def test_a_store_that_cannot_be_used_is_another_exit_code(self, invoke):
        result = invoke("stats", "--fail-if-late", "5m", "--url", "sqlite:////no/such/file.db")
        assert result.exit_code == 1
