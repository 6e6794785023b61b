"""The tools of the tests of the SQLite backend: files, backends that are closed, other processes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from pitstop.abc import Progress, Record
from pitstop.testing import ManualClock
from pitstop_sqlite import SqliteBackend, SqliteConfig


_CHILD = Path(__file__).with_name("child.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that does not exist yet."""
    return tmp_path / "pitstop.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_backend(path: Path, clock: ManualClock) -> Iterator[Callable[..., SqliteBackend]]:
    """Opens handles on the file of the test, with its clock, and closes them at the end."""
    opened: list[SqliteBackend] = []

    def open_(**options) -> SqliteBackend:
        opened.append(SqliteBackend(SqliteConfig(**{"path": path, "clock": clock, **options})))
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


@pytest.fixture
def backend(open_backend: Callable[..., SqliteBackend]) -> SqliteBackend:
    return open_backend()


@pytest.fixture
def record(clock: ManualClock) -> Callable[..., Record]:
    """Makes records that are due now, unless a test gives another time."""

    def make(id: str = "a", **progress) -> Record:
        now = clock.time_us() // 1000
        fields = {"due": now, "scheduled_for": now, **progress}
        return Record(id, {"body": "s3cret"}, None, f"revision of {id}", Progress(**fields))

    return make


class Child:
    """Another Python process that runs a command of ``child.py``, and communicates by lines."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(_CHILD), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def read(self) -> str:
        line = self.process.stdout.readline()
        assert line, f"the child ended with {self.process.wait()}"
        return line.rstrip("\n")

    def write(self, line: str) -> None:
        self.process.stdin.write(line + "\n")

    def finish(self) -> list[str]:
        """Let the process end. Return the lines that it still had to print."""
        said, _ = self.process.communicate(timeout=200)
        assert self.process.returncode == 0
        return said.splitlines()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=200)


@pytest.fixture
def start_child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*arguments: object) -> Child:
        children.append(Child(*arguments))
        return children[-1]

    yield start
    for each in children:
        if each.process.poll() is None:
            each.kill()


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that users other than the present one can reach."""
    folder = Path(tempfile.mkdtemp(prefix="pitstop-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def as_nobody() -> Callable[[], AbstractContextManager[None]]:
    """A context in which this process is not root, who may do everything."""

    @contextmanager
    def unprivileged() -> Iterator[None]:
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return unprivileged
