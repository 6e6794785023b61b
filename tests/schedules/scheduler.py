"""Scheduler: runs real threads one at a time, and decides at each point which of them goes on.

Only the thread that has the baton runs. It gives the baton away at a *point*: where it waits, where it ends, and wherever
the schedule says so. Time is virtual: it passes only while all threads wait.

A schedule is a mapping from the number of a point to a choice. At all other points the running thread goes on, or, if it
waits, the next thread in turn. So the empty schedule is one run without any preemption, and the same schedule always gives
the same run.
"""

from __future__ import annotations

import _thread
import sys
import threading
import traceback

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple


__all__ = ["Deadlock", "Endless", "Killed", "Point", "Scheduler", "active"]

#: Points after which a run will not end by itself.
MOST_POINTS = 30_000
#: Seconds of real time without a point after which a thread has stopped at something that the scheduler does not know.
_HANG = 120.0
#: The virtual time at which each run begins, in microseconds since the epoch: 2020-01-01.
START_US = 1_577_836_800_000_000
_NEVER = 1 << 62
#: Microseconds. A schedule lets only a wait that is as short end before other threads have to wait, too.
_SHORT = 200_000


#: The folder of this module.
_HERE = __file__.rpartition("/")[0]


class Deadlock(Exception):
    """Threads wait, and no thread is left that could wake them."""


class Endless(Exception):
    """The run does not end: threads keep each other busy."""


class Killed(BaseException):
    """Raised in each thread of a run that has failed, to end the thread."""


class Point(NamedTuple):
    """A point of a run, at which another thread could have gone on."""

    step: int
    thread: str
    #: The operation of the thread, and its line.
    where: str
    #: The threads that could have gone on instead. A choice is an index of these.
    others: list[str]


class Controlled:
    """A thread of a run. All fields are written by the thread that has the baton."""

    __slots__ = ("deadline", "done", "error", "gate", "name", "ready", "timed_out", "waits_for", "worker")

    def __init__(self, name: str, worker: _Worker) -> None:
        self.name = name
        self.worker = worker
        #: Released to give this thread the baton.
        self.gate = worker.gate
        #: Returns True when the thread no longer has to wait. None: the thread does not wait.
        self.ready: Callable[[], bool] | None = None
        #: The virtual time at which the wait ends in any case. None: never.
        self.deadline: int | None = None
        self.timed_out = False
        #: The object it waits for, for reports.
        self.waits_for: object = None
        self.done = False
        self.error: BaseException | None = None


class _Worker:
    """A real thread, used for one controlled thread after the other: starting threads would take most of the time."""

    idle: list[_Worker] = []  # noqa: RUF012 - shared on purpose

    def __init__(self) -> None:
        self.gate = _thread.allocate_lock()
        self.gate.acquire()
        self.job: Callable[[], None] | None = None
        self.thread = threading.Thread(target=self._run, name="schedules-worker", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while True:
            self.gate.acquire()
            assert self.job is not None
            job, self.job = self.job, None
            job()
            # The job refers to all objects of the run.
            del job

    @classmethod
    def take(cls) -> _Worker:
        return cls.idle.pop() if cls.idle else cls()


#: The scheduler of the run that is under way.
_active: Scheduler | None = None


def active() -> Scheduler | None:
    """Return the scheduler of the run that is under way; None outside of a run, and for threads that are no part of it."""
    scheduler = _active
    if scheduler is None or scheduler.current.worker.thread.ident != _thread.get_ident():
        return None
    return scheduler


class Scheduler:
    """One run. All fields are written by the thread that has the baton."""

    def __init__(
        self, schedule: Mapping[int, int], *, traced: Callable[[str], bool] | None = None, recording: bool = False
    ) -> None:
        """Prepare a run.

        :param schedule: choices, by the number of the point.
        :param traced: True for the path of a file in which each line is a point.
        :param recording: whether to note all points and their alternatives.
        """
        self._schedule = dict(schedule)
        self._pending = sorted(self._schedule, reverse=True)
        self._deviate_at = self._pending[-1] if self._pending else _NEVER
        self._traced = traced
        # By the path of the file: to hash code takes long.
        self._tracing: dict[str, bool] = {}
        self._calm = self._calm_points = 0
        self._finished = _thread.allocate_lock()
        self._finished.acquire()
        #: Points so far.
        self.step = 0
        self.now_us = START_US
        self.threads: list[Controlled] = []
        self.current: Controlled = None  # type: ignore[assignment] - set by run()
        #: Whether the run is over. Then the methods for its threads do nothing.
        self.over = False
        #: Whether threads are to end, since the run has failed.
        self.dying = False
        self.failure: BaseException | None = None
        #: With ``recording``: the points at which there were alternatives.
        self.recorded: list[Point] | None = [] if recording else None
        #: Switches that the schedule asked for: the point, the thread, where it was, and the thread that went on.
        self.switches: list[tuple[int, str, str, str]] = []
        #: Whether no thread can be started any more, as when the system has no more of them.
        self.no_threads = False
        #: Whether threads may wait without end when the main function is done.
        self.may_leave = False

    # From outside.

    def run(self, main: Callable[[], object]) -> None:
        """Run ``main`` and all threads that it starts, to their end.

        :raises BaseException: the first error of any thread.
        """
        global _active
        assert _active is None, "one run at a time"
        first = self._add("main", main)
        self.current, _active = first, self
        try:
            first.gate.release()
            before = -1
            while not self._finished.acquire(timeout=_HANG):
                # On a busy machine a run may take long, but it goes on.
                points = self.step + self._calm_points
                if points == before:
                    stacks = self._stacks(everything=True)
                    raise Endless(f"a thread stopped at something that the scheduler does not control\n{stacks}")
                before = points
        finally:
            _active, self.over = None, True
        for each in self.threads:
            _Worker.idle.append(each.worker)
        if self.failure is not None:
            raise self.failure

    # For threads of the run.

    def spawn(self, name: str, function: Callable[[], object]) -> Controlled:
        """Add a thread, which may go on at any point from now on.

        :raises RuntimeError: if no thread can be started.
        """
        if self.no_threads:
            raise RuntimeError("can't start new thread")
        made = self._add(name, function)
        self.point(f"start of {name}")
        return made

    def point(self, where: object) -> None:
        """Another thread may go on here."""
        if self.over:
            return
        if self.dying:
            self._die()
        if self._calm:
            self._calm_points += 1
            if self._calm_points > MOST_POINTS:
                self._endless()
            return
        self.step += 1
        if self.recorded is not None:
            self._record(where)
        if self.step >= self._deviate_at:
            self._deviate(where)
        elif self.step > MOST_POINTS:
            self._endless()

    def block(self, ready: Callable[[], bool], seconds: float | None, waits_for: object) -> bool:
        """Wait until ``ready()``, or for ``seconds`` of virtual time (None: without end). False when the time was over."""
        if self.dying:
            self._die()
        me = self.current
        if ready():
            return True
        me.ready, me.waits_for, me.timed_out = ready, waits_for, False
        me.deadline = None if seconds is None else self.now_us + max(1, round(seconds * 1e6))
        self._pass_on(me)
        me.ready = me.deadline = me.waits_for = None
        if self.dying:
            self._die()
        return not me.timed_out

    def sleep(self, seconds: float) -> None:
        """Wait for so much virtual time."""
        self.block(lambda: False, seconds, "the time")

    @contextmanager
    def calm(self) -> Iterator[None]:
        """No preemption in here, in no thread: for what is only preparation."""
        self._calm += 1
        tracing = sys.gettrace()
        sys.settrace(None)
        try:
            yield
        finally:
            sys.settrace(tracing)
            self._calm -= 1

    def fail(self, error: BaseException) -> None:
        """End the run: ``error`` is what is wrong with it."""
        self._fail(error)

    # Switching between threads.

    def _add(self, name: str, function: Callable[[], object]) -> Controlled:
        made = Controlled(name, _Worker.take())

        def job() -> None:
            if self._traced is not None:
                sys.settrace(self._trace)
            try:
                if not self.dying:
                    function()
            except Killed:
                pass
            except BaseException as error:  # noqa: BLE001 - whatever it is, the run has failed by it
                made.error = error
                self._fail(error)
            finally:
                sys.settrace(None)
            made.done = True
            self._pass_on(made)

        made.worker.job = job
        self.threads.append(made)
        return made

    def _enabled(self, thread: Controlled) -> bool:
        if thread.ready is None:
            return True
        if thread.deadline is not None and thread.deadline <= self.now_us:
            return True
        return thread.ready()

    def _others(self, me: Controlled) -> list[Controlled]:
        """Threads that can go on, beginning with the one after ``me``."""
        threads = self.threads
        at = threads.index(me)
        return [each for each in threads[at + 1 :] + threads[:at] if not each.done and self._enabled(each)]

    def _first_timed(self, me: Controlled) -> Controlled | None:
        """The thread whose time is over first, of those that wait for something else as well."""
        waiting = [
            each
            for each in self.threads
            if each.deadline is not None and not each.done and each is not me and not self._enabled(each)
        ]
        first = min(waiting, key=lambda each: each.deadline or 0, default=None)
        return first if first is not None and (first.deadline or 0) <= self.now_us + _SHORT else None

    def _options(self, me: Controlled) -> list[Controlled]:
        others = self._others(me)
        timed = self._first_timed(me)
        return others if timed is None else [*others, timed]

    def _record(self, where: object) -> None:
        assert self.recorded is not None
        options = self._options(self.current)
        if options:
            self.recorded.append(Point(self.step, self.current.name, _place(where), [each.name for each in options]))

    def _deviate(self, where: object) -> None:
        me = self.current
        options = self._options(me)
        if not options:
            # The choice is made at the next point that has one.
            return
        choice = self._schedule[self._take()]
        chosen = options[choice % len(options)]
        self.switches.append((self.step, me.name, _place(where), chosen.name))
        self._give(me, chosen)
        if self.dying:
            self._die()

    def _take(self) -> int:
        step = self._pending.pop()
        self._deviate_at = self._pending[-1] if self._pending else _NEVER
        return step

    def _pass_on(self, me: Controlled) -> None:
        """``me`` waits, or is done: another one goes on."""
        if self.dying:
            self._bury(me)
            return
        options = self._others(me)
        chosen: Controlled | None = options[0] if options else None
        if not self._calm:
            self.step += 1
            timed = self._first_timed(me)
            # Instead of the default: another thread, or that the time passes.
            instead = options[1:] if timed is None or chosen is None else [*options[1:], timed]
            if self.recorded is not None and instead:
                self.recorded.append(Point(self.step, me.name, self._wait_of(me), [each.name for each in instead]))
            if self.step >= self._deviate_at and instead:
                chosen = instead[self._schedule[self._take()] % len(instead)]
                self.switches.append((self.step, me.name, self._wait_of(me), chosen.name))
        if chosen is None:
            timed = [each for each in self.threads if each.deadline is not None and not each.done]
            chosen = min(timed, key=lambda each: each.deadline or 0, default=None)
        if chosen is None:
            self._over(me)
            return
        self._give(me, chosen)

    def _wait_of(self, me: Controlled) -> str:
        return "its end" if me.done else _place(f"a wait for {_shown(me.waits_for)}")

    def _give(self, me: Controlled, chosen: Controlled) -> None:
        """Give the baton away; return when this thread has it again, or is done."""
        if chosen.ready is not None and not chosen.ready():
            assert chosen.deadline is not None
            self.now_us = max(self.now_us, chosen.deadline)
            chosen.timed_out = True
        if chosen is me:
            return
        self.current = chosen
        chosen.gate.release()
        if not me.done:
            me.gate.acquire()

    def _over(self, me: Controlled) -> None:
        """No thread can go on."""
        waiting = [each for each in self.threads if not each.done]
        if not waiting:
            self._finished.release()
            return
        if self.threads[0].done and self.may_leave:
            self.dying = True
        elif self.threads[0].done:
            self._fail(Deadlock(f"these threads are left at the end\n{self._stacks()}"))
        else:
            self._fail(Deadlock(f"every thread waits\n{self._stacks()}"))
        self._bury(me)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self.dying = True

    def _endless(self) -> None:
        self._fail(Endless(f"more than {MOST_POINTS} points\n{self._stacks()}"))
        self._die()

    def _die(self) -> None:
        raise Killed

    def _bury(self, me: Controlled) -> None:
        """Have the threads end, one after the other."""
        waiting = [each for each in self.threads if not each.done and each is not me]
        if not me.done:
            # It raises Killed when it returns to its wait.
            return
        if not waiting:
            self._finished.release()
            return
        self.current = waiting[0]
        waiting[0].gate.release()

    # Lines as points.

    def _trace(self, frame: FrameType, event: str, arg: object) -> Any:
        path = frame.f_code.co_filename
        chosen = self._tracing.get(path)
        if chosen is None:
            assert self._traced is not None
            chosen = self._tracing[path] = self._traced(path)
        return self._line if chosen else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and not self.dying:
            self.point(frame)
        return self._line

    # Reports.

    def _stacks(self, *, everything: bool = False) -> str:
        frames = sys._current_frames()
        lines = []
        for each in self.threads:
            if each.done:
                continue
            lines.append(f"-- {each.name} waits for {_shown(each.waits_for)}")
            frame = frames.get(each.worker.thread.ident or 0)
            if frame is not None:
                stack = traceback.extract_stack(frame)
                shown = [
                    entry for entry in stack if everything or not entry.filename.endswith("schedules/scheduler.py")
                ]
                lines += [f"   {_short(entry.filename)}:{entry.lineno} {entry.name}" for entry in shown[-8:]]
        return "\n".join(lines)


def _place(where: object) -> str:
    if isinstance(where, FrameType):
        return _line_of(where)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (
        frame.f_code.co_filename.startswith(_HERE) or "/pitstop" not in frame.f_code.co_filename
    ):
        frame = frame.f_back
    return _shown(where) if frame is None else f"{_shown(where)} in {_line_of(frame)}"


def _line_of(frame: FrameType) -> str:
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno} {frame.f_code.co_name}"


def _short(path: str) -> str:
    return "/".join(path.split("/")[-2:])


def _shown(what: object) -> str:
    return what if isinstance(what, str) else repr(what)
