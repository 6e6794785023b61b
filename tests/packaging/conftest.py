"""Wheels, and an environment with nothing in it but them and what they ask for."""

from __future__ import annotations

import sys
import venv

from pathlib import Path

import pytest

from venvs import DISTRIBUTIONS, EXAMPLE, ROOT, run


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution, the example's among them."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [*(str(ROOT / name) for name in DISTRIBUTIONS), str(ROOT / "examples" / EXAMPLE)]
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), *sources])
    return {name: next(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in (*DISTRIBUTIONS, EXAMPLE)}


@pytest.fixture(scope="session")
def fresh(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment in which all wheels were installed together, in one command."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    core = f"{wheels['pitstop-core']}[cli,testing]"
    run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", core, *map(str, wheels.values())])
    return folder / "bin"
