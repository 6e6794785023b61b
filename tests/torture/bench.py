"""A fault test: processes that store and handle messages, somebody who breaks things, and the judgement afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pymongo

from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern

from torture.checker import Verdict, check
from torture.history import Event, History, read
from torture.process import Task


#: Seconds in which a process ends that was told to: an operation may be under way, and a handler.
_PATIENCE = 15.0
#: Seconds that a look behind Pitstop's back may take; a server may be hanging.
_LOOK = 5.0


#: For what is nacked without a delay.
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
        """``kill -9``; also when it is paused."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Have it end in order.

        :raises AssertionError: when it does not, or had ended before; with the end of its log.
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
    """Runs producers and consumers on one collection. What they do goes on in the background.

    :param options: for :func:`pitstop.init` in each of them.
    """

    def __init__(self, folder: Path, uri: str, *, lock_time: str = "5s", **options: Any) -> None:
        self.folder = folder
        self.dbname = f"pitstop_test_{uuid.uuid4().hex}"
        self.lock_time = float(lock_time.removesuffix("s"))
        where = {"type": "mongo", "uri": uri, "dbname": self.dbname}
        self.options = where | {"lock_time": lock_time, "loop_time": "500ms", "retry": RETRY} | options
        self._client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(uri, serverSelectionTimeoutMS=2000)
        self._history = History(folder / "bench.jsonl", "bench")
        self.workers: list[Worker] = []
        self._gone: set[str] = set()
        #: Seconds from the end of the last fault until all was emitted.
        self.drained_after: float | None = None

    @property
    def producers(self) -> list[Worker]:
        return [each for each in self.workers if each.task.role == "produce" and each.running]

    @property
    def consumers(self) -> list[Worker]:
        return [each for each in self.workers if each.task.role == "consume" and each.running]

    def start(self, role: str, name: str | None = None, **what: Any) -> Worker:
        """Start a process; ``what`` goes into its :class:`Task`."""
        number = len(self.workers)
        name = name or f"{role}r{number}"  # producer0, consumer2
        options = self.options | what.pop("options", {})
        history = self.folder / f"{name}.jsonl"
        task = Task(role=role, name=name, history=str(history), options=options, seed=number, **what)
        self.workers.append(Worker(task, self.folder / f"{name}.log"))
        return self.workers[-1]

    def start_load(self, *, rate: float = 40.0, **what: Any) -> None:
        """Two producers, and three consumers with claims of one, of some, and of many."""
        for _ in range(2):
            self.start("produce", rate=rate, **what)
        for prefetch, threads in ((1, 2), (5, 1), (20, 2)):
            self.start("consume", prefetch=prefetch, threads=threads)
        self.wait_for_emissions(20)

    def start_batches(self, *, rate: float = 40.0, burst: int = 300) -> None:
        """Two producers, one of which stores many at a time that are due at once; and three consumers that take as much as they
        can handle: an iteration, four workers, and one that is slow.
        """
        self.start("produce", rate=rate)
        self.start("produce", rate=1.0, burst=burst, series=0)
        self.start("consume", prefetch=None, pace=0, overdue=0.0005)
        self.start("consume", prefetch=None, workers=4, pace=0.001, overdue=0.0005)
        self.start("consume", prefetch=None, pace=0.02)
        self.wait_for_emissions(20)

    def wait_for_emissions(self, count: int, within: float = 30.0) -> None:
        """Until so many more messages were emitted."""
        enough = len(self.events("emit")) + count
        self.wait(lambda: len(self.events("emit")) >= enough, within, f"{count} more emissions")

    def kill(self, worker: Worker) -> None:
        """``kill -9``, and write it down."""
        worker.kill()
        self._gone.add(worker.name)
        self._history.note("death", process=worker.name)

    def pause(self, worker: Worker) -> None:
        """``SIGSTOP``: as a machine that hangs, or a very long collection of garbage."""
        worker.signal(signal.SIGSTOP)

    def resume(self, worker: Worker) -> None:
        worker.signal(signal.SIGCONT)

    def events(self, kind: str | None = None) -> list[Event]:
        """What is written down so far."""
        return [each for each in read(self.folder) if kind is None or each.kind == kind]

    def stop_producers(self) -> None:
        for each in self.producers:
            each.stop()
            self._gone.add(each.name)

    def drain(self, within: float) -> None:
        """Wait until all that is stored was emitted and acknowledged. What is left is for the verdict to blame."""
        begin = time.monotonic()
        try:
            self.wait(lambda: self.left() == [], within, "end of the messages")
            self.drained_after = time.monotonic() - begin
        except AssertionError:
            self.drained_after = None

    def left(self) -> list[str]:
        """The versions that are stored, as a majority of the servers sees it."""
        coll = self._client[self.dbname].get_collection("messages", read_concern=ReadConcern("majority"))
        with pymongo.timeout(_LOOK):
            return [each["msg"].get("version", "") for each in coll.find({}, {"msg.version": 1})]

    def finish(self, within: float = 30.0) -> Verdict:
        """No more stores; then all must be emitted within so many seconds; then judge."""
        self.stop_producers()
        self.drain(within)
        left = self.left()
        for each in self.workers:
            if each.name not in self._gone:
                each.stop()
                self._gone.add(each.name)
        return check(self.events(), left)

    def counters(self) -> Counter[str]:
        """What the backends of the processes that ended in order had to mend: doubts by name."""
        total: Counter[str] = Counter()
        for path in self.folder.glob("*.counters"):
            total.update(json.loads(path.read_text()))
        return total

    def wait(self, fulfilled: Callable[[], object], within: float, what: str) -> None:
        deadline = time.monotonic() + within
        while True:
            with suppress(PyMongoError):  # the servers may be away, as they are meant to be
                if fulfilled():
                    return
            assert time.monotonic() < deadline, f"no {what} within {within:.0f} s; {self.logs()}"
            time.sleep(0.05)

    def logs(self) -> str:
        """The ends of what the processes say, for the message of a failed test."""
        return "\n".join(f"--- {each.name}\n{each.said()[-1500:]}" for each in self.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self.workers:
            each.kill()
        self._history.close()
        # A server that is broken beyond that is going to be removed with all that is in it.
        with suppress(PyMongoError), pymongo.timeout(_LOOK):
            self._client.drop_database(self.dbname)
        self._client.close()
