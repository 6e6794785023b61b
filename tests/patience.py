"""Time limits and leases in real time, on machines that sometimes stand still for a second."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pitstop import LeaseLost


#: Seconds. The last one is longer than the pauses of a busy machine.
LEASES = (0.3, 1.5, 6.0)


def with_some_time(show: Callable[[float], None], spans: Sequence[float]) -> None:
    """Call ``show`` with a short time, and again with longer times while it fails.

    A failure within one second may be caused by a busy machine, and proves nothing. A failure within six seconds is one of the program.
    """
    for span in spans[:-1]:
        try:
            show(span)
        except (AssertionError, LeaseLost):
            continue
        return
    show(spans[-1])


def with_some_lease(show: Callable[[float], None]) -> None:
    """Do the same with a lease: a process that was stopped for longer than its lease has rightly lost it."""
    with_some_time(show, LEASES)
