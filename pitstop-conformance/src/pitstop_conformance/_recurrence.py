"""The suite for a recurrence of another author: the demands of core on each kind.

::

    class TestTides(RecurrenceSuite):
        rules = (Tides("BRE"), Tides("HAM"))
"""

from __future__ import annotations

import json
import threading
import time

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Any, ClassVar

import pytest

import pitstop

from pitstop.testing import ManualClock


__all__ = ["RecurrenceSuite"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR = 3_600_000
#: Starts of series: round and odd ones, one before a change to daylight saving time, the first one of all.
_STARTS = tuple(
    (each - _EPOCH) // timedelta(milliseconds=1)
    for each in (
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 3, 28, 23, 59, 59, 999_000, tzinfo=UTC),
        datetime(2031, 5, 4, 12, 34, 56, 789_000, tzinfo=UTC),
        _EPOCH,
    )
)
#: The CPU time that a call may take.
_MOST_SECONDS = 0.05
_THREADS = 4
_FEW = 20


class RecurrenceSuite:
    """Subclass it, and give some rules of the kind as ``rules``. Register the kind, as an application does."""

    #: Rules to test: each with other arguments.
    rules: ClassVar[Sequence[pitstop.Recurrence]] = ()

    @pytest.fixture
    def series(self) -> list[tuple[pitstop.Recurrence, int, list[int]]]:
        """Each rule with each start, and its first occurrences."""
        assert self.rules, "give some rules: rules = (Tides('BRE'),)"
        return [
            (rule, start, list(islice(_occurrences(rule, start), _FEW))) for rule in self.rules for start in _STARTS
        ]

    def test_the_kind_is_registered_and_has_a_name_with_a_dot(self) -> None:
        """Core must find the class by the stored form. Otherwise no listener could read a message that has it."""
        for rule in self.rules:
            assert "." in rule.kind, "names without a dot belong to Pitstop"
            assert type(rule.version) is int
            with pitstop.init({"type": "memory"}) as pit:
                pit.store({"id": "a"}, datetime(2026, 1, 1, tzinfo=UTC), every=rule)
                entry = pit.get("a")
                assert entry is not None
                assert type(entry.every) is type(rule)

    def test_the_stored_form_is_plain_and_gives_back_the_rule(self) -> None:
        for rule in self.rules:
            plain = rule.to_plain()
            assert json.loads(json.dumps(plain)) == plain, "text, int, bool, None, and lists and dicts of these"
            assert plain["v"] == rule.version
            assert plain["kind"] == rule.kind
            assert not any("." in name or "$" in name for name in plain)
            again = type(rule).load(rule.dump())
            assert again.to_plain() == plain
            for start in _STARTS:
                assert list(islice(_occurrences(again, start), 5)) == list(islice(_occurrences(rule, start), 5))

    def test_an_unknown_field_is_refused(self) -> None:
        """A field of a later version that is ignored makes messages come at the wrong times."""
        for rule in self.rules:
            with pytest.raises(Exception):  # noqa: B017 - core reports any error of `load`
                type(rule).load({**rule.dump(), "unknown_field": 1})

    def test_the_next_occurrence_is_an_int_and_later(
        self, series: list[tuple[pitstop.Recurrence, int, list[int]]]
    ) -> None:
        for rule, start, occurrences in series:
            for instant in _instants(start, occurrences):
                found = rule.after(instant, start)
                assert found is None or type(found) is int
                assert found is None or found > instant
                assert found is None or found >= start

    def test_the_first_occurrence_is_not_before_the_start(
        self, series: list[tuple[pitstop.Recurrence, int, list[int]]]
    ) -> None:
        for rule, start, occurrences in series:
            first = rule.first(start)
            assert first is None or first >= start
            assert first == (occurrences[0] if occurrences else None)

    def test_between_two_occurrences_there_is_no_other(
        self, series: list[tuple[pitstop.Recurrence, int, list[int]]]
    ) -> None:
        for rule, start, occurrences in series:
            for one, other in pairwise(occurrences):
                for instant in (one, (one + other) // 2, other - 1):
                    assert rule.after(instant, start) == other

    def test_the_latest_and_the_count_agree_with_the_next(
        self, series: list[tuple[pitstop.Recurrence, int, list[int]]]
    ) -> None:
        for rule, start, occurrences in series:
            for index, (one, other) in enumerate(pairwise(occurrences)):
                assert rule.latest(one, start) == one
                assert rule.latest(other - 1, start) == one
                assert rule.latest(other, start) == other
                assert rule.count(occurrences[0], other, start) == index + 1

    def test_the_answer_depends_on_the_arguments_alone(
        self, series: list[tuple[pitstop.Recurrence, int, list[int]]]
    ) -> None:
        """Consumers in other threads and processes ask the same rule in any order."""
        wrong: list[Any] = []

        def ask() -> None:
            for rule, start, occurrences in reversed(series):
                for one, other in reversed(list(pairwise(occurrences))):
                    found: object
                    try:
                        found = rule.after(one, start)
                    except Exception as error:  # noqa: BLE001 - an error of a thread fails no test by itself
                        found = error
                    if found != other:
                        wrong.append((rule, one, found, other))

        threads = [threading.Thread(target=ask) for _ in range(_THREADS)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert wrong == []

    def test_a_call_is_fast_however_old_the_series_is(self) -> None:
        """A listener that computes the next occurrence settles no other message meanwhile."""
        far = 50 * 365 * 24 * _HOUR
        for rule in self.rules:
            for start in _STARTS:
                for ask in (rule.after, rule.latest):
                    assert min(_seconds(ask, start + far, start) for _ in range(3)) < _MOST_SECONDS

    def test_a_message_goes_from_occurrence_to_occurrence(
        self, series: list[tuple[pitstop.Recurrence, int, list[int]]]
    ) -> None:
        for rule, start, occurrences in series:
            clock = ManualClock(_EPOCH + timedelta(milliseconds=start))
            with pitstop.init({"type": "memory", "clock": clock}) as pit, pit.listen() as listener:
                pit.store({"id": "a"}, _EPOCH + timedelta(milliseconds=start), every=rule)
                for each in occurrences[:5]:
                    clock.advance_to(max(clock.now(), _EPOCH + timedelta(milliseconds=each)))
                    delivery = listener.get()
                    assert delivery is not None
                    assert delivery.scheduled_for == _EPOCH + timedelta(milliseconds=each)
                    delivery.ack(wait=True)


def _occurrences(rule: pitstop.Recurrence, start: int) -> Iterator[int]:
    found = rule.after(start - 1, start)
    while found is not None:
        yield found
        following = rule.after(found, start)
        assert following is None or following > found, f"{rule!r}: after {found} comes {following}"
        found = following


def _instants(start: int, occurrences: list[int]) -> list[int]:
    near = [instant for each in occurrences for instant in (each - 1, each, each + 1) if instant >= start - 1]
    return [start - 1, start, start + 1, start + _HOUR, *near, start + 10**12]


def _seconds(ask: Any, instant: int, start: int) -> float:
    began = time.process_time()
    ask(instant, start)
    return time.process_time() - began
