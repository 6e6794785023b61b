"""The conformance kit itself: no test of the suite can be left out silently."""

from __future__ import annotations

import re
import subprocess
import sys
import types

from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

import pitstop
import pitstop.testing

from pitstop.testing import ManualClock
from pitstop_conformance import SUITE_VERSION, BackendConformance, kit_tests
from pitstop_conformance._core import check_core
from pitstop_conformance._kit import Handles
from pitstop_conformance._limit import readable
from pitstop_conformance._matrix import MATRIX_PLUGIN, PART_PROPERTY
from pitstop_conformance_pytest import SuiteElsewhere
from pitstop_memory import MemoryBackend, MemoryConfig


def test_a_class_that_overrides_a_test_is_refused():
    with pytest.raises(TypeError, match=r"Mine overrides test_a_claim_is_in_order\(\).*known_failures = "):

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


def test_a_class_that_overrides_a_fixture_of_the_suite_is_refused():
    with pytest.raises(
        TypeError, match=r"Mine overrides handles, .*You may define make_backend, damage, damage_kind, transaction"
    ):

        class Mine(BackendConformance):
            @pytest.fixture
            def handles(self):
                pytest.xfail("not declared: RACES")


def test_a_listed_name_that_is_no_test_is_refused_with_the_one_that_was_meant():
    with pytest.raises(TypeError, match=r"'test_a_claim_is_in_ordr'.*Did you mean 'test_a_claim_is_in_order'"):

        class Mine(BackendConformance):
            known_failures: ClassVar = {"some reason": {"test_a_claim_is_in_ordr"}}


@pytest.mark.parametrize(
    "listed",
    [{"test_a_claim_is_in_order"}, {"reason": "test_a_claim_is_in_order"}, {" ": {"test_a_claim_is_in_order"}}, None],
    ids=["a set", "a name", "no reason", "none"],
)
def test_a_list_of_another_shape_is_refused_with_the_right_one(listed):
    with pytest.raises(TypeError, match=r"Mine\.known_failures=.* cannot be used\. Map each reason"):

        class Mine(BackendConformance):
            known_failures: ClassVar = listed


def test_a_known_failure_may_be_overridden():
    class Mine(BackendConformance):
        known_failures: ClassVar = {"it would hang": {"test_a_claim_is_in_order"}}
        test_a_claim_is_in_order = None

    assert "test_a_claim_is_in_order" in kit_tests(Mine)


def test_tests_of_ones_own_are_welcome():
    class Mine(BackendConformance):
        def test_something_of_mine(self):
            pass

    assert "test_something_of_mine" not in kit_tests(Mine)
    assert kit_tests(Mine) == kit_tests(BackendConformance)


def test_the_parts_make_the_whole():
    parts = [set(kit_tests(each)) for each in BackendConformance.__bases__]

    assert set.union(*parts) == set(kit_tests(BackendConformance))
    assert sum(map(len, parts)) == len(kit_tests(BackendConformance))


_HEAD = """
import pytest
from pitstop.testing import BackendConformance
from pitstop_memory import MemoryBackend
"""

#: Classes of tests as authors of backends may write them, by their names.
_MINE = {
    "TestNoFixture": """
class TestNoFixture(BackendConformance):
    pass
""",
    "TestNoBackend": """
class TestNoBackend(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: None
""",
    "TestNoPeers": """
class TestNoPeers(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: MemoryBackend.from_options(options)
""",
    "TestOwnPeers": """
class TestOwnPeers(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        def make(**options):
            make.peer = lambda **options: MemoryBackend(backend.config)
            backend = MemoryBackend.from_options({"name": str(id(make)), **options})
            return backend
        return make
""",
    "TestKnown": """
class Deaf(MemoryBackend):
    def delete(self, id):
        super().delete(id)
        return False


class TestKnown(BackendConformance):
    known_failures = {
        "it does not tell": {"test_delete_says_whether_it_was_there", "test_an_empty_store_has_nothing"},
        "it hangs": {"test_a_deleted_record_is_not_leased"},
    }

    @pytest.fixture
    def make_backend(self):
        return lambda **options: Deaf.from_options(options)

    def test_a_deleted_record_is_not_leased(self):
        raise SystemExit
""",
    "TestAfterwards": """
class TestAfterwards(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: MemoryBackend.from_options(options)


TestAfterwards.test_a_claim_is_in_order = lambda self: None
""",
    "TestExcuses": """
class TestExcuses(BackendConformance):
    @pytest.fixture
    def make_backend(self, request):
        if request.node.originalname == "test_a_claim_is_in_order":
            pytest.xfail("not declared: ORDER")
        if request.node.originalname == "test_a_claim_holds_no_more_than_its_limit":
            pytest.skip("no limits here")
        return lambda **options: MemoryBackend.from_options(options)

    def damage(self, backend, id):
        pytest.xfail("not shown: no time")


@pytest.mark.xfail(reason="known failure: not listed")
class TestMarked(TestExcuses):
    pass
""",
    "TestBoastful": """
class Boastful(MemoryBackend):
    def legacy(self, after=None, *, locked_after=None):
        return None


class TestBoastful(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: Boastful.from_options(options)
""",
    "TestHangs": """
import threading


class Hangs(MemoryBackend):
    def lease(self, limit, duration, kinds=None):
        threading.Event().wait()


class TestHangs(BackendConformance):
    time_limit = 1.5

    @pytest.fixture
    def make_backend(self):
        return lambda **options: Hangs.from_options(options)
""",
    "TestHangsInC": """
import signal
import threading


class HangsInC(MemoryBackend):
    def lease(self, limit, duration, kinds=None):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        threading.Event().wait()


class TestHangsInC(BackendConformance):
    time_limit = 1.0

    @pytest.fixture
    def make_backend(self):
        return lambda **options: HangsInC.from_options(options)
""",
    "TestLeaves": """
import socket

SERVER = socket.create_server(("127.0.0.1", 0))
LEFT = []


class Leaves(MemoryBackend):
    def delete(self, id):
        LEFT.append(socket.create_connection(SERVER.getsockname()))
        return super().delete(id)


class TestLeaves(BackendConformance):
    @pytest.fixture
    def make_backend(self):
        return lambda **options: Leaves.from_options(options)
""",
}


@pytest.fixture
def run_mine(tmp_path: Path):
    """A function that runs tests of one of the classes above in a new process and folder, as its author would."""

    def run(cls: str, choice: str, *more: str) -> tuple[int, str]:
        (tmp_path / "test_mine.py").write_text(_HEAD + _MINE[cls])
        return _pytest(tmp_path, "test_mine.py", "-W", "error", "--strict-markers", "-k", choice, *more)

    return run


#: For each class with a fault: a test that fails, and a part of its text.
_WRONG = {
    "TestNoFixture": ("test_a_claim_is_in_order", "TestNoFixture has no fixture make_backend. Give one"),
    "TestNoBackend": (
        "test_a_claim_is_in_order",
        "Expected a pitstop.abc.Backend from make_backend(), got a value of type NoneType.",
    ),
    "TestAfterwards": ("test_a_claim_is_in_order", "TestAfterwards overrides test_a_claim_is_in_order() of the suite"),
    # Without a name, each memory handle has its own messages. The suite notices that the handles are no peers.
    "TestNoPeers": ("test_a_peer_sees_what_was_put", "assert None == Record(id='a'"),
    "TestBoastful": ("test_what_is_not_declared_is_refused", "Boastful does not declare ADOPT, but does not refuse it"),
}


@pytest.fixture(scope="module")
def run_of_the_wrong(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Run all classes with a fault in one process, because its start and the collection take most of the time."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "test_mine.py").write_text("".join([_HEAD, *(_MINE[cls] for cls in _WRONG)]))
    tests = [f"test_mine.py::{cls}::{test}" for cls, (test, _) in _WRONG.items()]
    return _pytest(folder, "-W", "error", "--strict-markers", *tests)


@pytest.mark.parametrize("cls", _WRONG)
def test_what_is_wrong_fails_with_what_to_do(run_of_the_wrong, cls: str):
    """The failures show the compared values, although the author has not asked pytest to rewrite the suite's assertions."""
    code, out = run_of_the_wrong

    assert code == pytest.ExitCode.TESTS_FAILED
    assert re.search(rf"^{cls}: (.*, )?1 failed", out, re.MULTILINE), out
    assert _WRONG[cls][1] in out


def test_all_handles_are_closed_and_the_first_error_of_a_close_is_raised():
    closed: list[str] = []

    class Stuck(MemoryBackend):
        def close(self) -> None:
            closed.append(self._config.name)
            raise OSError(self._config.name)

    handles = Handles(lambda **options: Stuck(MemoryConfig(**options)), ManualClock())
    for name in ("a", "b", "c"):
        handles(name=name)

    with pytest.raises(OSError, match=r"^c$"):
        handles.close()

    assert closed == ["c", "b", "a"]


def test_a_backend_that_hangs_fails_with_the_name_of_the_test_and_the_places_of_its_threads(run_mine):
    code, out = run_mine("TestHangs", "test_a_claim_holds_no_more or empty_store_has_nothing", "-p", "no:timeout")

    assert code == pytest.ExitCode.TESTS_FAILED, out
    assert "test_a_claim_holds_no_more_than_its_limit[1] has not ended after 1.5 s. The backend hangs" in out
    assert "test_mine.py" in out
    assert "in lease" in out
    assert re.search(r"^TestHangs: .*3 failed", out, re.MULTILINE), out
    assert "INTERNALERROR" not in out


def test_code_that_no_signal_interrupts_ends_the_run_with_the_name_of_the_test(run_mine):
    code, out = run_mine("TestHangsInC", "test_a_claim_holds_no_more", "-p", "no:timeout")

    assert code == pytest.ExitCode.TESTS_FAILED, out
    assert "Timeout" in out
    assert "in test_a_claim_holds_no_more_than_its_limit" in out


def test_a_failure_at_an_instruction_without_a_line_does_not_end_the_run():
    """The handler of a signal may raise anywhere. Pytest itself fails at such a traceback."""

    def fail() -> None:
        raise ValueError("no line")

    # The tables of lines say of up to eight instructions at a time that they belong to no line.
    count = len(fail.__code__.co_code) // 2
    nowhere = b"".join(bytes([0xF8 | min(count - n, 8) - 1]) for n in range(0, count, 8))
    with pytest.raises(ValueError, match="no line") as caught:
        types.FunctionType(fail.__code__.replace(co_linetable=nowhere), {"ValueError": ValueError})()
    assert [each.tb_lineno for each in _entries(caught.value)][-1] is None

    report = readable(caught)

    assert "no line" in str(report.getrepr(style="short"))
    assert "no line" in str(report.getrepr(style="long", chain=True))


def _entries(error: BaseException) -> list[types.TracebackType]:
    entries, trace = [], error.__traceback__
    while trace is not None:
        entries.append(trace)
        trace = trace.tb_next
    return entries


def test_connections_are_told_with_the_test_that_left_them(run_mine):
    code, out = run_mine("TestLeaves", "test_a_deleted_record_is_not_leased or empty_store_has_nothing")

    assert code == pytest.ExitCode.OK, out
    told = "TestLeaves: connections that were open after the test that opened them: 1 by test_a_deleted_record_is_not_leased"
    assert re.search(rf"^{told}$", out, re.MULTILINE), out


def test_a_factory_may_have_another_way_to_open_a_peer(run_mine):
    code, out = run_mine("TestOwnPeers", "test_a_peer_sees or test_peers_lease")

    assert code == pytest.ExitCode.OK, out


def test_the_run_ends_with_what_became_of_the_parts_and_why(run_mine):
    code, out = run_mine(
        "TestKnown",
        "test_delete_says or is_not_leased or empty_store or ((a_damaged_record_ or test_put_) and not put_if)",
    )

    assert code == pytest.ExitCode.OK, out
    assert f"conformance of backends, suite {SUITE_VERSION}" in out
    assert re.search(r"^PutGetDelete +\d+ passed, 1 known failure \[\d\]", out, re.MULTILINE)
    assert re.search(r"^\[\d\] known failure: it does not tell$", out, re.MULTILINE)
    assert re.search(r"^\[\d\] known failure, and overridden: it hangs$", out, re.MULTILINE)
    assert re.search(r"^\[\d\] not shown: TestKnown has no damage\(backend, id\)", out, re.MULTILINE)
    assert re.search(r"^TestKnown: \d+ passed, 0 failed, 11 not shown, 3 known failure$", out, re.MULTILINE)
    assert "TestKnown: known failures that passed this time: test_an_empty_store_has_nothing" in out


def test_the_table_is_printed_when_other_processes_run_the_tests(run_mine):
    code, out = run_mine("TestOwnPeers", "test_a_peer_sees", "-n", "1")

    assert code == pytest.ExitCode.OK, out
    assert re.search(r"^TestOwnPeers: 1 passed, 0 failed$", out, re.MULTILINE), out


def test_excuses_that_are_not_the_suites_count_as_skipped(run_mine):
    choice = "test_a_claim_is_in_order or test_a_claim_holds_no_more or can_be_deleted or delete_says"

    _, out = run_mine("TestExcuses", choice)

    assert "TestExcuses: 1 passed, 0 failed, 5 skipped\n" in out
    assert "TestMarked: 1 passed, 0 failed, 5 skipped\n" in out


def test_a_failure_is_counted(run_of_the_wrong):
    code, out = run_of_the_wrong

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "TestNoBackend: 1 failed" in out


def test_without_the_kit_pitstop_testing_works_and_names_what_to_install():
    script = """
import sys
for each in ("pitstop_conformance", "pytest", "hypothesis"):
    sys.modules[each] = None
import pitstop.testing
pitstop.testing.ManualClock()
assert "ManualClock" in dir(pitstop.testing)
assert "BackendConformance" not in dir(pitstop.testing)
from pitstop.testing import *
try:
    from pitstop.testing import BackendConformance
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)

    assert done.stderr == ""
    assert done.stdout.startswith("pitstop.testing.BackendConformance is part of the distribution pitstop-conformance")
    assert done.stdout.endswith("pip install pitstop-conformance\n")


def test_with_the_kit_pitstop_testing_has_its_class():
    assert pitstop.testing.BackendConformance is BackendConformance
    assert "BackendConformance" in dir(pitstop.testing)


def test_core_names_the_version_of_the_suite_that_the_kit_has():
    """``pitstop backends`` compares with it where no kit is installed."""
    assert pitstop.abc.SUITE_VERSION == SUITE_VERSION


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("0.0.9", "The installed pitstop-core 0.0.9 is older. .* pip install --upgrade pitstop-core$"),
        ("0.2.0", "The installed pitstop-core 0.2.0 is newer. .* pip install --upgrade pitstop-conformance$"),
        ("1.0.0rc1", "The installed pitstop-core 1.0.0rc1 is newer."),
    ],
)
def test_another_release_of_core_is_refused_with_both_versions(monkeypatch, version, told):
    monkeypatch.setattr("pitstop.__version__", version)

    with pytest.raises(
        ImportError, match=r"pitstop-conformance 0.1.0 tests backends of pitstop-core >=0.1,<0.2. " + told
    ):
        check_core()


def test_the_import_of_the_kit_beside_another_release_of_core_says_so():
    script = "import pitstop; pitstop.__version__ = '7.1'; from pitstop.testing import BackendConformance"

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=200, check=False)

    assert (
        "ImportError: pitstop-conformance 0.1.0 tests backends of pitstop-core >=0.1,<0.2. The installed" in done.stderr
    )


@pytest.mark.parametrize("version", ["0.1.0", "0.1.12", "0.1.1.dev3"])
def test_the_releases_of_core_that_fit_are_those_of_the_metadata(monkeypatch, version):
    monkeypatch.setattr("pitstop.__version__", version)

    check_core()

    assert any(each.replace(" ", "") == "pitstop-core<0.2,>=0.1" for each in requires("pitstop-conformance") or ())


@pytest.mark.parametrize("sees", [True, False])
def test_the_table_of_the_suite_is_made_where_its_tests_do_not_run(sees):
    plugins = pytest.PytestPluginManager()
    elsewhere = SuiteElsewhere(SimpleNamespace(pluginmanager=plugins))
    properties = [[PART_PROPERTY, "Store"]] if sees else [["other", 1]]
    location = ("test_mine.py", 1, "TestMine.test_x")

    for _ in range(2):
        report = pytest.TestReport(
            "test_mine.py::TestMine::test_x", location, {}, "passed", None, "call", user_properties=properties
        )
        elsewhere.pytest_runtest_logreport(report)

    matrix = plugins.get_plugin(MATRIX_PLUGIN)
    assert (matrix is not None) is sees
    if sees:
        assert list(matrix.cells.values()) == [{"TestMine": "passed"}]


def test_a_failure_names_the_expected_behaviour_and_the_place_of_its_rule(run_of_the_wrong):
    _, out = run_of_the_wrong

    expected = f"- expected by conformance suite {SUITE_VERSION} -.*\nA claim is in order"
    assert re.search(expected, out), out
    assert "\nThe rule stands in pitstop.abc.Backend.lease.\n" in out
    assert "\nThe rule stands in pitstop.abc.Backend.put, get and delete.\n" in out


def test_the_places_of_the_rules_exist():
    for part in set(kit_tests(BackendConformance).values()):
        for name in re.findall(r"pitstop\.abc\.Backend\.(\w+)", part.rule):
            assert hasattr(pitstop.abc.Backend, name)
        for document, title in re.findall(r'docs/([\w-]+\.md)(?:, "([^"]+)")?', part.rule):
            text = (Path(__file__).parents[2] / "docs" / document).read_text()
            assert not title or re.search(rf"^##+ `?{re.escape(title)}`?$", text, re.MULTILINE), part.rule


def test_the_matrix_has_no_empty_cell_or_the_run_fails(pytestconfig: pytest.Config):
    memory = Path(__file__).with_name("test_memory.py")

    code, out = _pytest(pytestconfig.rootpath, str(memory), "--matrix", "-k", "test_a_claim_is_in_order")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "test_a_claim_is_in_order has no result on TestSqlite" in out
    assert "TestMemory: 1 passed, 0 failed" in out


def _pytest(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    return done.returncode, done.stdout + done.stderr
