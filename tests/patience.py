"""Real leases, on machines that stand still for a second now and then."""

from __future__ import annotations

from collections.abc import Callable

from pitstop import LeaseLost


#: Seconds. The last one outlives what a busy machine does to a process.
SPANS = (0.3, 1.5, 6.0)


def with_some_lease(show: Callable[[float], None]) -> None:
    """Call ``show`` with a short lease, so that it takes little time; and with longer ones while it fails.

    A process that was stopped for longer than its lease has lost that, as it should. So a short one that was lost shows
    nothing; one of six seconds does.
    """
    for span in SPANS[:-1]:
        try:
            show(span)
        except (AssertionError, LeaseLost):
            continue
        return
    show(SPANS[-1])
