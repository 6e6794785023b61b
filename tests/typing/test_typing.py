"""The types that users see: correct code passes ``mypy --strict``, and mistakes do not."""

from __future__ import annotations

import re
import subprocess
import sys

from pathlib import Path

import pytest


HERE = Path(__file__).parent
ERROR = re.compile(r"^(?P<file>.+?):(?P<line>\d+): error: .*\[(?P<code>[a-z-]+)\]$", re.MULTILINE)


@pytest.fixture(scope="module")
def check(tmp_path_factory):
    """Run mypy as a user would: strict, without the settings of this repository, on the installed packages."""
    folder = tmp_path_factory.mktemp("mypy")

    def check(name: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={folder}", HERE / name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
        assert done.returncode in {0, 1}, done.stderr
        return done.returncode, done.stdout

    return check


@pytest.mark.parametrize("name", ["usage.py", "authors.py"])
def test_correct_code_passes(check, name):
    assert check(name) == (0, "Success: no issues found in 1 source file\n")


def test_each_mistake_is_found_with_its_error_and_nothing_else_is(check):
    expected = {
        (number, line.partition("# error: ")[2])
        for number, line in enumerate((HERE / "mistakes.py").read_text().splitlines(), 1)
        if "# error: " in line
    }
    _, output = check("mistakes.py")
    assert {(int(match["line"]), match["code"]) for match in ERROR.finditer(output)} == expected
    assert len(expected) > 25
