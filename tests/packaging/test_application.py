"""The tests of an application outside of the repository, in an environment with installed wheels alone."""

from __future__ import annotations

import re
import shutil

from pathlib import Path

import pytest

from venvs import ROOT, run


@pytest.mark.timeout(600)
def test_a_year_of_the_application_and_all_its_other_tests_take_seconds(fresh: Path, tmp_path: Path) -> None:
    """Under two seconds on an idle machine. The bound here shows that no test waits, even on a busy machine."""
    application = shutil.copytree(
        ROOT / "examples" / "reminders", tmp_path / "reminders", ignore=shutil.ignore_patterns("__pycache__")
    )

    said = run([str(fresh / "python"), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=application)

    told = re.search(r"^(\d+) passed in ([\d,.]+)s", said, re.MULTILINE)
    assert told, said
    assert int(told[1]) >= 50
    assert float(told[2]) < 60
