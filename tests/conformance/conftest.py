"""The matrix of the shared suite, test by backend: ``pytest tests/conformance --matrix``. An empty cell is a failure."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest


# Before anything imports it, so that a failure shows the values that were compared.
pytest.register_assert_rewrite("pitstop.testing._conformance")

#: The backends that are to be in the matrix, by the names of their classes of tests.
BACKENDS = {"TestMemory": "memory", "TestSqlite": "sqlite", "TestMongo": "mongo", "TestMongomock": "mongomock"}

#: Gaps that are told by name; the others are seen in the table.
_GAPS_NAMED = 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--matrix",
        action="store_true",
        help="print each test of the shared suite by backend, and fail if one is missing anywhere",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "concurrent: threads that race; needs a store whose writes are atomic")
    if config.getoption("--matrix"):
        config.pluginmanager.register(Matrix(), "pitstop-matrix")


class Matrix:
    """What became of each test on each backend."""

    def __init__(self) -> None:
        # By test, then by the id of its parameters, then by backend.
        self._rows: dict[str, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        parts = report.nodeid.split("::", 2)
        backend = BACKENDS.get(parts[1]) if len(parts) == 3 else None
        if backend is None:
            return
        test, _, parameters = parts[2].partition("[")
        cells = self._rows[test][parameters]
        if hasattr(report, "wasxfail"):
            cells[backend] = "FAILED" if report.passed else report.wasxfail.removeprefix("reason: ")
        elif report.failed:
            cells[backend] = "FAILED"
        elif report.skipped:
            cells[backend] = "SKIPPED"
        elif report.when == "call":
            cells.setdefault(backend, "passed")

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._gaps() and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        reasons: dict[str, int] = {}
        names = list(BACKENDS.values())
        width = max(map(len, [*self._expected(), "test"]))
        write = terminalreporter.write_line
        terminalreporter.section("matrix of the shared suite")
        write(f"{'test':<{width}}  " + "  ".join(f"{name:<14}" for name in names).rstrip())
        for test in self._expected():
            cells = [self._cell(test, name, reasons) for name in names]
            write(f"{test:<{width}}  " + "  ".join(f"{cell:<14}" for cell in cells).rstrip())
        for reason, number in reasons.items():
            write(f"[{number}] {reason}")
        totals = Counter(
            (name, cells.get(name, "EMPTY"))
            for rows in self._rows.values()
            for cells in rows.values()
            for name in names
        )
        for name in names:
            passed, failed = totals[name, "passed"], totals[name, "FAILED"]
            rest = sum(totals[name, reason] for reason in reasons)
            write(f"{name}: {passed} passed, {failed} failed, {rest} not shown")
        gaps = self._gaps()
        for gap in gaps[:_GAPS_NAMED]:
            terminalreporter.write_line(f"GAP: {gap}", red=True)
        write(f"{len(self._expected())} tests, {len(names)} backends, {len(gaps)} gaps")

    def _expected(self) -> list[str]:
        from pitstop.testing._conformance import BackendConformance, kit_tests

        return list(dict.fromkeys([*kit_tests(BackendConformance), *self._rows]))

    def _gaps(self) -> list[str]:
        gaps = []
        for test, rows in self._rows.items():
            for parameters, cells in rows.items():
                name = f"{test}[{parameters}" if parameters else test
                gaps += [
                    f"{name} has no result on {each}" if each not in cells else f"{name} was skipped on {each}"
                    for each in BACKENDS.values()
                    if cells.get(each, "SKIPPED") == "SKIPPED"
                ]
        return [*gaps, *(f"{test} ran nowhere" for test in self._expected() if test not in self._rows)]

    def _cell(self, test: str, backend: str, reasons: dict[str, int]) -> str:
        rows = self._rows.get(test, {})
        counts = Counter(cells.get(backend, "EMPTY") for cells in rows.values()) or Counter(["EMPTY"])
        shown = []
        for result, count in counts.items():
            number = f" {count}" if len(rows) > 1 else ""
            if result in ("passed", "FAILED", "SKIPPED", "EMPTY"):
                shown.append(f"{result}{number}")
            else:
                kind = "undeclared" if result.startswith("not declared") else "not shown"
                shown.append(f"{kind}{number} [{reasons.setdefault(result, len(reasons) + 1)}]")
        return ", ".join(shown)
