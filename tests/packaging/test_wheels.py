"""Each distribution is built into a wheel, and the wheels work outside of the repository."""

from __future__ import annotations

import os
import re
import tarfile
import tomllib
import zipfile

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest

from venvs import DISTRIBUTIONS, EXAMPLE, ROOT, run


#: The first minute of a user, run with -P in an empty folder.
FIRST_MINUTE = """
from datetime import timedelta
import pitstop
for config in ("memory://", "sqlite:///first.db"):
    with pitstop.init(config) as pit:
        pit.store({"id": "abc", "foo": 1}, timedelta(0))
        with pit.listen() as listener, listener.get() as delivery:
            assert delivery.msg == {"id": "abc", "foo": 1}
        assert pit.get("abc") is None
with pitstop.init({"type": "mongo", "host": "localhost"}) as pit:
    assert "localhost" in repr(pit)
print(pitstop.__version__)
"""


def metadata(name: str) -> dict[str, object]:
    return tomllib.loads((ROOT / name / "pyproject.toml").read_text())["project"]


@pytest.mark.timeout(600)
def test_the_wheels_install_together_in_one_command_and_work_outside_the_repository(
    fresh: Path, tmp_path: Path
) -> None:
    said = run([str(fresh / "python"), "-P", "-W", "error", "-c", FIRST_MINUTE], cwd=tmp_path)
    assert said.strip() == metadata("pitstop-core")["version"]
    environment = {key: value for key, value in os.environ.items() if key != "PITSTOP_URL"}
    command = str(fresh / "pitstop")
    run([command, "store", '{"id": "x"}', "--in", "0s"], cwd=tmp_path, env=environment)
    assert '"x"' in run([command, "listen", "--once"], cwd=tmp_path, env=environment)


@pytest.mark.parametrize(("name", "package"), [*DISTRIBUTIONS.items(), (EXAMPLE, "pitstop_filesystem")])
def test_a_wheel_holds_its_package_its_licence_and_its_types_and_nothing_else(
    wheels: dict[str, Path], name: str, package: str
) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        files = wheel.namelist()
    folder = f"examples/{name}" if name == EXAMPLE else name
    assert f"{package}/py.typed" in files
    assert any(re.fullmatch(r".*\.dist-info/licenses/LICENSE", each) for each in files)
    plugin = {"pitstop-core": {"pitstop_pytest.py"}, "pitstop-conformance": {"pitstop_conformance_pytest.py"}}.get(
        name, set()
    )
    assert {each.split("/")[0] for each in files} == {
        package,
        f"{name.replace('-', '_')}-{metadata(folder)['version']}.dist-info",
        *plugin,
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_a_source_distribution_makes_the_same_wheel(
    sources: Callable[[str], Path], wheels: dict[str, Path], name: str
) -> None:
    folder = sources(name)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as source:
        files = {each.partition("/")[2] for each in source.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", f"src/{DISTRIBUTIONS[name]}/py.typed"} <= files
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as ours, zipfile.ZipFile(wheels[name]) as wanted:
        assert sorted(ours.namelist()) == sorted(wanted.namelist())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("imported", ["", "import pitstop; "])
def test_pytest_finds_the_fixtures_and_asks_for_nothing(fresh: Path, tmp_path: Path, imported: str) -> None:
    """This also holds in a process that imported Pitstop before pytest, which would otherwise rewrite its assertions."""
    (tmp_path / "test_it.py").write_text("def test_it(pitstop):\n    pitstop.assert_no_leases()\n")
    script = f"{imported}import sys, pytest; sys.exit(pytest.main(['-q', '-W', 'error', '--strict-markers']))"
    assert "1 passed" in run([str(fresh / "python"), "-P", "-c", script], cwd=tmp_path)


def test_the_distributions_are_of_one_version_and_ask_for_it() -> None:
    import pitstop

    for name in DISTRIBUTIONS.keys() - {"pitstop-conformance"}:
        project = metadata(name)
        assert project["version"] == pitstop.__version__
        wanted = [*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())]
        ours = [each for each in wanted if each.startswith("pitstop-")]
        assert all(each.endswith(f"=={pitstop.__version__}") for each in ours)
        assert ours or name == "pitstop-core"


@pytest.mark.parametrize("name", [*DISTRIBUTIONS, f"examples/{EXAMPLE}"])
def test_the_licence_of_a_distribution_is_that_of_the_repository(name: str) -> None:
    assert (ROOT / name / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
