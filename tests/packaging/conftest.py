"""Wheels, and an environment with nothing in it but the wheels and their dependencies."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import venv

from collections.abc import Callable
from pathlib import Path

import pytest

from venvs import DISTRIBUTIONS, EXAMPLE, ROOT, run


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that makes a folder with a name once, also if several processes run the tests (pytest-xdist)."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = shared / name, shared / f"{name} is done"
        with (shared / f"{name} is being made").open("w") as lock:
            # The other processes wait here meanwhile.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def wheels(once: Callable[..., Path]) -> dict[str, Path]:
    """The wheel of each distribution, including the example's."""
    sources = [*(str(ROOT / name) for name in DISTRIBUTIONS), str(ROOT / "examples" / EXAMPLE)]
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    folder = once("wheels", lambda folder: run([*command, "--wheel-dir", str(folder), *sources]))
    return {name: next(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in (*DISTRIBUTIONS, EXAMPLE)}


@pytest.fixture(scope="session")
def sources(once: Callable[..., Path]) -> Callable[[str], Path]:
    """Makes the source distribution of a distribution, and a wheel from it. Returns the folder with both."""

    def builder(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "hatchling>=1.25"])

    python = str(once("builder", builder) / "bin" / "python")
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"

    def make(name: str, folder: Path) -> None:
        run([python, "-c", build, str(folder)], cwd=ROOT / name)
        source = next(folder.glob("*.tar.gz"))
        run(
            [
                python,
                "-m",
                "pip",
                "wheel",
                "--quiet",
                "--no-deps",
                "--no-build-isolation",
                "--wheel-dir",
                folder,
                source,
            ]
        )

    return lambda name: once(f"source of {name}", lambda folder: make(name, folder))


@pytest.fixture(scope="session")
def fresh(wheels: dict[str, Path], once: Callable[..., Path]) -> Path:
    """The folder of the programs of an environment into which one command installed all wheels together."""
    core = f"{wheels['pitstop-core']}[cli]"

    def make(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        run([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", core, *map(str, wheels.values())])

    return once("fresh", make) / "bin"
