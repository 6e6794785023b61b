"""A third-party backend: installed beside Pitstop, and found by its entry point. Core does not know it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from pathlib import Path

import pytest

from venvs import EXAMPLE, ROOT, run


LARGE = bool(os.environ.get("PITSTOP_TEST_LARGE"))

STORE_AND_EMIT = """
import sys
from datetime import timedelta
import pitstop
for config in ({"type": "filesystem", "path": "by-mapping"}, f"filesystem://{sys.argv[1]}/by-url?lock_time=15m"):
    with pitstop.init(config) as pit:
        pit.store({"id": "abc", "foo": 1}, timedelta(0))
    with pitstop.init(config) as pit:
        with pit.listen() as listener, listener.get() as delivery:
            assert delivery.msg == {"id": "abc", "foo": 1}
        assert pit.get("abc") is None
        print(pit.location)
"""


@pytest.mark.timeout(600)
def test_it_is_found_by_its_name_and_by_its_url(fresh: Path, tmp_path: Path) -> None:
    said = run([str(fresh / "python"), "-P", "-W", "error", "-c", STORE_AND_EMIT, str(tmp_path)], cwd=tmp_path)

    assert said.splitlines() == [f"filesystem://{tmp_path}/by-mapping", f"filesystem://{tmp_path}/by-url"]


@pytest.mark.timeout(600)
def test_the_command_lists_it_and_uses_it(fresh: Path, tmp_path: Path) -> None:
    pitstop = str(fresh / "pitstop")
    environment = {**os.environ, "PITSTOP_URL": f"filesystem://{tmp_path}/store"}

    listed = [json.loads(line) for line in run([pitstop, "backends", "--json"]).splitlines()]
    run([pitstop, "store", '{"id": "x"}', "--in", "0s"], env=environment)

    (found,) = [each for each in listed if each["name"] == "filesystem"]
    assert (found["distribution"], found["status"], found["error"]) == (EXAMPLE, "ok", None)
    assert " failed " not in run([pitstop, "check"], env=environment)
    assert '"x"' in run([pitstop, "listen", "--once"], env=environment)


@pytest.mark.timeout(600)
def test_a_name_that_is_nearly_its_own_is_answered_with_it(fresh: Path) -> None:
    command = [str(fresh / "pitstop"), "--url", "filesytem:///tmp/x", "stats"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode != 0
    assert "Unknown backend type 'filesytem'. Did you mean 'filesystem'?" in " ".join(done.stderr.split())


@pytest.mark.timeout(600)
def test_its_own_tests_pass_there(fresh: Path, tmp_path: Path) -> None:
    """This runs a part of the suite, and all of it in the large run. ``tests/conformance`` has all of it anyway."""
    shutil.copytree(ROOT / "examples" / EXAMPLE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    some = [] if LARGE else ["-k", "damaged or settlement or test_crash or test_folder"]

    said = run([str(fresh / "python"), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *some], cwd=tmp_path)

    assert " passed" in said
