"""Bench: runs the processes of a fault test, which store and handle messages while faults happen, and judges their history."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torture import stores
from torture.checker import Verdict, check
from torture.history import Event, History, read
from torture.process import Task


#: Seconds in which a process ends after a signal. An operation and a handler may be running.
_PATIENCE = 15.0
#: The retry of messages that are nacked without a delay.
RETRY = {"delay": "50ms", "factor": 1, "jitter": 0}


class Worker:
    """A process of a fault test."""

    def __init__(self, task: Task, log: Path) -> None:
        self.task = task
        self._log = log
        script = Path(__file__).with_name("process.py")
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", str(script), task.dump()], stdout=file, stderr=file
            )

    @property
    def name(self) -> str:
        return self.task.name

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it with ``kill -9``, also if it is paused."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Let it end in order.

        :raises AssertionError: if it does not, or if it had ended before. The text has the end of its log.
        """
        assert self._process.poll() is None, f"{self.name} died by itself:\n{self.said()[-3000:]}"
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGUSR2)
            time.sleep(1)
            self.kill()
            raise AssertionError(f"{self.name} does not stop:\n{self.said()[-3000:]}") from None
        assert code == 0, f"{self.name} ended with {code}:\n{self.said()[-3000:]}"

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def said(self) -> str:
        return self._log.read_text(errors="replace")


class Bench:
    """Runs producers and consumers on one store, in the background.

    :param options: for :func:`pitstop.init` in each of them.
    """

    def __init__(self, folder: Path, uri: str, *, lock_time: str = "5s", **options: Any) -> None:
        self.folder = folder
        self._store = stores.at(uri)
        self.lock_time = float(lock_time.removesuffix("s"))
        self.options = (
            dict(self._store.options) | {"lock_time": lock_time, "loop_time": "500ms", "retry": RETRY} | options
        )
        self._history = History(folder / "bench.jsonl", "bench")
        self.workers: list[Worker] = []
        self._gone: set[str] = set()
        #: Seconds from the end of the last fault until all messages were emitted.
        self.drained_after: float | None = None

    @property
    def producers(self) -> list[Worker]:
        return [each for each in self.workers if each.task.role == "produce" and each.running]

    @property
    def consumers(self) -> list[Worker]:
        return [each for each in self.workers if each.task.role == "consume" and each.running]

    def start(self, role: str, name: str | None = None, **what: Any) -> Worker:
        """Start a process, with ``what`` in its :class:`Task`."""
        number = len(self.workers)
        name = name or f"{role}r{number}"  # producer0, consumer2
        options = self.options | what.pop("options", {})
        history = self.folder / f"{name}.jsonl"
        task = Task(role=role, name=name, history=str(history), options=options, seed=number, **what)
        self.workers.append(Worker(task, self.folder / f"{name}.log"))
        return self.workers[-1]

    def start_load(self, *, rate: float = 40.0, **what: Any) -> None:
        """Start two producers, and three consumers that claim one, some, and many messages at once."""
        for _ in range(2):
            self.start("produce", rate=rate, **what)
        for prefetch, threads in ((1, 2), (5, 1), (20, 2)):
            self.start("consume", prefetch=prefetch, threads=threads)
        self.wait_for_emissions(20)

    def start_batches(self, *, rate: float = 40.0, burst: int = 300) -> None:
        """Start two producers, one of which stores many due messages at a time, and three consumers at their own pace.

        The consumers are an iteration, four workers, and a slow iteration.
        """
        self.start("produce", rate=rate)
        self.start("produce", rate=1.0, burst=burst, series=0)
        self.start("consume", prefetch=None, pace=0, overdue=0.0005)
        self.start("consume", prefetch=None, workers=4, pace=0.001, overdue=0.0005)
        self.start("consume", prefetch=None, pace=0.02)
        self.wait_for_emissions(20)

    def wait_for_emissions(self, count: int, within: float = 30.0) -> None:
        """Wait until ``count`` more messages were emitted.

        :param within: the longest time without an emission, in seconds. A busy machine may be slow, and must not stand still.
        """
        enough = len(self.events("emit")) + count
        self.wait(
            lambda: len(self.events("emit")) >= enough,
            within,
            f"{count} more emissions",
            progress=lambda: len(self.events("emit")),
        )

    def kill(self, worker: Worker) -> None:
        """Kill it with ``kill -9``, and record that."""
        worker.kill()
        self._gone.add(worker.name)
        self._history.note("death", process=worker.name)

    def pause(self, worker: Worker) -> None:
        """Pause it with ``SIGSTOP``, as a machine that hangs, or a very long garbage collection."""
        worker.signal(signal.SIGSTOP)

    def resume(self, worker: Worker) -> None:
        worker.signal(signal.SIGCONT)

    def events(self, kind: str | None = None) -> list[Event]:
        """Return the events that are recorded so far."""
        return [each for each in read(self.folder) if kind is None or each.kind == kind]

    def stop_producers(self) -> None:
        for each in self.producers:
            each.stop()
            self._gone.add(each.name)

    def drain(self, within: float) -> None:
        """Wait until all stored messages were emitted and acknowledged. If some are left at the end, the verdict names them.

        :param within: the longest time in which the messages become no fewer, in seconds.
        """
        begin = time.monotonic()
        try:
            self.wait(lambda: self.left() == [], within, "end of the messages", progress=lambda: -len(self.left()))
            self.drained_after = time.monotonic() - begin
        except AssertionError:
            self.drained_after = None

    def left(self) -> list[str]:
        """Return the versions that are stored."""
        return self._store.left()

    def finish(self, within: float = 30.0) -> Verdict:
        """End the stores, wait until all messages are emitted, and judge.

        :param within: as in :meth:`drain`.
        """
        self.stop_producers()
        self.drain(within)
        left = self.left()
        for each in self.workers:
            if each.name not in self._gone:
                each.stop()
                self._gone.add(each.name)
        return check(self.events(), left)

    def counters(self) -> Counter[str]:
        """Return how often outcomes were unknown or recovered, by name, in the processes that ended in order."""
        total: Counter[str] = Counter()
        for path in self.folder.glob("*.counters"):
            total.update(json.loads(path.read_text()))
        return total

    def wait(
        self,
        fulfilled: Callable[[], object],
        within: float,
        what: str,
        *,
        progress: Callable[[], int] = lambda: 0,
    ) -> None:
        """Wait for a condition.

        :param progress: a number. As long as it grows, the time begins anew.
        """
        deadline, most = time.monotonic() + within, float("-inf")
        while True:
            with suppress(*self._store.errors):  # the servers may be away, by a fault
                if fulfilled():
                    return
                if (reached := progress()) > most:
                    most, deadline = reached, time.monotonic() + within
            assert time.monotonic() < deadline, f"no {what} within {within:.0f} s; {self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        """Return the ends of the logs of the processes, for the text of a failed test."""
        return "\n".join(f"--- {each.name}\n{each.said()[-1500:]}" for each in self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self.workers:
            each.kill()
        self._history.close()
        self._store.remove()
