"""Wheels of this repository, for the virtual environments of tests."""

from __future__ import annotations

import subprocess

from pathlib import Path


ROOT = Path(__file__).parents[1]
#: The packages of the distributions of this project.
DISTRIBUTIONS = {
    "pitstop-core": "pitstop",
    "pitstop-conformance": "pitstop_conformance",
    "pitstop-memory": "pitstop_memory",
    "pitstop-mongo": "pitstop_mongo",
    "pitstop-sqlite": "pitstop_sqlite",
    "pitstop-postgres": "pitstop_postgres",
}
#: A third-party backend.
EXAMPLE = "pitstop-filesystem"


def run(command: list[str], **more: object) -> str:
    """Return the output of a command, which must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
