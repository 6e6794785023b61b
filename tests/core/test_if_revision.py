"""Edits of a message that was read: their arguments, the calls that they make, and the revision that they compare."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest

import pitstop

from core.kit import backend
from core.test_if_exists import Recording
from pitstop import Calendar, Conflict, Cron, MessageError, PitstopError, ScheduleError, Unsupported
from pitstop._decisions._revision import revision_of
from pitstop.abc import Capability, Damaged, Progress, Record
from pitstop_memory import MemoryBackend


NOW = timedelta(0)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2020, 1, 1, tzinfo=UTC)
PROGRESS = Progress(5, 4, 3, 2, "failed", "token", 1, 1, 1)


@pytest.fixture
def store(clock):
    return backend(Recording, clock)


def edit(pit, entry, **changes):
    """Store what an entry says, as a user does who changes one thing."""
    times = {"start": entry.start, "end": entry.end, "every": entry.every, **changes}
    start = entry.scheduled_for if times["start"] is None else times["start"]
    options = {"catch_up": entry.catch_up, "grace": entry.grace, "jitter": entry.jitter}
    return pit.store(entry.message, start, times["end"], times["every"], **options, if_revision=entry.revision)


class TestRevision:
    """The text that a user compares."""

    RECORD = Record("a", {}, None, "r", PROGRESS)

    @pytest.mark.parametrize("name", [each.name for each in attrs.fields(Progress)])
    def test_changes_with_each_part_of_the_progress(self, name):
        value = getattr(PROGRESS, name)
        other = value + 1 if isinstance(value, int) else f"{value}!"
        changed = attrs.evolve(self.RECORD, progress=attrs.evolve(PROGRESS, **{name: other}))
        assert revision_of(changed) != revision_of(self.RECORD)

    def test_changes_with_the_revision_of_the_record(self):
        assert revision_of(attrs.evolve(self.RECORD, revision="s")) != revision_of(self.RECORD)

    def test_is_the_same_in_each_process_and_release(self):
        """Two programs of different releases may edit the messages of one store."""
        assert revision_of(self.RECORD) == "r-5b9c19e2fa8c75ac"
        assert (
            revision_of(attrs.evolve(self.RECORD, progress=Progress(None, 0, last_error="\ud800é")))
            == "r-7000d22eebf48cd1"
        )

    def test_of_a_damaged_document_is_no_condition_that_is_left_out(self):
        assert revision_of(Damaged("a", "Damaged.", 1, None)) == "damaged"


class TestArguments:
    @pytest.mark.parametrize("value", [1, b"x", True, object()])
    def test_refuse_a_revision_that_is_no_text(self, pit, value):
        with pytest.raises(PitstopError, match=r"^if_revision=.* is no text\. Give the revision of the entry"):
            pit.store({"id": "a"}, NOW, if_revision=value)

    @pytest.mark.parametrize("word", ["keep", "error"])
    def test_refuse_two_rules_for_a_message_that_exists(self, pit, word):
        with pytest.raises(ScheduleError, match=f"if_exists='{word}' leaves a message that exists. Give one."):
            pit.store({"id": "a"}, NOW, if_exists=word, if_revision="x")

    def test_refuse_a_message_without_an_id(self, pit, store):
        with pytest.raises(MessageError, match="The message has no 'id', so if_revision names no message"):
            pit.store({"n": 1}, NOW, if_revision="x")
        assert store.calls == []

    def test_refuse_a_backend_that_cannot_compare(self, clock):
        class Plain(MemoryBackend):
            capabilities = Capability(0)

        with pitstop.init({"type": backend(Plain, clock)}) as pit:
            pit.store({"id": "a"}, NOW)
            with pytest.raises(Unsupported, match="CONDITIONAL, which if_exists=, if_revision=, keep_"):
                pit.store({"id": "a"}, NOW, if_revision=pit.get("a").revision)


class TestCalls:
    def test_of_an_edit(self, pit, store):
        pit.store({"id": "a"}, NOW)
        entry = pit.get("a")
        store.calls.clear()
        pit.store({"id": "a", "n": 2}, NOW, if_revision=entry.revision)
        assert store.calls == ["get", "put_if"]
        with pytest.raises(Conflict):
            pit.store({"id": "a", "n": 3}, NOW, if_revision=entry.revision)
        assert store.calls[2:] == ["get"]

    def test_of_an_edit_that_changes_nothing(self, pit, store):
        pit.store({"id": "a", "n": 1}, NOW)
        entry = pit.get("a")
        store.calls.clear()
        stored = pit.store({"id": "a", "n": 1}, NOW, if_revision=entry.revision, keep_schedule=True)
        assert (stored.outcome, store.calls) == ("kept", ["get"])

    def test_of_an_edit_that_another_one_overtakes(self, pit, store):
        """The other one comes between the look and the write. It is found by one more look."""
        pit.store({"id": "a", "n": 1}, NOW)
        entry = pit.get("a")
        newer = Record("a", {"n": 2}, None, "2", Progress(0, 0))
        store.during["put_if"] = lambda: store.put([newer])
        store.calls.clear()
        with pytest.raises(Conflict, match="it has changed since it was read: it is due since 1970-01-01T00:00:00Z"):
            pit.store({"id": "a", "n": 3}, NOW, if_revision=entry.revision)
        assert store.calls == ["get", "put_if", "put", "get"]
        assert pit.get("a").message["n"] == 2


class TestConflicts:
    def test_say_that_the_message_is_gone(self, pit):
        pit.store({"id": "a"}, NOW)
        entry = pit.get("a")
        pit.consume(lambda message: None, until_idle=True)
        with pytest.raises(Conflict, match="it is gone: it was acknowledged or removed since it was read") as caught:
            pit.store({"id": "a"}, NOW, if_revision=entry.revision)
        assert caught.value.id == "a"
        assert pit.get("a") is None

    def test_come_from_a_text_that_is_no_revision(self, pit):
        pit.store({"id": "a"}, NOW)
        for revision in ("", "x", "damaged"):
            with pytest.raises(Conflict, match="has changed since it was read"):
                pit.store({"id": "a"}, NOW, if_revision=revision)

    def test_do_not_come_from_an_ack_that_waits_to_be_written(self, pit, store):
        """The ack of this process is written first. So the message is gone, and is not stored again."""
        sent = []

        def send(delivery):
            sent.append(delivery.id)
            delivery.ack()
            with pytest.raises(Conflict, match="it is gone"):
                pit.store({"id": "a", "n": 2}, NOW, if_revision=entry.revision)

        pit.store({"id": "a", "n": 1}, NOW)
        entry = pit.get("a")
        for delivery in (listener := pit.listen()):
            send(delivery)
            listener.stop()
        assert (sent, pit.get("a")) == (["a"], None)

    def test_of_a_damaged_message_are_errors_of_the_message(self, clock):
        class Broken(MemoryBackend):
            def get(self, id):
                return Damaged(id, "Damaged: msg cannot be read. Store the message again, or remove it.", 5, None)

        with pitstop.init({"type": backend(Broken, clock)}) as pit:
            entry = pit.get("a")
            assert entry.revision == "damaged"
            with pytest.raises(
                MessageError, match=r"'a' cannot be stored with if_revision\. Damaged: msg cannot be read"
            ):
                pit.store({"id": "a"}, NOW, if_revision=entry.revision)


class TestSchedules:
    """An edit with the start that the series has goes on with the current occurrence."""

    @pytest.fixture
    def entry(self, pit, clock):
        """Return the entry of a series of which some occurrences were emitted."""

        def make(start, end, every, **options):
            pit.store({"id": "a"}, start, end, every, **options)
            clock.advance(30 * DAY)
            pit.consume(lambda message: None, until_idle=True)
            return pit.get("a")

        return make

    @pytest.mark.parametrize(
        ("every", "options"),
        [
            (HOUR, {}),
            (HOUR, {"catch_up": "all", "grace": HOUR}),
            (DAY, {"catch_up": "skip", "grace": timedelta(minutes=3), "jitter": timedelta(minutes=9)}),
            (Calendar(months=1), {}),
            (Cron("0 9 * * MON", tz="Europe/Berlin"), {"jitter": timedelta(minutes=9)}),
        ],
        ids=str,
    )
    def test_what_an_entry_says_is_what_was_stored(self, pit, store, entry, every, options):
        """To store it again changes nothing but the revision. A month that began on a 31st still ends on a 31st."""
        start = datetime(2019, 12, 31, 10, tzinfo=UTC)
        before = entry(start, datetime(2050, 1, 1, tzinfo=UTC), every, **options)
        series = MemoryBackend.get(store, "a").series
        edit(pit, before)
        after = pit.get("a")
        assert MemoryBackend.get(store, "a").series == series
        assert attrs.evolve(after, revision=before.revision) == before

    def test_what_an_entry_says_of_a_one_shot_is_what_was_stored(self, pit):
        pit.store({"id": "a"}, START)
        before = pit.get("a")
        edit(pit, before)
        assert attrs.evolve(pit.get("a"), revision=before.revision) == before

    def test_a_new_end_takes_effect(self, pit, entry):
        before = entry(START, None, DAY)
        edit(pit, before, end=before.scheduled_for + DAY)
        assert [each.at for each in pit.get("a").upcoming()] == [before.scheduled_for]

    def test_an_end_that_has_passed_is_refused(self, pit, entry):
        before = entry(START, None, DAY)
        with pytest.raises(
            ScheduleError, match=r"'a' goes on with its occurrence at \S+Z, and the new schedule has none"
        ):
            edit(pit, before, end=before.scheduled_for)
        assert pit.get("a") == before

    def test_a_new_rule_begins_with_the_current_occurrence(self, pit, entry):
        before = entry(START, None, DAY)
        edit(pit, before, every=7 * HOUR)
        after = pit.get("a")
        assert after.scheduled_for - before.scheduled_for < 7 * HOUR
        assert after.scheduled_for >= before.scheduled_for
        assert (after.scheduled_for - START) % (7 * HOUR) == timedelta(0)

    def test_another_start_is_another_series(self, pit, entry):
        before = entry(START, None, DAY)
        edit(pit, before, start=START + HOUR)
        assert pit.get("a").scheduled_for == START + HOUR

    def test_an_occurrence_that_failed_comes_again(self, pit, clock):
        """It replaced earlier ones, which stay replaced."""
        pit.store({"id": "a"}, pit.now(), None, HOUR)
        clock.advance(2 * HOUR)
        with pit.listen() as listener:
            first = listener.get()
            first.nack("failed", HOUR)
            before = pit.get("a")
            edit(pit, before)
            again = listener.get()
            assert (first.missed, again.missed, again.key, again.attempt) == (2, 0, first.key, 1)

    def test_a_broken_rule_can_be_mended(self, pit, store):
        pit.store({"id": "a"}, START, None, HOUR)
        broken = MemoryBackend.get(store, "a")
        series = {**broken.series, "every": {"v": 1, "kind": "acme.unknown"}}
        store.put([attrs.evolve(broken, series=series, progress=Progress(9, 1577883600000))])
        entry = pit.get("a")
        pit.store({"id": "a"}, START, None, HOUR, if_revision=entry.revision)
        assert pit.get("a").scheduled_for == START + 13 * HOUR
