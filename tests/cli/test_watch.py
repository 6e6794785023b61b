"""``pitstop stats --watch``: a table that changes on a terminal, a line for each look elsewhere, and an end in good order."""

from __future__ import annotations

import json
import os
import signal

from datetime import timedelta

import pytest

import pitstop


@pytest.fixture
def watch(spawn):
    return lambda *args, **options: spawn("stats", "--watch", "--interval", "20ms", *args, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_without_a_terminal_each_look_is_a_line_until_a_signal(watch, pit: pitstop.Pitstop, number):
    pit.store({}, timedelta(hours=1))
    process = watch()
    assert "scheduled 1  due 0  leased 0" in process.stdout.readline()
    pit.store({}, timedelta(minutes=-3))
    while "due 1" not in (line := process.stdout.readline()):
        assert "scheduled 1  due 0" in line
    assert "oldest due 3m" in line
    process.send_signal(number)
    assert process.wait(30) == 0
    assert process.stderr.read() == ""


@pytest.mark.parametrize("by", [(), ("--by", "kind")])
def test_json_has_the_time_of_each_look(watch, pit: pitstop.Pitstop, by):
    pit.store({}, timedelta(0), kind="mail")
    process = watch("--json", *by)
    first, second = (json.loads(process.stdout.readline()) for _ in range(2))
    assert first["now"] < second["now"]
    assert (first["due"], second["due"]) == (1, 1)
    assert first.get("kind", "mail") == "mail"


def test_it_ends_when_its_reader_goes_away(watch, pit: pitstop.Pitstop):
    pit.ping()
    process = watch()
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(30) == 0


def test_on_a_terminal_the_table_shows_how_the_numbers_change(watch, pit: pitstop.Pitstop):
    """It ends at Ctrl-C, and the last table stays."""
    pit.store({}, timedelta(hours=1))
    ours, theirs = os.openpty()
    try:
        process = watch(stdout=theirs)
        os.close(theirs)
        shown = ""

        def shows(text):
            nonlocal shown
            while text not in shown:
                shown += os.read(ours, 4096).decode()

        shows("scheduled")
        pit.store({}, timedelta(hours=1))
        shows("2  +1")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        os.close(ours)


def test_a_store_that_goes_away_is_one_line_and_the_watch_goes_on(watch, pit: pitstop.Pitstop, tmp_path, monkeypatch):
    from pitstop.cli import _watching

    looks, said = [], []

    def look():
        looks.append(1)
        if len(looks) in {2, 3}:
            raise pitstop.BackendUnavailable("it is away.")
        if len(looks) == 4:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(_watching, "warn", said.append)
    _watching.watching(look, timedelta(0))
    assert said == ["The store does not answer: it is away. The watch goes on.", "The store answers again."]


def test_the_first_look_has_to_succeed(invoke):
    result = invoke("stats", "--watch", "--url", "sqlite:////no/such/file.db")
    assert result.exit_code == 1


@pytest.mark.parametrize("args", [("--watch", "--fail-if-late", "5m"), ("--interval", "1s")])
def test_options_without_effect_are_wrong_use(invoke, args):
    assert invoke("stats", *args).exit_code == 2
