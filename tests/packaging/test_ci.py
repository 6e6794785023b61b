"""A test that was skipped fails the run in CI: a machine without MongoDB must not look green."""

from __future__ import annotations

import os
import subprocess
import sys

from pathlib import Path


CONFTEST = Path(__file__).parents[1] / "conftest.py"
WITHOUT_MONGOD = """
import pytest
from servers import mongod

@pytest.fixture(autouse=True, scope="session")
def no_server(session_patch=pytest.MonkeyPatch()):
    def missing():
        raise mongod.NoServer("none here")
    session_patch.setattr(mongod, "binary", missing)
    session_patch.delenv("PITSTOP_TEST_MONGO_URI", raising=False)
    yield
    session_patch.undo()

def test_that_needs_a_server(no_server, mongo_uri): ...
"""


def run_without_mongod(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST.read_text())
    (folder / "test_it.py").write_text(WITHOUT_MONGOD)
    kept = {key: value for key, value in os.environ.items() if key not in {"CI", "PITSTOP_TEST_MONGO_URI"}}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        cwd=folder,
        env={**kept, "PYTHONPATH": str(CONFTEST.parent), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_a_server_the_tests_that_need_one_are_skipped_loudly(tmp_path: Path) -> None:
    done = run_without_mongod(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NO REAL MONGODB" in done.stdout


def test_in_ci_that_is_a_failure(tmp_path: Path) -> None:
    done = run_without_mongod(tmp_path, CI="true")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 tests were skipped: that is a failure" in done.stdout


def test_ci_runs_the_two_commands_of_the_readme_and_lint_and_types() -> None:
    text = (CONFTEST.parents[1] / ".ci" / "run").read_text()
    assert "pip install --quiet nox && nox -s tests" in text
    assert "nox -s lint types" in text
