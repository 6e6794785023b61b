"""The effect of an ack, a nack, a spent record, a release, an extension, a redrive and a new store on a record."""

from __future__ import annotations

import math

from datetime import UTC, datetime, timedelta

import attrs
import pytest

from hypothesis import given
from hypothesis import strategies as st

from pitstop import MessageError, ScheduleError
from pitstop._decisions._describe import describe, summarize
from pitstop._decisions._emit import Emission, bury, decide, give_up
from pitstop._decisions._settle import (
    ack,
    backoff,
    checked_delay,
    error_text,
    extend,
    lease_end,
    nack,
    redrive,
    release,
    was_applied,
)
from pitstop._decisions._store import new_record
from pitstop._recurrence._every import Every
from pitstop._values._instant import LAST_INSTANT, from_instant
from pitstop._values._schedule import Schedule
from pitstop.abc import Aside, Damaged, Outcome, Progress, Record, Retry, Settlement, Tally


NOW = 1_700_000_000_000
LEASE = 900_000
HOUR = 3_600_000
NEVER = Retry()


def record(progress: Progress, schedule: Schedule | None = None) -> Record:
    return Record("a", {"foo": 1}, None if schedule is None else schedule.to_plain(), "rev", progress)


def hourly(start: int = NOW, end: int | None = None, catch_up="latest", grace=None) -> Schedule:
    return Schedule(start, end, Every.of_ms(HOUR), catch_up, grace)


def emission(schedule: Schedule | None = None, progress: Progress | None = None, now: int = NOW) -> Emission:
    begun = progress or Progress(NOW, NOW)
    decided = decide(record(begun.leased("token", now, now + LEASE), schedule), NEVER, duration=LEASE)
    assert isinstance(decided, Emission)
    return decided


class TestAck:
    def test_a_one_shot_is_deleted(self):
        assert ack(emission()) == Settlement("a", "token", Outcome.COMPLETE, None)

    def test_a_series_goes_on_from_the_occurrence_not_from_the_ack(self):
        late = emission(hourly(), now=NOW + HOUR // 2)
        following = Progress(NOW + HOUR, NOW + HOUR)
        assert ack(late) == Settlement("a", "token", Outcome.RESCHEDULE, following)

    def test_a_series_with_no_next_occurrence_is_deleted(self):
        assert ack(emission(hourly(end=NOW + HOUR))) == Settlement("a", "token", Outcome.COMPLETE, None)

    def test_the_next_occurrence_begins_without_attempts_errors_and_token(self):
        failed = Progress(NOW, NOW, attempts=3, first_leased=NOW, last_error="boom")
        assert ack(emission(hourly(), failed)).progress == Progress(NOW + HOUR, NOW + HOUR)


class TestWasApplied:
    """The fate of a settlement whose reply got lost, as far as the record that is stored since shows it."""

    LEASED = record(Progress(NOW, NOW).leased("token", NOW, NOW + LEASE))

    def test_an_ack_of_what_is_gone_was_done(self):
        assert was_applied(ack(emission()), self.LEASED, None) is True

    def test_an_ack_of_what_is_there_was_not(self):
        taken = attrs.evolve(self.LEASED, progress=self.LEASED.progress.leased("another", NOW + LEASE, NOW + 2 * LEASE))
        assert was_applied(ack(emission()), self.LEASED, taken) is False

    def test_an_ack_of_what_was_stored_anew_may_have_been_done_before_that(self):
        assert was_applied(ack(emission()), self.LEASED, attrs.evolve(self.LEASED, revision="another")) is None

    def test_a_series_that_stands_where_the_ack_put_it_was_advanced(self):
        settlement = ack(emission(hourly()))
        advanced = attrs.evolve(self.LEASED, progress=settlement.progress)
        assert was_applied(settlement, self.LEASED, advanced) is True

    def test_a_series_that_somebody_has_claimed_since_cannot_tell(self):
        settlement = ack(emission(hourly()))
        claimed = settlement.progress.leased("another", NOW + HOUR, NOW + HOUR + LEASE)
        assert was_applied(settlement, self.LEASED, attrs.evolve(self.LEASED, progress=claimed)) is None

    def test_a_nack_that_was_decided_anew_since_is_known_by_all_but_its_time(self):
        first, again = (nack(emission(), "no luck", None, Retry(delay="5s"), at * 1000) for at in (NOW, NOW + 1_000))
        assert first.progress.due != again.progress.due
        assert was_applied(again, self.LEASED, attrs.evolve(self.LEASED, progress=first.progress)) is True


class TestNack:
    def test_comes_back_when_its_lease_runs_out(self):
        settlement = nack(emission(), "boom", None, NEVER, (NOW + 5) * 1000)
        assert settlement == Settlement(
            "a", "token", Outcome.RELEASE, Progress(NOW + LEASE, NOW, 1, NOW, "boom", token=None)
        )

    def test_comes_back_after_the_delay_that_was_given_rounded_up(self):
        settlement = nack(emission(), None, timedelta(seconds=5), Retry(delay="1h"), NOW * 1000 + 1)
        assert settlement.progress.due == NOW + 5001

    def test_comes_back_at_once_with_a_delay_of_zero(self):
        assert nack(emission(), None, timedelta(0), NEVER, NOW * 1000 + 999).progress.due == NOW

    def test_comes_back_as_the_retry_is_configured(self):
        retry = Retry(delay="5s", factor=3)
        for attempts, seconds in enumerate([5, 15, 45, 135]):
            failed = emission(progress=Progress(NOW, NOW, attempts, NOW))
            assert nack(failed, "x", None, retry, NOW * 1000).progress.due == NOW + seconds * 1000

    def test_keeps_the_occurrence_and_when_it_was_first_leased(self):
        late = emission(hourly(), now=NOW + 5 * HOUR)
        assert (late.scheduled_for, late.missed) == (NOW + 5 * HOUR, 5)
        back = nack(late, "x", timedelta(hours=9), NEVER, (NOW + 5 * HOUR) * 1000).progress
        assert (back.scheduled_for, back.first_leased) == (NOW, NOW + 5 * HOUR)
        again = emission(hourly(), back, NOW + 14 * HOUR)
        assert (again.scheduled_for, again.missed) == (NOW + 5 * HOUR, 5)

    def test_without_an_error_the_last_one_is_kept(self):
        failed = emission(progress=Progress(NOW, NOW, 1, NOW, "first"))
        assert nack(failed, None, None, NEVER, NOW * 1000).progress.last_error == "first"

    def test_never_makes_it_due_before_it_was_first_leased_when_a_clock_was_set_back(self):
        assert nack(emission(), None, timedelta(0), NEVER, (NOW - HOUR) * 1000).progress.due == NOW

    def test_at_the_last_attempt_a_one_shot_is_dead_and_keeps_its_token(self):
        last = emission(progress=Progress(NOW, NOW, 2, NOW))
        settlement = nack(last, "boom", timedelta(seconds=1), Retry(max_attempts=3), NOW * 1000)
        assert settlement.outcome is Outcome.BURY
        assert settlement.progress == Progress(None, NOW, 3, NOW, "boom", "token")

    def test_before_the_last_attempt_it_is_not(self):
        failed = emission(progress=Progress(NOW, NOW, 1, NOW))
        assert nack(failed, "boom", None, Retry(max_attempts=3), NOW * 1000).outcome is Outcome.RELEASE

    def test_at_the_last_attempt_a_series_notes_the_error_and_goes_on(self):
        settlement = nack(emission(hourly()), "boom", None, Retry(max_attempts=1), NOW * 1000)
        assert settlement.outcome is Outcome.RESCHEDULE
        assert settlement.progress == Progress(NOW + HOUR, NOW + HOUR, last_error="boom")

    def test_at_the_last_attempt_of_its_last_occurrence_a_series_is_dead_not_lost(self):
        settlement = nack(emission(hourly(end=NOW + 1)), None, None, Retry(max_attempts=1), NOW * 1000)
        assert settlement.outcome is Outcome.BURY
        assert settlement.progress.last_error == "Given up after 1 attempt."

    def test_a_delay_beyond_the_calendar_is_refused(self):
        with pytest.raises(ScheduleError, match=r"^delay=.* is outside of the years 1970 to 9999"):
            nack(emission(), None, timedelta.max, NEVER, NOW * 1000)

    @pytest.mark.parametrize("delay", [timedelta(microseconds=-1), 5, "soon", NOW])
    def test_a_delay_that_is_none_is_refused_with_what_to_give(self, delay):
        with pytest.raises(ScheduleError) as caught:
            checked_delay(delay)
        assert (
            str(caught.value)
            == f"delay={delay!r} cannot be used. Give a timedelta of zero or more, or text such as '15m'."
        )

    @pytest.mark.parametrize("delay", [None, timedelta(0), timedelta(days=3)])
    def test_a_delay_that_is_one_is_taken(self, delay):
        assert checked_delay(delay) == delay


retries = st.builds(
    Retry,
    delay=st.timedeltas(timedelta(0), timedelta(days=1)),
    factor=st.floats(1, 1000),
    max_delay=st.timedeltas(timedelta(days=1), timedelta(days=36_500)),
    jitter=st.floats(0, 1),
)
attempts = st.one_of(st.integers(1, 50), st.integers(1, 10**6))


class TestBackoff:
    @given(retries, attempts)
    def test_is_the_configured_power_up_to_its_maximum_give_or_take_the_jitter(self, retry, attempt):
        exact = retry.delay.total_seconds()
        if exact:
            power = math.log(retry.factor) * (attempt - 1) + math.log(exact)
            exact = math.exp(power) if power < 40 else math.inf
        exact = min(exact, retry.max_delay.total_seconds())
        actual = backoff(retry, attempt, "a:1").total_seconds()
        slack = exact * 1e-6 + 1e-5
        assert exact * (1 - retry.jitter) - slack <= actual <= exact * (1 + retry.jitter) + slack

    @given(retries, attempts, attempts)
    def test_without_jitter_it_never_gets_shorter(self, retry, one, other):
        steady = attrs.evolve(retry, jitter=0)
        assert backoff(steady, min(one, other), "k") <= backoff(steady, max(one, other), "k") <= steady.max_delay

    @given(retries, attempts, st.text())
    def test_is_the_same_for_the_same_attempt_of_the_same_occurrence(self, retry, attempt, key):
        assert backoff(retry, attempt, key) == backoff(retry, attempt, key)

    def test_spreads_what_failed_at_once(self):
        retry = Retry(delay="10s", jitter=0.5)
        delays = {backoff(retry, 1, f"{number}:1") for number in range(1000)}
        assert len(delays) > 990
        assert min(delays) < timedelta(seconds=5.5)
        assert max(delays) > timedelta(seconds=14.5)

    def test_at_once_stays_at_once_at_any_attempt(self):
        assert {backoff(Retry(delay=0), attempt, "k") for attempt in (1, 1024, 1026, 10**6)} == {timedelta(0)}

    def test_the_millionth_attempt_waits_no_longer_than_the_longest_delay(self):
        assert backoff(Retry(delay="1ms", factor=10), 10**6, "k") == timedelta(minutes=15)
        assert backoff(Retry(delay="100d", factor=1000, max_delay="36500d", jitter=1), 10**6, "k") <= timedelta(
            days=73_000
        )

    def test_whatever_an_id_holds_its_delay_can_be_computed(self):
        assert backoff(Retry(delay=timedelta(seconds=1)), 1, "ev\udcff:0") > timedelta(0)


class TestSpentAttempts:
    def test_leases_that_ran_out_count_as_attempts(self):
        leased = Progress(NOW, NOW, 3, NOW, "boom", "t0").leased("t", NOW + LEASE, NOW + 2 * LEASE)
        settlement = decide(record(leased), Retry(max_attempts=3), duration=LEASE)
        assert settlement.outcome is Outcome.BURY
        assert settlement.progress.last_error == (
            "Given up after 3 attempts; the last one was not acknowledged before its lease ran out."
        )

    def test_the_last_allowed_attempt_is_emitted(self):
        leased = Progress(NOW, NOW, 2, NOW).leased("t", NOW + LEASE, NOW + 2 * LEASE)
        assert isinstance(decide(record(leased), Retry(max_attempts=3), duration=LEASE), Emission)

    def test_a_spent_series_goes_on(self):
        leased = Progress(NOW, NOW, 3, NOW).leased("t", NOW + LEASE, NOW + 2 * LEASE)
        settlement = decide(record(leased, hourly()), Retry(max_attempts=3), duration=LEASE)
        assert settlement.outcome is Outcome.RESCHEDULE
        assert settlement.progress.due == NOW + HOUR

    def test_giving_up_a_late_series_goes_on_after_the_occurrence_that_failed(self):
        late = emission(hourly(), now=NOW + 5 * HOUR + 1)
        assert give_up(late, "x").progress == Progress(NOW + 6 * HOUR, NOW + 6 * HOUR, last_error="x")


class TestUnreadable:
    def test_a_damaged_document_is_set_aside_with_its_error(self):
        settlement = decide(Damaged("a", "Damaged: msg cannot be read.", NOW + LEASE, "token"), NEVER, duration=LEASE)
        assert settlement == Settlement("a", "token", Outcome.BURY, Aside("Damaged: msg cannot be read."))

    def test_a_record_that_was_claimed_and_counts_no_claim_is_set_aside(self):
        leased = Progress(NOW, NOW, -1).leased("token", NOW, NOW + LEASE)
        settlement = decide(record(leased), NEVER, duration=LEASE)
        assert settlement.progress == Aside("Damaged: attempts cannot be right. Store the message again.")

    @pytest.mark.parametrize(
        "series", [{"start": 1}, {**hourly().to_plain(), "every": {"v": 1, "kind": "acme.tides", "port": "BRE"}}]
    )
    def test_a_series_that_cannot_be_read_is_set_aside_with_its_error(self, series):
        leased = Record("a", {}, series, "r", Progress(NOW, NOW).leased("token", NOW, NOW + LEASE))
        settlement = decide(leased, NEVER, duration=LEASE)
        assert settlement.outcome is Outcome.BURY
        assert settlement.progress.due is None
        assert "recurrence" in settlement.progress.last_error

    def test_burying_keeps_everything_but_the_due_time(self):
        leased = Progress(NOW, NOW, 4, NOW, "old").leased("token", NOW, NOW + LEASE)
        assert bury(record(leased), "new").progress == attrs.evolve(leased, due=None, last_error="new")


class TestRelease:
    def test_an_unseen_first_attempt_is_as_if_it_had_not_been_claimed(self):
        before = Progress(NOW - 5, NOW - 5)
        assert release(record(before.leased("token", NOW, NOW + LEASE)), NOW + 3, LEASE) == Settlement(
            "a", "token", Outcome.RELEASE, before
        )

    def test_an_unseen_retry_keeps_its_attempts_and_is_due_at_once(self):
        before = Progress(NOW, NOW - HOUR, 2, NOW - HOUR, "boom")
        settlement = release(record(before.leased("token", NOW, NOW + LEASE)), NOW + 3, LEASE)
        assert settlement.progress == Progress(NOW + 3, NOW - HOUR, 2, NOW - HOUR, "boom")

    @given(st.integers(0, 10), st.integers(0, 10**6))
    def test_is_never_due_later_than_now_and_never_counts_an_attempt(self, attempts, wait):
        first = NOW if attempts else None
        leased = Progress(NOW, NOW, attempts, first).leased("token", NOW + wait, NOW + wait + LEASE)
        progress = release(record(leased), NOW + wait, LEASE).progress
        assert progress.due <= NOW + wait
        assert progress.attempts == attempts
        assert progress.token is None

    def test_an_unseen_redrive_keeps_the_occurrence_that_failed(self):
        """Else a grace would find it too old at the next claim, and drop a message that a caller asked for."""
        before = Progress(NOW + 2 * HOUR, NOW, 0, NOW, "boom")
        leased = before.leased("token", NOW + 2 * HOUR, NOW + 2 * HOUR + LEASE)
        assert release(record(leased), NOW + 2 * HOUR, LEASE).progress == before

    def test_an_unseen_occurrence_leaves_the_choice_to_the_next_claim(self):
        unseen = release(emission(hourly()).record, NOW + HOUR, LEASE).progress
        assert emission(hourly(), unseen, NOW + HOUR).scheduled_for == NOW + HOUR


class TestExtend:
    def test_only_the_end_of_the_lease_changes(self):
        leased = emission().record
        settlement = extend(leased, NOW + 7)
        assert settlement == Settlement("a", "token", Outcome.EXTEND, attrs.evolve(leased.progress, due=NOW + 7))

    def test_a_lease_ends_within_the_calendar(self):
        assert lease_end(NOW * 1000 + 999, timedelta(seconds=1, microseconds=999)) == NOW + 1000
        assert lease_end(NOW * 1000, timedelta.max) == LAST_INSTANT


class TestRedrive:
    def test_is_due_now_with_all_its_attempts_before_it_and_the_same_occurrence(self):
        dead = record(Progress(None, NOW, 3, NOW, "boom", "token"))
        assert redrive(dead, NOW + HOUR) == Settlement(
            "a", "token", Outcome.RELEASE, Progress(NOW + HOUR, NOW, 0, NOW, "boom")
        )

    def test_the_next_attempt_is_the_first(self):
        progress = redrive(record(Progress(None, NOW, 3, NOW, "boom", "token")), NOW + HOUR).progress
        decided = decide(
            record(progress.leased("t", NOW + HOUR, NOW + 2 * HOUR)), Retry(max_attempts=1), duration=LEASE
        )
        assert isinstance(decided, Emission)
        assert decided.record.progress.attempts == 1


class TestStore:
    def store(self, message, when=timedelta(0), *rest, now_us=NOW * 1000, **options):
        return new_record(message, when, *rest, now_us=now_us, revision="new", **options)

    def test_a_known_id_is_kept_and_taken_out_of_the_message(self):
        stored = self.store({"id": "abc", "foo": 1}, timedelta(minutes=15))
        assert stored == Record("abc", {"foo": 1}, None, "new", Progress(NOW + LEASE, NOW + LEASE))

    def test_without_an_id_it_gets_a_uuid_of_its_own(self):
        ids = {self.store({}).id for _ in range(100)}
        assert len(ids) == 100
        assert {(len(each), each[14]) for each in ids} == {(36, "7")}

    def test_nothing_of_the_record_before_is_carried_over(self):
        stored = self.store({"id": "a"}, timedelta(hours=1))
        assert stored.progress == Progress(NOW + HOUR, NOW + HOUR, 0, None, None, None)

    def test_a_series_is_stored_as_plain_values(self):
        stored = self.store({"id": "a"}, timedelta(0), None, timedelta(hours=1), catch_up="skip", grace=timedelta(1))
        assert stored.series == {
            "start": NOW,
            "end": None,
            "every": {"v": 1, "kind": "every", "ms": 3600000},
            "catch_up": "skip",
            "grace": 86_400_000,
        }

    def test_a_bad_message_and_a_bad_time_are_refused(self):
        with pytest.raises(MessageError):
            self.store(["no mapping"])
        with pytest.raises(ScheduleError):
            self.store({}, 5)


class TestErrorText:
    def test_is_the_type_and_the_text_of_an_exception(self):
        assert error_text(ValueError("boom")) == "ValueError: boom"
        assert error_text("boom") == "boom"
        assert error_text(None) is None

    @given(st.text(st.characters(), max_size=3000))
    def test_is_bounded_text_that_every_store_can_keep(self, text):
        kept = error_text(text)
        assert len(kept) <= 2000
        assert "\0" not in kept
        assert kept.encode().decode() == kept

    def test_a_long_one_ends_in_an_ellipsis(self):
        assert error_text("x" * 2001) == "x" * 1999 + "…"
        assert error_text("x" * 2000) == "x" * 2000

    def test_an_error_that_has_no_text_is_noted_all_the_same(self):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError("no")

        assert error_text(Mute()) == "Mute: (its text is unavailable: RuntimeError)"


class TestDescribe:
    def test_a_scheduled_message(self):
        entry = describe(record(Progress(NOW + 1, NOW + 1)), NOW)
        assert (entry.state, entry.due, entry.leased_until) == ("scheduled", from_instant(NOW + 1), None)
        assert entry.message == {"id": "a", "foo": 1}

    def test_is_due_from_its_millisecond_on(self):
        assert describe(record(Progress(NOW, NOW)), NOW).state == "due"

    def test_a_leased_message_until_its_lease_ran_out(self):
        leased = record(Progress(NOW, NOW).leased("t", NOW, NOW + LEASE))
        assert describe(leased, NOW + LEASE - 1).state == "leased"
        assert describe(leased, NOW + LEASE - 1).leased_until == from_instant(NOW + LEASE)
        assert describe(leased, NOW + LEASE).state == "due"
        assert describe(leased, NOW + LEASE).leased_until is None

    def test_a_dead_message(self):
        entry = describe(record(Progress(None, NOW, 3, NOW, "boom", "t")), NOW)
        assert (entry.state, entry.due, entry.attempts, entry.last_error) == ("dead", None, 3, "boom")

    def test_a_series_shows_its_interval_as_it_was_given_and_the_occurrence_that_was_chosen(self):
        late = emission(hourly(end=NOW + 9 * HOUR), now=NOW + 5 * HOUR)
        entry = describe(late.record, NOW + 5 * HOUR)
        assert entry.every == timedelta(hours=1)
        assert entry.end == from_instant(NOW + 9 * HOUR)
        assert entry.scheduled_for == from_instant(late.scheduled_for)

    def test_a_series_that_cannot_be_read_is_shown_with_the_reason(self):
        damaged = {**hourly().to_plain(), "every": {"v": 1, "kind": "every", "ms": 2**62}}
        entry = describe(Record("a", {}, damaged, "r", Progress(NOW, NOW)), NOW)
        assert entry.every is None
        assert (
            entry.last_error
            == "A stored recurrence of kind 'every' must have the one field 'ms', a positive int. Store the message again, or remove it."
        )

    def test_a_damaged_document_is_shown_with_the_reason(self):
        entry = describe(Damaged("a", "Damaged: due cannot be read.", None, None), NOW)
        assert (entry.id, entry.state, entry.message, entry.scheduled_for) == ("a", "dead", {"id": "a"}, None)
        assert entry.last_error == "Damaged: due cannot be read."

    def test_the_body_is_in_no_repr(self):
        secret = Record("a", {"pin": "hunter2"}, None, "r", Progress(NOW, NOW))
        assert "hunter2" not in repr(secret)
        assert "hunter2" not in repr(describe(secret, NOW))
        assert "hunter2" not in repr(Emission(secret, None, NOW, 0))

    def test_stats(self):
        stats = summarize(Tally(1, 2, 3, 4, NOW))
        assert (stats.scheduled, stats.due, stats.leased, stats.dead) == (1, 2, 3, 4)
        assert stats.oldest_due == datetime.fromtimestamp(NOW / 1000, UTC)
        assert summarize(Tally(0, 0, 0, 0, None)).oldest_due is None
