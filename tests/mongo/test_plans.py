"""Query plans, by the server's own profiler: each operation reads as much as its batch, with any backlog.

``PITSTOP_TEST_LARGE=1`` runs this with 1,000,000 scheduled messages, and 300,000 due ones.
"""

from __future__ import annotations

import os

from datetime import timedelta
from itertools import islice

import attrs
import pytest

from mongo.conftest import START
from pitstop.abc import AllBut, Outcome, Progress, Query, Settlement, from_instant


LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))
FUTURE = 1_000_000 if LARGE else 20_000
DUE = 300_000 if LARGE else 6_000
MINUTE = 60_000
BATCH = 100
#: The index of the kinds: its fields, and its name, which operations give.
BY_KIND = ("{ kind: 1, due: 1 }", "kind_1_due_1")

pytestmark = pytest.mark.timeout(1200 if LARGE else 120)


def document(id, due):
    time = from_instant(due)
    fields = {"_id": id, "msg": {"n": id}, "due": time, "scheduled_for": time}
    return fields | {"revision": f"r{id}", "etag": f"e{id}", "attempts": 0}


@pytest.fixture(params=["to come", "due"])
def backlog(request, coll, backend):
    """Many scheduled messages and 100 due ones, or many due ones."""
    coll.create_index([("due", 1)])
    due, future = (BATCH, FUTURE) if request.param == "to come" else (DUE, FUTURE // 10)
    ids = iter(range(due + future))
    dues = [START - 1 - n // 3 for n in range(due)] + [START + 3_600_000 + n // 3 for n in range(future)]
    while some := [document(f"{id:07}", dues[id]) for id in islice(ids, 10_000)]:
        coll.insert_many(some, ordered=False)
    backend.next_due()  # checks the collection, once
    return due


@pytest.fixture
def profile(coll):
    """Returns the operations of the server on the collection since the last call."""
    database = coll.database

    def profile():
        database.command("profile", 0)
        entries = list(database["system.profile"].find({"ns": coll.full_name}).sort("ts", 1))
        # It is capped at 1 MB, so begin again. Otherwise these entries would push out the next ones.
        database["system.profile"].drop()
        database.command("profile", 2)
        # A command that failed has no figures, and an explain reads nothing.
        return [each for each in entries if "errCode" not in each and "explain" not in each["command"]]

    yield profile
    database.command("profile", 0)


def assert_cheap(entries, count, index, hint=None, more=2):
    """Each operation used an index, and examined no more than its own documents.

    :param hint: the name of the index, if the operation gives it.
    """
    assert entries
    for each in entries:
        plan, keys = each["planSummary"], each["keysExamined"]
        assert plan.startswith(("IXSCAN", "IDHACK", "COUNT_SCAN", "EOF")), each
        assert index in plan, each
        # The planner's own choice would depend on the data, so each operation gives a hint.
        assert each["command"]["hint"] == (hint or {index[2:-2].split(":")[0]: 1}), each
        assert not each.get("hasSortStage"), each
        assert keys <= 2 * count + more, each
        assert each["docsExamined"] <= count + 1, each


def by_op(entries):
    return {each["op"] if each["op"] != "command" else next(iter(each["command"])): each for each in entries}


def test_a_claim_and_its_settlements_read_no_more_than_the_batch(backend, backlog, profile):
    profile()

    leased = backend.lease(BATCH, MINUTE)

    assert len(leased) == BATCH
    operations = by_op(profile())
    assert set(operations) == {"query", "update"}
    assert_cheap([operations["query"]], BATCH, "{ due: 1 }")
    assert_cheap([operations["update"]], BATCH, "{ _id: 1 }")

    later = [
        Settlement(each.id, each.progress.token, Outcome.RESCHEDULE, Progress(START + 9 * MINUTE, START))
        for each in leased[:50]
    ]
    assert all(backend.settle(later))
    assert_cheap(profile(), 50, "{ _id: 1 }")

    done = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased[50:]]
    assert all(backend.settle(done))
    entries = profile()
    assert {each["op"] for each in entries} == {"remove"}
    assert_cheap(entries, 50, "{ _id: 1 }")


def test_a_claim_of_one_reads_one(backend, backlog, profile):
    profile()
    (leased,) = backend.lease(1, MINUTE)
    assert_cheap(profile(), 1, "{ due: 1 }")

    progress = leased.progress
    assert backend.settle([Settlement(leased.id, progress.token, Outcome.EXTEND, progress)]) == [True]
    assert_cheap(profile(), 1, "{ _id: 1 }")
    assert backend.settle([Settlement(leased.id, progress.token, Outcome.COMPLETE, None)]) == [True]
    assert_cheap(profile(), 1, "{ _id: 1 }")


def test_settlements_of_several_claims_go_in_one_command_and_read_no_more(backend, backlog, profile):
    leased = [backend.lease(1, MINUTE)[0] for _ in range(6)]
    profile()

    assert (
        backend.settle([Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased])
        == [True] * 6
    )

    assert_cheap(profile(), 6, "{ _id: 1 }")


def test_acks_of_two_claims_go_in_one_command_and_read_no_more(backend, backlog, profile):
    leased = [*backend.lease(20, MINUTE), *backend.lease(20, MINUTE)]
    profile()

    done = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased]
    assert backend.settle(done) == [True] * 40

    entries = profile()
    assert [each["op"] for each in entries] == ["remove"]
    assert_cheap(entries, 40, "{ _id: 1 }")


def test_looking_for_the_next_one_reads_one(backend, backlog, profile):
    profile()
    assert backend.next_due() is not None
    assert_cheap(profile(), 1, "{ due: 1 }")


def test_a_claim_that_finds_nothing_reads_nothing(backend, backlog, coll, profile):
    coll.update_many({"due": {"$lt": from_instant(START)}}, {"$set": {"due": from_instant(START) + timedelta(hours=1)}})
    for limit in (1, BATCH):
        profile()
        assert backend.lease(limit, MINUTE) == []
        assert_cheap(profile(), 0, "{ due: 1 }")


def test_a_read_back_and_a_damaged_document_are_found_by_id(backend, backlog, coll, profile):
    """The second steps of a claim cost no more than its first ones."""
    first = [each.id for each in backend.scan("due", 4, None)]
    coll.update_one({"_id": first[1]}, {"$set": {"attempts": "x"}})
    coll.update_one({"_id": first[2]}, {"$set": {"attempts": 2**63 - 1}})
    profile()

    assert len(backend.lease(4, MINUTE)) == 4

    entries = profile()
    assert len(entries) >= 4
    for each in entries:
        assert_cheap([each], 4, "{ due: 1 }" if each["op"] == "query" and "sort" in each["command"] else "{ _id: 1 }")


def test_a_page_reads_a_page(backend, backlog, profile):
    page = backend.scan(None, 20, None)
    for _ in range(3):
        profile()
        page = backend.scan(None, 20, (page[-1].progress.due, page[-1].id))
        assert len(page) == 20
        for each in profile():
            assert each["planSummary"] == "IXSCAN { due: 1 }", each
            assert each["keysExamined"] <= 24, each


def test_counting_reads_the_index_and_whole_documents_only_if_they_may_be_leased(backend, backlog, profile):
    profile()
    tally = backend.tally()
    assert (tally.due, tally.leased, tally.dead) == (backlog, 0, 0)
    read = [each for each in profile() if each["docsExamined"] > 1]
    # The token shows whether a message in the future is leased, and no index contains it.
    assert len(read) == 1
    assert read[0]["docsExamined"] == tally.scheduled


@pytest.mark.parametrize("kinds", [["mail"], ["mail", "report", ""], AllBut(["bulk"])], ids=["one", "several", "rest"])
@pytest.mark.parametrize("limit", [1, BATCH])
def test_a_claim_of_some_kinds_reads_no_more_than_its_messages(backend, backlog, coll, profile, kinds, limit):
    """Beside a backlog of another kind. ``PITSTOP_TEST_LARGE=1``: 300,000 messages."""
    coll.update_many({}, {"$set": {"kind": "bulk"}})
    mails = [document(f"mail-{n:03}", START - 1) | {"kind": ("mail", "report")[n % 2]} for n in range(BATCH)]
    coll.insert_many(mails)
    backend.next_due(kinds)  # makes the index
    profile()

    leased = backend.lease(limit, MINUTE, kinds)

    wanted = [each["_id"] for each in mails if kinds != ["mail"] or each["kind"] == "mail"][:limit]
    assert sorted(each.id for each in leased) == wanted
    entries = profile()
    walks = [each for each in entries if "aggregate" in each["command"]]
    assert len(walks) == isinstance(kinds, AllBut)
    for each in walks:
        assert each["planSummary"].startswith("DISTINCT_SCAN"), each
        assert each["keysExamined"] <= 8, each
    claims = [each for each in entries if "sort" in each["command"]]
    assert_cheap(claims, limit, *BY_KIND, more=8)
    # A claim of one is one command. A claim of several marks them by id.
    assert len(claims) + len(walks) + (limit > 1) == len(entries)
    assert_cheap([each for each in entries if each not in walks + claims] or claims, limit, *_by(limit))

    profile()
    assert backend.next_due(kinds) is not None
    (entry,) = [each for each in profile() if "aggregate" not in each["command"]]
    assert_cheap([entry], 1, *BY_KIND, more=8)


def _by(limit):
    return (*BY_KIND, 8) if limit == 1 else ("{ _id: 1 }",)


@pytest.mark.parametrize("limit", [1, BATCH])
@pytest.mark.parametrize("chosen", [199, 200, 250, "rest of 198", "rest of 199", "rest of 250"])
def test_a_claim_of_many_kinds_sorts_no_backlog(backend, backlog, coll, profile, chosen, limit):
    """The server merges 200 parts of an index. Above that it would sort all messages of these kinds, for each claim."""
    count = chosen if isinstance(chosen, int) else int(chosen[8:])
    kinds = [f"kind-{n:03}" for n in range(count)]
    coll.update_many({}, [{"$set": {"kind": {"$concat": ["kind-", {"$substrCP": ["$_id", 4, 3]}]}}}])
    coll.update_many({"kind": {"$gt": kinds[-1]}}, {"$set": {"kind": kinds[0]}})
    assert sorted(coll.distinct("kind")) == kinds[: backlog + FUTURE]
    choice = kinds if isinstance(chosen, int) else AllBut(["other"])
    backend.next_due(choice)  # makes the index
    profile()

    first = [each["_id"] for each in coll.find({"due": {"$lt": from_instant(START)}}).sort("due", 1).limit(limit)]
    profile()
    assert {each.id for each in backend.lease(limit, MINUTE, choice)} <= {*first, *coll.distinct("_id")}
    entries = [each for each in profile() if "sort" in each["command"] and "hint" in each["command"]]
    merged = count <= (200 if isinstance(chosen, int) else 198)
    (entry,) = entries
    assert entry["command"]["hint"] == (BY_KIND[1] if merged else {"due": 1})
    assert not entry.get("hasSortStage"), entry
    assert entry["docsExamined"] <= limit, entry
    assert entry["keysExamined"] <= limit + (count + 5 if merged else 1), entry


def test_the_walk_over_very_many_kinds_ends_early_and_is_not_repeated(backend, coll, profile):
    coll.insert_many(document(f"{n:05}", START - 1) | {"kind": f"kind-{n}"} for n in range(20_000))
    assert backend.next_due(AllBut(["other"])) == START - 1
    walks = [each for each in profile() if "aggregate" in each["command"]]
    for _ in range(3):
        assert len(backend.lease(1, MINUTE, AllBut(["other"]))) == 1
    entries = profile()
    assert not [each for each in entries if "aggregate" in each["command"]]
    for each in walks:
        assert each["keysExamined"] < 1000, each


@pytest.fixture
def customers(coll, backend):
    """Messages of many customers, 200 of which are of one. A listener of some kinds has made its index."""
    coll.create_index([("due", 1)])
    coll.insert_many(document(f"other:{n:06}", START - FUTURE // 2 + n) | {"kind": "bulk"} for n in range(FUTURE))
    coll.insert_many(document(f"customer:{n:03}", START + n) | {"kind": "mail"} for n in range(200))
    backend.next_due(["mail"])


@pytest.mark.parametrize("more", [{}, {"kind": "mail"}, {"due_from": START}], ids=str)
def test_a_page_of_a_prefix_reads_its_part_of_the_ids(backend, customers, profile, more):
    after = None
    for _ in range(3):
        profile()
        page = backend.find(Query(prefix="customer:", **more), 50, after)
        assert len(page) == 50
        assert_cheap(profile(), 50, "{ _id: 1 }")
        after = (page[-1].progress.due, page[-1].id)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (Query(due_from=START), "{ due: 1 }"),
        (Query(due_before=START + 90, state="scheduled"), "{ due: 1 }"),
        (Query(kind="mail"), "{ kind: 1, due: 1 }"),
        (Query(kind="mail", due_from=START + 5, state="scheduled"), "{ kind: 1, due: 1 }"),
        (Query(kind="", failing=True), "{ kind: 1, due: 1 }"),
    ],
    ids=str,
)
def test_a_page_of_a_search_reads_a_page(backend, customers, profile, query, index):
    after = None
    for _ in range(3):
        profile()
        page = backend.find(query, 20, after)
        entries = [each for each in profile() if "sort" in each["command"]]
        assert entries
        for each in entries:
            assert index in each["planSummary"], each
            assert each["keysExamined"] <= 28, each
            assert each["docsExamined"] <= 24, each
        if query.kind == "":
            assert not page
            return
        assert len(page) == 20
        after = (page[-1].progress.due, page[-1].id)


def test_a_search_makes_no_index(backend, coll):
    coll.create_index([("due", 1)])
    coll.insert_one(document("a", START) | {"kind": "mail"})
    assert [each.id for each in backend.find(Query(kind="mail"), 10, None)] == ["a"]
    assert dict(backend.tally_by_kind()).keys() == {"mail"}
    assert set(coll.index_information()) == {"_id_", "due_1"}


def test_a_removal_by_prefix_reads_its_messages_by_id(backend, customers, profile):
    """The search, the second read and the deletion examine one key for each message, whatever else is stored."""
    ids = [each.id for each in backend.find(Query(prefix="customer:"), 100, None)]
    profile()

    assert backend.delete_many(ids, Query(prefix="customer:")) == [True] * 100

    entries = profile()
    assert [each["op"] for each in entries] == ["query", "remove"]
    for each in entries:
        assert_cheap([each], 100, "{ _id: 1 }")


def test_a_change_of_many_reads_its_messages_by_id(backend, customers, profile):
    found = backend.find(Query(prefix="customer:"), 50, None)
    items = [
        (attrs.evolve(each, revision=f"new {each.id}", progress=Progress(START, START)), each.revision, each.progress)
        for each in found
    ]
    profile()

    assert backend.put_many_if(items) == [True] * 50

    entries = profile()
    assert len(entries) == 50
    for each in entries:
        assert each["keysExamined"] <= 1, each
        assert each["docsExamined"] <= 1, each
