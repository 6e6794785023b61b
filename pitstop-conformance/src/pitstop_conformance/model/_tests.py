"""Tests with state machines: they search for a sequence of operations whose result is wrong."""

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
from pitstop_conformance.model._moves_machine import MovesMachine
from pitstop_conformance.model._uses_machine import PitstopMachine


__all__ = ["Model"]

#: The environment variable with the number of sequences. A number above the usual one tries new sequences in each run.
_EXAMPLES = "PITSTOP_KIT_EXAMPLES"


class Model(Kit):
    """Comparisons of a backend with a model.

    The sequences are the same in each run. ``PITSTOP_KIT_EXAMPLES=5000`` in the environment tries 5000 sequences, which differ
    from run to run; ``--hypothesis-seed`` repeats such a run.
    """

    rule = "pitstop.abc.Backend, and docs/semantics.md"

    def test_any_sequence_of_operations_on_the_backend_is_as_the_model_says(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        _run(lambda: ContractMachine(open_backend, clock), examples=80, steps=50)

    def test_any_sequence_of_uses_is_as_the_model_says(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        """Some replies get lost and some processes die during the sequence."""
        _run(lambda: PitstopMachine(open_backend, clock), examples=80, steps=50)

    @pytest.mark.usefixtures("conditional")
    def test_any_sequence_of_edits_and_moves_is_as_the_model_says(
        self, open_backend: Handles, clock: ManualClock
    ) -> None:
        """All other uses happen in between."""
        _run(lambda: MovesMachine(open_backend, clock), examples=80, steps=50)


def _run(machine: Callable[[], RuleBasedStateMachine], *, examples: int, steps: int) -> None:
    more = os.environ.get(_EXAMPLES)
    if more and not (more.isdecimal() and int(more)):
        pytest.fail(
            f"{_EXAMPLES}={more!r} in the environment cannot be used. Give a number of examples, as in {_EXAMPLES}=5000."
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
        # Stores are slow, and an example without effect does no harm. Explaining a failure takes longer than finding it.
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
    )
    # Its documentation allows any callable, but its annotation asks for a class.
    run_state_machine_as_test(cast("type[RuleBasedStateMachine]", machine), settings=settings)
