"""The whole matrix of the conformance suite, test by backend: ``pytest tests/conformance --matrix``. A gap is a failure."""

from __future__ import annotations

import os

import pytest

from pitstop.testing import BackendConformance
from pitstop_conformance._kit import kit_tests
from pitstop_conformance._matrix import Matrix


#: The classes of tests that the matrix must contain.
BACKENDS = ("TestMemory", "TestSqlite", "TestMongo", "TestMongomock", "TestPostgres", "TestFilesystem")

#: The most gaps that are printed one by one.
_GAPS_NAMED = 20


@pytest.fixture
def fewer_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try half of the usual sequences on a backend on which each takes long. `nox -s large` tries all."""
    if not os.environ.get("PITSTOP_TEST_LARGE") and not os.environ.get("PITSTOP_KIT_EXAMPLES"):
        monkeypatch.setenv("PITSTOP_KIT_EXAMPLES", "40")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--matrix",
        action="store_true",
        dest="pitstop_matrix",
        help="print each test of the shared suite by backend, and fail if one is missing anywhere",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("pitstop_matrix"):
        config.pluginmanager.register(WholeMatrix(), "pitstop-matrix")


class WholeMatrix(Matrix):
    """A matrix in which no cell may be empty."""

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._gaps() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        super().pytest_terminal_summary(terminalreporter)
        gaps = self._gaps()
        for gap in gaps[:_GAPS_NAMED]:
            terminalreporter.write_line(f"GAP: {gap}", red=True)
        terminalreporter.write_line(
            f"{len(kit_tests(BackendConformance))} tests, {len(BACKENDS)} backends, {len(gaps)} gaps"
        )

    def _gaps(self) -> list[str]:
        gaps = [
            f"{row} has no result on {each}" if each not in cells else f"{row} was skipped on {each}"
            for row, cells in self.cells.items()
            for each in BACKENDS
            if cells.get(each, "skipped") == "skipped"
        ]
        ran = {row.test for row in self.cells}
        return [*gaps, *(f"{test} ran nowhere" for test in kit_tests(BackendConformance) if test not in ran)]
