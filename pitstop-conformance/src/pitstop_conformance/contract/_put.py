"""The contract of ``put``, ``get`` and ``delete``: a record is stored whole, and comes back as it was."""

from __future__ import annotations

import copy

from typing import Any

import attrs
import pytest

from pitstop.abc import Backend, Outcome, Progress, Record, Tally
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    EVERY_OUTCOME,
    MINUTE,
    SERIES,
    START,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
    settlement,
)
from pitstop_conformance._values import IDS, LONGEST_ERROR, LONGEST_ID, PLAIN, largest_message, same


#: More records than the round numbers at which stores and drivers cut their batches.
_MANY = 1100


class PutGetDelete(Kit):
    """Records come back as they were stored."""

    rule = "pitstop.abc.Backend.put, get and delete"

    def test_get_of_an_id_that_was_never_stored_is_none(self, backend: Backend) -> None:
        put_due(backend, "other")

        assert backend.get("a") is None

    def test_a_record_comes_back_equal(self, backend: Backend) -> None:
        record = make_record(message={"foo": 1, "bar": ["x", {"y": None}]})

        backend.put([record])

        assert backend.get("a") == record

    def test_a_peer_sees_what_was_put(self, backend: Backend, open_backend: Handles) -> None:
        record = make_record()

        backend.put([record])

        assert open_backend.peer().get("a") == record

    def test_what_a_peer_changes_is_seen_at_once(self, backend: Backend, open_backend: Handles) -> None:
        """Also if this handle has read the record before, and has not written since."""
        peer = open_backend.peer()
        assert backend.get("a") is None
        first, second = make_record(message={"n": 1}), make_record(message={"n": 2})

        peer.put([first])
        assert backend.get("a") == first
        peer.put([second])
        assert backend.get("a") == second
        leased = lease_only(peer)
        assert backend.get("a") == leased
        assert list(backend.scan(None, 10, None)) == [leased]
        assert list(peer.settle([complete(leased)])) == [True]
        assert backend.get("a") is None
        assert backend.tally() == Tally(0, 0, 0, 0, None)

    @pytest.mark.parametrize("name", PLAIN)
    def test_a_record_with_any_value_comes_back_the_same(self, backend: Backend, name: str) -> None:
        message = {"value": PLAIN[name], "among": [PLAIN[name]] if name != "deep" else []}
        backend.put([make_record(message=message)])

        stored, leased = backend.get("a"), lease_only(backend)

        assert isinstance(stored, Record)
        assert same(stored.message, message)
        assert same(leased.message, message)

    @pytest.mark.parametrize("name", [name for name, value in PLAIN.items() if isinstance(value, dict)])
    def test_a_whole_message_may_look_like_anything(self, backend: Backend, name: str) -> None:
        """Keys at the top level of a message are data: neither fields of the store nor operators."""
        backend.put([make_record(message=PLAIN[name])])

        assert same(lease_only(backend).message, PLAIN[name])

    def test_the_largest_record_is_stored_leased_and_settled(self, backend: Backend) -> None:
        """A store has room for the largest message that core accepts, with the longest id and the longest error."""
        message = largest_message(LONGEST_ID)
        del message["id"]
        backend.put([make_record(LONGEST_ID, message=message, series=SERIES)])

        leased = lease_only(backend)
        again = attrs.evolve(leased.progress, due=START, last_error=LONGEST_ERROR, token=None)
        assert list(backend.settle([settlement(leased, Outcome.RELEASE, again)])) == [True]

        stored, leased = backend.get(LONGEST_ID), lease_only(backend)
        assert isinstance(stored, Record)
        assert stored.progress == again
        assert leased.progress.last_error == LONGEST_ERROR
        # Not `assert same(...)`, which would print both messages.
        whole = same(stored.message, message) and same(leased.message, message)
        assert whole, "the message comes back unchanged"
        assert list(backend.settle([complete(leased)])) == [True]
        assert backend.get(LONGEST_ID) is None

    @pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
    def test_an_id_is_only_ever_itself(self, backend: Backend, id: str) -> None:
        """An id is no pattern, no operator and no number, and differs from an id that looks alike."""
        records = {each: make_record(each) for each in IDS}
        backend.put(list(records.values()))

        assert backend.get(id) == records[id]
        assert backend.delete(id)
        assert backend.get(id) is None
        assert {each.id: each for each in backend.scan(None, 100, None)} == {
            each: record for each, record in records.items() if each != id
        }
        assert not backend.delete(id)

    @pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
    def test_an_id_is_only_ever_itself_when_it_is_settled(self, backend: Backend, id: str) -> None:
        backend.put([make_record(each) for each in IDS])
        leased = {each.id: each for each in lease_all(backend)}

        assert list(backend.settle([complete(leased[id])])) == [True]

        assert set(ids(backend.scan(None, 100, None))) == set(IDS) - {id}

    @pytest.mark.parametrize(
        "progress",
        [
            Progress(START, START),
            Progress(0, 0),
            Progress(253_402_300_799_999, 253_402_300_799_999),
            Progress(START + MINUTE, START, 1, START, None, "token"),
            Progress(START + 1, START - 1, 2**31 + 7, START - 2, "RuntimeError: \u00fc \U0001f3ce '$x'", "$ne"),
            Progress(None, START, 3, START, "gave up", "token"),
            Progress(None, 0, 0, None, "", "t"),
            Progress(START + MINUTE, START, 2, START, "failed", None),
        ],
        ids=["new", "zero", "last", "leased", "odd", "dead", "dead_bare", "waiting"],
    )
    def test_every_field_of_progress_comes_back(self, backend: Backend, progress: Progress) -> None:
        record = attrs.evolve(make_record(), progress=progress)

        backend.put([record])

        assert backend.get("a") == record
        (scanned,) = backend.scan(None, 10, None)
        assert scanned == record

    @pytest.mark.parametrize("series", [None, {}, SERIES], ids=["one_shot", "empty", "full"])
    def test_a_series_comes_back_as_it_is(self, backend: Backend, series: dict[str, Any] | None) -> None:
        record = make_record(series=series)
        backend.put([record])

        stored, leased = backend.get("a"), lease_only(backend)

        assert isinstance(stored, Record)
        assert same(stored.series, series)
        assert same(leased.series, series)

    def test_put_takes_the_place_of_the_record_with_its_id(self, backend: Backend) -> None:
        backend.put([make_record(message={"old": 1, "both": 1}, series=SERIES, attempts=3, last_error="x")])
        record = make_record(due=START + MINUTE, message={"new": 2, "both": 2})

        backend.put([record])

        assert backend.get("a") == record
        assert len(backend.scan(None, 10, None)) == 1

    def test_put_ends_a_lease(self, backend: Backend) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        record = make_record(due=START)

        backend.put([record])

        assert backend.get("a") == record
        assert list(backend.settle([complete(leased)])) == [False]
        assert backend.get("a") == record
        assert lease_only(backend).revision == record.revision

    @pytest.mark.parametrize("outcome", EVERY_OUTCOME, ids=lambda each: each.name.lower())
    def test_no_settlement_of_an_old_lease_touches_what_was_put_since(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        record = make_record(due=START + MINUTE)
        backend.put([record])

        applied = backend.settle([settlement(leased, outcome, EVERY_OUTCOME[outcome](leased))])

        assert list(applied) == [False]
        assert backend.get("a") == record

    def test_put_brings_a_dead_record_back(self, backend: Backend) -> None:
        backend.put([make_record(due=None, token="t", last_error="x", attempts=5, first_leased=START)])
        record = make_record()

        backend.put([record])

        assert backend.get("a") == record
        assert ids(lease_all(backend)) == ["a"]

    def test_put_stores_new_records_and_replaces_others_in_one_call(self, backend: Backend) -> None:
        put_due(backend, "b", "kept")
        records = [make_record(id, message={"new": id}) for id in ("a", "b", "c")]

        backend.put(records)

        assert [backend.get(id) for id in ("a", "b", "c")] == records
        assert len(backend.scan(None, 10, None)) == 4

    def test_put_stores_a_thousand_records(self, backend: Backend) -> None:
        records = {f"{n:04}": make_record(f"{n:04}", START + n % 7) for n in range(1000)}

        backend.put(list(records.values()))

        stored = backend.scan(None, 2000, None)
        assert {each.id: each for each in stored} == records

    def test_what_was_put_does_not_change_with_the_callers_object(self, backend: Backend) -> None:
        message: dict[str, Any] = {"list": [1, {"deep": 1}]}
        series = copy.deepcopy(SERIES)
        backend.put([make_record(message=message, series=series)])

        message["list"][1]["deep"] = "changed"
        message["more"] = 1
        series["list"].append("changed")

        stored = backend.get("a")
        assert isinstance(stored, Record)
        assert stored.message == {"list": [1, {"deep": 1}]}
        assert stored.series == SERIES

    def test_what_was_read_does_not_change_what_is_stored(self, backend: Backend) -> None:
        def spoil(read: Any) -> None:
            assert read.message == {"list": [1]}
            read.message["list"].append("changed")
            read.message.clear()

        backend.put([make_record(message={"list": [1]})])

        spoil(backend.get("a"))
        spoil(backend.scan(None, 1, None)[0])
        spoil(lease_only(backend))

        spoil(backend.get("a"))

    def test_delete_says_whether_it_was_there(self, backend: Backend) -> None:
        put_due(backend, "a", "b")

        assert backend.delete("a") is True
        assert backend.delete("a") is False
        assert backend.get("a") is None
        assert ids(backend.scan(None, 10, None)) == ["b"]

    def test_delete_takes_a_leased_record(self, backend: Backend) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)

        assert backend.delete("a") is True

        assert backend.get("a") is None
        assert list(backend.settle([complete(leased)])) == [False]

    @pytest.mark.parametrize("outcome", EVERY_OUTCOME, ids=lambda each: each.name.lower())
    def test_no_settlement_creates_a_record_that_was_deleted(self, backend: Backend, outcome: Outcome) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        backend.delete("a")

        assert list(backend.settle([settlement(leased, outcome, EVERY_OUTCOME[outcome](leased))])) == [False]

        assert backend.get("a") is None
        assert len(backend.scan(None, 10, None)) == 0
        assert backend.tally().dead == 0

    def test_delete_takes_a_dead_record(self, backend: Backend) -> None:
        backend.put([make_record(due=None, token="t")])

        assert backend.delete("a") is True

        assert backend.get("a") is None

    def test_a_deleted_record_is_not_leased(self, backend: Backend) -> None:
        put_due(backend, "a", "b")
        backend.delete("a")

        assert ids(lease_all(backend)) == ["b"]

    def test_a_batch_of_more_than_a_thousand_is_put_whole(self, backend: Backend) -> None:
        names = [f"{n:04}" for n in range(_MANY)]

        backend.put([make_record(name) for name in names])

        assert ids(backend.scan(None, 2 * _MANY, None)) == names
        assert backend.tally().due == _MANY

    def test_a_message_of_a_megabyte_comes_back_equal(self, backend: Backend) -> None:
        record = make_record(message={"text": "ä" * 1_100_000, "bytes": bytes(range(256)) * 4096})

        backend.put([record])

        # Compared here, because pytest would explain a difference at length.
        same_message = backend.get("a") == record and lease_only(backend).message == record.message
        assert same_message, "the record differs from the record that was put"
