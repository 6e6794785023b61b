"""The processes that measure one subject at one place, as seen from the process that commands them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import attrs

from places import Place


_MOST = 4


class Failed(Exception):
    """A failed measurement: the text says what happened."""


@attrs.frozen
class Drained:
    """A drain: messages per second of all consumers, from the start to the last message."""

    rate: float
    #: The messages of each consumer.
    shares: tuple[int, ...]
    profile: str | None = None


class Crew:
    """A process for each consumer, started when first needed."""

    def __init__(self, who: str, place: Place, **options: Any) -> None:
        self._spec = {"who": who, "config": place.config, "options": options}
        self._threads = place.threads
        self._processes: list[subprocess.Popen[str]] = []

    @property
    def pid(self) -> int:
        """Of the first one."""
        return self._some(1)[0].pid

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a command to the first process."""
        process = self._some(1)[0]
        self._send(process, {"do": do, **arguments})
        return self._answer(process)["result"]

    def drain(self, total: int, consumers: int = 1, *, profile: bool = False) -> Drained:
        processes = self._some(1 if self._threads else consumers)
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(bytes(8 * len(processes)))
            command = {"do": "drain", "total": total, "path": file.name, "slots": len(processes), "profile": profile}
            for each in processes:
                self._send(each, command | {"threads": consumers if self._threads else 1})
            for each in processes:
                self._answer(each)
            for each in processes:
                self._send(each, "go")
            results = [self._answer(each)["result"] for each in processes]
        tallies = [tally for each in results for tally in each["tallies"]]
        shares = tuple(each["count"] for each in tallies)
        if sum(shares) != total:
            raise Failed(f"{total:,} messages were stored, and {sum(shares):,} came: {shares}")
        took = max(each["last"] for each in tallies) - min(each["began"] for each in tallies)
        return Drained(total / took, shares, results[0].get("profile"))

    def _some(self, count: int) -> list[subprocess.Popen[str]]:
        assert count <= _MOST
        while len(self._processes) < count:
            spec = json.dumps(self._spec | {"slot": len(self._processes)})
            command = [sys.executable, str(Path(__file__).with_name("worker.py")), spec]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._processes.append(process)
            self._answer(process)
        return self._processes[:count]

    def _send(self, process: subprocess.Popen[str], command: object) -> None:
        assert process.stdin is not None
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()

    def _answer(self, process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise Failed(f"a process that measures {self._spec['who']} ended with {process.wait()}: see above")
        return json.loads(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._processes:
            with suppress(OSError):
                self._send(each, {"do": "close"})
            try:
                each.wait(20)
            except subprocess.TimeoutExpired:
                each.kill()
                each.wait()
            for stream in (each.stdin, each.stdout):
                assert stream is not None
                with suppress(OSError):
                    stream.close()
