"""A world: one store, some processes, and a random generator that chooses the next event.

There are no threads. A step is one whole action of one process. Every call of the store has points at which the world may insert other events: whole actions of other processes, time, the death of the
caller. So many calls can overtake one, inside of code that is not aware of it.
"""

from __future__ import annotations

import random

from contextlib import suppress
from datetime import timedelta

import attrs

from pitstop.testing import ManualClock
from simulation.history import History
from simulation.process import Process
from simulation.remote import Broken, _Lost
from simulation.store import Scribe, Write


#: The depth to which actions of other processes may be nested.
_DEEPEST = 3

#: Calls of the store after which a run will not end by itself.
_MOST_SENT = 20_000

_BEFORE_OR_AFTER = ("refused", "dropped", "lost", "late", "stuck", "slow", "crash before", "crash after")
_WEIGHTS = (3, 3, 5, 3, 2, 2, 1, 1)
#: For reads, which change nothing.
_QUIET = ("refused", "crash before")


@attrs.frozen
class Settings:
    """The kind of world that a seed makes."""

    processes: int
    ids: int
    lock: timedelta
    loop: timedelta
    #: The largest error of a process about the store's time.
    skew_ms: int
    #: The probability that a call fails, and that another event is inserted.
    faults: float
    between: float
    max_attempts: int | None
    retry_ms: int | None
    #: Whether messages have kinds and policies, and users change stored messages: half of the worlds.
    control: bool

    @classmethod
    def draw(cls, rng: random.Random) -> Settings:
        return cls(
            processes=rng.randint(2, 5),
            ids=rng.randint(1, 4),
            lock=timedelta(seconds=rng.choice([2, 10, 60])),
            loop=timedelta(seconds=rng.choice([1, 5, 30])),
            skew_ms=rng.choice([0, 20, 200, 1500]),
            faults=rng.choice([0.0, 0.03, 0.08, 0.2]),
            between=rng.choice([0.0, 0.05, 0.15]),
            max_attempts=rng.choice([None, None, None, 1, 2, 4]),
            retry_ms=rng.choice([None, None, 0, 500, 5000]),
            control=rng.random() < 0.5,
        )

    @property
    def options(self) -> dict[str, object]:
        """The configuration of a backend."""
        retry: dict[str, object] = {"max_attempts": self.max_attempts}
        if self.retry_ms is not None:
            retry |= {"delay": timedelta(milliseconds=self.retry_ms), "max_delay": timedelta(minutes=1), "jitter": 0.1}
        return {"lock_time": self.lock, "loop_time": self.loop, "retry": retry}


class World:
    """A run."""

    def __init__(self, rng: random.Random, steps: int) -> None:
        self.rng = rng
        self.settings = Settings.draw(rng)
        self.clock = ManualClock()
        self.clock.advance(rng.randrange(1_000_000) / 1e6)
        self.history = History()
        self.scribe = Scribe(self.history, self.clock)
        self.versions = 0
        self.calls = 0
        self.deliveries = 0
        self.healed = False
        self._sent = 0
        self._steps = steps
        #: The processes that are inside of an action, the outermost first.
        self._busy: list[Process] = []
        #: Writes that are still on their way.
        self._mail: list[Write] = []
        self.processes = [Process(self, f"p{n + 1}", consumer=n > 0) for n in range(self.settings.processes)]

    def run(self) -> History:
        s = self.settings
        lock_ms = s.lock // timedelta(milliseconds=1)
        self.scribe.note("world", "world", lock_ms, s.skew_ms, s.max_attempts, s.retry_ms)
        with suppress(Broken):
            for _ in range(self._steps):
                self._step()
            self._heal()
        for each in self.processes:
            each.vanish()
        return self.history

    # The services for processes and their backends.

    def fault(self, process: Process, name: str, *, quiet: bool) -> str | None:
        """Return the fault of a call, if it has one."""
        self._sent += 1
        if self._sent > _MOST_SENT:
            self.scribe.note("world", "endless")
            raise Broken
        rate = self.settings.faults * (0.2 if quiet else 2 if name == "settle" else 1)
        if self.healed or self.rng.random() >= rate:
            return None
        fault = self.rng.choice(_QUIET) if quiet else self.rng.choices(_BEFORE_OR_AFTER, _WEIGHTS)[0]
        self.scribe.note(process.name, "fault", process.call, name, fault)
        return fault

    def between(self, process: Process) -> None:
        """Let other events happen while ``process`` is inside of a call."""
        if self.healed:
            return
        while self.rng.random() < self.settings.between:
            what = self.rng.random()
            if what < 0.7 and len(self._busy) < _DEEPEST:
                self._somebody()
            elif what < 0.8:
                self._deliver()
            elif what < 0.85:
                process.interrupt()
            else:
                self._pass(self.rng.choice([1, 50, 500]))

    def pause(self) -> None:
        """Delay a call, perhaps until its lease has ended, while others continue."""
        lock_ms = self.settings.lock // timedelta(milliseconds=1)
        self._pass(round(lock_ms * self.rng.choice([0.5, 0.92, 1.0, 1.5])))
        self._others(self.rng.randrange(3))

    def time_out(self) -> None:
        """Let a process wait in vain for a reply, while others continue."""
        self._others(self.rng.randrange(5))
        self._pass(self.rng.choice([0, 20, 500, 5000]))
        if self.rng.random() < 0.2:
            self.pause()

    def post(self, write: Write) -> None:
        """Let the store do the operation later."""
        self._mail.append(write)

    def while_asleep(self, process: Process, seconds: float) -> None:
        """Let ``process`` sleep for this time: another event happens, or the time passes."""
        if not self.healed and len(self._busy) < _DEEPEST and self.rng.random() < 0.5:
            self._somebody()
        self.clock.advance(min(seconds, self.rng.choice([0.01, 1.0, 60.0])) + 1e-6)

    def until_due(self) -> None:
        """Let time pass until a message is due, unless that is far away, so that the next claim finds it."""
        wait = (self.scribe.store.next_due() or 0) - self.scribe.now_ms()
        if 0 < wait <= 120_000:
            self._pass(wait)

    # The next event.

    def _step(self) -> None:
        what = self.rng.random()
        if what < 0.75:
            self._somebody()
        elif what < 0.80:
            self._deliver()
        elif what < 0.82:
            process = self.rng.choice(self.processes)
            process.crash()
        else:
            self._time_passes()

    def _others(self, actions: int) -> None:
        for _ in range(actions):
            if len(self._busy) < _DEEPEST:
                self._somebody()

    def _somebody(self) -> None:
        idle = [each for each in self.processes if each not in self._busy]
        if idle:
            self.act(self.rng.choice(idle))

    def act(self, process: Process) -> None:
        self._busy.append(process)
        try:
            process.act()
        finally:
            self._busy.pop()

    def _deliver(self) -> None:
        """Let a write that was on its way arrive."""
        if self._mail:
            write = self._mail.pop(self.rng.randrange(len(self._mail)))
            self.scribe.late = True
            with suppress(_Lost):  # it is too late for its bound
                write()
            self.scribe.late = False

    def _time_passes(self) -> None:
        lock_ms = self.settings.lock // timedelta(milliseconds=1)
        due = self.scribe.store.next_due()
        to_next = max((due or 0) - self.scribe.now_ms(), 0)
        if to_next > 600_000:
            to_next = 0
        self._pass(self.rng.choice([1, 100, 1000, to_next, to_next, to_next - 1, lock_ms, lock_ms // 2, 20_000]))

    def _pass(self, ms: int) -> None:
        """Let time pass, by milliseconds and a fraction."""
        self.clock.advance(max(ms, 0) / 1e3 + self.rng.choice([0, 0, 0.0003]))

    def _heal(self) -> None:
        """End all faults; one process without faults handles the remaining messages, as time passes."""
        while self._mail:
            self._deliver()
        for each in self.processes:
            if self.rng.random() < 0.5:
                each.crash()
        self.healed = True
        for each in self.processes:
            each.close()
        self.scribe.note("world", "heal")
        healer = Process(self, "healer", consumer=True)
        self.processes.append(healer)
        healer.drain()
        self.scribe.left()
