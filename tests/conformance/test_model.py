"""The machines of the suite find defects of the engine: each variant has one defect, and a machine that must fail on it."""

from __future__ import annotations

import uuid

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import attrs
import hypothesis
import pytest

from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from pitstop import _changing
from pitstop._decisions import _change, _describe, _emit, _move
from pitstop._decisions._change import Change
from pitstop._decisions._emit import Emission
from pitstop._decisions._policy import Policy
from pitstop._decisions._revision import revision_of
from pitstop._engine import _claimer
from pitstop.abc import Outcome
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles
from pitstop_conformance.model._moves_machine import MovesMachine
from pitstop_conformance.model._uses_machine import PitstopMachine
from pitstop_conformance.model._wire import Wire
from pitstop_memory import MemoryBackend


Patches = list[tuple[object, str, Any]]
_VARIANTS: dict[str, tuple[type[RuleBasedStateMachine], Callable[[], Patches]]] = {}


def _variant(machine: type[RuleBasedStateMachine]) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    def add(patches: Callable[[], Patches]) -> Callable[[], Patches]:
        _VARIANTS[patches.__name__] = machine, patches
        return patches

    return add


# Kinds and policies.


@_variant(PitstopMachine)
def a_claim_of_some_kinds_takes_others() -> Patches:
    lease = Wire.lease
    return [(Wire, "lease", lambda self, limit, duration, kinds=None: lease(self, limit, duration))]


@_variant(PitstopMachine)
def a_claim_of_some_kinds_forgets_one_of_them() -> Patches:
    lease = Wire.lease
    return [
        (
            Wire,
            "lease",
            lambda self, limit, duration, kinds=None: lease(self, limit, duration, kinds and sorted(kinds)[-1:]),
        )
    ]


@_variant(PitstopMachine)
def expired_messages_are_emitted() -> Patches:
    return [
        (_emit, "_expire", lambda emission, now: emission),
        (_claimer.Claimer, "_expire", lambda self, lease, policy, begun: None),
    ]


@_variant(PitstopMachine)
def messages_expire_a_millisecond_early() -> Patches:
    last_instant = Policy.last_instant

    def early(self, scheduled_for, occurrence):
        last = last_instant(self, scheduled_for, occurrence)
        return None if last is None else last - 1

    return [(Policy, "last_instant", early)]


@_variant(PitstopMachine)
def a_series_ends_when_an_occurrence_expires() -> Patches:
    return [(_emit, "_expire", lambda emission, now: _emit.settlement(emission.leased, Outcome.EXPIRE, None))]


@_variant(PitstopMachine)
def an_expired_series_goes_on_with_the_next_occurrence_however_late_it_is() -> Patches:
    def expire(emission, now):
        following = emission.schedule and emission.schedule.next(emission.scheduled_for)
        if following is None:
            return _emit.settlement(emission.leased, Outcome.EXPIRE, None)
        return _emit.advance(emission.leased, emission.schedule, following)

    return [(_emit, "_expire", expire)]


@_variant(PitstopMachine)
def claimed_messages_are_handed_out_after_they_have_expired() -> Patches:
    return [(_claimer.Claimer, "_expire", lambda self, lease, policy, begun: None)]


@_variant(PitstopMachine)
def lock_times_of_messages_are_ignored() -> Patches:
    return [(_claimer, "relock", lambda emission, duration: None)]


@_variant(PitstopMachine)
def retries_of_messages_are_ignored() -> Patches:
    return [(Emission, "retry_over", lambda self, configured: configured)]


@_variant(PitstopMachine)
def attempts_of_messages_are_ignored() -> Patches:
    retry_over = Emission.retry_over

    def configured_attempts(self, configured):
        return attrs.evolve(retry_over(self, configured), max_attempts=configured.max_attempts)

    return [(Emission, "retry_over", configured_attempts)]


# Edits.


@_variant(MovesMachine)
def if_revision_is_ignored() -> Patches:
    edit = _change._edit

    def careless(present, wanted, terms, now, holder):
        if present is not None:
            terms = attrs.evolve(terms, if_revision=revision_of(present))
        return edit(present, wanted, terms, now, holder)

    return [(_change, "_edit", careless)]


@_variant(MovesMachine)
def the_revision_is_of_the_last_store() -> Patches:
    """Claims and settlements do not change it."""
    return [(each, "revision_of", lambda stored: stored.revision) for each in (_change, _describe)]


@_variant(MovesMachine)
def edits_end_leases() -> Patches:
    edit = _change._edit
    return [
        (
            _change,
            "_edit",
            lambda present, wanted, terms, now, holder: edit(
                present, wanted, terms, now, present and present.progress.token
            ),
        )
    ]


@_variant(MovesMachine)
def an_edited_series_begins_anew() -> Patches:
    return [
        (
            _change,
            "_going_on",
            lambda present, wanted, now: Change("replaced", wanted.record, present.revision, present.progress),
        )
    ]


# Moves.


@_variant(MovesMachine)
def a_moved_message_expires_as_if_it_had_not_been_moved() -> Patches:
    return [(_move, "moved_policy", lambda policy, scheduled_for, at: policy)]


@_variant(MovesMachine)
def a_rescheduled_series_is_anchored_anew() -> Patches:
    reschedule = _move.reschedule

    def anchored(present, due, now):
        moved = reschedule(present, due, now)
        return attrs.evolve(moved, progress=attrs.evolve(moved.progress, scheduled_for=due))

    return [(_changing, "reschedule", anchored)]


@_variant(MovesMachine)
def an_emission_now_is_a_new_occurrence() -> Patches:
    hasten = _move.hasten

    def anew(present, now):
        moved = hasten(present, now)
        return moved and attrs.evolve(moved, progress=attrs.evolve(moved.progress, scheduled_for=now))

    return [(_changing, "hasten", anew)]


@_variant(MovesMachine)
def an_emission_now_takes_leased_messages_too() -> Patches:
    def hasten(present, now):
        return attrs.evolve(present, progress=attrs.evolve(present.progress, due=now, token=None))

    return [(_changing, "hasten", hasten)]


@_variant(MovesMachine)
def a_release_forgets_the_attempt() -> Patches:
    end_lease = _move.end_lease

    def forgetting(present, now):
        ended = end_lease(present, now)
        if ended is None:
            return None
        progress = attrs.evolve(ended.progress, attempts=ended.progress.attempts - 1)
        return attrs.evolve(ended, progress=progress)

    return [(_changing, "end_lease", forgetting)]


def _run(machine: type[Any]) -> None:
    """Try sequences on the memory backend until one fails. It is not shrunk, because only the failure counts."""
    name, clock = uuid.uuid4().hex, ManualClock()
    handles = Handles(lambda **options: MemoryBackend.from_options({"name": name, **options}), clock)
    settings = hypothesis.settings(
        max_examples=600,
        stateful_step_count=50,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    try:
        # Keeps the store, which lives as long as one of its handles.
        handles()
        run_state_machine_as_test(lambda: machine(handles, clock), settings=settings)
    finally:
        handles.close()


@pytest.mark.parametrize("variant", _VARIANTS)
def test_a_machine_catches_an_engine_with_a_defect(variant: str) -> None:
    machine, patches = _VARIANTS[variant]
    with ExitStack() as stack:
        for target, name, value in patches():
            stack.enter_context(mock.patch.object(target, name, value))
        with pytest.raises(AssertionError):
            _run(machine)
