"""A reader who follows the walk-through from top to bottom gets to its end.

Each block has its place after its language: ```` ```python pocket/src/x.py ```` is a file, or continues one, and
```` ```sh pocket/ ```` runs in that folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
STEP = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INSTALL = "pip install -e "


def pip_install(project: Path) -> None:
    """Do the essential part of ``pip install -e`` without a network: write a dist-info beside the package."""
    told = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    info = project / "src" / f"{told['name'].replace('-', '_')}-{told['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {told['name']}\nVersion: {told['version']}\n")
    groups = told["entry-points"].items()
    (info / "entry_points.txt").write_text(
        "\n".join(f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in points.items()) for group, points in groups)
    )


@pytest.mark.timeout(240)
def test_the_backend_from_nothing_passes_the_suite_and_is_found_by_its_name(tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    said = ""
    for place, block in STEP.findall((ROOT / "docs" / "writing-a-backend.md").read_text()):
        path = tmp_path / place
        if not place.endswith("/"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                # A block that continues a file follows two empty lines, or one if it is a method.
                file.write(("\n" if block.startswith(" ") else "\n\n") * bool(file.tell()) + block)
            continue
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("PITSTOP_", "PYTEST_"))},
            "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(path / "src"),
            "PYTHONWARNINGS": "error",
        }
        for command in block.splitlines():
            if command.startswith(INSTALL):
                pip_install(path)
                continue
            done = subprocess.run(
                command, shell=True, cwd=path, env=environment, capture_output=True, text=True, timeout=200, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
            said += done.stdout
    assert re.search(r"^TestPocket: \d{3,} passed, 0 failed", said, re.MULTILINE)
    assert re.search(r"^pocket +pitstop-pocket +0\.1\.0 +ok", said, re.MULTILINE)
    assert said.endswith("ada\n")


def test_the_backend_from_nothing_is_short() -> None:
    steps = STEP.findall((ROOT / "docs" / "writing-a-backend.md").read_text())
    lines = [line for place, block in steps if "/src/" in place for line in block.splitlines() if line.strip()]

    assert len(lines) < 130
