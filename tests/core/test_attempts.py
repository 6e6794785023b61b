"""Decisions about attempts after crashes: the message that kills its worker dies, and its neighbours lose nothing."""

from __future__ import annotations

import attrs
import pytest

from pitstop._decisions._attempts import attempts_text, certain, is_spent, is_suspect, must_be_alone, number, taken
from pitstop._decisions._describe import describe
from pitstop._decisions._emit import Emission, decide
from pitstop._decisions._settle import ack, defer, extend, hand_back, nack, redrive, release
from pitstop._recurrence._every import Every
from pitstop._values._schedule import Schedule
from pitstop.abc import Progress, Record, Retry, Settlement, read_record


NOW = 1_700_000_000_000
LEASE = 60_000
HOUR = 3_600_000


class Message:
    """A message in a store and the listeners that claim it, one after the other."""

    def __init__(self, max_attempts: int | None = 3) -> None:
        self.record = Record("a", {}, None, "r", Progress(NOW, NOW))
        self.retry = Retry(max_attempts=max_attempts)
        self.now = NOW
        self.ended: Settlement | None = None

    @property
    def progress(self) -> Progress:
        return self.record.progress

    def claim(self, limit: int) -> Emission | None:
        """Claim the message after its lease ran out; None: the claim ended it."""
        self.now += LEASE
        leased = attrs.evolve(self.record, progress=self.progress.leased("token", self.now, self.now + LEASE, limit))
        self.record = leased
        decided = decide(leased, self.retry, ahead=limit > 1, duration=LEASE)
        if isinstance(decided, Emission):
            return decided
        self.settle(decided)
        return None

    def settle(self, settlement: Settlement) -> None:
        assert isinstance(settlement.progress, Progress)
        self.record = attrs.evolve(self.record, progress=settlement.progress)
        if settlement.progress.due is None:
            self.ended = settlement

    def handle(self, limit: int) -> Emission | None:
        """Claim the message and give it to a handler, in the way of a listener."""
        emission = self.claim(limit)
        if emission is not None and emission.ahead and is_suspect(emission.record.progress):
            self.settle(extend(emission.record, self.now + LEASE))
        return emission

    def fail(self, emission: Emission) -> None:
        self.settle(nack(emission, "failed", None, self.retry, self.now * 1000))

    @property
    def dead(self) -> bool:
        return self.ended is not None

    @property
    def attempts(self) -> int:
        return describe(self.record, self.now).attempts


@pytest.mark.parametrize("limit", [1, 64], ids=["claimed alone", "claimed ahead"])
@pytest.mark.parametrize("max_attempts", [2, 3, 10])
def test_a_message_that_kills_its_worker_dies_after_so_many_crashes(max_attempts, limit):
    message = Message(max_attempts)
    for crash in range(1, max_attempts + 1):
        emission = message.handle(limit)
        assert emission is not None
        assert number(emission.record.progress) == crash == message.attempts
    assert message.handle(limit) is None
    assert (message.dead, message.attempts) == (True, max_attempts)
    error = f"Given up after {max_attempts} attempts; the last one was not acknowledged before its lease ran out."
    assert message.progress == Progress(
        None, NOW, max_attempts, NOW + LEASE, error, "token", unsettled=0, ahead=0, excused=0
    )


def test_with_one_attempt_it_has_one_crash_that_is_certain():
    alone, ahead = Message(1), Message(1)
    assert alone.handle(1) is not None
    assert alone.handle(1) is None
    assert ahead.handle(64) is not None
    assert ahead.handle(64) is not None, "the first one may have been another message's"
    assert ahead.handle(64) is None
    assert (ahead.attempts, ahead.progress.last_error) == (
        1,
        "Given up after 1 attempt; the last one was not acknowledged before its lease ran out.",
    )


@pytest.mark.parametrize("max_attempts", [1, 2, 3])
def test_a_message_that_no_handler_saw_does_not_die_of_the_crashes_of_others(max_attempts):
    message = Message(max_attempts)
    for _ in range(50):
        emission = message.claim(64)
        assert emission is not None
        assert message.attempts == 1, "the first one is not certain, and the others were spent in the listener"
    assert number(emission.record.progress) == 2


def test_a_neighbour_has_all_its_attempts_left_for_failures():
    message = Message(3)
    for _ in range(2):
        message.claim(64)
    numbers = []
    for _ in range(3):
        assert not message.dead
        emission = message.handle(64)
        assert emission is not None
        numbers.append(number(emission.record.progress))
        message.fail(emission)
    assert message.dead
    assert numbers == [2, 3, 4], "each has another number"
    assert (message.attempts, message.progress.last_error) == (3, "failed")


def test_an_uncertain_attempt_after_failures_does_not_kill_a_neighbour():
    message = Message(3)
    for _ in range(2):
        emission = message.handle(64)
        assert emission is not None
        message.fail(emission)
    assert message.claim(64) is not None, "its worker dies by another message"
    emission = message.handle(64)
    assert emission is not None
    assert must_be_alone(emission.record.progress, 3)
    assert ack(emission).progress is None


def test_a_failure_says_how_many_attempts_there_were():
    message = Message(1)
    emission = message.handle(64)
    assert emission is not None
    settlement = nack(emission, None, None, message.retry, message.now * 1000)
    assert settlement.progress is not None
    assert settlement.progress.last_error == "Given up after 1 attempt."


@pytest.mark.parametrize(("count", "text"), [(0, "0 attempts"), (1, "1 attempt"), (2, "2 attempts")])
def test_attempts_in_words(count, text):
    assert attempts_text(count) == text


class TestSuspects:
    def test_a_message_is_one_after_a_lease_that_nobody_settled(self):
        message = Message()
        first = message.handle(64)
        second = message.handle(64)
        assert first is not None
        assert second is not None
        assert (is_suspect(first.record.progress), is_suspect(second.record.progress)) == (False, True)
        message.fail(second)
        third = message.handle(64)
        assert third is not None
        assert not is_suspect(third.record.progress), "a nack shows that its worker lives"

    def test_it_is_one_still_after_it_was_given_back_unseen(self):
        message = Message()
        message.claim(64)
        before = message.progress
        suspect = message.claim(64)
        assert suspect is not None
        settlement = release(suspect.record, message.now, LEASE)
        message.settle(settlement)
        assert message.progress == attrs.evolve(before, due=message.now, token=None)
        again = message.claim(64)
        assert again is not None
        assert is_suspect(again.record.progress)
        assert number(again.record.progress) == 2

    def test_it_is_alone_when_one_more_crash_would_kill_it(self):
        alone = []
        message = Message(3)
        for _ in range(3):
            emission = message.handle(64)
            assert emission is not None
            alone.append(must_be_alone(emission.record.progress, 3))
        assert alone == [False, False, True]

    @pytest.mark.parametrize(("limit", "expected"), [(64, [False, False, True]), (1, [False, False, True])])
    def test_it_is_alone_after_two_crashes_one_of_which_it_had_for_certain(self, limit, expected):
        alone = []
        message = Message(100)
        for _ in range(3):
            emission = message.handle(limit)
            assert emission is not None
            alone.append(must_be_alone(emission.record.progress, 100))
        assert alone == expected

    def test_many_that_waited_through_two_losses_of_power_are_handled_together(self):
        message = Message(100)
        for _ in range(3):
            emission = message.claim(64)
            assert emission is not None
        assert is_suspect(emission.record.progress)
        assert not must_be_alone(emission.record.progress, 100)

    def test_without_a_limit_of_attempts_none_is_alone(self):
        message = Message(None)
        for _ in range(9):
            emission = message.handle(1)
            assert emission is not None
            assert not must_be_alone(emission.record.progress, None)

    @pytest.mark.parametrize("limit", [1, 64], ids=["claimed alone", "claimed ahead"])
    @pytest.mark.parametrize("first", [1, 64], ids=["was claimed alone", "was claimed ahead"])
    def test_one_that_has_to_wait_counts_no_attempt(self, limit, first):
        message = Message(2)
        message.claim(first)
        before = message.progress
        for _ in range(5):
            suspect = message.claim(limit)
            assert suspect is not None
            message.settle(defer(suspect, message.now + LEASE))
            assert message.progress == attrs.evolve(before, due=message.now + LEASE)
        message.settle(extend(suspect.record, message.now + LEASE))
        assert (message.attempts, message.progress.unsettled) == (2, 2)
        assert message.claim(limit) is None


class TestSettling:
    def test_an_extension_makes_the_attempt_certain(self):
        message = Message(1)
        emission = message.claim(64)
        assert emission is not None
        message.settle(extend(emission.record, message.now + LEASE))
        assert message.progress == attrs.evolve(emission.record.progress, due=message.now + LEASE, ahead=0)
        assert message.handle(64) is None, "a handler had it"

    @pytest.mark.parametrize("max_attempts", [1, 2, 3])
    @pytest.mark.parametrize("crashed", [False, True])
    def test_the_end_of_a_program_is_no_attempt(self, max_attempts, crashed):
        message = Message(max_attempts)
        if crashed:
            message.claim(64)
        for count in range(1, 6):
            emission = message.handle(64)
            assert emission is not None
            assert number(emission.record.progress) == count + crashed
            message.settle(hand_back(emission.record, message.now))
        for _ in range(max_attempts):
            assert not message.dead
            emission = message.handle(64)
            assert emission is not None
            message.fail(emission)
        assert (message.dead, message.attempts) == (True, max_attempts)

    @pytest.mark.parametrize("crashed", [False, True])
    def test_no_more_attempts_are_excused_than_there_were(self, crashed):
        """Another program may have written the largest count that a store can hold."""
        message = Message()
        message.record = attrs.evolve(message.record, progress=Progress(NOW, NOW, 4, excused=2**63 - 1))
        if crashed:
            message.claim(64)
        emission = message.handle(64)
        assert emission is not None
        for settlement in (hand_back(emission.record, NOW), nack(emission, "failed", None, message.retry, NOW * 1000)):
            assert settlement.progress.excused == settlement.progress.attempts == 5 + crashed

    def test_what_nobody_saw_is_as_if_it_had_not_been_claimed(self):
        message = Message()
        before = message.progress
        emission = message.claim(64)
        assert emission is not None
        message.settle(release(emission.record, message.now, LEASE))
        assert message.progress == before

    def test_a_redrive_forgets_the_crashes(self):
        message = Message(2)
        while message.handle(64):
            pass
        message.settle(redrive(message.record, message.now))
        assert message.progress == Progress(message.now, NOW, 0, NOW + LEASE, message.progress.last_error)

    def test_the_next_occurrence_of_a_series_begins_without_crashes(self):
        message = Message(3)
        series = Schedule(NOW, None, Every.of_ms(HOUR), "all", None).to_plain()
        message.record = attrs.evolve(message.record, series=series)
        message.claim(64)
        emission = message.handle(64)
        assert emission is not None
        assert ack(emission).progress == Progress(NOW + HOUR, NOW + HOUR)

    def test_a_series_goes_on_after_an_occurrence_that_killed_its_workers(self):
        message = Message(2)
        series = Schedule(NOW, None, Every.of_ms(HOUR), "all", None).to_plain()
        message.record = attrs.evolve(message.record, series=series)
        while message.handle(64):
            pass
        assert message.progress.last_error is not None
        assert message.progress == Progress(NOW + HOUR, NOW + HOUR, last_error=message.progress.last_error)


class TestOlderRecords:
    def test_without_the_counts_all_attempts_are_certain(self):
        leased = Progress(NOW, NOW, 3, NOW, None, "old").leased("token", NOW, NOW + LEASE, 64)
        assert decide(
            Record("a", {}, None, "r", leased), Retry(max_attempts=3), ahead=True, duration=LEASE
        ).progress == Progress(
            *(None, NOW, 3, NOW),
            "Given up after 3 attempts; the last one was not acknowledged before its lease ran out.",
            "token",
        )

    def test_a_backend_that_does_not_store_the_counts_counts_as_before(self):
        progress = Progress(NOW, NOW)
        for attempt in (1, 2):
            progress = attrs.evolve(progress.leased("token", NOW, NOW + LEASE, 64), unsettled=0, ahead=0)
            emission = decide(Record("a", {}, None, "r", progress), Retry(max_attempts=2), ahead=True, duration=LEASE)
            assert isinstance(emission, Emission)
            assert (number(emission.record.progress), certain(emission.record.progress)) == (attempt, attempt)
        progress = attrs.evolve(progress.leased("token", NOW, NOW + LEASE, 64), unsettled=0, ahead=0)
        assert is_spent(taken(progress, ahead=True), 2)

    def test_fields_that_a_store_leaves_out_are_zero(self):
        fields = {"message": {}, "series": None, "revision": "r", "due": NOW, "scheduled_for": NOW, "attempts": 2}
        fields |= {"first_leased": None, "last_error": None, "token": None}
        assert read_record(id="a", **fields) == Record("a", {}, None, "r", Progress(NOW, NOW, 2))
        assert read_record(id="a", **fields, unsettled=None, ahead=None, excused=None) == read_record(id="a", **fields)

    @pytest.mark.parametrize("field", ["unsettled", "ahead", "excused"])
    @pytest.mark.parametrize("value", [-1, "1", 1.0, True, [1]])
    def test_a_count_that_is_none_is_damaged(self, field, value):
        fields = {"message": {}, "series": None, "revision": "r", "due": NOW, "scheduled_for": NOW, "attempts": 2}
        fields |= {"first_leased": None, "last_error": None, "token": None, field: value}
        assert read_record(id="a", **fields).error == (
            f"Damaged: {field} cannot be read. Store the message again, or remove it."
        )
