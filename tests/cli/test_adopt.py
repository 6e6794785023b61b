"""``pitstop adopt`` on a real MongoDB."""

from __future__ import annotations

import signal

from datetime import UTC, datetime, timedelta

import pytest

from bson import ObjectId


PAST = datetime(2024, 5, 4, 10, tzinfo=UTC)
FUTURE = datetime(2091, 5, 4, 10, tzinfo=UTC)
UNLOCKED = datetime(2015, 11, 2, tzinfo=UTC)


@pytest.fixture
def url(mongo_uri, mongo_dbname):
    return f"{mongo_uri}/{mongo_dbname}"


@pytest.fixture
def coll(mongo_client, mongo_dbname):
    return mongo_client[mongo_dbname]["messages"]


@pytest.fixture
def old(coll):
    """Put a document of the Clojure library into the collection."""

    def old(id, ready=FUTURE, locked=UNLOCKED, **fields):
        coll.insert_one({"_id": id, "ready": ready, "msg": {"id": id}, "locked": locked, **fields})

    return old


def test_it_prints_the_planned_changes_and_makes_none(invoke, old, coll):
    old("a")
    old("b", PAST, recur=3600_000, expire=FUTURE)
    old(7, FUTURE)
    old(ObjectId("5638e0a5c2d3e4f5a6b7c8d9"), PAST, recur=1000.0, expire=None)
    before = list(coll.find())
    result = invoke("adopt")
    assert result.exit_code == 0, result.stderr
    assert list(coll.find()) == before
    head, _, seven, a, b, oid = (line.rstrip() for line in result.stdout.splitlines())
    assert head.split() == ["id", "becomes", "when", "every", "end", "note"]
    assert seven.split()[:5] == ["7", "(int)", "7", "2091-05-04T10:00:00.000Z", "-"]
    assert seven.endswith("its id becomes text")
    assert a.split() == ["a", "the", "same", "2091-05-04T10:00:00.000Z", "-", "-", "-"]
    assert "1h" in b
    assert "2091-05-04T10:00:00.000Z" in b
    assert "its time is past: the last of" in b
    assert oid.split()[:2] == ["ObjectId('5638e0a5c2d3e4f5a6b7c8d9')", "5638e0a5c2d3e4f5a6b7c8d9"]
    assert "its id becomes text; its time is past" in oid
    assert result.stderr == "Would adopt 4 documents (2 recurring).\nNothing was changed. Give --write to do it.\n"


def test_write_adopts_and_the_command_goes_on_with_them(invoke, old, coll, lines):
    old("a", PAST)
    old(7, FUTURE)
    result = invoke("adopt", "--write")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "Adopted 2 documents (0 recurring).\n"
    assert [each["id"] for each in lines(invoke("list", "--json").stdout)] == ["a", "7"]
    assert invoke("listen", "--once", "--json").exit_code == 0
    assert [each["_id"] for each in coll.find()] == ["7"]

    again = invoke("adopt", "--write")
    assert again.exit_code == 0
    assert again.stderr.startswith("There is no document of the Clojure library in mongodb://")


def test_documents_that_cannot_be_adopted_are_shown_and_the_exit_code_is_1(invoke, old, coll):
    old("a")
    old("b", "soon")
    old("c", PAST, recur=0, expire=None)
    for args in ([], ["--write"]):
        result = invoke("adopt", *args)
        assert result.exit_code == 1
        assert "LEFT: ready is a str" in result.stdout
        assert "LEFT: recur=0 is not" in result.stdout
        assert result.stderr.splitlines()[-1].startswith(
            "Error: 2 documents cannot be adopted and are left as they are."
        )
    assert "Adopted 1 document (0 recurring)." in result.stderr
    assert {each["_id"] for each in coll.find({"ready": {"$exists": True}})} == {"b", "c"}


def test_it_refuses_while_a_document_is_locked_unless_told(invoke, old, coll):
    old("a", PAST)
    old("busy", PAST, FUTURE)
    before = list(coll.find())
    result = invoke("adopt", "--write")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "1 document is locked, until 2091-05-04T10:00:00.000Z" in result.stderr
    assert "--locked" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(coll.find()) == before

    dry = invoke("adopt")
    assert dry.exit_code == 1
    assert "LEFT: It is locked until 2091" in dry.stdout
    assert "Would adopt 1 document " in dry.stderr

    told = invoke("adopt", "--write", "--locked")
    assert told.exit_code == 0
    assert coll.find_one({"_id": "busy"})["due"] == FUTURE
    assert coll.find_one({"_id": "busy"})["scheduled_for"] == PAST


def test_json_has_a_line_per_document(invoke, old, lines):
    old("a", PAST, recur=60_000, expire=None)
    old("b", None)
    good, bad = lines(invoke("adopt", "--json").stdout)
    assert good.pop("notes")[0].startswith("its time is past: the last of")
    assert good == {
        "old_id": "a",
        "id": "a",
        "outcome": "adoptable",
        "due": "2024-05-04T10:00:00.000Z",
        "scheduled_for": "2024-05-04T10:00:00.000Z",
        "every": {"v": 1, "kind": "every", "ms": 60000},
        "end": None,
        "problem": None,
    }
    assert (bad["old_id"], bad["id"], bad["outcome"]) == ("b", None, "left")
    assert bad["problem"].startswith("ready is missing")
    assert [each["outcome"] for each in lines(invoke("adopt", "--json", "--write").stdout)] == ["adopted", "left"]


def test_of_many_the_first_ones_are_shown_and_those_that_are_left(invoke, old, coll):
    coll.insert_many([{"_id": f"{n:04}", "ready": FUTURE, "msg": {}, "locked": UNLOCKED} for n in range(1500)])
    old("damaged", "soon")
    result = invoke("adopt", "--limit", "3")
    assert [line.split()[0] for line in result.stdout.splitlines()[2:]] == ["0000", "0001", "0002", "damaged"]
    assert "Would adopt 1,500 documents (0 recurring). Not all are shown; see --limit." in result.stderr


def test_the_content_of_a_document_does_not_steer_the_terminal_nor_is_it_shown(invoke, old):
    old("[red]a\x1b[2J", "\x1bsecret")
    old("b", PAST, **{"last-error": "secret"})
    old("c", PAST, recur="secret\x1b", expire=None)
    for args in ([], ["--json"]):
        out = invoke("adopt", *args).output
        assert "[red]a" in out
        assert "\x1b" not in out
        assert "secret" not in out


def test_a_backend_that_cannot_is_named_with_the_capability(invoke, tmp_path):
    invoke("store", "{}", "--url", f"sqlite:///{tmp_path}/x.db")
    for other, name in ((f"sqlite:///{tmp_path}/x.db", "SqliteBackend"), ("memory://", "MemoryBackend")):
        result = invoke("adopt", "--url", other)
        assert result.exit_code == 1
        assert "ADOPT" in result.stderr
        assert name.lower() in result.stderr.lower()
        assert result.stderr.count("\n") == 1


def test_killed_in_the_middle_it_goes_on_where_it_was(invoke, spawn, coll, lines):
    """SIGKILL comes after the first page, then the command runs again. Each message is there once, and comes once."""
    keys = [f"{n:05}" if n % 2 else n for n in range(4000)]
    coll.insert_many([{"_id": key, "ready": PAST, "msg": {"n": str(key)}, "locked": UNLOCKED} for key in keys])
    process = spawn("adopt", "--write", "--json")
    assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    left = coll.count_documents({"ready": {"$exists": True}})
    print(f"killed with {left} of 4000 documents not adopted")
    assert 0 < left < 4000

    assert invoke("adopt", "--write").exit_code == 0
    assert coll.count_documents({}) == coll.count_documents({"due": PAST, "revision": {"$exists": True}}) == 4000
    assert coll.count_documents({"adopting": {"$exists": True}}) == 0
    assert sorted(each["_id"] for each in coll.find()) == sorted(str(key) for key in keys)
    assert {each["_id"] for each in coll.find({"$expr": {"$eq": ["$_id", "$msg.n"]}})} == {str(key) for key in keys}


def test_interrupted_it_says_how_far_it_came(spawn, coll):
    coll.insert_many([{"_id": f"{n:05}", "ready": PAST, "msg": {}, "locked": UNLOCKED} for n in range(10_000)])
    process = spawn("adopt", "--write", "--json")
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 1
    adopted = coll.count_documents({"revision": {"$exists": True}})
    assert (
        f"Before that, {adopted:,} documents were adopted. Run the command again to go on." in err or adopted == 10_000
    )


def test_a_series_goes_on_under_the_listener(invoke, old, pit):
    start = pit.now() - timedelta(minutes=90)
    old("often", start, recur=3600_000, expire=None)
    assert invoke("adopt", "--write").exit_code == 0
    with pit.listen() as listener:
        delivery = listener.get()
        assert (delivery.scheduled_for, delivery.missed) == (start + timedelta(hours=1), 1)
        delivery.ack()
    assert pit.get("often").due == start + timedelta(hours=2)
