"""``pitstop backends``."""

from __future__ import annotations

import os
import re
import subprocess

import pytest


@pytest.fixture
def installed(tmp_path, spawn, lines):
    """Pretend that distributions with these backends are installed, and list them."""

    def run(*args, **modules):
        for name, (value, source) in modules.items():
            (tmp_path / f"{name}_module.py").write_text(source)
            info = tmp_path / f"acme_{name}-1.2.dist-info"
            info.mkdir(exist_ok=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: acme-{name}\nVersion: 1.2\n")
            (info / "entry_points.txt").write_text(f"[pitstop.backends]\n{value}\n")
        process = spawn("backends", *args, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        out, err = process.communicate()
        assert process.returncode == 0, err
        return lines(out) if "--json" in args else out

    return run


def test_it_lists_name_distribution_version_and_status(installed):
    found = {each["name"]: each for each in installed("--json")}
    assert found["memory"] == {
        "name": "memory",
        "distribution": "pitstop-memory",
        "version": "0.1.0",
        "error": None,
        "status": "ok",
    }
    assert found["sqlite"]["status"] == "ok"
    assert re.search(r"^sqlite +pitstop-sqlite +0\.1\.0 +ok", installed(), re.MULTILINE)


def test_broken_ones_are_listed_with_their_error_beside_the_sound_ones(installed):
    found = {
        each["name"]: each
        for each in installed(
            "--json",
            raises=("acme-raises = raises_module:Backend", "raise RuntimeError('out of petrol')"),
            exits=("acme-exits = exits_module:Backend", "import sys; sys.exit(7)"),
            syntax=("acme-syntax = syntax_module:Backend", "def"),
            wrong=("acme-wrong = wrong_module:Backend", "Backend = int"),
            twin=("sqlite = twin_module:Backend", "Backend = int"),
        )
    }
    assert found["memory"]["status"] == "ok"
    texts = {name: each["error"] for name, each in found.items()}
    assert "acme-raises 1.2 failed to load: RuntimeError: out of petrol" in texts["acme-raises"]
    assert texts["acme-exits"] == "It ends the program when it is imported (exit code 7)."
    assert "SyntaxError" in texts["acme-syntax"]
    assert "not a subclass" in texts["acme-wrong"]
    assert "Two distributions provide 'sqlite'" in texts["sqlite"]
    assert {found[name]["status"] for name in texts if name.startswith("acme")} == {"broken"}


def test_it_needs_no_store(spawn):
    process = spawn("--url", "nonsense", "backends", stdout=subprocess.DEVNULL)
    process.communicate()
    assert process.returncode == 0
