"""The policies of a message: its own retry, lock time and limit of age."""

from __future__ import annotations

import asyncio

from datetime import UTC, datetime, timedelta
from typing import ClassVar

import attrs
import pytest

import pitstop

from core.kit import backend as scripted
from pitstop._decisions._policy import Policy, plain_policy
from pitstop.abc import Capability, Retry, Settlement
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend


NOW = datetime(2020, 1, 1, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


class Expired:
    """An observer of messages that expire."""

    def __init__(self):
        self.seen = []

    @pitstop.hookimpl
    def pitstop_message_expired(self, entry):
        self.seen.append((entry.id, entry.kind, entry.scheduled_for))


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def expired():
    return Expired()


@pytest.fixture
def backend(clock):
    return MemoryBackend.from_options({"clock": clock})


@pytest.fixture
def pit(backend, expired):
    with pitstop.init({"type": backend}, plugins=[expired]) as pit:
        yield pit


def got(pit, **options):
    with pit.listen(**options) as listener:
        return listener.get()


class TestStored:
    def test_an_entry_has_them_as_they_can_be_stored_again(self, pit):
        pit.store(
            {"id": "a"},
            retry={"delay": "5s", "max_attempts": 3, "factor": 1},
            lock_time="2h",
            expires=timedelta(minutes=10),
        )
        entry = pit.get("a")
        assert entry.retry == {"delay": 5 * SECOND, "max_attempts": 3, "factor": 1.0}
        assert (entry.lock_time, entry.expires) == (2 * HOUR, 10 * MINUTE)

        stored = pit.store(
            {"id": "a"}, if_exists="keep", retry=entry.retry, lock_time=entry.lock_time, expires=entry.expires
        )

        assert stored.outcome == "kept"
        assert pit.store({"id": "a"}, if_exists="keep", lock_time="2h").outcome == "replaced"

    def test_nothing_is_stored_if_none_is_given(self, pit, backend):
        pit.store({"id": "a"})
        assert backend.get("a").policy is None
        entry = pit.get("a")
        assert (entry.retry, entry.lock_time, entry.expires) == (None, None, None)

    def test_only_what_is_given_is_stored_as_plain_values(self, pit, backend):
        pit.store_many([({"id": "a"}, None), ({"id": "b"}, NOW, None, HOUR)], retry={"delay": HOUR}, expires="90s")
        assert {backend.get(id).policy == {"retry": {"delay": 3_600_000}, "expires": 90_000} for id in "ab"} == {True}

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"retry": 5}, "retry must be a mapping, not int"),
            ({"retry": {"delays": "5s"}}, "retry: Unknown retry key 'delays'"),
            ({"retry": {"max_attempts": 0}}, "retry: max_attempts=0"),
            ({"retry": {"delay": "2h", "max_delay": "1h"}}, "retry: max_delay"),
            ({"lock_time": "0s"}, "lock_time='0s' cannot be used"),
            ({"lock_time": 5}, "lock_time=5 cannot be used"),
            ({"expires": "-1s"}, "expires"),
            ({"expires": "1s", "jitter": "1s"}, "not longer than jitter"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, pit, options, why):
        with pytest.raises(pitstop.ScheduleError, match=why):
            pit.store({}, **options)
        assert pit.entries() == []

    def test_a_backend_that_would_lose_them_refuses(self):
        class Plain(MemoryBackend):
            capabilities: ClassVar[Capability] = Capability.KINDS

        with pitstop.init({"type": Plain()}) as pit:
            for options in ({"retry": {"delay": 1}}, {"lock_time": "1h"}, {"expires": "1h"}):
                with pytest.raises(pitstop.Unsupported, match="capability POLICIES"):
                    pit.store({}, **options)
                with pytest.raises(pitstop.Unsupported, match="capability POLICIES"):
                    pit.store_many([({}, None)], **options)

    def test_a_backend_that_cannot_move_the_limit_of_age_refuses_to_redrive(self, clock):
        """Else the redrive would return True, and the next claim would delete the message as expired."""

        class Unconditional(MemoryBackend):
            capabilities: ClassVar[Capability] = Capability.KINDS | Capability.POLICIES

        backend = Unconditional.from_options({"clock": clock, "retry": {"max_attempts": 1}})
        with pitstop.init({"type": backend}) as pit:
            for id, options in (("a", {"expires": "1m"}), ("b", {"lock_time": "1h"})):
                pit.store({"id": id}, NOW, **options)
                got(pit).nack("no")
            clock.advance(600)
            with pytest.raises(pitstop.Unsupported, match="CONDITIONAL"):
                pit.redrive("a")
            assert pit.get("a").state == "dead"
            assert pit.redrive("b")

    @pytest.mark.parametrize(
        "policy",
        [
            {"lock_time": "2h"},
            {"expires": 0},
            {"expires": -1},
            {"lock_time": True},
            {"retry": []},
            {"retry": {"delay": "5s"}},
            {"retry": {"delay": -1}},
            {"retry": {"factor": "x"}},
        ],
    )
    def test_one_that_another_program_has_spoiled_is_set_aside(self, pit, backend, policy):
        import attrs

        pit.store({"id": "a"})
        backend.put([attrs.evolve(backend.get("a"), policy=policy)])
        assert "policy is malformed" in pit.get("a").last_error
        assert got(pit) is None
        entry = pit.get("a")
        assert (entry.state, entry.attempts) == ("dead", 0)
        assert "policy is malformed" in entry.last_error

    @pytest.mark.parametrize("policy", [{"expires": 3_600_000, "later": 1}, {"retry": {"delay": 5, "later": 1}}])
    @pytest.mark.parametrize("prefetch", [1, 10])
    @pytest.mark.parametrize("every", [None, HOUR])
    def test_one_of_a_later_release_is_left_to_a_newer_process(
        self, pit, backend, clock, policy, prefetch, every, caplog
    ):
        """This process may run beside newer ones, or was rolled back. It neither emits such a message nor sets it aside."""
        pit.store({"id": "a"}, NOW, None, every)
        pit.store({"id": "b"}, NOW)
        backend.put([attrs.evolve(backend.get("a"), policy=policy)])
        before = backend.get("a")
        with pit.listen(prefetch=prefetch) as listener:
            other = listener.get()
            assert other.id == "b"
            other.ack()
            assert listener.get() is None
            after = backend.get("a")
            assert after == attrs.evolve(before, progress=attrs.evolve(before.progress, due=after.progress.due))
            assert (pit.get("a").due, pit.get("a").attempts) == (NOW + 30 * SECOND, 0)
            for _ in range(30):
                clock.advance(30)
                assert listener.get() is None
            assert pit.get("a").state == "scheduled"
            # An upgraded process claims it then.
            backend.put([attrs.evolve(backend.get("a"), policy={"expires": 3_600_000})])
            clock.advance(30)
            delivery = listener.get()
            assert (delivery.id, delivery.attempt) == ("a", 1)
        assert (
            "'a' was not emitted: A later release of pitstop has stored a policy with the field 'later'" in caplog.text
        )
        assert "Upgrade this process" in caplog.text

    def test_one_of_a_later_release_keeps_the_attempts_and_the_occurrence(self, pit, backend, clock):
        pit.store({"id": "a"}, NOW, None, "1m", catch_up="latest")
        clock.advance(90)
        got(pit).nack("no", delay="1s")
        clock.advance(1)
        before = backend.get("a")
        backend.put([attrs.evolve(before, policy={"later": 1})])
        assert got(pit) is None
        progress = backend.get("a").progress
        assert progress == attrs.evolve(before.progress, due=progress.due)
        assert "later release" in pit.get("a").last_error

    def test_one_that_is_malformed_leaves_the_schedule_readable(self, pit, backend):
        pit.store({"id": "a"}, NOW, None, HOUR, expires="1m")
        backend.put([attrs.evolve(backend.get("a"), policy={"expires": "soon"})])
        entry = pit.get("a")
        assert (entry.every, entry.start, entry.expires) == (HOUR, NOW, None)
        assert entry.last_error.startswith("The stored policy is malformed.")


class TestRetry:
    def test_a_stored_none_is_the_default_of_its_key(self):
        policy = Policy.from_plain({"retry": {"delay": 5000, "max_delay": None}})
        assert policy.retry_over(Retry()) == Retry(delay="5s")

    def test_it_holds_over_the_configured_one_key_by_key(self):
        configured = Retry(delay=SECOND, max_attempts=5)
        policy = Policy.from_plain(plain_policy({"max_attempts": 2}, None, None))
        assert policy.retry_over(configured) == Retry(delay=SECOND, max_attempts=2)
        longer = Policy.from_plain(plain_policy({"delay": "1h"}, None, None))
        assert longer.retry_over(configured) == Retry(delay=HOUR, max_delay=HOUR, max_attempts=5)
        shorter = Policy.from_plain(plain_policy({"max_delay": "10ms"}, None, None))
        assert shorter.retry_over(configured).delay == timedelta(milliseconds=10)
        assert Policy.from_plain(plain_policy(Retry(), None, None)).retry_over(configured) == Retry()

    @pytest.mark.parametrize("way", ["sync", "asyncio"])
    def test_a_nack_follows_it(self, backend, clock, way):
        def fail(message):
            raise ValueError

        async def fail_in_a_loop(message):
            raise ValueError

        async def consume():
            async with pitstop.init_async({"type": backend}) as pit:
                await pit.consume(fail_in_a_loop, max_messages=2)

        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "own"}, NOW, retry={"delay": "5s", "max_attempts": 2})
            pit.store({"id": "other"}, NOW)
            if way == "sync":
                pit.consume(fail, max_messages=2)
        if way == "asyncio":
            asyncio.run(consume())
        with pitstop.init({"type": backend}) as pit:
            assert pit.get("own").due == pit.now() + 5 * SECOND
            assert pit.get("other").due == pit.now() + 15 * MINUTE
            clock.advance(5)
            pit.consume(fail, max_messages=1)
            assert pit.get("own").state == "dead"

    def test_crashes_count_against_it(self, pit, clock):
        pit.store({"id": "a"}, NOW, retry={"max_attempts": 2})
        for _ in range(2):
            assert got(pit, prefetch=1).id == "a"
            clock.advance(15 * 60)
        assert got(pit, prefetch=1) is None
        assert pit.get("a").state == "dead"


class TestLockTime:
    @pytest.mark.parametrize("prefetch", [1, 10])
    @pytest.mark.parametrize("own", ["2h", "30s"])
    def test_the_message_is_leased_for_it_before_its_handler_gets_it(self, pit, clock, own, prefetch):
        pit.store({"id": "a"}, NOW, lock_time=own)
        pit.store({"id": "b"}, NOW)
        with pit.listen(prefetch=prefetch) as listener:
            first, second = listener.get(), listener.get()
            assert (first.id, second.id) == ("a", "b")
            assert first.leased_until - pit.now() == {"2h": 2 * HOUR, "30s": 30 * SECOND}[own]
            assert pit.get("a").leased_until == first.leased_until
            assert second.leased_until - pit.now() == 15 * MINUTE
            second.ack()
            first.extend()
            assert first.leased_until - pit.now() == {"2h": 2 * HOUR, "30s": 30 * SECOND}[own]
            clock.advance(29 if own == "30s" else 3600 * 2 - 1)
            assert got(pit) is None, "another listener has the message of a handler that still runs"
            first.ack()
        assert pit.entries() == []

    @pytest.mark.parametrize(("own", "seconds"), [("30s", 30), ("2h", 7200)])
    def test_it_is_over_in_its_time(self, pit, clock, own, seconds):
        pit.store({"id": "a"}, NOW, lock_time=own)
        first = got(pit)
        clock.advance(seconds - 1)
        assert got(pit) is None
        clock.advance(1)
        again = got(pit)
        assert again.attempt == 2
        with pytest.raises(pitstop.LeaseLost):
            first.ack()

    def test_a_longer_one_is_handed_out_after_the_time_of_the_listener(self, pit, clock, expired):
        for id in "ab":
            pit.store({"id": id}, NOW, lock_time="2h", expires="90m")
        with pit.listen(prefetch=2) as listener:
            first = listener.get()
            clock.advance(3600)
            second = listener.get()
            assert (second.attempt, second.leased_until) == (1, NOW + 2 * HOUR)
            first.ack()
            second.ack()
        assert expired.seen == []

    def test_a_claim_of_one_is_given_back_later_if_the_store_does_not_answer(self, clock):
        """Its attempt is a certain one in the store. It would be the only one."""
        backend = scripted(clock=clock, retry={"max_attempts": 1})
        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "a"}, NOW, lock_time="2h")
            with pit.listen(prefetch=1) as listener:
                backend.during["settle"] = lambda: setattr(backend, "down", True)
                with pytest.raises(pitstop.BackendUnavailable):
                    listener.get()
                backend.down, backend.during["settle"] = False, lambda: None
                assert listener.get().attempt == 1

    @pytest.mark.parametrize("prefetch", [1, 10])
    def test_ctrl_c_in_the_write_loses_no_message_of_the_claim(self, clock, prefetch):
        backend = scripted(clock=clock)

        def interrupt():
            del backend.during["settle"]
            raise KeyboardInterrupt

        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "a"}, NOW, lock_time="2h")
            pit.store({"id": "b"}, NOW)
            with pit.listen(prefetch=prefetch) as listener:
                backend.during["settle"] = interrupt
                with pytest.raises(KeyboardInterrupt):
                    listener.get()
                seen = listener.get(), listener.get()
                assert {(each.id, each.attempt) for each in seen} == {("a", 1), ("b", 1)}
                for each in seen:
                    each.ack()
            pit.store({"id": "c"}, NOW, lock_time="2h")
            backend.during["settle"] = interrupt
            with pytest.raises(KeyboardInterrupt), pit.listen(prefetch=prefetch) as listener:
                listener.get()
            assert (pit.get("c").state, pit.get("c").attempts) == ("due", 0), "the close gave it back"

    def test_the_heartbeat_ends_by_max_lease_as_without_one(self, pit, clock):
        pit.store({"id": "a"}, NOW, lock_time="30s")
        with pit.listen(heartbeat=True, lock_time="1m", max_lease="2m") as listener:
            delivery = listener.get()
            for _ in range(20):
                if delivery.leased_until <= pit.now():
                    break
                assert clock.wait_for_sleepers(1)
                clock.advance(11)
            assert delivery.leased_until <= NOW + 2 * MINUTE + 30 * SECOND
            assert delivery.leased_until >= NOW + 2 * MINUTE - 11 * SECOND

    def test_an_event_loop_handles_it_under_its_own_lease(self, backend, clock):
        seen = []

        async def note(delivery: pitstop.AsyncDelivery):
            seen.append(delivery.leased_until)

        async def main():
            async with pitstop.init_async({"type": _Open(backend)}) as pit:
                await pit.consume(note, until_idle=True)

        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "a"}, NOW, lock_time="2h")
            asyncio.run(main())
        assert seen == [NOW + 2 * HOUR]

    def test_a_message_that_no_handler_saw_is_given_back_as_if_it_had_not_been_claimed(self, pit):
        for id in "ab":
            pit.store({"id": id}, NOW, lock_time="2h")
        with pit.listen(prefetch=2) as listener:
            delivery = next(listener)
            other = "b" if delivery.id == "a" else "a"
            assert pit.get(other).leased_until == pit.now() + 2 * HOUR
            delivery.ack()
        entry = pit.get(other)
        assert (entry.state, entry.attempts) == ("due", 0)
        assert got(pit).attempt == 1

    def test_a_store_that_does_not_answer_the_write_gives_no_message_out(self, clock):
        """Else the message would come back after the listener's time, while its handler still runs."""

        class Away(MemoryBackend):
            away = True

            def settle(self, settlements):
                if self.away:
                    raise pitstop.BackendUnavailable("away")
                return super().settle(settlements)

        backend = Away.from_options({"clock": clock})
        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "a"}, NOW, lock_time="2h")
            pit.store({"id": "b"}, NOW)
            with pit.listen(prefetch=2) as listener:
                assert listener.get().id == "b"
                assert listener.get() is None
                backend.away = False
                clock.advance(15 * 60)
                again = listener.get()
                while again.id != "a":
                    again = listener.get()
                assert again.leased_until == pit.now() + 2 * HOUR

    def test_a_message_that_was_stored_anew_meanwhile_is_not_handed_out(self, clock):
        class Racing(MemoryBackend):
            def settle(self, settlements):
                batch = list[Settlement](settlements)
                if self.racing and batch[0].id == "a":
                    self.racing = False
                    with pitstop.init({"type": _Open(self)}) as other:
                        other.store({"id": "a", "n": 2}, NOW)
                return super().settle(batch)

            racing = True

        backend = Racing.from_options({"clock": clock})
        with pitstop.init({"type": backend}) as pit:
            pit.store({"id": "a", "n": 1}, NOW, lock_time="2h")
            with pit.listen() as listener:
                assert listener.get() is None, "the version that was claimed is gone"
                assert listener.get().msg["n"] == 2

    def test_the_heartbeat_extends_by_it(self, pit, clock):
        pit.store({"id": "a"}, NOW, lock_time="30s")
        with pit.listen(heartbeat=True) as listener:
            delivery = listener.get()
            for _ in range(10):
                assert clock.wait_for_sleepers(1)
                clock.advance(11)
            assert clock.wait_for_sleepers(1)
            assert delivery.leased_until > pit.now()
            assert delivery.leased_until <= pit.now() + 30 * SECOND
            delivery.ack()

    def test_a_suspect_is_leased_for_it(self, pit, clock):
        pit.store({"id": "a"}, NOW, lock_time="2h")
        got(pit)
        clock.advance(7200)
        again = got(pit)
        assert again.attempt == 2
        assert again.leased_until == pit.now() + 2 * HOUR
        again.nack()
        assert pit.get("a").due == pit.now() + 2 * HOUR


class _Open(MemoryBackend):
    """Another handle on the same messages, past the faults of the first."""

    def __init__(self, backend):
        super().__init__(backend.config)
        self._room = backend._room


class TestExpires:
    @pytest.mark.parametrize("expires", ["1m", "1h"])
    def test_new_policies_that_do_not_go_with_the_stored_jitter_are_refused(self, pit, expires):
        """Some occurrences could never be emitted. The message stays as it is."""
        pit.store({"id": "a"}, NOW, None, "1d", jitter="1h")
        entry = pit.get("a")
        with pytest.raises(pitstop.ScheduleError, match="expires is not longer than jitter"):
            pit.store({"id": "a"}, keep_schedule=True, expires=expires)
        with pytest.raises(pitstop.ScheduleError, match="expires is not longer than jitter"):
            pit.store({"id": "a"}, keep_schedule=True, expires=expires, if_revision=entry.revision)
        assert pit.get("a") == entry
        assert pit.store({"id": "a"}, keep_schedule=True, expires="61m").outcome == "updated"

    def test_an_edit_keeps_the_time_that_a_person_chose_for_the_occurrence(self, pit, clock, expired):
        pit.store({"id": "a"}, NOW, None, HOUR, expires="10m")
        clock.advance(20 * 60)
        pit.reschedule("a", NOW + 25 * MINUTE)
        clock.advance(5 * 60)
        revision = pit.get("a").revision
        pit.store({"id": "a", "n": 2}, NOW, None, HOUR, expires="10m", if_revision=revision)
        assert got(pit).msg["n"] == 2
        assert expired.seen == []

    @pytest.mark.parametrize("prefetch", [1, 5])
    def test_the_observer_gets_the_entry_as_it_was_before_the_claim(self, backend, clock, prefetch):
        seen = []

        class Observer:
            @pitstop.hookimpl
            def pitstop_message_expired(self, entry):
                seen.append(entry)

        with pitstop.init({"type": backend}, plugins=[Observer()]) as pit:
            pit.store({"id": "a"}, NOW, expires="1m")
            clock.advance(61)
            assert got(pit, prefetch=prefetch) is None
        (entry,) = seen
        assert (entry.state, entry.attempts, entry.due, entry.leased_until) == ("due", 0, NOW, None)

    def test_one_that_is_late_is_not_emitted_and_an_observer_hears_of_it(self, pit, clock, expired):
        pit.store({"id": "late"}, NOW, kind="mail", expires="10m")
        pit.store({"id": "in time"}, NOW, expires="20m")
        pit.store({"id": "plain"}, NOW)
        clock.advance(600.001)

        with pit.listen() as listener:
            handled = {each.id for each in iter(listener.get, None)}

        assert handled == {"in time", "plain"}
        assert pit.get("late") is None
        assert expired.seen == [("late", "mail", NOW)]

    def test_the_last_millisecond_counts(self, pit, clock, expired):
        pit.store({"id": "a"}, NOW, expires="10m")
        clock.advance(600)
        assert got(pit).id == "a"
        assert expired.seen == []

    def test_it_counts_from_the_nominal_time_also_for_a_retry(self, pit, clock, expired):
        pit.store({"id": "a"}, NOW, expires="10m")
        got(pit).nack("failed", delay=11 * MINUTE)
        clock.advance(11 * 60)
        assert got(pit) is None
        assert pit.get("a") is None
        assert expired.seen == [("a", "", NOW)]

    def test_a_message_that_waits_in_the_listener_until_it_expires_is_not_handed_out(self, pit, clock, expired):
        for id in "ab":
            pit.store({"id": id}, NOW, expires="10s")
        with pit.listen(prefetch=2) as listener:
            next(listener).ack()
            clock.advance(11)
            assert listener.get() is None
        assert pit.entries() == []
        assert len(expired.seen) == 1

    def test_an_event_loop_does_not_handle_one_that_expired_while_it_was_blocked(self, backend, clock, expired):
        """The tasks of both were begun before."""
        seen = []

        async def handle(msg):
            seen.append(msg["id"])
            clock.advance(61)

        async def main():
            async with pitstop.init_async({"type": _Open(backend)}, plugins=[expired]) as pit:
                await pit.consume(handle, concurrency=5, until_idle=True)

        with pitstop.init({"type": backend}) as pit:
            for id in "ab":
                pit.store({"id": id}, NOW, expires="1m")
            asyncio.run(main())
            assert pit.entries() == []
        assert len(seen) == 1
        assert [id for id, _, _ in expired.seen] == [each for each in "ab" if each not in seen]

    @pytest.mark.parametrize("catch_up", ["latest", "all"])
    def test_a_series_goes_on_with_the_first_occurrence_that_is_not_late(self, pit, clock, expired, catch_up):
        pit.store({"id": "a"}, NOW, None, HOUR, expires="10m", catch_up=catch_up)
        clock.advance(5 * 3600 + 700)

        assert got(pit) is None
        entry = pit.get("a")
        assert (entry.state, entry.due) == ("scheduled", NOW + 6 * HOUR)
        assert [seen[0] for seen in expired.seen] == ["a"]
        clock.advance(3600 - 700)
        delivery = got(pit)
        assert delivery.scheduled_for == NOW + 6 * HOUR
        delivery.ack()
        clock.advance(3600)
        assert got(pit).attempt == 1

    def test_a_series_without_a_later_occurrence_ends(self, pit, clock, expired):
        pit.store({"id": "a"}, NOW, NOW + 2 * HOUR, HOUR, expires="10m")
        clock.advance(3 * 3600)
        assert got(pit) is None
        assert pit.get("a") is None
        assert len(expired.seen) == 1

    def test_a_series_that_goes_on_reports_that_too(self, backend, clock):
        class Advanced:
            def __init__(self):
                self.seen = []

            @pitstop.hookimpl
            def pitstop_recurrence_advanced(self, id, scheduled_for):
                self.seen.append((id, scheduled_for))

        advanced = Advanced()
        with pitstop.init({"type": backend}, plugins=[advanced]) as pit:
            pit.store({"id": "a"}, NOW, None, HOUR, expires="10m")
            clock.advance(700)
            assert got(pit) is None
        assert advanced.seen == [("a", NOW + HOUR)]

    def test_consume_until_idle_passes_over_them(self, pit, clock, expired):
        pit.store_many([({"id": str(n)}, NOW) for n in range(50)], expires="1s")
        pit.store({"id": "a"}, NOW)
        clock.advance(2)
        assert pit.consume(lambda message: None, until_idle=True).acked == 1
        assert len(expired.seen) == 50
        assert pit.entries() == []
