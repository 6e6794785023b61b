"""LaneEnds: the end of the lanes of one ``consume``, all at the same time. A lane that waits for the store keeps no other waiting.

Threads: the closing thread, and one thread for each further lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import Thread

from pitstop._consume._course import Course
from pitstop._engine._backoff import Backoff
from pitstop._engine._intake import Intake
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell


__all__ = ["LaneEnds"]


class LaneEnds:
    """The end of the lanes of one ``consume``."""

    def __init__(
        self, session: Session, course: Course, pausing: Doorbell, give_back_running: Callable[[Intake], None]
    ) -> None:
        """Return the end of lanes that still run.

        :param pausing: ends a pause between two tries to write.
        :param give_back_running: give back the messages of an intake whose handlers are left behind.
        """
        self._session = session
        self._course = course
        self._pausing = pausing
        self._give_back_running = give_back_running

    def run(self, intakes: Sequence[Intake]) -> None:
        """End all lanes at the same time, and return when all have ended. The course keeps the first error."""
        threads = []
        for each in intakes[1:]:
            thread = Thread(target=self._end, args=(each,), name="pitstop-closing", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # At the end of the interpreter no thread begins any more.
                self._end(each)
            else:
                threads.append(thread)
        self._end(intakes[0])
        for thread in threads:
            thread.join()

    def _end(self, intake: Intake) -> None:
        try:
            # A program that closes the store does not wait for the store to come back.
            with ExitStack() as stack:
                if self._session.closing:
                    stack.enter_context(intake.leftovers.last_time())
                # It is closed, whatever else fails, and before the context ends.
                stack.callback(intake.close)
                self._give_back_running(intake)
                if not self._course.urgent:
                    self._write_pending(intake)
        except BaseException as error:  # noqa: BLE001 - raised again by consume()
            self._course.fail(error)

    def _write_pending(self, intake: Intake) -> None:
        """Write the acks. If the store does not answer, try again until the deadline."""
        backoff, writer, course = Backoff(self._session.log.outages), intake.writer, self._course
        deadline = course.last_write_by()
        while writer and not self._session.closed and not course.urgent:
            try:
                writer.flush()
            except BackendUnavailable as error:
                now = course.monotonic()
                pause = backoff.failed(error, now, log=False)
                if now + pause >= deadline or self._session.closing:
                    return
                self._pausing.wait(pause)
                if self._is_pressed():
                    # One ring wakes one of the lanes that wait.
                    self._pausing.ring()

    def _is_pressed(self) -> bool:
        """Whether no lane waits for the store any longer."""
        return self._course.urgent or self._session.closing
