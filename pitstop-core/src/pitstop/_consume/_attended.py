"""Attended: a ``consume`` that shows its health while it runs.

Threads: the caller of ``consume``.
"""

from __future__ import annotations

import logging

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pitstop._consume._course import Course
from pitstop._engine._intake import Intake
from pitstop._health._place import Place
from pitstop.abc import log_fields


if TYPE_CHECKING:
    from pitstop._health._loops import EventLoop


__all__ = ["attended"]

_log = logging.getLogger("pitstop.consumer")


@contextmanager
def attended(
    place: Place | None,
    course: Course,
    intakes: Callable[[], Sequence[Intake]],
    ping: Callable[[], object],
    loop: EventLoop | None = None,
) -> Iterator[None]:
    """Show the health of a ``consume`` at a place. None: nowhere.

    :param intakes: return the intakes that are open now.
    :param ping: ask the store, in a bounded time; raises if the store cannot be used.
    :param loop: the event loop in which the handlers run. None: they run in threads.
    :raises ConfigError: if the place is taken, or cannot be used.
    """
    if place is None:
        yield
        return
    # Only here: it loads the HTTP server of the standard library, which most programs do without.
    from pitstop._health._attending import attend  # noqa: PLC0415
    from pitstop._health._loops import engine_pulses, loop_pulse  # noqa: PLC0415

    pulses = engine_pulses(intakes, place.within)
    if loop is not None:
        pulses.insert(0, loop_pulse(loop, place.within))
    attendance = attend(place, pulses, ping)
    try:
        course.health = attendance.text
        _log.info("the health of this consumer is at %s", attendance.text, extra=log_fields("health_told"))
        yield
    finally:
        attendance.end()
