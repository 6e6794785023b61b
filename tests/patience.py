"""Bounds and leases in real time, on machines that stand still for a second now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pitstop import LeaseLost


#: Seconds. The last one outlives what a busy machine does to a process.
LEASES = (0.3, 1.5, 6.0)


def with_some_time(show: Callable[[float], None], spans: Sequence[float]) -> None:
    """Call ``show`` with a short time, so that it takes little; and with longer ones while it fails.

    What was not done in a second may be the fault of a machine that was busy: it shows nothing. What is not done in six
    either is one of the program.
    """
    for span in spans[:-1]:
        try:
            show(span)
        except (AssertionError, LeaseLost):
            continue
        return
    show(spans[-1])


def with_some_lease(show: Callable[[float], None]) -> None:
    """The same, with a lease: a process that was stopped for longer than its lease has lost that, as it should."""
    with_some_time(show, LEASES)
