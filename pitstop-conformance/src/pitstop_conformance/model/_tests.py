"""Anything that may be done to a store, in any order: state machines that look for a sequence which goes wrong."""

from __future__ import annotations

import os

from collections.abc import Callable
from typing import cast

import hypothesis
import pytest

from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from pitstop.abc import Backend
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance.model._contract_machine import ContractMachine
from pitstop_conformance.model._uses_machine import PitstopMachine


__all__ = ["Model"]

#: Set to a number, it is how many sequences are tried: other ones in each run, if it is more than usual.
_EXAMPLES = "PITSTOP_KIT_EXAMPLES"


class Model(Kit):
    """Backends against a model of them.

    The same sequences in each run. ``PITSTOP_KIT_EXAMPLES=5000`` in the environment tries so many, which are other ones in
    each run; ``--hypothesis-seed`` repeats one of those.
    """

    def test_any_sequence_of_operations_on_the_backend_is_as_the_model_says(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        _run(lambda: ContractMachine(open_backend, clock), examples=80, steps=50)

    def test_any_sequence_of_uses_is_as_the_model_says(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        """Replies get lost and processes die meanwhile."""
        _run(lambda: PitstopMachine(open_backend, clock), examples=80, steps=50)


def _run(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    more = os.environ.get(_EXAMPLES)
    if more and not (more.isdecimal() and int(more)):
        pytest.fail(
            f"{_EXAMPLES}={more!r} in the environment is no number of examples. Give one, as in {_EXAMPLES}=5000."
        )
    wanted = int(more) if more else examples
    settings = hypothesis.settings(
        max_examples=wanted,
        stateful_step_count=steps,
        derandomize=wanted <= examples,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        # Stores are slow, and that an example did nothing is no harm. To explain a failure takes longer than to find it.
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    # Any callable will do, says its documentation; its annotation wants a class.
    run_state_machine_as_test(cast("type[RuleBasedStateMachine]", machine), settings=settings)
