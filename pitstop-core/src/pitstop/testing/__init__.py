"""Tools for tests: of applications, with time in the hand; and of backends, the suite that they have to pass.

The suite needs pytest and hypothesis (``pip install 'pitstop-core[testing]'``); the rest of this package does not, and
``BackendConformance`` is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pitstop.testing._assertions import assert_dead, assert_emitted, assert_no_leases, assert_stored, refute_stored
from pitstop.testing._clock import ManualClock
from pitstop.testing._driving import (
    adrain,
    arun_for,
    arun_until,
    arun_until_idle,
    drain,
    run_for,
    run_until,
    run_until_idle,
)
from pitstop.testing._events import Event, Events
from pitstop.testing._explain import explain
from pitstop.testing._faults import Crash, Fault, Faults
from pitstop.testing._pitstop import TestPitstop, init
from pitstop.testing._report import Report, Step


if TYPE_CHECKING:
    from pitstop.testing._conformance import BackendConformance

__all__ = [
    "BackendConformance",
    "Crash",
    "Event",
    "Events",
    "Fault",
    "Faults",
    "ManualClock",
    "Report",
    "Step",
    "TestPitstop",
    "adrain",
    "arun_for",
    "arun_until",
    "arun_until_idle",
    "assert_dead",
    "assert_emitted",
    "assert_no_leases",
    "assert_stored",
    "drain",
    "explain",
    "init",
    "refute_stored",
    "run_for",
    "run_until",
    "run_until_idle",
]


def __getattr__(name: str) -> Any:
    if name != "BackendConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import hypothesis  # noqa: F401, PLC0415 - an extra, and slow to import
        import pytest  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        raise ImportError(
            f"pitstop.testing.{name} needs pytest and hypothesis ({error}). Install them with: "
            "pip install 'pitstop-core[testing]'"
        ) from error
    # Before the suite is imported, so that a failure shows the values that were compared.
    pytest.register_assert_rewrite("pitstop.testing._conformance")
    from pitstop.testing._conformance import BackendConformance  # noqa: PLC0415 - see above

    return BackendConformance
