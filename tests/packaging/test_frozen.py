"""Programs that were frozen or zipped: they contain the packages, but not the metadata that pip wrote.

PyInstaller without ``--copy-metadata``, Nuitka and cx_Freeze make such programs. Here a zipapp stands for them. It runs
isolated, without site-packages, so that it has only the packed files.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipapp

from collections.abc import Callable, Iterable
from importlib.metadata import distribution
from pathlib import Path

import attr
import attrs
import click
import markdown_it
import mdurl
import pluggy
import pygments
import pytest
import rich

import pitstop
import pitstop_memory
import pitstop_mongo
import pitstop_sqlite


NEEDED = (attr, attrs, pitstop, pitstop_memory, pitstop_sqlite, pluggy)
FOR_THE_CLI = (click, markdown_it, mdurl, pygments, rich)

Freeze = Callable[..., "subprocess.CompletedProcess[str]"]


def packed(name: str) -> Iterable[tuple[Path, str]]:
    """Yield the folder of a distribution's metadata, with its name."""
    info = Path(str(distribution(name)._path))  # type: ignore[attr-defined]
    return [(info, info.name)]


@pytest.fixture
def freeze(tmp_path: Path) -> Freeze:
    """Make a zipapp of a program and of packages, and run it in an empty folder."""

    def freeze(
        program: str, *arguments: str, packages: Iterable[object] = NEEDED, metadata: Iterable[str] = ()
    ) -> subprocess.CompletedProcess[str]:
        app = tmp_path / "app"
        for package in packages:
            folder = Path(str(package.__file__)).parent  # type: ignore[attr-defined]
            shutil.copytree(folder, app / folder.name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        for name in metadata:
            for folder, as_name in packed(name):
                shutil.copytree(folder, app / as_name)
        (app / "__main__.py").write_text(program)
        zipapp.create_archive(app, tmp_path / "app.pyz")
        (tmp_path / "empty").mkdir()
        return subprocess.run(
            # The program is isolated, and has no site-packages.
            [sys.executable, "-I", "-S", "-W", "error", str(tmp_path / "app.pyz"), *arguments],
            cwd=tmp_path / "empty",
            capture_output=True,
            text=True,
            check=False,
        )

    return freeze


BY_NAME = """
import pitstop
for config in ("memory://", "sqlite:///x.db", {"type": "memory"}, "acme://"):
    try:
        pitstop.init(config)
    except pitstop.UnknownBackend as error:
        print(error)
"""


def test_a_name_is_refused_with_the_reason_and_the_class_to_give(freeze):
    done = freeze(BY_NAME)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "There is no metadata of the installed packages here" in line
        assert "pip install" not in line
    assert "{'type': pitstop_memory.MemoryBackend}" in lines[0]
    assert "{'type': pitstop_sqlite.SqliteBackend}" in lines[1]
    assert lines[2] == lines[0]


BY_CLASS = """
import asyncio
from datetime import timedelta
import pitstop, pitstop_memory, pitstop_sqlite

class Audit:
    @pitstop.hookimpl
    def pitstop_message_stored(self, entry):
        print("stored", entry.id)

async def main(config):
    async with pitstop.init_async(config, plugins=[Audit()]) as pit:
        await pit.store({"id": "b"}, timedelta(0))
        await pit.consume(handle, until_idle=True)

async def handle(message):
    print("handled", message["id"])

for config in (
    {"type": pitstop_memory.MemoryBackend, "lock_time": "1m"},
    {"type": pitstop_sqlite.SqliteBackend, "path": "x.db"},
    {"type": pitstop_sqlite.SqliteBackend, "url": "sqlite:///x.db?lock_time=1m"},
    {"type": pitstop_sqlite.SqliteBackend.from_options({"path": "x.db"})},
):
    with pitstop.init(config, plugins=[Audit()]) as pit:
        pit.store({"id": "a"}, timedelta(0))
        print(pit.consume(lambda message: print("handled", message["id"]), until_idle=True).acked)
asyncio.run(main({"type": pitstop_sqlite.SqliteBackend, "path": "x.db"}))
print(pitstop.__version__)
"""


def test_a_class_works_in_both_worlds_and_with_plugins(freeze):
    done = freeze(BY_CLASS)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *["stored a", "handled a", "1"] * 4,
        "stored b",
        "handled b",
        pitstop.__version__,
    ]


def test_with_the_metadata_names_work(freeze):
    done = freeze(
        "import pitstop; print(pitstop.init('memory://x').location)", metadata=["pitstop-core", "pitstop-memory"]
    )
    assert (done.stdout.strip(), done.stderr) == ("memory://x", "")


def test_partial_metadata_name_the_missing_part(freeze):
    done = freeze(BY_NAME, metadata=["pitstop-core", "pitstop-memory"])
    lines = done.stdout.splitlines()
    assert done.stderr == ""
    assert lines[0].startswith("Backend 'sqlite' cannot be found by its name. There is no metadata")
    assert lines[1] == "Unknown backend type 'acme'. Installed: memory."


CLI = """
import sys
from pitstop.cli import main
sys.exit(main())
"""


def test_the_command_says_it_too(freeze):
    done = freeze(CLI, "--url", "sqlite:///x.db", "stats", packages=[*NEEDED, *FOR_THE_CLI])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: Backend 'sqlite' cannot be found by its name. There is no metadata")


def test_the_list_of_backends_says_why_it_is_empty(freeze):
    done = freeze(CLI, "backends", packages=[*NEEDED, *FOR_THE_CLI])
    assert done.returncode == 0
    assert "No backend is found. There is no metadata of the installed packages here" in done.stderr


def test_the_version_of_the_command_needs_no_metadata(freeze):
    done = freeze(CLI, "--version", packages=[*NEEDED, *FOR_THE_CLI])
    assert (done.stdout, done.stderr) == (f"pitstop, version {pitstop.__version__}\n", "")


def test_mongodb_by_its_class_needs_no_metadata(monkeypatch):
    """PyMongo in a zip is another matter. Here only the metadata are missing."""
    monkeypatch.setattr(sys, "path", [each for each in sys.path if "site-packages" not in each])
    with pitstop.init({"type": pitstop_mongo.MongoBackend, "host": "localhost"}) as pit:
        assert pit.location == "mongodb://localhost:27017/pitstop.messages"
