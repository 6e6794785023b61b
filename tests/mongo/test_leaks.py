"""The search for passwords finds one in each of the places that it reads."""

from __future__ import annotations

import subprocess
import sys

from pathlib import Path

import pytest


#: Each place, and a way to show a password there.
WAYS = {
    "a log record of pitstop.mongo": "logging.getLogger('pitstop.mongo').debug('x %s', SECRET)",
    "a log record of pymongo": "logging.getLogger('pymongo').error('x', exc_info=ValueError(SECRET))",
    "the text of BackendUnavailable": "pytest.raises(pitstop.PitstopError, give, pitstop.BackendUnavailable(SECRET))",
    "the text of MessageError": "pytest.raises(pitstop.PitstopError, give, pitstop.MessageError(SECRET))",
    "what is printed": "print(SECRET)",
    "what a process prints": "subprocess.run(['echo', SECRET], capture_output=True)",
    "the repr of a configuration": "pitstop.init({'type': Careless, 'name': SECRET})",
}
SESSION = """
import logging, subprocess
import attrs, pytest, pitstop, leaks
from pitstop_memory import MemoryBackend

SECRET = leaks.secret()

def give(error):
    raise error

@attrs.frozen(kw_only=True)
class Config(MemoryBackend.Config):
    name: str = ""

class Careless(MemoryBackend):
    Config = Config
"""


def run(folder, ways):
    test = folder / "test_inner.py"
    test.write_text(SESSION + "".join(f"\ndef test_{n}():\n    {way}\n" for n, way in enumerate(ways)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "leaks", "-p", "no:cacheprovider", "--rootdir", folder, test]
    here = Path(__file__).parent.parent
    result = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    assert f"{len(ways)} passed" in result.stdout, result.stdout
    return result


def test_a_password_that_is_shown_fails_the_session_with_its_place(tmp_path):
    result = run(tmp_path, WAYS.values())
    told = result.stdout.replace(str(tmp_path), "")
    for n, where in enumerate(WAYS):
        assert f"A PASSWORD IS SHOWN: {where}, in test_inner.py::test_{n} (call)" in told
    assert result.returncode == pytest.ExitCode.TESTS_FAILED


def test_a_session_that_shows_none_passes(tmp_path):
    result = run(tmp_path, ["print('nothing')"])
    assert (result.returncode, "PASSWORD" in result.stdout) == (0, False)
