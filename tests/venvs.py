"""Wheels of this repository, for virtual environments of a test's own."""

from __future__ import annotations

import subprocess

from pathlib import Path


ROOT = Path(__file__).parents[1]
#: The package of each of the project's distributions.
DISTRIBUTIONS = {
    "pitstop-core": "pitstop",
    "pitstop-conformance": "pitstop_conformance",
    "pitstop-memory": "pitstop_memory",
    "pitstop-mongo": "pitstop_mongo",
    "pitstop-sqlite": "pitstop_sqlite",
}
#: A backend by somebody else.
EXAMPLE = "pitstop-filesystem"


def run(command: list[str], **more: object) -> str:
    """What a command says; it has to succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **more)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
