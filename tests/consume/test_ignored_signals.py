"""Signals that are ignored when a program starts stay ignored, whichever way it handles messages.

A shell ignores SIGINT for ``command &`` in a script, and nohup ignores SIGHUP.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from contextlib import contextmanager
from pathlib import Path

import pytest

import pitstop

from consume.kit import DUE_NOW
from pitstop._consume._signals import ENDING, catching, disposition


SYNC = """
import sys, pitstop
with pitstop.init(sys.argv[1]) as pit:
    print(pit.consume(lambda msg: print(msg["id"], flush=True), max_messages=2).reason)
"""
ASYNC = """
import asyncio, sys, pitstop
async def handle(msg):
    print(msg["id"], flush=True)
async def main():
    async with pitstop.init_async(sys.argv[1]) as pit:
        print((await pit.consume(handle, max_messages=2)).reason)
asyncio.run(main())
"""
PROGRAMS = {
    "consume": ["-c", SYNC],
    "async consume": ["-c", ASYNC],
    "listen": ["-m", "pitstop", "--json", "listen", "--url"],
    "listen --exec": ["-m", "pitstop", "listen", "--exec", "echo $PITSTOP_ID", "--url"],
    "listen --workers": ["-m", "pitstop", "listen", "--workers", "2", "--exec", "echo $PITSTOP_ID", "--url"],
}


@contextmanager
def ignored(number):
    """Children that are started in here ignore this signal."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_is_started_with_a_signal_ignored_goes_on(tmp_path, program, number):
    url = f"sqlite:///{tmp_path / 'pitstop.db'}"
    with pitstop.init(url) as pit:
        pit.store({"id": "before"}, DUE_NOW)
        with ignored(number):
            process = subprocess.Popen([sys.executable, *PROGRAMS[program], url], stdout=subprocess.PIPE, text=True)
        try:
            assert "before" in process.stdout.readline()
            process.send_signal(number)
            pit.store({"id": "after"}, DUE_NOW)
            assert "after" in process.stdout.readline()
            if "listen" not in program:
                assert process.stdout.read() == "max_messages\n"
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_signal_whose_handler_is_code_in_c_is_left_alone(monkeypatch):
    """Python could not put such a handler back."""
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: None)
        assert disposition("SIGTERM") is None
        with catching(ENDING, lambda number: None):
            pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_the_system_has_not_got_is_left_alone():
    assert disposition("SIGNOSUCH") is None


def test_the_tests_run_in_a_process_that_ignores_signals(tmp_path):
    """They start children that are to hear them."""
    shown = "import signal; print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)"
    test = tmp_path / "test_it.py"
    test.write_text(
        "import subprocess, sys\n"
        "def test_it():\n"
        f"    out = subprocess.run([sys.executable, '-c', {shown!r}], capture_output=True, text=True, check=True).stdout\n"
        "    assert out == 'False\\n'\n"
    )
    # Under a rootdir of its own: only the start of these tests is tried.
    with ignored(signal.SIGINT):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "--rootdir", tmp_path, test],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONSAFEPATH": "1"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
