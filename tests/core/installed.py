"""Distributions that a test makes: folders with a real dist-info, which are found like those of pip."""

from __future__ import annotations

import importlib
import sys
import textwrap

from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest


Install = Callable[..., None]

#: The source of a backend that works.
BACKEND = """
    from typing import ClassVar
    from pitstop_memory import MemoryBackend

    class Good(MemoryBackend):
        api_version: ClassVar[int] = 1
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution: ``install("acme", "1.2", {"pitstop.backends": {"acme": "acme_mod:Good"}}, acme_mod=SOURCE)``."""
    modules: list[str] = []

    def install(name: str, version: str, points: dict[str, dict[str, str]], **sources: str) -> None:
        site = tmp_path / f"{name}-{version}"
        # Like pip: the first hyphen in a folder's name ends the name of the distribution.
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(
            "\n".join(
                f"[{group}]\n" + "\n".join(f"{k} = {v}" for k, v in each.items()) for group, each in points.items()
            )
        )
        for module, source in sources.items():
            (site / f"{module}.py").write_text(textwrap.dedent(source))
            modules.append(module)
        monkeypatch.setattr(sys, "path", [str(site), *sys.path])
        importlib.invalidate_caches()

    yield install
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide all distributions except those that the test installs. Imported modules stay imported."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "site-packages" not in place])
    assert not entry_points(group="pitstop.backends")


@pytest.fixture
def core_alone(alone: None, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an environment with pitstop-core and without backends. The packages of the backends cannot be imported."""
    install("pitstop-core", "0.1.0", {})
    for package in ("pitstop_memory", "pitstop_mongo", "pitstop_sqlite"):
        # This is the mark of the import system for a missing module. Imported modules stay imported.
        monkeypatch.setitem(sys.modules, package, None)
