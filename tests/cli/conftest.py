"""The tools of the tests of the command: a store, the command in this process, and the command in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from click.testing import CliRunner, Result

import pitstop

from pitstop.cli._app import app


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/test.db"


@pytest.fixture
def pit(url: str) -> Iterator[pitstop.Pitstop]:
    """The store that the command uses, seen from outside."""
    with pitstop.init(url) as pit:
        yield pit


@pytest.fixture
def invoke(url: str) -> Callable[..., Result]:
    """Run the command in this process."""

    def run(*args: str, **options: Any) -> Result:
        result = CliRunner().invoke(app, args, env={"PITSTOP_URL": url}, prog_name="pitstop", **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def spawn(url: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the command in a real process, in its own process group like a shell."""
    started: list[subprocess.Popen[str]] = []

    def start(*args: str, **options: Any) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "pitstop", *args],
            **{
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                "cwd": tmp_path,
                "process_group": 0,
                "env": {**os.environ, "PITSTOP_URL": url},
                **options,
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def lines() -> Callable[[str], list[dict[str, Any]]]:
    """Read JSON lines."""
    return lambda text: [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def measure_lateness(spawn, pit: pitstop.Pitstop) -> Callable[[], tuple[Any, list[float]]]:
    """Return a process that listens, and how late, in ms, it prints messages that are due 300 ms after they are stored.

    The process goes on listening.
    """

    def measure() -> tuple[Any, list[float]]:
        pit.store({"id": "ready"}, timedelta(0))
        process = spawn("listen")
        assert json.loads(process.stdout.readline())["id"] == "ready"
        lateness = []
        for n in range(5):
            due = pit.now() + timedelta(milliseconds=300)
            pit.store({"id": str(n)}, due)
            assert json.loads(process.stdout.readline())["id"] == str(n)
            lateness.append((pit.now() - due) / timedelta(milliseconds=1))
        return process, lateness

    return measure
