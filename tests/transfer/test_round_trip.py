"""Messages of every state and form are the same in all fields after they were moved, also by a process that was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import pitstop

from transfer.kit import MANY, as_moved, fill, held


@pytest.fixture
def url_of(request, tmp_path) -> Callable[[str], str]:
    """A function that returns the URL of a new store of a backend."""

    def make(kind: str) -> str:
        name = f"m_{uuid.uuid4().hex}"
        if kind == "mongo":
            return f"{request.getfixturevalue('mongo_uri')}/{request.getfixturevalue('mongo_dbname')}?coll={name}"
        if kind == "postgres":
            base = request.getfixturevalue("postgres_uri")
            # The table is dropped with its server, or below.
            tables.append((base, name))
            return f"{base}{'&' if '?' in base else '?'}table={name}"
        return {"sqlite": f"sqlite:///{tmp_path}/{name}.db?synchronous=normal", "memory": f"memory://{name}"}.get(
            kind, f"filesystem:///{tmp_path}/{name}?sync=false"
        )

    tables: list[tuple[str, str]] = []
    yield make
    for base, table in tables:
        with psycopg.connect(base, autocommit=True) as connection:
            connection.execute(f"DROP TABLE IF EXISTS {table}, {table}_meta")


def run_copier(*args: str) -> tuple[int, list[str]]:
    """Copy in a process. Return its exit code and its lines."""
    command = [sys.executable, str(Path(__file__).with_name("copier.py")), *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_a_store_comes_back_from_mongodb_as_it_was_although_the_copies_were_killed(url_of):
    first, there, back = url_of("sqlite"), url_of("mongo"), url_of("sqlite")
    with pitstop.init(first) as pit:
        fill(pit)
        before, pauses = held(pit), pit.paused_kinds()
    wanted = as_moved(before)
    assert len(wanted) == MANY

    for source, target in ((first, there), (there, back)):
        for last in (MANY // 3, MANY // 2):
            code, lines = run_copier(source, target, str(last))
            assert code == -signal.SIGKILL
            assert last <= int(lines[-1]) < MANY
        code, lines = run_copier(source, target)
        assert code == 0
        written, unchanged, complete = lines[-1].split()
        assert int(written) + int(unchanged) == MANY
        assert int(unchanged) > MANY // 2, "also the half of the page in which the process died"
        assert complete == "True"
        assert run_copier(source, target)[1][-1] == f"0 {MANY} True", "a second copy changes nothing"

    for url in (there, back):
        with pitstop.init(url) as pit:
            assert as_moved(held(pit)) == wanted
            assert pit.paused_kinds() == pauses
    with pitstop.init(first) as pit:
        assert held(pit).keys() == before.keys()


@pytest.mark.parametrize("other", ["postgres", "filesystem", "memory"])
def test_a_store_comes_back_from_every_backend_as_it_was(url_of, other):
    first, there, back = (pitstop.init(url_of(kind)) for kind in ("sqlite", other, "sqlite"))
    with first, there, back:
        count = 300 if other == "filesystem" else 1200
        fill(first, count)
        wanted = as_moved(held(first))

        assert first.copy_to(there).written == count
        assert there.copy_to(back).written == count

        for each in (there, back):
            assert as_moved(held(each)) == wanted
            assert each.paused_kinds() == first.paused_kinds()
        assert there.copy_to(back).unchanged == count
        # By a file as well.
        assert back.import_lines(there.export_lines()).unchanged == count


def test_a_handler_that_notes_keys_does_nothing_twice(url_of):
    """Effects of before the move, of an interrupted one, and of after it: one for each message."""
    first, there = url_of("sqlite"), url_of("mongo")
    effects: list[str] = []
    done: set[str] = set()

    def handle(delivery: pitstop.Delivery) -> None:
        if delivery.key not in done:
            done.add(delivery.key)
            effects.append(delivery.id)
        if delivery.attempt == 1 and delivery.msg["n"] % 2:
            # The effect has happened, and the ack has not: as if the consumer had died just then.
            raise RuntimeError("421")

    with pitstop.init(f"{first}&retry.delay=1h") as pit:
        pit.store_many([({"id": f"{n:03}", "n": n}, None) for n in range(40)])
        pit.consume(handle, max_messages=40)
        assert len(effects) == 40
        assert pit.stats().scheduled == 20
        with pitstop.init(there) as other:
            assert pit.copy_to(other).written == 20
            assert {each.attempts for each in other.entries()} == {1}
            for each in other.entries():
                assert other.emit_now(each.id)
            other.consume(handle, max_messages=20)
            assert other.entries() == []
    assert sorted(effects) == [f"{n:03}" for n in range(40)]
