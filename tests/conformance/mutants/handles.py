"""Mutants whose handles misbehave: clock, configuration, sessions, closing."""

from __future__ import annotations

import threading

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs

from conformance.mutants.registry import mutant
from pitstop import ConfigError
from pitstop.abc import Backend, Record, SystemClock, Writes
from pitstop_memory import MemoryBackend


@mutant("test_now_is_told_by_the_clock_in_microseconds")
class NowInMilliseconds(MemoryBackend):
    """Tells the time in milliseconds, as instants are. It is asked for microseconds."""

    def now(self) -> int:
        return super().now() // 1000


@mutant("test_now_is_told_by_the_clock_in_microseconds")
class NowInWholeMilliseconds(MemoryBackend):
    """Tells the time in whole milliseconds. Core rounds up, so that a message for now is due a millisecond late."""

    def now(self) -> int:
        return super().now() // 1000 * 1000


@mutant("test_an_unknown_option_is_refused_with_the_one_that_was_meant")
class AcceptsAnyOption(MemoryBackend):
    """Takes the options that it knows, and passes over the others. A slip of the pen is never noticed."""

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Backend:
        known = {field.name for field in attrs.fields(cls.Config)}  # type: ignore[arg-type]
        return super().from_options({key: value for key, value in options.items() if key in known})


@mutant("test_a_store_that_is_there_is_opened_without_the_right_to_make_one")
class OpensNothingThatIsThere(MemoryBackend):
    """Takes create=False to mean that no store is opened."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if not self.config.create:
            raise ConfigError("There is no store.")


@mutant("test_a_sound_store_gives_its_concerns_as_texts_without_a_message")
class QuotesAMessage(MemoryBackend):
    """Quotes a message in its concerns, which everyone who runs a check can read."""

    def concerns(self) -> Sequence[str]:
        return [f"{each.message} is old." for each in self.scan(None, 1, None) if isinstance(each, Record)]


@mutant("test_closing_a_handle_leaves_its_peers_alone")
class ClosesItsPeers(MemoryBackend):
    """Closes what it shares with its peers: a connection kept per address."""

    def close(self) -> None:
        for each in list(self._room.shelf):
            self._room.shelf.delete(each.id)


@mutant("test_closing_a_handle_again_leaves_its_peers_alone_too")
class CountsAHandleTwice(MemoryBackend):
    """Closes what its peers share with the last handle, and counts one that is closed twice as two."""

    _handles: ClassVar[Counter[str | None]] = Counter()

    def __init__(self, config=None):
        super().__init__(config)
        self._handles[self._name] += 1

    def close(self) -> None:
        self._handles[self._name] -= 1
        if not self._handles[self._name]:
            for each in list(self._room.shelf):
                self._room.shelf.delete(each.id)


@mutant(
    "test_what_is_no_session_is_refused", "test_a_store_or_a_removal_with_what_is_no_session_is_refused_and_not_done"
)
class IgnoresTheSession(MemoryBackend):
    """Writes at once whatever session is given. The user's transaction fails, and the message is there."""

    def within(self, session: object) -> Writes:
        return self


@mutant("test_a_handle_says_where_its_messages_are")
class SaysNoPlace(MemoryBackend):
    """Has no location. Logs and errors then do not say which store they mean."""

    @property
    def location(self) -> str:
        return ""


@mutant("test_a_call_in_the_middle_of_another_one_of_its_thread_is_answered_or_refused_at_once[put]", slow=True)
class WaitsForItself(MemoryBackend):
    """Has a plain lock, for which a signal handler's call waits while the code that it has interrupted holds it."""

    def __init__(self, config=None):
        super().__init__(config)
        self._plain = threading.Lock()

    def put(self, records):
        with self._plain:
            super().put(records)

    def get(self, id):
        with self._plain:
            return super().get(id)


class _Shifted(SystemClock):
    def __init__(self, factor: float = 1.0, ahead: int = 0) -> None:
        self._factor, self._ahead = factor, ahead

    def time_us(self) -> int:
        return int(super().time_us() * self._factor) + self._ahead


@mutant("test_without_a_clock_the_time_is_the_worlds")
class LocalTime(MemoryBackend):
    """Without a clock: takes the local time for UTC."""

    def __init__(self, config=None):
        super().__init__(config)
        if self.config.clock is None:
            self.clock = _Shifted(ahead=3_600_000_000)


@mutant("test_without_a_clock_the_time_is_the_worlds")
class RealNowInMilliseconds(MemoryBackend):
    """Without a clock: tells the time in milliseconds. Right in all tests that bring a clock along."""

    def __init__(self, config=None):
        super().__init__(config)
        if self.config.clock is None:
            self.clock = _Shifted(0.001)


@mutant("test_handles_that_are_closed_hold_neither_threads_nor_files", slow=True)
class ThreadPerHandle(MemoryBackend):
    """Has a thread for each handle, which never ends."""

    def __init__(self, config=None):
        super().__init__(config)
        threading.Thread(target=threading.Event().wait, daemon=True).start()


class _RealTimes(MemoryBackend):
    """Without a clock: has one of its own."""

    def __init__(self, config=None):
        super().__init__(config)
        if self.config.clock is None:
            self.clock = self.real_clock()

    def real_clock(self) -> SystemClock:
        raise NotImplementedError


@mutant("test_now_is_the_time_of_the_server[right]", "test_a_message_is_due_by_the_clock_of_the_server[right]")
class HalfAMinuteOff(_RealTimes):
    """Without a clock: measures the server's clock wrongly, by half a minute."""

    def real_clock(self) -> SystemClock:
        return _Shifted(ahead=30_000_000)


class _WholeSeconds(SystemClock):
    def __init__(self, ahead: int = 0) -> None:
        self._ahead = ahead

    def time_us(self) -> int:
        return (super().time_us() + self._ahead) // 1_000_000 * 1_000_000


@mutant("test_now_is_the_time_of_the_server[right]")
class ServerTimeInWholeSeconds(_RealTimes):
    """Without a clock: asks the server for its time in whole seconds."""

    def real_clock(self) -> SystemClock:
        return _WholeSeconds()


@mutant("test_now_is_the_time_of_the_server[right]", "test_a_message_is_due_by_the_clock_of_the_server[right]")
class ServerTimeRoundedUp(_RealTimes):
    """Without a clock: rounds the server's time up to whole seconds. Messages come early."""

    def real_clock(self) -> SystemClock:
        return _WholeSeconds(ahead=999_999)


@mutant("test_a_lease_lasts_as_long_as_it_should_by_the_clock_of_the_server[right]")
class FenceWithoutAnEnd(MemoryBackend):
    """Without a clock: leaves the end of the lease out of the fence, because the statement with the server's time is another one."""

    def settle(self, settlements):
        if self.config.clock is not None:
            return super().settle(settlements)
        clock, self.clock = self.clock, _Shifted(ahead=-86_400_000_000)
        try:
            return super().settle(settlements)
        finally:
            self.clock = clock


@mutant("test_a_lease_lasts_as_long_as_it_should_by_the_clock_of_the_server[right]")
class LeaseInWholeSeconds(MemoryBackend):
    """Without a clock: takes the duration of a lease in whole seconds, rounded up."""

    def lease(self, limit, duration, kinds=None):
        if self.config.clock is None:
            duration = -(-duration // 1000) * 1000
        return super().lease(limit, duration, kinds)
