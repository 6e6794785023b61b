"""Source: the messages for the workers of one ``consume``, and whether it is idle.

Threads: each worker calls ``take`` and ``leave``; any thread calls ``notice``; signal handlers call ``wake``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from threading import Lock

from pitstop._consume._course import Course
from pitstop._consume._lanes import Lane
from pitstop._engine._backoff import Backoff
from pitstop._engine._lease import Lease
from pitstop._engine._waiting import Waiter
from pitstop._errors import BackendUnavailable
from pitstop.abc import Doorbell


__all__ = ["Source"]

#: Seconds until the next look, when a message is due that another worker is about to take, or that is still on its way.
_PAUSE = 0.005
#: Seconds between two looks whether a message that waits for the handler of another one may be handled.
_GLANCE = 0.05


class Source:
    """Where workers get their messages.

    A worker that finds nothing, until idle, is parked: it waits for news while other workers handle messages, which may store
    new ones. The last worker that is not parked finds out whether the whole ``consume`` is idle.
    """

    def __init__(self, lanes: Sequence[Lane], course: Course, *, until_idle: bool, on_idle: Callable[[], None]) -> None:
        """Return a source for the workers of these lanes, which are one ``consume``.

        :param on_idle: called by a worker when nothing is due and no handler runs.
        """
        self._lanes = lanes
        self._session = lanes[0].intake.session
        # The session has no backend any more once it is closed.
        self._backend = self._session.backend
        self._course = course
        self._until_idle = until_idle
        self._on_idle = on_idle
        # Under the lock: workers that are not parked, how often a parked worker began again, and the bells of parked workers.
        self._lock = Lock()
        self._active = sum(lane.workers for lane in lanes)
        self._begun = 0
        # With their lanes. Replaced, never changed: any thread rings these.
        self._parked: tuple[tuple[Lane, Doorbell], ...] = ()

    def take(self, lane: Lane, bell: Doorbell) -> Lease | None:
        """Take the next message of a lane, and wait for it. None: there is none any more.

        :param bell: ends a wait of the worker.
        :raises BackendUnavailable: if the store refuses the first look.
        """
        if not self._until_idle:
            intake = lane.intake
            return intake.take_at_hand() or intake.wait(Waiter(self._wanted(lane) if lane.batch else 1))
        backoff = Backoff(self._session.log.outages)
        while not self._course.ended:
            try:
                lease = self._take_due(lane, bell)
            except BackendUnavailable as error:
                if self._session.closed:
                    break
                if error.permanent and not lane.intake.answered:
                    raise
                clock = self._session.clock
                clock.wait(bell, backoff.failed(error, clock.monotonic()))
            else:
                if lease is not None:
                    return lease
        return None

    def leave(self) -> None:
        """Note that a worker has ended."""
        with self._lock:
            self._active -= 1

    def wake(self) -> None:
        """Have parked workers look again. Takes no lock."""
        for _, bell in self._parked:
            bell.ring()

    def notice(self, due: int | None, kinds: Collection[str] | None = None) -> None:
        """Wake parked workers if a message that was written, of one of these kinds, is due now."""
        if not self._parked:
            return
        wanting = [each for each in self._lanes if each.intake.wants(kinds)]
        bells = [bell for lane, bell in self._parked if lane in wanting]
        if bells and (due is None or self._has_come(due)):
            for each in bells:
                each.ring()

    def _take_due(self, lane: Lane, bell: Doorbell) -> Lease | None:
        """Take a message that is due. None after a wait for news if none is due, and after the last message."""
        lease = lane.intake.take_at_hand()
        if lease is not None:
            return lease
        with self._lock:
            alone, begun = self._active == 1, self._begun
        # Before the look at the store: an intake that is at rest while no other worker is active stays at rest.
        at_rest = alone and all(each.intake.is_at_rest() for each in self._lanes)
        lease = self._look(lane)
        if lease is not None:
            return lease
        if lane.intake.is_blocked:
            # This worker stays an active one meanwhile.
            return self._await_blocked(lane, bell)
        # A lane that holds messages after the look is not idle: the look itself may have claimed them.
        idle = at_rest and not self._is_due() and not any(each.intake.in_hand for each in self._lanes)
        with self._lock:
            others = self._active > 1
            idle = idle and not others and begun == self._begun
            if others:
                self._active -= 1
                self._parked = (*self._parked, (lane, bell))
        if idle:
            self._on_idle()
        elif others:
            self._park(lane, bell)
        elif alone:
            if len(self._lanes) > 1:
                # A message may be due in another lane.
                self.wake()
            if (held := lane.intake.claimer.held_back()) is None:
                bell.wait(_PAUSE)
            else:
                self._session.clock.wait(bell, held)
        return None

    def _await_blocked(self, lane: Lane, bell: Doorbell) -> Lease | None:
        """Wait until a due message that a lane holds may be handled. None after a ``loop_time``, and if it holds none any more.

        No look at the store finds out: the message waits for the handler of another one, perhaps of another listener.
        """
        clock = self._session.clock
        ends = clock.monotonic() + self._session.loop_time.total_seconds()
        while lane.intake.is_blocked and not self._course.ended and clock.monotonic() < ends:
            bell.wait(_GLANCE)
            if (lease := lane.intake.take_at_hand()) is not None:
                return lease
        return None

    def _look(self, lane: Lane) -> Lease | None:
        intake = lane.intake
        with lane.looking:
            lease = intake.take_at_hand() or intake.wait(Waiter(self._wanted(lane)), self._session.clock.monotonic())
        if lease is not None and self._parked and (len(intake.buffer) or intake.suspects.ready):
            self.wake()
        return lease

    def _wanted(self, lane: Lane) -> int:
        return 1 if lane.batch is None else self._course.room(lane.batch)

    def _has_come(self, due: int) -> bool:
        try:
            return due * 1000 <= self._backend.now()
        except BackendUnavailable:
            # The caller has written something, and must not fail by this. The workers find out themselves.
            return True

    def _is_due(self) -> bool:
        for lane in self._lanes:
            due = lane.intake.claimer.next_due()
            if due is not None and due * 1000 <= self._session.backend.now():
                return True
        return False

    def _park(self, lane: Lane, bell: Doorbell) -> None:
        longest = self._session.loop_time.total_seconds()
        if pause := lane.intake.claimer.pause():
            # By the clock of the rate.
            self._session.clock.wait(bell, min(pause, longest))
        else:
            bell.wait(longest)
        with self._lock:
            self._parked = tuple(each for each in self._parked if each[1] is not bell)
            self._active += 1
            self._begun += 1
