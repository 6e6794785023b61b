"""The benchmarks, at a tiny size and without peers: they print all results. Their speed is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import psycopg
import pytest

from figures import MS, PER_SECOND, Book, Unreadable, changes
from peering import PEERS, LeftOut, Peer, install
from report import compared, into_page
from subjects import RawPostgres
from verdict import EXPECTED, verdicts

from servers import postgres


BENCH = Path(__file__).parents[2] / "benchmarks" / "bench.py"


def run(folder: Path, *options: str, uri: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), "--tiny", "--no-peers", *options]
    environment = os.environ | ({} if uri is None else {"PITSTOP_TEST_MONGO_URI": uri})
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=100, check=False, env=environment
    )


def test_no_module_of_the_benchmarks_hides_a_folder_of_the_tests() -> None:
    """A worker that has run these tests finds the benchmarks on its path, and a module comes before a folder."""
    tests = Path(__file__).parents[1]
    assert {each.stem for each in BENCH.parent.glob("*.py")} & {each.name for each in tests.iterdir()} == set()


def test_a_run_gives_a_table_figures_and_a_picture(tmp_path: Path) -> None:
    done = run(tmp_path, "--places", "memory,sqlite")
    assert done.returncode == 0, done.stderr
    book = Book.load(tmp_path / "bench.json")
    cases = {each.case for each in book.figures}
    latencies = {f"{case} {part}" for case in ("claim", "lateness") for part in ("p50", "p99")}
    assert cases == {"store", "store_many", "drain", "recurring", *latencies}
    for place in ("memory", "sqlite"):
        for future in (0, 100):
            for consumers in (1, 2):
                figure = book.find("drain", place, consumers=consumers, future=future)
                assert figure is not None
                assert len(figure.rounds) == 2
                assert min(figure.rounds) > 0
    assert book.setup["sqlite"]["durability"] == "WAL, synchronous=FULL"
    assert all(case in done.stdout for case in cases)
    assert all(str(each) in done.stdout for each in EXPECTED)
    drawn = ET.parse(tmp_path / "bench.svg")
    assert "sqlite: Pitstop" in [each.text for each in drawn.iter()]


def test_a_part_is_measured_on_the_server_that_the_environment_names_and_fails_if_it_got_worse(
    tmp_path: Path, mongo_uri: str
) -> None:
    then = Book()
    for who, rate in (("raw", 1), ("pitstop", 1_000_000)):
        then.note("drain", "mongo", rate, who=who, unit=PER_SECOND)
    then.save(tmp_path / "then.json")
    done = run(tmp_path, "--only", "drain/mongo", "--compare", "then.json", uri=mongo_uri)
    assert "REGRESSED  drain, mongo, 1 consumer(s), 0 to come, of raw" in done.stdout, done.stderr
    assert "1 figures compared" in done.stdout
    assert done.returncode == 1
    assert {(each.case, each.place) for each in Book.load(tmp_path / "bench.json").figures} == {("drain", "mongo")}


@pytest.mark.parametrize(
    ("script", "options", "lines"),
    [
        ("kinds.py", ["--backlog", "50", "--messages", "3", "--rounds", "1", "--singles", "2", "--many", "10"], 10),
        ("ids.py", ["--messages", "50"], 4),
    ],
)
def test_a_benchmark_of_its_own_prints_all_lines(
    tmp_path: Path, mongo_uri: str, script: str, options: list[str], lines: int
) -> None:
    environment = os.environ | {"PITSTOP_TEST_MONGO_URI": mongo_uri}
    done = subprocess.run(
        [sys.executable, str(BENCH.with_name(script)), *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sum(each.startswith(("sqlite  ", "mongo  ")) for each in done.stdout.splitlines()) == lines


def test_a_measurement_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--only", "drian")
    assert done.returncode != 0
    assert "'drian'" in done.stderr
    assert "drain" in done.stderr


def book(rounds: dict[str, Sequence[float]]) -> Book:
    made = Book()
    for who, values in rounds.items():
        for value in values:
            made.note("drain", "mongo", value, who=who, unit=PER_SECOND)
    return made


@pytest.mark.parametrize(
    ("now", "words", "worse"),
    [
        ([50, 55, 60], "REGRESSED", True),
        ([95, 100, 115], "0 differ", False),
        ([150, 160, 170], "better", False),
    ],
)
def test_a_regression_is_what_lies_beyond_the_spread_of_both_runs(
    now: Sequence[float], words: str, worse: bool
) -> None:
    raw = [1000, 1000, 1000]
    text, told = compared(changes(book({"raw": raw, "pitstop": [90, 100, 110]}), book({"raw": raw, "pitstop": now})))
    assert words in text
    assert told is worse


def test_a_slower_machine_is_no_regression() -> None:
    then = book({"raw": [1000, 1000], "pitstop": [700, 720]})
    now = book({"raw": [500, 500], "pitstop": [350, 360]})
    assert compared(changes(then, now)) == ("1 figures compared, 0 differ beyond the spread", False)


def test_a_ratio_is_that_of_the_rounds_and_an_expectation_is_met_by_its_median() -> None:
    measured = book({"raw": [1000, 100, 1000], "pitstop": [800, 90, 600]})
    (told,) = (each for each in verdicts(measured) if each.measured is not None)
    assert told.measured is not None
    assert (told.measured.least, told.measured.median, told.measured.most) == (0.6, 0.8, 0.9)
    assert told.word == "met"


@pytest.mark.parametrize(("late", "word"), [(4, "met"), (6, "MISSED")])
def test_an_expectation_of_times_is_met_by_the_smaller_figure(late: float, word: str) -> None:
    measured = Book()
    for who, value in (("PgQueuer", 50.0), ("pitstop", late)):
        measured.note("lateness p99 beside peers", "postgres", value, who=who, unit=MS)
    (told,) = (each for each in verdicts(measured) if each.measured is not None)
    assert str(told.expected) == "lateness p99 beside peers, postgres: at most 0.1 of PgQueuer"
    assert told.word == word


def test_an_expectation_of_four_consumers_is_judged_by_their_figure() -> None:
    measured = Book()
    for who, value in (("PgQueuer", 100), ("pitstop", 260)):
        measured.note("drain beside peers", "postgres", value, who=who, consumers=4, unit=PER_SECOND)
    (told,) = (each for each in verdicts(measured) if each.measured is not None)
    assert str(told.expected) == "drain beside peers, postgres, 4 consumers: at least 2.5 of PgQueuer"
    assert told.word == "met"


def test_a_peer_that_needs_a_newer_python_than_this_machine_has_is_left_out(tmp_path: Path) -> None:
    with pytest.raises(LeftOut, match=r"needs Python 9\.1, which is not on this machine"):
        install(Peer("next", "oban_pg.py", ("oban",), "postgres", python=(9, 1)), tmp_path)


def test_raw_postgres_stores_claims_acknowledges_and_recurs(postgres_uri: str) -> None:
    with postgres.database(postgres_uri) as uri, closing(RawPostgres(uri)) as raw:
        raw.store(1)
        raw.store_many(2)
        raw.store_many(1, timedelta(hours=1))
        token, ids = raw.claim(10)
        assert len(ids) == 3
        assert raw.claim(10)[1] == []
        raw.ack("another token", ids)
        raw.ack(token, ids)
        raw.store_many(1, every=timedelta(days=1))
        token, again = raw.claim(10)
        raw.ack(token, again)
        with psycopg.connect(uri) as connection:
            rows = connection.execute(
                "SELECT id, token, attempts, due > extract(epoch FROM now()) * 1000 FROM raw"
            ).fetchall()
        assert len(rows) == 2  # the one to come, and the next occurrence
        assert [row for row in rows if row[0] in again] == [(again[0], None, 0, True)]
        raw.clear()
        assert raw.claim(10)[1] == []


def test_a_peer_that_cannot_be_installed_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (agenda,) = (each for each in PEERS if each.name == "Agenda")
    with pytest.raises(LeftOut, match=r"no Node\.js on this machine"):
        install(agenda, tmp_path)
    absent = Peer("absent", "huey_sqlite.py", ("absent==0",), "sqlite")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(LeftOut, match="cannot be installed"):
        install(absent, tmp_path)


def test_a_file_that_holds_no_figures_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"format": 0}))
    with pytest.raises(Unreadable, match="is of format 0"):
        Book.load(path)
    path.write_text("{}")
    with pytest.raises(Unreadable, match="holds no figures"):
        Book.load(path)


def test_the_table_replaces_the_one_of_the_last_run_in_the_page(tmp_path: Path) -> None:
    source = (BENCH.parents[1] / "docs" / "performance.md").read_text()
    page = tmp_path / "performance.md"
    page.write_text(source)
    into_page(book({"raw": [1000], "pitstop": [800]}), page, "yesterday")
    once = page.read_text()
    assert "Measured yesterday." in once
    assert "0.80" in once
    into_page(book({"raw": [1000], "pitstop": [800]}), page, "yesterday")
    assert page.read_text() == once
    assert once.startswith(source.partition("<!-- written")[0])
