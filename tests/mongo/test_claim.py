"""Claims among others: a claim returns exactly the messages that it leased, and no message is leased twice."""

from __future__ import annotations

import pytest

import pitstop_mongo._messages.claimer

from mongo.conftest import START
from pitstop import BackendUnavailable
from pitstop.abc import Outcome, Progress, Settlement
from pitstop.testing import ManualClock


MINUTE = 60_000


@pytest.fixture
def between(monkeypatch):
    """Lets others do something once, after a claim has read documents and before it marks them."""

    def between(action):
        original = pitstop_mongo._messages.claimer._first_batch

        def read_then_act(cursor):
            nonlocal action
            documents = original(cursor)
            if documents and action is not None:
                act, action = action, None
                act()
            return documents

        monkeypatch.setattr(pitstop_mongo._messages.claimer, "_first_batch", read_then_act)

    return between


def test_a_message_stored_between_the_two_steps_is_leased_in_its_new_version(
    backend, open_backend, clock, record, between
):
    backend.put([record("a"), record("b")])
    new = record("a", message={"version": 2})
    between(lambda: open_backend(clock=clock).put([new]))

    leased = {each.id: each for each in [*backend.lease(5, MINUTE), *backend.lease(5, MINUTE)]}

    assert leased.keys() == {"a", "b"}
    assert leased["a"].message == {"version": 2}
    assert leased["a"].revision == new.revision
    assert leased["a"].progress.attempts == 1


def test_a_message_that_was_stored_again_for_later_is_not_leased(backend, open_backend, clock, record, between):
    backend.put([record("a"), record("b")])
    between(lambda: open_backend(clock=clock).put([record("a", START + 1)]))

    assert [each.id for each in backend.lease(5, MINUTE)] == ["b"]
    assert backend.lease(5, MINUTE) == []


def test_a_removed_message_is_not_leased(backend, open_backend, clock, record, between):
    backend.put([record("a"), record("b")])
    between(lambda: open_backend(clock=clock).delete("a"))

    assert [each.id for each in backend.lease(5, MINUTE)] == ["b"]


def test_a_series_that_another_advances_between_the_two_steps_is_leased_as_advanced(
    backend, open_backend, clock, record, reschedule, between
):
    """With the same id and revision, and due again, only the etag shows that the document has changed."""
    backend.put([record("a", START - 10, series={"v": 1}), record("b")])
    other = open_backend(clock=clock)

    def advance():
        (leased,) = other.lease(1, MINUTE)
        assert leased.id == "a"
        assert other.settle([reschedule(leased, START)]) == [True]

    between(advance)
    leased = {each.id: each for each in [*backend.lease(5, MINUTE), *backend.lease(5, MINUTE)]}

    assert leased["a"].progress.scheduled_for == START
    assert leased["a"].progress.attempts == 1


@pytest.mark.parametrize("settled_with_others", [False, True])
def test_a_release_between_the_two_steps_keeps_what_it_wrote(
    backend, open_backend, clock, record, between, settled_with_others
):
    backend.put([record(id) for id in "abc"])
    other = open_backend(clock=clock)

    def release():
        leased = other.lease(3 if settled_with_others else 1, MINUTE)
        back = Progress(START, START, 1, START, "failed")
        assert all(other.settle([Settlement(each.id, each.progress.token, Outcome.RELEASE, back) for each in leased]))

    between(release)
    leased = {each.id: each for _ in range(3) for each in backend.lease(5, MINUTE)}

    assert leased.keys() == {"a", "b", "c"}
    assert leased["a"].progress.attempts == 2
    assert leased["a"].progress.last_error == "failed"


def test_a_lease_that_another_took_and_lost_between_the_two_steps_is_counted(
    backend, open_backend, clock, record, between
):
    """The other clock is behind, so the lease is over by this clock. The token shows the difference."""
    clock.advance(10)
    backend.put([record("a"), record("b")])
    behind = open_backend(clock=ManualClock())
    between(lambda: behind.lease(1, 1000))

    leased = {each.id: each for each in [*backend.lease(5, MINUTE), *backend.lease(5, MINUTE)]}

    assert leased["a"].progress.attempts == 2
    assert leased["a"].progress.first_leased == START


def test_a_claim_in_part_is_read_back(backend, open_backend, clock, record, between):
    """Others took half of the documents that were read. The claim gets the other half, and no more."""
    backend.put([record(f"{n:02}", START - n) for n in range(20)])
    other, taken = open_backend(clock=clock), []
    between(lambda: taken.extend(other.lease(10, MINUTE)))

    leased = backend.lease(20, MINUTE)

    assert len(leased) == 10
    assert {each.id for each in leased}.isdisjoint(each.id for each in taken)
    assert all(backend.get(each.id).progress == each.progress for each in leased)


def test_none_are_returned_only_when_none_are_due(backend, open_backend, clock, record, monkeypatch):
    """Others always take the documents that a claim reads. It still gets one of those that are left."""
    backend.put([record(f"{n:03}", START - n) for n in range(60)])
    other = open_backend(clock=clock)
    original = pitstop_mongo._messages.claimer._first_batch

    def read_then_lose(cursor):
        documents = original(cursor)
        if not losing:
            losing.append(True)
            other.lease(len(documents), MINUTE)
            losing.clear()
        return documents

    losing = []
    monkeypatch.setattr(pitstop_mongo._messages.claimer, "_first_batch", read_then_lose)

    while claim := backend.lease(2, MINUTE):
        assert len(claim) <= 2
    assert backend.tally().due == 0


def test_a_claim_gets_out_of_the_way_of_others_and_comes_back(backend, open_backend, clock, record, between):
    backend.put([record(f"{n:03}", START - 1000 + n) for n in range(50)])
    other = open_backend(clock=clock)
    between(lambda: other.lease(5, MINUTE))
    assert len(backend.lease(5, MINUTE)) == 5
    assert backend._claimers.all._spread > 0

    rest = []
    while claim := backend.lease(5, MINUTE):
        rest += claim
    assert len(rest) == 40
    assert backend._claimers.all._spread == 0


def test_the_remembered_beginning_hides_nothing_that_is_stored_here(open_backend, record):
    """With the server's clock, a read begins where the last one did. A store of this process moves it back."""
    backend = open_backend()
    now = backend.now() // 1000
    backend.put([record(id, now - 1000) for id in "abcd"])
    assert len(backend.lease(2, MINUTE)) == 2
    assert backend._claimers.all._low is not None

    backend.put([record("older", now - 5000)])
    assert backend.lease(2, MINUTE)[0].id == "older"


def test_the_remembered_beginning_hides_nothing_for_good(open_backend, record):
    """An older message of another process comes when no other message is due, at the latest."""
    backend, other = open_backend(), open_backend()
    now = backend.now() // 1000
    backend.put([record(id, now - 1000) for id in "abcd"])
    assert len(backend.lease(2, MINUTE)) == 2
    other.put([record("older", now - 5000)])

    rest = [*backend.lease(2, MINUTE), *backend.lease(2, MINUTE)]
    assert sorted(each.id for each in rest) == ["c", "d", "older"]


def test_a_claim_of_large_messages_takes_no_more_than_one_reply_holds(backend, record):
    backend.put([record(f"{n}", message={"data": b"x" * 5_000_000}) for n in range(6)])

    sizes = []
    while claim := backend.lease(10, MINUTE):
        sizes.append(len(claim))
    assert sum(sizes) == 6
    assert max(sizes) <= 4


def test_the_index_is_made_again_after_it_was_dropped(backend, coll, record):
    backend.put([record("a")])
    coll.drop_index("due_1")

    with pytest.raises(BackendUnavailable, match="refused an operation"):
        backend.lease(1, MINUTE)
    assert [each.id for each in backend.lease(1, MINUTE)] == ["a"]
    assert "due_1" in coll.index_information()
