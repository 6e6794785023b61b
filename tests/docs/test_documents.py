"""Every block in the README and the documentation does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
_PLACES = ("README.md", "docs/**/*.md", "pitstop-*/README.md", "examples/*/README.md")
DOCUMENTS = sorted(path for place in _PLACES for path in ROOT.glob(place))
#: A block with a file or a folder after its language runs elsewhere: test_walk_through.py, test_testing_page.py.
FENCE = re.compile(r"^```(\w*)((?: \S+)?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_BY_CI = ("nox -s demo", "nox -s tests", "nox -s lint types")


def blocks(language: str) -> list[object]:
    return [
        pytest.param(document, match.group(3), id=f"{document.relative_to(ROOT)}:{line}")
        for document in DOCUMENTS
        for text in [document.read_text()]
        for match in FENCE.finditer(text)
        for line in [text[: match.start()].count("\n") + 1]
        if match.group(1) == language and not match.group(2)
    ]


@pytest.mark.parametrize(("document", "block"), blocks("python"))
def test_a_python_block_runs_as_it_stands(document: Path, block: str, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(block)
    done = subprocess.run(
        [sys.executable, "-W", "error", script.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("document", "block"), blocks("sh"))
def test_a_shell_block_runs_as_it_stands(document: Path, block: str, tmp_path: Path) -> None:
    """Installations are left out. Sessions that .ci/run runs are left out too, and the test checks that it runs them."""
    here = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("PITSTOP_URL", None)
    ci = (ROOT / ".ci" / "run").read_text()
    for line in block.splitlines():
        command = line.partition("  #")[0].strip()
        session = command.removeprefix("pip install nox && ")
        if session in RUN_BY_CI:
            assert session in ci
            continue
        if not command or command.startswith("pip install ") or command == "nox -l":
            continue
        assert shlex.split(command)[0] in {"pitstop", "echo", "cat", "printf", "python"}, f"who runs {command!r}?"
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target
