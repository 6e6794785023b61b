"""The suite itself: nothing is left out of it in silence."""

from __future__ import annotations

import subprocess
import sys

from pathlib import Path
from typing import ClassVar

import pytest

from pitstop.testing._conformance import BackendConformance, BackendContract, Model, PitstopBehaviour, Races, kit_tests


def test_a_class_that_overrides_a_test_is_refused():
    with pytest.raises(TypeError, match=r"Mine overrides test_a_claim_is_in_order\(\).*not_shown = "):

        class Mine(BackendConformance):
            def test_a_claim_is_in_order(self):
                pass


def test_a_class_that_takes_a_test_away_is_refused():
    with pytest.raises(TypeError, match=r"Mine overrides test_a_claim_is_in_order\(\)"):

        class Mine(BackendConformance):
            test_a_claim_is_in_order = None


def test_a_base_of_ones_own_that_overrides_a_test_is_refused():
    class Base:
        def test_a_claim_is_in_order(self):
            pass

    with pytest.raises(TypeError, match=r"Base overrides test_a_claim_is_in_order\(\)"):

        class Mine(Base, BackendConformance):
            pass


def test_a_listed_name_that_is_no_test_is_refused_with_the_one_that_was_meant():
    with pytest.raises(TypeError, match=r"'test_a_claim_is_in_ordr'.*Did you mean 'test_a_claim_is_in_order'"):

        class Mine(BackendConformance):
            not_shown: ClassVar = {"some reason": {"test_a_claim_is_in_ordr"}}


def test_tests_of_ones_own_are_welcome():
    class Mine(BackendConformance):
        def test_something_of_mine(self):
            pass

    assert "test_something_of_mine" not in kit_tests(Mine)
    assert kit_tests(Mine) == kit_tests(BackendConformance)


def test_the_parts_make_the_whole():
    parts = [set(kit_tests(each)) for each in (BackendContract, PitstopBehaviour, Model, Races)]

    assert set.union(*parts) == set(kit_tests(BackendConformance))
    assert sum(map(len, parts)) == len(kit_tests(BackendConformance))


_UNFINISHED = """
import pytest
from pitstop.testing._conformance import BackendConformance
from pitstop_memory import MemoryBackend


class TestNoFixture(BackendConformance):
    pass


class TestNoDamage(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: MemoryBackend.from_options(options)


class TestNoBackend(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: None
"""


@pytest.mark.parametrize(
    ("cls", "test", "text"),
    [
        ("TestNoFixture", "test_a_claim_is_in_order", "TestNoFixture has no fixture make_backend. Give one"),
        ("TestNoDamage", "test_a_damaged_record_can_be_deleted", "TestNoDamage has no damage(backend, id). Write one"),
        ("TestNoBackend", "test_a_claim_is_in_order", "make_backend() made a NoneType"),
        # Without a name, each handle on memory has its own messages: the suite notices that they are no peers.
        ("TestNoDamage", "test_a_peer_sees_what_was_put", "assert None == Record(id='a'"),
    ],
)
def test_an_unfinished_class_fails_with_what_to_do(tmp_path: Path, cls: str, test: str, text: str):
    """In a process of its own, as the author of a backend would see it."""
    module = tmp_path / "test_mine.py"
    module.write_text(_UNFINISHED)

    code, out = _pytest(tmp_path, str(module), "-k", f"{cls} and {test}", "-p", "conformance.conftest")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert text in out


def test_the_matrix_has_no_empty_cell_or_the_run_fails(pytestconfig: pytest.Config):
    memory = Path(__file__).with_name("test_memory.py")

    code, out = _pytest(pytestconfig.rootpath, str(memory), "--matrix", "-k", "test_a_claim_is_in_order")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_a_claim_is_in_order has no result on sqlite" in out
    assert "memory: 1 passed, 0 failed, 0 not shown" in out


def _pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={tests}", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr
