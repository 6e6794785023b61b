"""``pitstop backends``. ``tests/packaging/test_wrong_plugins.py`` tests the broken ones."""

from __future__ import annotations

import os
import re
import subprocess


def test_it_lists_installed_backends_and_their_capabilities(invoke, lines):
    found = {each["name"]: each for each in lines(invoke("backends", "--json").stdout)}
    assert found["memory"] == {
        "name": "memory",
        "distribution": "pitstop-memory",
        "version": "0.1.0",
        "status": "ok",
        "capabilities": ["SCRATCH", "CONDITIONAL", "KINDS", "POLICIES", "FIND", "BULK", "PAUSES", "NOTES"],
        "suite_version": 6,
        "error": None,
        "hint": None,
    }
    capabilities = ["DURABLE", "MULTI_PROCESS", "WATCH", "TRANSACTIONS", *found["memory"]["capabilities"]]
    assert found["sqlite"]["capabilities"] == capabilities
    table = invoke("backends").stdout
    assert re.search(
        rf"^sqlite +pitstop-sqlite +0\.1\.0 +ok +6 +{', '.join(capabilities)} +- *$",
        table,
        re.MULTILINE,
    )


def test_one_that_was_tested_with_an_older_suite_is_told_apart(invoke, lines, monkeypatch):
    monkeypatch.setattr("pitstop._plugins._backends.SUITE_VERSION", 7)
    (hint,) = {each["hint"] for each in lines(invoke("backends", "--json").stdout)}
    assert hint == "passed suite 6, this pitstop-core has 7: run the suite again"
    assert hint in invoke("backends").stdout


def test_a_broken_one_ends_neither_the_command_nor_the_list(spawn, tmp_path, lines):
    """In a real process, in which the backend is found like an installed one."""
    info = tmp_path / "acme_broken-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-broken\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[pitstop.backends]\nacme = acme_broken:Backend\n")
    (tmp_path / "acme_broken.py").write_text("import sys\nsys.exit(7)\n")
    process = spawn("backends", "--json", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    statuses = {each["name"]: each["status"] for each in lines(out)}
    assert statuses.pop("acme") == "broken"
    assert statuses.keys() >= {"memory", "mongo", "mongodb", "mongodb+srv", "sqlite"}
    assert set(statuses.values()) == {"ok"}


def test_it_needs_no_store(spawn):
    process = spawn("--url", "nonsense", "backends", stdout=subprocess.DEVNULL)
    process.communicate()
    assert process.returncode == 0
