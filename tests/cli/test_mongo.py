"""The command on a real MongoDB."""

from __future__ import annotations

import json
import os
import signal

from datetime import timedelta

import pytest

from click.testing import CliRunner

from pitstop.cli._app import app


NOW = timedelta(0)
COMMANDS = [
    ("list",),
    ("list", "--json"),
    ("show", "a"),
    ("stats",),
    ("ping",),
    ("check",),
    ("remove", "a"),
    ("redrive", "a"),
    ("redrive", "--all"),
    ("adopt",),
    ("listen", "--once"),
]


@pytest.fixture
def url(mongo_uri, mongo_dbname):
    return f"{mongo_uri}/{mongo_dbname}"


def test_it_prints_a_message_at_its_time(measure_lateness, record_property):
    """It is never early by the server's clock, and not late, within a bound that a busy machine keeps."""
    process, lateness = measure_lateness()
    record_property("lateness_ms", lateness)
    print(f"lateness on MongoDB, another process, in ms: {lateness}")
    # Each of two processes knows the server's clock to about a millisecond.
    assert min(lateness) >= -10
    # This bounds most of them: a busy machine may stand still for a second or two.
    assert sorted(lateness)[len(lateness) // 2] < 2000
    process.send_signal(signal.SIGINT)
    assert process.communicate() == ("", "")
    assert process.returncode == 0


def test_a_killed_listeners_message_is_printed_by_another_one_after_the_lock(spawn, pit):
    pit.store({"id": "a"}, NOW)
    first = spawn("listen", "--lock-time", "1500ms", "--exec", "echo $$; exec sleep 60")
    command = int(first.stdout.readline())
    until = pit.get("a").leased_until
    first.kill()
    second = spawn("listen")
    line = json.loads(second.stdout.readline())
    assert pit.now() >= until - timedelta(milliseconds=10)
    assert (line["id"], line["attempt"]) == ("a", 2)
    os.kill(command, signal.SIGKILL)  # the command has its own process group, so it outlived its listener


def test_store_list_show_remove_and_stats(invoke, pit, lines):
    result = invoke(
        "store", "--in", "1h", input="".join(f'{{"id": "{n:04}", "b": {{"$bytes": "aGk="}}}}\n' for n in range(2000))
    )
    assert result.exit_code == 0, result.stderr
    assert len(invoke("list", "--all", "--json").stdout.splitlines()) == 2000
    assert lines(invoke("show", "0007", "--json").stdout)[0]["message"] == {"id": "0007", "b": {"$bytes": "aGk="}}
    assert invoke("remove", "0007").exit_code == 0
    assert lines(invoke("stats", "--json").stdout)[0]["scheduled"] == 1999


def test_ping_is_answered_without_a_trace(invoke, mongo_client, mongo_dbname):
    mongo_client[mongo_dbname].create_collection("messages")
    result = invoke("ping")
    assert result.exit_code == 0, result.stderr
    assert f"/{mongo_dbname}.messages answers in " in result.stdout
    assert set(mongo_client[mongo_dbname]["messages"].index_information()) == {"_id_"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_collection_that_is_not_there_is_refused_in_one_line_and_not_made(
    invoke, url, mongo_client, mongo_dbname, command
):
    """The name of a database or a collection is mistyped."""
    result = invoke(*command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: There is no collection at {url}.messages, and none is made here (create=False). Check the names of the "
        f"database and the collection. 'pitstop store' makes a new collection, and so does pitstop.init() without "
        f"create=False.\n"
    )
    assert mongo_client[mongo_dbname].list_collection_names() == []


def test_the_demo_runs_and_leaves_nothing(invoke, url, pit):
    result = invoke("demo", "--url", url)
    assert result.exit_code == 0, result.output
    assert pit.entries() == []


@pytest.mark.parametrize("command", ["stats", "ping"])
def test_a_server_that_is_not_there_is_one_line_without_the_password(command):
    url = "mongo://user:geheim@127.0.0.1:1/app?operation_timeout=1s"
    result = CliRunner().invoke(app, ["--url", url, command], prog_name="pitstop")
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert "geheim" not in result.output
