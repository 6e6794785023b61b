"""An application as a user would have it: its tests, in an environment with nothing but its installed packages."""

from __future__ import annotations

import re
import shutil

from pathlib import Path

import pytest

from venvs import ROOT, run


@pytest.mark.timeout(600)
def test_a_year_of_the_application_and_all_its_other_tests_take_seconds(fresh: Path, tmp_path: Path) -> None:
    """They take under two seconds on an idle machine. The test asserts that nothing waits, on a machine that may be busy."""
    application = shutil.copytree(
        ROOT / "examples" / "reminders", tmp_path / "reminders", ignore=shutil.ignore_patterns("__pycache__")
    )

    said = run([str(fresh / "python"), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=application)

    told = re.search(r"^(\d+) passed in ([\d.]+)s", said, re.MULTILINE)
    assert told, said
    assert int(told[1]) >= 50
    assert float(told[2]) < 60
