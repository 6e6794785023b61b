"""The contract of ``within``: writes in the user's transaction apply when it commits, and not before."""

from __future__ import annotations

import threading
import time

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import attrs
import pytest

import pitstop

from pitstop.abc import Backend, Capability, Outcome, Progress, Record, TransactionWrites, Writes
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import (
    MINUTE,
    START,
    at,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    settlement,
)
from pitstop_conformance.contract._watch import hears, silent


#: Begins a user's transaction on the store of the test.
Begin = Callable[[], AbstractContextManager[object]]


#: Milliseconds of a lease that ends during the test.
_SHORT = 400
_NO_SETTLE = "The writes of within() have no settle() and is_open(), so core refuses ack(session=)."


class Abort(Exception):
    """Raised by the user's own code in a transaction."""


class Transactions(Kit):
    """Writes in the user's transaction."""

    rule = "pitstop.abc.Backend.within"

    def transaction(self, backend: Backend) -> AbstractContextManager[object]:
        """Return a context manager that begins a user's transaction, and yields the session for ``backend.within``.

        The transaction commits at the end of the block, and aborts if the block raises.
        """
        pytest.fail(
            f"{type(self).__name__} has no transaction(backend), although {type(backend).__name__} declares TRANSACTIONS. "
            f"Write one that returns a context manager: it yields a session that is in a transaction, commits at the end "
            f"of the block, and aborts if the block raises. If this store has no transactions, remove TRANSACTIONS from the "
            f"capabilities, or list the test in known_failures with the reason."
        )

    @pytest.fixture
    def begin(self, backend: Backend) -> Begin:
        needs(backend, Capability.TRANSACTIONS)
        backend.tally()  # the first use of a store may create tables or indexes
        return lambda: self.transaction(backend)

    @pytest.mark.parametrize("count", [1, 100])
    def test_what_is_put_in_a_transaction_that_commits_is_stored_and_leased(
        self, backend: Backend, begin: Begin, count: int
    ) -> None:
        records = [make_record(f"{n:03}") for n in range(count)]

        with begin() as session:
            backend.within(session).put(records)

        assert list(backend.scan(None, 1000, None)) == records
        leased = lease_all(backend)
        assert ids(leased) == ids(records)
        assert list(backend.settle([complete(each) for each in leased])) == [True] * count
        assert backend.tally().leased == 0

    @pytest.mark.parametrize("count", [1, 100])
    def test_what_is_put_in_a_transaction_that_aborts_is_not_stored(
        self, backend: Backend, begin: Begin, count: int
    ) -> None:
        _abort(begin, lambda session: backend.within(session).put([make_record(f"{n:03}") for n in range(count)]))

        assert list(backend.scan(None, 1000, None)) == []
        assert list(backend.lease(10, MINUTE)) == []
        assert backend.next_due() is None

    def test_nobody_else_sees_what_is_written_before_the_commit(
        self, backend: Backend, begin: Begin, open_backend: Handles
    ) -> None:
        put_due(backend, "old")
        before, peer = backend.get("old"), open_backend.peer()

        with begin() as session:
            writes = backend.within(session)
            writes.put([make_record("new", START - 1)])
            assert writes.delete("old") is True
            for each in (backend, peer):
                assert list(each.scan(None, 10, None)) == [before]
                assert each.get("new") is None
                assert each.next_due() == START
                assert each.tally().due == 1

        assert ids(peer.scan(None, 10, None)) == ["new"]
        assert ids(lease_all(peer)) == ["new"]

    def test_what_is_deleted_in_a_transaction_is_gone_if_it_commits(self, backend: Backend, begin: Begin) -> None:
        put_due(backend, "a", "b")

        with begin() as session:
            writes = backend.within(session)
            assert writes.delete("a") is True
            assert writes.delete("a") is False, "the transaction sees its own writes"
            assert writes.delete("never-stored") is False

        assert ids(backend.scan(None, 10, None)) == ["b"]

    def test_what_is_deleted_in_a_transaction_is_there_if_it_aborts(self, backend: Backend, begin: Begin) -> None:
        put_due(backend, "a", "b")
        before = list(backend.scan(None, 10, None))

        _abort(begin, lambda session: backend.within(session).delete("a"))

        assert list(backend.scan(None, 10, None)) == before
        assert ids(lease_all(backend)) == ["a", "b"]

    def test_a_transaction_is_one_whole(self, backend: Backend, begin: Begin) -> None:
        """Several writes, also of one id: either all apply, or none does. The last write of an id wins."""
        put_due(backend, "a")
        before = backend.get("a")

        def work(session: object) -> None:
            writes = backend.within(session)
            assert writes.delete("a") is True
            writes.put([make_record("a", START + 1, revision="2"), make_record("b")])
            backend.within(session).put([make_record("a", START + 2, revision="3")])
            assert writes.delete("b") is True

        _abort(begin, work)
        assert list(backend.scan(None, 10, None)) == [before]

        with begin() as session:
            work(session)
        assert list(backend.scan(None, 10, None)) == [make_record("a", START + 2, revision="3")]

    @pytest.mark.parametrize("write", ["put", "delete"])
    def test_a_transaction_that_aborts_does_not_end_a_lease(self, backend: Backend, begin: Begin, write: str) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)

        _abort(begin, lambda session: _write(backend.within(session), write))

        assert backend.get("a") == leased
        assert list(backend.lease(1, MINUTE)) == []
        assert list(backend.settle([complete(leased)])) == [True]
        assert backend.get("a") is None

    @pytest.mark.parametrize("write", ["put", "delete"])
    def test_a_transaction_that_commits_ends_a_lease_then_and_not_before(
        self, backend: Backend, begin: Begin, write: str
    ) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)

        with begin() as session:
            _write(backend.within(session), write)
            assert backend.get("a") == leased

        after = backend.get("a")
        assert (after is None) == (write == "delete")
        for outcome, progress in ((Outcome.COMPLETE, None), (Outcome.EXTEND, leased.progress)):
            assert list(backend.settle([settlement(leased, outcome, progress)])) == [False], (
                "a settlement with the token of the ended lease does not apply"
            )
        assert backend.get("a") == after
        assert len(lease_all(backend)) == (1 if write == "put" else 0)

    def test_a_transaction_reads_its_own_writes(self, backend: Backend, begin: Begin) -> None:
        put_due(backend, "a", "b")
        before, after = backend.get("a"), make_record("a", START + 1)

        with begin() as session:
            writes = backend.within(session)
            assert writes.get("a") == before
            writes.put([after])
            assert writes.delete("b") is True
            assert (writes.get("a"), writes.get("b"), writes.get("never-stored")) == (after, None, None)
            assert backend.get("a") == before

    @pytest.mark.usefixtures("conditional")
    def test_what_is_put_if_in_a_transaction_is_stored_if_it_commits(self, backend: Backend, begin: Begin) -> None:
        """A put whose expectation is wrong changes nothing, and the transaction goes on."""
        backend.put([make_record("a", revision="1"), make_record("b", revision="1")])
        lease_only(backend)
        leased = backend.get("a")
        assert isinstance(leased, Record)

        def work(session: object) -> None:
            writes = backend.within(session)
            assert writes.put_if(make_record("a"), None) is False
            assert writes.put_if(make_record("a"), "another") is False
            assert writes.put_if(make_record("a"), "1", Progress(START, START)) is False
            assert writes.put_if(make_record("a", revision="2"), "1", leased.progress) is True
            assert writes.put_if(make_record("a", revision="3"), "2") is True
            assert writes.put_if(make_record("c", revision="1"), "1") is False
            assert writes.put_if(make_record("c", revision="1"), None) is True
            assert writes.put_if(make_record("c", revision="2"), None) is False

        _abort(begin, work)
        assert ids(backend.scan(None, 10, None)) == ["b", "a"]
        assert backend.get("a") == leased

        with begin() as session:
            work(session)
        stored = [each for each in backend.scan(None, 10, None) if isinstance(each, Record)]
        assert [(each.id, each.revision) for each in stored] == [("a", "3"), ("b", "1"), ("c", "1")]
        assert backend.get("a") == make_record("a", revision="3")

    def test_what_is_settled_in_a_transaction_that_commits_is_done(self, backend: Backend, begin: Begin) -> None:
        """The transaction sees it at once, all others after the commit."""
        put_due(backend, "a", "b")
        leased = {each.id: each for each in lease_all(backend)}
        following = Progress(START + MINUTE, START + MINUTE)

        with begin() as session:
            writes = _settling(backend, session)
            moved = settlement(leased["b"], Outcome.RESCHEDULE, following)
            assert list(writes.settle([complete(leased["a"]), moved])) == [True, True]
            assert writes.get("a") is None
            inside = writes.get("b")
            assert isinstance(inside, Record)
            assert inside.progress == following
            assert [backend.get(id) for id in "ab"] == [leased["a"], leased["b"]], "no other reader sees it yet"

        assert backend.get("a") is None
        after = backend.get("b")
        assert isinstance(after, Record)
        assert (after.progress, after.message) == (following, leased["b"].message)
        for each in leased.values():
            assert list(backend.settle([complete(each)])) == [False], "the token is gone with the commit"

    def test_what_is_settled_in_a_transaction_that_aborts_is_still_leased(self, backend: Backend, begin: Begin) -> None:
        """It can be settled again, in another transaction or without one."""
        put_due(backend, "a", "b")
        leased = {each.id: each for each in lease_all(backend)}

        def work(session: object) -> None:
            assert list(_settling(backend, session).settle([complete(each) for each in leased.values()])) == [
                True,
                True,
            ]

        _abort(begin, work)
        assert [backend.get(id) for id in "ab"] == [leased["a"], leased["b"]]
        assert list(backend.lease(10, MINUTE)) == []

        assert list(backend.settle([complete(leased["a"])])) == [True]
        with begin() as session:
            assert list(_settling(backend, session).settle([complete(leased["b"])])) == [True]
        assert list(backend.scan(None, 10, None)) == []

    def test_a_settlement_in_a_transaction_needs_its_token(self, backend: Backend, begin: Begin) -> None:
        """One that does not apply changes nothing, and the transaction goes on."""
        put_due(backend, "stored", "removed", "other")
        leased = {each.id: each for each in lease_all(backend)}
        after = make_record("stored", START + 1, revision="2")
        backend.put([after])
        backend.delete("removed")
        with_another_token = attrs.evolve(complete(leased["other"]), token="another")
        stale = [complete(leased["stored"]), complete(leased["removed"]), with_another_token]

        with begin() as session:
            writes = _settling(backend, session)
            assert list(writes.settle(stale)) == [False, False, False]
            assert list(writes.settle([attrs.evolve(each, token="$ne") for each in stale])) == [False, False, False]
            new = make_record("new")
            writes.put([new])

        assert backend.get("stored") == after
        assert backend.get("removed") is None
        assert backend.get("other") == leased["other"]
        assert backend.get("new") == new

    def test_a_settlement_in_a_transaction_needs_a_lease_that_runs(
        self, backend: Backend, begin: Begin, clock: ManualClock
    ) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        clock.advance(MINUTE / 1000)

        with begin() as session:
            assert list(_settling(backend, session).settle([complete(leased)])) == [False]

        assert backend.get("a") == leased

    def test_a_settlement_in_a_transaction_changes_only_its_message(self, backend: Backend, begin: Begin) -> None:
        """Several messages that were claimed together have one token."""
        put_due(backend, "a", "b", "c")
        leased = {each.id: each for each in backend.lease(3, MINUTE) if isinstance(each, Record)}
        following = Progress(START + MINUTE, START + MINUTE)

        with begin() as session:
            writes = _settling(backend, session)
            moved = settlement(leased["b"], Outcome.RESCHEDULE, following)
            assert list(writes.settle([complete(leased["a"])])) == [True]
            assert list(writes.settle([moved])) == [True]

        assert backend.get("a") is None
        assert backend.get("c") == leased["c"]

    def test_a_transaction_is_open_until_it_has_ended(self, backend: Backend, begin: Begin) -> None:
        """Any thread may ask. As long as it is open, core writes nothing else to what it has settled."""
        with begin() as session:
            writes = _settling(backend, session)
            assert writes.is_open() is True
            seen: list[bool] = []
            thread = threading.Thread(target=lambda: seen.append(writes.is_open()))
            thread.start()
            thread.join()
            assert seen == [True]
        assert writes.is_open() is False
        with pytest.raises(pitstop.PitstopError):
            _settling(backend, session).settle([])

    def test_a_user_acknowledges_in_a_transaction(self, backend: Backend, begin: Begin, open_backend: Handles) -> None:
        """The ack counts when the transaction commits. After an abort the message comes back."""
        with begin() as session:
            _settling(backend, session)
        with pitstop.init({"type": open_backend(retry={"delay": 0, "max_attempts": 3})}) as pit:
            pit.store_many([({"id": id}, at(START)) for id in ("aborts", "commits")])
            pit.store({"id": "series"}, at(START), every="1h")
            seen: list[tuple[str, int]] = []

            def handle(delivery: pitstop.Delivery) -> None:
                seen.append((delivery.id, delivery.attempt))
                if delivery.id == "aborts" and delivery.attempt == 1:
                    _abort(begin, lambda session: delivery.ack(session=session))
                    return
                with begin() as session:
                    delivery.ack(session=session)
                    inside = pit.get(delivery.id, session=session)
                    assert inside is None or inside.state == "scheduled"

            summary = pit.consume(handle, deliveries=True, until_idle=True)

            assert (summary.acked, summary.nacked, summary.lost) == (3, 1, 0)
            assert sorted(seen) == [("aborts", 1), ("aborts", 2), ("commits", 1), ("series", 1)]
            assert [(each.id, each.scheduled_for) for each in pit.entries()] == [("series", at(START + 3_600_000))]

    @pytest.mark.parametrize("count", [1, 3], ids=["one", "several"])
    def test_a_lease_that_ends_while_a_settlement_waits_is_over(
        self, backend: Backend, begin: Begin, open_backend: Handles, count: int
    ) -> None:
        """A user's transaction holds the record meanwhile. The time that counts is read after the wait."""
        store = open_backend.peer(clock=None)
        now = store.now() // 1000
        store.put([make_record(f"{n}", now - 1) for n in range(count)])
        leased = [each for each in store.lease(count, _SHORT) if isinstance(each, Record)]
        assert len(leased) == count
        answers: list[Any] = []

        def settle() -> None:
            try:
                answers.append(list(store.settle([complete(each) for each in leased])))
            except pitstop.BackendUnavailable as error:
                answers.append(error)

        thread = threading.Thread(target=settle, daemon=True)

        def hold(session: object) -> None:
            backend.within(session).put([make_record(leased[0].id, now + MINUTE)])
            thread.start()
            pause = threading.Event()
            while store_time() <= now + 2 * _SHORT:
                pause.wait(0.02)

        # Read before, because a read may wait for the transaction, too.
        offset = store.now() / 1000 - time.monotonic() * 1000

        def store_time() -> float:
            return time.monotonic() * 1000 + offset

        _abort(begin, hold)
        thread.join(60)

        (answer,) = answers
        if not isinstance(answer, pitstop.BackendUnavailable):
            assert not answer[0], "the lease was over when the settlement could be done"
        assert isinstance(store.get(leased[0].id), Record), "the record comes again"

    def test_a_watch_hears_what_a_transaction_commits(
        self, backend: Backend, begin: Begin, open_backend: Handles
    ) -> None:
        needs(backend, Capability.WATCH)
        put_due(backend, "first")
        watch = open_backend.peer().watch()
        assert watch is not None
        try:
            silent(watch)
            with begin() as session:
                backend.within(session).put([make_record("b", START + 9), make_record("a", START + 3)])
                # A listener that a hint wakes before the commit finds nothing.
                silent(watch)

            assert hears(watch, START + 3)
        finally:
            watch.close()

    def test_what_is_put_for_later_is_leased_at_its_time(
        self, backend: Backend, begin: Begin, clock: ManualClock
    ) -> None:
        with begin() as session:
            backend.within(session).put([make_record("a", START + 1000)])

        assert list(backend.lease(1, MINUTE)) == []
        clock.advance(1)
        assert lease_only(backend).id == "a"

    def test_a_session_whose_transaction_is_over_is_refused(self, backend: Backend, begin: Begin) -> None:
        with begin() as session:
            backend.within(session).put([make_record("a")])

        with pytest.raises(pitstop.PitstopError):
            backend.within(session).put([make_record("b")])
        with pytest.raises(pitstop.PitstopError):
            backend.within(session).delete("a")
        with pytest.raises(pitstop.PitstopError):
            # Without the capability, it is refused for that reason.
            backend.within(session).put_if(make_record("b"), None)
        with pytest.raises(pitstop.PitstopError):
            backend.within(session).get("a")
        assert ids(backend.scan(None, 10, None)) == ["a"]

    def test_a_user_stores_and_removes_in_a_transaction(self, backend: Backend, begin: Begin) -> None:
        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "old"}, at(START))
            _abort(begin, lambda session: pit.store({"id": "never"}, at(START), session=session))
            _abort(begin, lambda session: pit.remove("old", session=session))
            assert [each.id for each in pit.entries()] == ["old"]

            with begin() as session:
                pit.store_many([({"id": id}, at(START)) for id in ("a", "b")], session=session)
                assert pit.remove("old", session=session) is True
                assert [each.id for each in pit.entries()] == ["old"]
            with pit.listen() as listener:
                assert [each.id for each in iter(listener.get, None)] == ["a", "b"]

    def test_a_user_keeps_and_refuses_messages_in_a_transaction(self, backend: Backend, begin: Begin) -> None:
        """Messages that the transaction itself has stored count as well."""
        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "old", "n": 1}, at(START), every="1h")

            with begin() as session:
                keep: dict[str, Any] = {"every": "1h", "if_exists": "keep", "session": session}
                assert pit.store({"id": "old", "n": 2}, **keep).outcome == "kept"
                assert [pit.store({"id": "new"}, **keep).outcome for _ in range(2)] == ["created", "kept"]
                assert pit.store({"id": "old", "n": 3}, keep_schedule=True, session=session).outcome == "updated"
                with pytest.raises(pitstop.Conflict):
                    pit.store({"id": "new"}, if_exists="error", session=session)
                assert [each.message.get("n") for each in pit.entries()] == [1]

            assert {each.id: each.message.get("n") for each in pit.entries()} == {"old": 3, "new": None}


def _settling(backend: Backend, session: object) -> TransactionWrites:
    """Return the writes of a transaction. The test ends here if they cannot settle, as before the suite asked for it."""
    writes = backend.within(session)
    if not (hasattr(writes, "settle") and hasattr(writes, "is_open")):
        pytest.skip(_NO_SETTLE)
    return cast("TransactionWrites", writes)


def _abort(begin: Begin, work: Callable[[object], object]) -> None:
    """Call ``work`` in a transaction, and abort the transaction."""

    def aborted() -> None:
        with begin() as session:
            work(session)
            raise Abort

    with pytest.raises(Abort):
        aborted()


def _write(writes: Writes, how: str) -> None:
    if how == "put":
        writes.put([make_record("a")])
    else:
        assert writes.delete("a") is True
