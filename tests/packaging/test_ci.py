"""A test that was skipped fails the run in CI: a machine without MongoDB or PostgreSQL must not look green."""

from __future__ import annotations

import os
import subprocess
import sys

from pathlib import Path

import pytest


CONFTEST = Path(__file__).parents[1] / "conftest.py"
WITHOUT = """
import pytest
from servers import {module}

@pytest.fixture(autouse=True, scope="session")
def no_server(session_patch=pytest.MonkeyPatch()):
    def missing():
        raise {module}.NoServer("none here")
    session_patch.setattr({module}, "{binary}", missing)
    session_patch.delenv("{variable}", raising=False)
    yield
    session_patch.undo()

def test_that_needs_a_server(no_server, {fixture}): ...
"""
MONGODB = {
    "module": "mongod",
    "binary": "binary",
    "variable": "PITSTOP_TEST_MONGO_URI",
    "fixture": "mongo_uri",
}
POSTGRESQL = {
    "module": "postgres",
    "binary": "binaries",
    "variable": "PITSTOP_TEST_POSTGRES_URI",
    "fixture": "postgres_uri",
}
#: A test of its own server needs one of this machine, even if the environment names another.
OWN_POSTGRESQL = POSTGRESQL | {"fixture": "postgres_or_skipped"}


def run_without(server: dict[str, str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_it.py").write_text(WITHOUT.format(**server))
    kept = {key: value for key, value in os.environ.items() if key not in {"CI", server["variable"]}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(CONFTEST.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("server", "words"),
    [
        (MONGODB, "NO REAL MONGODB"),
        (POSTGRESQL, "NO REAL POSTGRESQL"),
        (OWN_POSTGRESQL, "NO REAL POSTGRESQL"),
    ],
)
def test_without_a_server_the_tests_that_need_one_are_skipped_loudly(
    tmp_path: Path, server: dict[str, str], words: str
) -> None:
    done = run_without(server, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("server", [MONGODB, POSTGRESQL])
def test_in_ci_that_is_a_failure(tmp_path: Path, server: dict[str, str]) -> None:
    done = run_without(server, tmp_path, CI="true")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 tests were skipped: that is a failure" in done.stdout


def test_ci_runs_the_two_commands_of_the_readme_and_lint_and_types() -> None:
    text = (CONFTEST.parents[1] / ".ci" / "run").read_text()
    assert "pip install --quiet nox && nox -s tests" in text
    assert "nox -s lint types" in text
