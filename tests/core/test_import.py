"""``import pitstop`` imports no backend, no driver, and nothing of the CLI."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(code: str) -> set[str]:
    script = f"import sys; before = set(sys.modules); {code}; print(*sorted(set(sys.modules) - before))"
    return set(
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    )


def test_no_backend_no_driver_and_no_cli_is_imported():
    modules = loaded_by("import pitstop")
    assert "pitstop._pitstop" in modules
    heavy = {
        "pymongo",
        "bson",
        "sqlite3",
        "click",
        "rich",
        "asyncio",
        "pytest",
        "hypothesis",
        "importlib.metadata",
        "email",
    }
    ours = {"pitstop_memory", "pitstop_mongo", "pitstop_sqlite", "pitstop.cli", "pitstop.testing"}
    assert modules & (heavy | ours) == set()


def test_init_imports_only_the_backend_that_was_asked_for():
    modules = loaded_by("import pitstop; pitstop.init('memory://')")
    assert "pitstop_memory" in modules
    assert modules & {"pitstop_mongo", "pitstop_sqlite", "pymongo", "sqlite3", "click", "rich"} == set()


def test_the_contract_for_authors_can_be_imported_first():
    for module in ("pitstop.abc", "pitstop.testing", "pitstop_memory"):
        assert module in loaded_by(f"import {module}")
