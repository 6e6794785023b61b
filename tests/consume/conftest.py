"""Real stores that several processes share, and these processes."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading

from pathlib import Path

import pytest

import pitstop


_CHILD = Path(__file__).with_name("child.py")
#: Seconds of real time after which a process that should have said something is given up.
PATIENCE = 30.0


class Child:
    """A process of ``child.py``."""

    def __init__(self, command, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", _CHILD, command, *map(json.dumps, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read_all, daemon=True)
        self._reader.start()

    def _read_all(self):
        for line in self.process.stdout:
            self._lines.put(line.split())
        self._lines.put(None)

    def read(self, patience=PATIENCE):
        """The words of the next line; None at the end."""
        return self._lines.get(timeout=patience)

    def read_until(self, word):
        """The lines up to one that begins with this word, and that one."""
        lines = []
        while not lines or lines[-1][0] != word:
            line = self.read()
            assert line is not None, self.process.stderr.read()
            lines.append(line)
        return lines

    def has_said_nothing(self):
        return self._lines.empty()

    def write(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def let_go(self, count=1):
        """Let so many handlers of ``consume`` come to their end."""
        self.process.stdin.write("." * count)
        self.process.stdin.flush()

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """Its exit code, and what it wrote to stderr."""
        code = self.process.wait(PATIENCE)
        return code, self.process.stderr.read()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            pipe.close()


@pytest.fixture(params=["sqlite", "mongo"])
def where(request, tmp_path):
    """The configuration of a store that several processes can open."""
    if request.param == "sqlite":
        return {"type": "sqlite", "path": str(tmp_path / "pitstop.db"), "busy_timeout": "30s"}
    return {
        "type": "mongo",
        "uri": request.getfixturevalue("mongo_uri"),
        "dbname": request.getfixturevalue("mongo_dbname"),
    }


@pytest.fixture
def pit(where):
    with pitstop.init(where) as pit:
        yield pit


@pytest.fixture
def start():
    """Starts processes of ``child.py``."""
    children = []

    def start(command, *arguments):
        children.append(Child(command, *arguments))
        return children[-1]

    yield start
    for each in children:
        each.kill()
