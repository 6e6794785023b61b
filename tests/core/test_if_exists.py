"""Stores on terms: the calls that they make, the schedules that they compare, and changes by others in between."""

from __future__ import annotations

import copy
import json
import pickle
import uuid

from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import pytest

import pitstop

from core.kit import Scripted, backend
from pitstop import (
    BackendUnavailable,
    Calendar,
    Conflict,
    Cron,
    MessageError,
    OutcomeUnknown,
    PitstopError,
    ScheduleError,
    Stored,
    Times,
    Unsupported,
)
from pitstop._decisions._change import Change, Terms, Wanted, change
from pitstop._decisions._store import new_record
from pitstop.abc import Backend, Capability, Damaged, Progress, Record
from pitstop_memory import MemoryBackend


NOW = timedelta(0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


class Recording(Scripted):
    """A backend that records the calls of a store, and lets a test act before them."""

    def put(self, records):
        self._enter("put")
        super().put(records)

    def put_if(self, record, revision, progress=None):
        self._enter("put_if")
        return super().put_if(record, revision, progress)

    def get(self, id):
        self._enter("get")
        return super().get(id)


@pytest.fixture
def store(clock):
    return backend(Recording, clock)


class TestCalls:
    """Of the backend: a store without terms makes one, and none of these reads more than it must."""

    @pytest.mark.parametrize("options", [{}, {"if_exists": "replace"}, {"keep_schedule": False}])
    def test_of_a_store_that_replaces(self, pit, store, options):
        assert pit.store({"id": "a"}, NOW, **options).outcome == "stored"
        assert pit.store({"id": "a"}, NOW, **options).outcome == "stored"
        pit.store_many([({"id": "a"}, NOW), ({"id": "b"}, NOW)], **options)
        assert store.calls == ["put"] * 3

    def test_of_a_store_that_keeps(self, pit, store):
        pit.store({"id": "a"}, NOW, every=HOUR, if_exists="keep")
        assert store.calls == ["get", "put_if"]
        pit.store({"id": "a"}, NOW, every=HOUR, if_exists="keep")
        assert store.calls[2:] == ["get"]

    def test_of_a_store_that_must_be_the_first(self, pit, store):
        pit.store({"id": "a"}, NOW, if_exists="error")
        assert store.calls == ["put_if"]
        with pytest.raises(Conflict):
            pit.store({"id": "a"}, NOW, if_exists="error")
        assert store.calls[1:] == ["put_if", "get"]

    @pytest.mark.parametrize("options", [{"if_exists": "keep"}, {"if_exists": "error"}, {"keep_schedule": True}])
    def test_of_an_id_that_is_made_here(self, pit, store, options):
        assert pit.store({}, NOW, **options).outcome == "created"
        assert [each.outcome for each in pit.store_many([({}, NOW), ({}, NOW)], **options)] == ["created"] * 2
        assert store.calls == ["put", "put"]

    def test_of_several_that_must_be_the_first(self, pit, store):
        """All are looked for before the first is stored."""
        pit.store({"id": "b"}, NOW)
        store.calls.clear()
        with pytest.raises(Conflict):
            pit.store_many([({}, NOW), ({"id": "a"}, NOW), ({"id": "b"}, NOW)], if_exists="error")
        assert store.calls == ["get", "get"]
        assert [each.id for each in pit.entries()] == ["b"]

    def test_of_several_with_one_id(self, pit):
        items = [({"id": "a", "n": n}, NOW) for n in (1, 2)]
        assert [each.outcome for each in pit.store_many(items, if_exists="error")] == ["created"] * 2
        assert pit.get("a").message["n"] == 2


class TestSchedules:
    """Which schedules are the same."""

    @pytest.mark.parametrize(
        "arguments",
        [
            {"when": NOW, "every": HOUR},
            {"when": "15m", "every": "1h"},
            {"when": START, "every": HOUR},
            {"every": Cron("0 9 * * *", tz="Europe/Berlin")},
            {"every": Calendar(months=1, tz="Europe/Berlin")},
            {"every": Times([START + 40 * DAY])},
            {"when": START, "every": HOUR, "end": START + 100 * DAY},
            {"when": START, "every": HOUR, "end": timedelta(days=50)},
            {"every": HOUR, "catch_up": "skip", "grace": "5m"},
            {"every": HOUR, "jitter": "5m"},
            {"when": START + DAY},
            {"when": "15m"},
            {},
        ],
        ids=str,
    )
    def test_is_the_one_that_is_given_again_later(self, pit, clock, arguments):
        store = partial(pit.store, {"id": "a"}, if_exists="keep", **arguments)
        assert store().outcome == "created"
        before = pit.get("a")
        clock.advance("37h")
        assert store().outcome == "kept"
        assert attrs.evolve(pit.get("a"), state=before.state) == before

    @pytest.mark.parametrize(
        "other",
        [
            {"every": timedelta(hours=2)},
            {"every": Calendar(days=1)},
            {"every": None, "end": None},
            {"when": START + HOUR},
            {"end": START + 101 * DAY},
            {"end": None},
            {"jitter": "5m"},
            {"catch_up": "all"},
            {"catch_up": "skip", "grace": "5m"},
        ],
        ids=str,
    )
    def test_is_another_one(self, pit, other):
        arguments = {"when": START, "every": HOUR, "end": START + 100 * DAY}
        pit.store({"id": "a", "n": 1}, **arguments)
        assert pit.store({"id": "a", "n": 2}, if_exists="keep", **{**arguments, **other}).outcome == "replaced"
        assert pit.get("a").message["n"] == 2

    def test_of_a_one_shot_is_its_time_if_that_is_given(self, pit):
        pit.store({"id": "a"}, START + DAY)
        keep = partial(pit.store, {"id": "a"}, if_exists="keep")
        assert [keep(when).outcome for when in (START + DAY, HOUR, None)] == ["kept"] * 3
        assert keep(START + HOUR).outcome == "replaced"
        assert keep(HOUR, every=HOUR).outcome == "replaced"

    def test_of_a_one_shot_that_was_nacked_is_still_its_time(self, pit):
        pit.store({"id": "a"}, START)
        with pit.listen() as listener:
            listener.get().nack("failed", HOUR)
        assert pit.store({"id": "a"}, START, if_exists="keep").outcome == "kept"

    def test_that_cannot_be_read_here_is_another_one(self, pit, store):
        pit.store({"id": "a"}, every=HOUR)
        found = store.get("a")
        store.put([attrs.evolve(found, series={**found.series, "every": {"v": 9, "kind": "acme.unknown"}})])
        assert pit.store({"id": "a"}, every=HOUR, if_exists="keep").outcome == "replaced"


class TestChanges:
    """By another program between the read and the write."""

    def test_it_stored_the_same_schedule_first(self, pit, store):
        store.during["put_if"] = partial(_once, store, "put_if", partial(_put, store, "a", 1, every=HOUR))
        assert pit.store({"id": "a", "n": 2}, every=HOUR, if_exists="keep").outcome == "kept"
        assert pit.get("a").message["n"] == 1

    def test_it_stored_another_schedule_first(self, pit, store):
        store.during["put_if"] = partial(_once, store, "put_if", partial(_put, store, "a", 1, every=DAY))
        assert pit.store({"id": "a", "n": 2}, every=HOUR, if_exists="keep").outcome == "replaced"
        assert pit.get("a").every == HOUR

    def test_it_stored_the_id_first(self, pit, store):
        store.during["put_if"] = partial(_once, store, "put_if", partial(_put, store, "a", 1))
        with pytest.raises(Conflict):
            pit.store({"id": "a", "n": 2}, if_exists="error")
        assert pit.get("a").message["n"] == 1

    def test_it_stored_and_removed_the_id(self, pit, store):
        def remove():
            _once(store, "put_if", partial(_put, store, "a", 1))
            store.during["get"] = partial(_once, store, "get", partial(store.delete, "a"))

        store.during["put_if"] = remove
        assert pit.store({"id": "a", "n": 2}, if_exists="error").outcome == "created"

    def test_it_removed_the_message(self, pit, store):
        pit.store({"id": "a", "n": 1}, every=HOUR)
        store.during["put_if"] = partial(_once, store, "put_if", partial(store.delete, "a"))
        assert pit.store({"id": "a", "n": 2}, every=HOUR, keep_schedule=True).outcome == "created"

    def test_it_claimed_the_message(self, pit, store):
        """The new body of a one-shot message then still comes."""
        pit.store({"id": "a", "n": 1}, NOW)
        claimed = []
        store.during["put_if"] = partial(_once, store, "put_if", lambda: claimed.extend(store.lease(1, 60_000)))
        assert pit.store({"id": "a", "n": 2}, keep_schedule=True).outcome == "updated"
        assert [each.message["n"] for each in claimed] == [1]
        with pit.listen() as listener:
            delivery = listener.get()
            assert (delivery.msg["n"], delivery.attempt) == (2, 1)

    def test_it_acknowledged_the_occurrence(self, pit, store):
        """The series does not go back."""
        pit.store({"id": "a", "n": 1}, NOW, every=HOUR)
        with pit.listen() as listener:
            delivery = listener.get()
            store.during["put_if"] = partial(_once, store, "put_if", partial(delivery.ack, wait=True))
            assert pit.store({"id": "a", "n": 2}, keep_schedule=True).outcome == "updated"
        entry = pit.get("a")
        assert (entry.message["n"], entry.scheduled_for, entry.state) == (2, START + HOUR, "scheduled")

    def test_it_changes_the_message_all_the_time(self, pit, store):
        _put(store, "a", 0, every=DAY)
        store.during["put_if"] = lambda: _put(store, "a", 1)
        with pytest.raises(Conflict, match=r"have changed it 50 times meanwhile\. Try again") as caught:
            pit.store({"id": "a", "n": 2}, every=HOUR, if_exists="keep")
        assert caught.value.id == "a"


class TestListeners:
    """In the same process."""

    def test_a_handler_that_updates_its_own_series_ends_quietly_and_the_series_goes_on(self, pit, clock):
        pit.store({"id": "a", "n": 1}, NOW, every=HOUR)
        seen = []

        def handle(message):
            seen.append(message["n"])
            pit.store({"id": "a", "n": message["n"] + 1}, keep_schedule=True)

        for _ in range(3):
            summary = pit.consume(handle, until_idle=True)
            assert (summary.acked, summary.superseded, summary.lost) == (1, 0, 0)
            clock.advance("1h")
        assert seen == [1, 2, 3]

    def test_a_retry_of_a_series_has_its_new_body(self, pit):
        pit.store({"id": "a", "n": 1}, NOW, every=HOUR)
        with pit.listen() as listener:
            delivery = listener.get()
            pit.store({"id": "a", "n": 2}, keep_schedule=True)
            delivery.nack("failed", NOW)
            again = listener.get()
        assert (again.key, again.attempt, again.msg["n"]) == (delivery.key, 2, 2)

    def test_a_schedule_that_is_replaced_leaves_no_occurrence_behind(self, pit, clock):
        pit.store({"id": "a"}, NOW, every=DAY, catch_up="all")
        clock.advance("49h")
        every = Cron("0 12 * * *")
        assert pit.store({"id": "a"}, every=every, catch_up="all", if_exists="keep").outcome == "replaced"
        with pit.listen() as listener:
            assert listener.get() is None

    def test_a_handler_that_updates_its_own_one_shot_ends_quietly_and_gets_it_again(self, pit):
        pit.store({"id": "a", "n": 1}, NOW)

        def handle(message):
            if message["n"] == 1:
                pit.store({"id": "a", "n": 2}, keep_schedule=True)

        summary = pit.consume(handle, until_idle=True)
        assert (summary.acked, summary.superseded, summary.lost) == (1, 1, 0)

    def test_a_handler_whose_message_is_kept_acknowledges_it(self, pit):
        pit.store({"id": "a"}, NOW)
        summary = pit.consume(lambda _: pit.store({"id": "a"}, NOW, if_exists="keep"), until_idle=True)
        assert (summary.acked, summary.superseded) == (1, 0)
        assert pit.entries() == []

    @pytest.mark.parametrize("several", [False, True], ids=["store", "store_many"])
    def test_an_ack_that_has_returned_is_written_first(self, pit, store, several):
        """So the message is not there any more. The ack waits for others, because the listener has another message."""
        pit.store_many([({"id": id}, NOW) for id in "ab"])
        with pit.listen(prefetch=2) as listener:
            delivery = next(listener)
            delivery.ack()
            assert store.get(delivery.id) is not None, "the ack is pending"
            if several:
                (stored,) = pit.store_many([({"id": delivery.id}, NOW)], if_exists="error")
            else:
                stored = pit.store({"id": delivery.id}, NOW, if_exists="error")
            assert stored.outcome == "created"

    def test_a_handler_that_updates_its_own_series_and_takes_too_long_has_lost_it(self, pit, clock):
        pit.store({"id": "a", "n": 1}, NOW, every=DAY)

        def handle(_):
            pit.store({"id": "a", "n": 2}, keep_schedule=True)
            clock.advance("16m")

        summary = pit.consume(handle, max_messages=1)
        assert (summary.lost, summary.superseded) == (1, 0)

    def test_an_observer_hears_of_what_was_written(self, clock):
        heard = []

        class Audit:
            @pitstop.hookimpl
            def pitstop_message_stored(self, entry):
                heard.append((entry.message["n"], entry.due))

        with pitstop.init({"type": backend(Recording, clock)}, plugins=[Audit()]) as pit:
            pit.store({"id": "a", "n": 1}, HOUR, if_exists="keep")
            pit.store({"id": "a", "n": 2}, HOUR, if_exists="keep")
            pit.store({"id": "a", "n": 3}, DAY, keep_schedule=True)
        assert heard == [(1, START + HOUR), (3, START + HOUR)]

    def test_a_faulty_store_is_a_faulty_store(self, pit, store):
        store.down = True
        for options in ({"if_exists": "keep"}, {"if_exists": "error"}, {"keep_schedule": True}):
            with pytest.raises(BackendUnavailable):
                pit.store({"id": "a"}, NOW, **options)

    def test_an_unknown_outcome_names_the_id(self):
        with pitstop.testing.init() as pit:
            pit.faults.lose_reply("store")
            with pytest.raises(OutcomeUnknown) as caught:
                pit.store({"id": "a"}, NOW, if_exists="error")
            assert caught.value.ids == ("a",)
            assert pit.store({"id": "a"}, NOW, if_exists="keep").outcome == "kept"


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            (
                {"if_exists": "ignore"},
                PitstopError,
                "if_exists='ignore' is unknown. Give one of: replace, keep, error.",
            ),
            ({"if_exists": None}, PitstopError, "if_exists=None is unknown. Give one of: replace, keep, error."),
            ({"keep_schedule": "no"}, PitstopError, "keep_schedule='no' cannot be used. Give True or False."),
            ({"keep_schedule": 1}, PitstopError, "keep_schedule=1 cannot be used. Give True or False."),
            (
                {"if_exists": "error", "keep_schedule": True},
                ScheduleError,
                "keep_schedule=True changes the message that exists, and if_exists='error' refuses to change it. Give one.",
            ),
        ],
    )
    def test_of_terms(self, pit, store, options, error, text):
        for call in (partial(pit.store, {}, NOW), partial(pit.store_many, [({}, NOW)])):
            with pytest.raises(error) as caught:
                call(**options)
            assert (type(caught.value), str(caught.value)) == (error, text)
        assert store.calls == []

    @pytest.mark.parametrize(
        ("present", "what"),
        [
            (Progress(1_577_923_200_000, 1), "it is due at 2020-01-02T00:00:00Z"),
            (Progress(1_577_836_799_500, 1), "it is due since 2019-12-31T23:59:59.500Z"),
            (Progress(1_577_923_200_000, 1, 1, 1, token="t"), "it is leased until 2020-01-02T00:00:00Z"),
            (Progress(None, 1, 1, 1, token="t"), "it is dead"),
        ],
    )
    def test_of_a_message_that_exists_say_what_is_there(self, pit, store, present, what):
        store.put([Record("a", {}, None, "1", present)])
        with pytest.raises(Conflict) as caught:
            pit.store({"id": "a"}, NOW, if_exists="error")
        assert str(caught.value) == (
            f"The message 'a' exists already: {what}. Choose another id, remove that message, or store with if_exists='keep' "
            f"or 'replace'."
        )

    def test_of_a_damaged_message(self, clock):
        class Damaging(Recording):
            def get(self, id):
                return Damaged(id, "Damaged: msg cannot be read. Store the message again, or remove it.", None, "t")

            def put_if(self, record, revision, progress=None):
                return False

        with pitstop.init({"type": backend(Damaging, clock)}) as pit:
            with pytest.raises(Conflict, match="it cannot be read"):
                pit.store({"id": "a"}, NOW, if_exists="error")
            for options in ({"if_exists": "keep"}, {"keep_schedule": True}):
                with pytest.raises(MessageError) as caught:
                    pit.store({"id": "a"}, NOW, **options)
                assert str(caught.value) == (
                    "The schedule of 'a' cannot be kept. Damaged: msg cannot be read. Store the message again, or remove it. "
                    "Storing needs if_exists='replace' without keep_schedule."
                )
            assert pit.store({"id": "a"}, NOW).outcome == "stored"


def test_a_dead_message_is_kept_dead(pit, store):
    store.put([Record("a", {"n": 1}, None, "1", Progress(None, 1, 3, 1, "failed", "t"))])
    assert pit.store({"id": "a", "n": 1}, NOW, if_exists="keep").outcome == "kept"
    assert pit.store({"id": "a", "n": 2}, NOW, keep_schedule=True).outcome == "updated"
    entry = pit.get("a")
    assert (entry.state, entry.message["n"], entry.last_error) == ("dead", 2, "failed")


@pytest.mark.parametrize("value", [1, 1.0, True, "1"])
def test_a_body_is_the_same_if_its_values_have_the_same_types(pit, value):
    pit.store({"id": "a", "n": 1, "nan": float("nan")}, HOUR)
    outcome = pit.store({"id": "a", "n": value, "nan": float("nan")}, HOUR, keep_schedule=True).outcome
    assert outcome == ("kept" if type(value) is int else "updated")


def test_a_lease_that_has_run_out_leaves_no_token_on_a_new_body():
    """By the clock of the store the lease may still run: an ack would delete the new body."""
    record = new_record({"id": "a", "n": 2}, now_us=5_000_000, revision="2")
    present = Record("a", {"n": 1}, None, "1", Progress(4_000, 1_000, 2, 1_000, None, "t", 1))
    todo = change(present, Wanted(record, fixed_start=False, fixed_end=False), Terms(keep_schedule=True), 5_000)
    expected = attrs.evolve(
        present, message={"n": 2}, revision="2", progress=attrs.evolve(present.progress, token=None)
    )
    assert todo == Change("updated", expected, "1", present.progress)
    assert not todo.keeps_lease


class TestStored:
    def test_is_the_id(self):
        stored = Stored("a", "kept")
        assert isinstance(stored, str)
        assert (stored, hash(stored), repr(stored), str(stored), f"{stored}") == ("a", hash("a"), "'a'", "a", "a")
        assert type(str(stored)) is str
        assert {stored: 1}["a"] == 1
        assert json.dumps([stored]) == '["a"]'

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
    def test_is_the_plain_id_in_a_copy(self, copied):
        assert type(copied(Stored("a", "kept"))) is str
        assert copied(Stored("a", "kept")) == "a"

    def test_does_not_change(self):
        with pytest.raises(AttributeError):
            Stored("a", "kept").outcome = "created"

    def test_is_an_id_and_a_value_of_a_message(self, pit):
        stored = pit.store({}, NOW)
        assert pit.get(stored).id == stored
        pit.store({"id": stored, "after": stored}, NOW)
        assert type(pit.get(stored).message["after"]) is str
        assert pit.remove(stored)


def _record(id, n, **arguments):
    return new_record({"id": id, "n": n}, **arguments, now_us=1_577_836_800_000_000, revision=uuid.uuid4().hex)


def _put(store, id, n, **arguments):
    Scripted.put(store, [_record(id, n, **arguments)])


def _once(store, name, action):
    del store.during[name]
    action()


class Unconditional(MemoryBackend):
    """A backend of the time before ``put_if``."""

    capabilities = Capability(0)

    def put_if(self, record, revision, progress=None):
        return Backend.put_if(self, record, revision, progress)


@pytest.mark.parametrize("terms", [{"if_exists": "keep"}, {"if_exists": "error"}, {"keep_schedule": True}], ids=str)
@pytest.mark.parametrize("many", [False, True])
def test_a_backend_that_cannot_store_on_a_condition_refuses_it_and_stores_all_else(terms, many):
    with pitstop.init({"type": Unconditional}) as pit:
        pit.store({"id": "a", "n": 1}, HOUR)
        store = (
            partial(pit.store_many, [({"id": "a"}, DAY), ({}, DAY)]) if many else partial(pit.store, {"id": "a"}, DAY)
        )
        with pytest.raises(Unsupported) as caught:
            store(**terms)
        assert str(caught.value) == (
            "Unconditional (memory://) does not have the capability CONDITIONAL, which if_exists=, if_revision=, keep_schedule=, "
            "reschedule(), emit_now() and pause() need. Do without, or use a backend that has it: 'memory', 'sqlite' or 'mongo'."
        )
        assert [(each.id, each.message) for each in pit.entries()] == [("a", {"id": "a", "n": 1})]
        assert pit.store({"id": "a", "n": 2}, HOUR).outcome == "stored"
