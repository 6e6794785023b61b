"""The files on the page about testing are tests that pass where Pitstop is installed.

Files in a folder are sketches for frameworks that are not installed here.
"""

from __future__ import annotations

import re
import subprocess
import sys

from pathlib import Path


PAGE = Path(__file__).parents[2] / "docs" / "testing-your-app.md"
FILE = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_its_tests_pass(tmp_path: Path) -> None:
    files = dict(FILE.findall(PAGE.read_text()))
    for name, text in files.items():
        compile(text, name, "exec")
        if "/" not in name:
            (tmp_path / name).write_text(text)

    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "--strict-markers", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
