"""Tools for tests of applications, in which the test moves the clock.

``BackendConformance``, the suite that every backend must pass, can be imported from here too. It is the class of that name
in :mod:`pitstop_conformance`, a separate distribution (``pip install pitstop-conformance``).
"""

from __future__ import annotations

from importlib.util import find_spec
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
from pitstop.testing._faults import Crash, Faults
from pitstop.testing._faulty_backend import Fault
from pitstop.testing._pitstop import TestPitstop, init
from pitstop.testing._report import Report, Step


if TYPE_CHECKING:
    from pitstop_conformance import BackendConformance as BackendConformance

__all__ = [
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
    if find_spec("pitstop_conformance") is None:
        raise ImportError(
            f"pitstop.testing.{name} is part of the distribution pitstop-conformance, which is not installed. Install it with: "
            f"pip install pitstop-conformance"
        )
    # It is a separate distribution, which brings pytest and hypothesis.
    from pitstop_conformance import BackendConformance  # noqa: PLC0415 - see above

    return BackendConformance


def __dir__() -> list[str]:
    """Return the public names; ``BackendConformance`` is among them if it can be imported."""
    return sorted([*globals(), *(["BackendConformance"] if find_spec("pitstop_conformance") else [])])
