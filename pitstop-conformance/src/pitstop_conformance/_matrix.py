"""The matrix: the result of each test of the suite on each backend, printed at the end of a run.

The matrix is a plugin of pytest. The first test of the suite registers it, so that an author has to write nothing but a
subclass of ``BackendConformance``.
"""

from __future__ import annotations

import inspect

from collections import Counter, defaultdict
from collections.abc import Generator
from typing import Any, NoReturn

import attrs
import pytest

from pitstop_conformance._core import SUITE_VERSION
from pitstop_conformance._limit import readable


__all__ = ["LEFT_PROPERTY", "MATRIX_PLUGIN", "PART_PROPERTY", "Matrix", "Row", "end", "take_part"]

#: In ``user_properties`` of a report: the part of the suite that the test belongs to. pytest-xdist carries these properties
#: from the process that runs a test to the process that reports.
PART_PROPERTY = "pitstop-conformance"
#: The name of the plugin that makes the table. The first test of the suite registers it in its own process.
MATRIX_PLUGIN = "pitstop-matrix"
#: Likewise in ``user_properties``: the connections that a test left open.
LEFT_PROPERTY = "pitstop-conformance-left-open"
#: Tests that a line of the summary names.
_NAMED = 5
#: Likewise in ``user_properties``: the test was skipped, or expected to fail, by code that is not the suite's.
_FOREIGN = "pitstop-conformance-skipped"
#: On a test that ``known_failures`` lists.
_LISTED = pytest.StashKey[bool]()


class _End(pytest.xfail.Exception):  # type: ignore[misc, name-defined]
    """Raised when the suite itself ends a test that cannot show anything."""


def end(reason: str) -> NoReturn:
    """End a test without a result. The matrix shows the reason. A test that other code ends counts as skipped there."""
    raise _End(reason)


def take_part(item: pytest.Item, *, listed: bool) -> None:
    """Register the matrix, unless it is registered already.

    :param listed: whether the test is listed as a known failure.
    """
    item.stash[_LISTED] = listed
    plugins = item.config.pluginmanager
    if not plugins.has_plugin(MATRIX_PLUGIN):
        plugins.register(Matrix(), MATRIX_PLUGIN)


@attrs.frozen
class Row:
    """A test with one set of parameters."""

    part: str
    test: str
    parameters: str

    def __str__(self) -> str:
        return f"{self.test}[{self.parameters}" if self.parameters else self.test


class Matrix:
    """The results: by row and then by class of tests, a word or a reason."""

    def __init__(self) -> None:
        self.cells: dict[Row, dict[str, str]] = defaultdict(dict)
        #: By class of tests and then by test: how many connections it left open.
        self.left_open: dict[str, dict[str, int]] = defaultdict(dict)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.excinfo is not None:
            call.excinfo = readable(call.excinfo)
        report = yield
        cls: Any = getattr(item, "cls", None)
        part = cls.part_of(_test_of(item)) if hasattr(cls, "part_of") else None
        if part is not None:
            report.user_properties.append((PART_PROPERTY, part))
            if report.failed:
                expected = _expected(item, cls.rule_of(_test_of(item)))
                report.sections.append((f"expected by conformance suite {SUITE_VERSION}", expected))
            by_kit = isinstance(call.excinfo and call.excinfo.value, _End) or item.stash.get(_LISTED, False)
            if (report.skipped or hasattr(report, "wasxfail")) and not by_kit:
                report.user_properties.append((_FOREIGN, True))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        part = dict(report.user_properties).get(PART_PROPERTY)
        if part is None:
            return
        _, cls, name = _split(report.nodeid)
        if report.when == "teardown":
            for left in [each for key, each in report.user_properties if key == LEFT_PROPERTY]:
                self.left_open[cls][name] = len(left)  # type: ignore[arg-type]
        test, _, parameters = name.partition("[")
        cells = self.cells[Row(str(part), test, parameters)]
        result = _result(report)
        # A failure in the setup or the teardown of a test counts more than the test's own result.
        if result is not None and not (result == "passed" and cls in cells):
            cells[cls] = result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.cells:
            return
        write = terminalreporter.write_line
        terminalreporter.section(f"conformance of backends, suite {SUITE_VERSION}")
        columns = sorted({cls for cells in self.cells.values() for cls in cells})
        reasons: dict[str, int] = {}
        whole = terminalreporter.config.getoption("pitstop_matrix", default=False)
        for line in _table(self._rows(whole=whole), columns, reasons):
            write(line)
        for reason, number in reasons.items():
            write(f"[{number}] {reason}")
        for cls in columns:
            write(f"{cls}: {self._sum(cls)}")
        for line in [*self._passing_now(columns), *self._leaving_open()]:
            write(line, yellow=True)

    def _rows(self, *, whole: bool) -> dict[str, list[dict[str, str]]]:
        """Return the cells of each test, or of each part of the suite."""
        rows: dict[str, list[dict[str, str]]] = defaultdict(list)
        for row, cells in self.cells.items():
            rows[row.test if whole else row.part].append(cells)
        return rows

    def _sum(self, cls: str) -> str:
        counts = Counter(_kind(cells[cls]) for cells in self.cells.values() if cls in cells)
        order = ["passed", "failed", "skipped", "not declared", "not shown", "known failure"]
        return ", ".join(f"{counts[kind]} {kind}" for kind in order if kind in counts or kind == "failed")

    def _passing_now(self, columns: list[str]) -> list[str]:
        lines = []
        for cls in columns:
            results: dict[str, set[str]] = defaultdict(set)
            for row, cells in self.cells.items():
                results[row.test].add(cells.get(cls, ""))
            now = sorted(test for test, seen in results.items() if all(each.endswith(_PASSES) for each in seen))
            if now:
                lines.append(f"{cls}: known failures that passed this time: {', '.join(now)}")
        return lines

    def _leaving_open(self) -> list[str]:
        lines = []
        for cls, tests in sorted(self.left_open.items()):
            named = ", ".join(f"{number} by {test}" for test, number in list(tests.items())[:_NAMED])
            more = f", and more by {len(tests) - _NAMED} other tests" if len(tests) > _NAMED else ""
            lines.append(f"{cls}: connections that were open after the test that opened them: {named}{more}")
        return lines


_PASSES = " (passed this time)"


def _expected(item: pytest.Item, rule: str) -> str:
    """Return the behaviour that a test of the suite expects, and the place of its rule, for the author of a backend."""
    name = _test_of(item).removeprefix("test_").replace("_", " ")
    described = inspect.getdoc(getattr(item, "function", None))
    return "\n".join(
        [f"{name[:1].upper()}{name[1:]}.", *([described] if described else []), f"The rule stands in {rule}."]
    )


def _test_of(item: pytest.Item) -> str:
    """Return the name of a test without its parameters."""
    return str(getattr(item, "originalname", item.name))


def _split(nodeid: str) -> list[str]:
    # Parameters may contain "::".
    head, bracket, parameters = nodeid.partition("[")
    *before, cls, test = head.split("::")
    return ["::".join(before), cls, f"{test}{bracket}{parameters}"]


def _result(report: pytest.TestReport) -> str | None:
    expected = getattr(report, "wasxfail", None)
    if expected is not None and _FOREIGN not in dict(report.user_properties):
        return str(expected).removeprefix("reason: ") + (_PASSES if report.passed else "")
    if report.failed:
        return "failed"
    if report.skipped:
        return "skipped"
    return "passed" if report.when == "call" else None


def _kind(result: str) -> str:
    """Return the word for a result, without its reason."""
    for kind in ("not declared", "not shown", "known failure"):
        if result.startswith(kind):
            return kind
    return result


def _table(rows: dict[str, list[dict[str, str]]], columns: list[str], reasons: dict[str, int]) -> list[str]:
    table = [["", *columns]]
    for name, cells in rows.items():
        table.append([name, *(_cell([each[cls] for each in cells if cls in each], reasons) for cls in columns)])
    widths = [max(len(line[n]) for line in table) for n in range(len(columns) + 1)]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in table]


def _cell(results: list[str], reasons: dict[str, int]) -> str:
    shown = []
    for result, count in Counter(results).items():
        kind = _kind(result)
        mark = "" if result == kind else f" [{reasons.setdefault(result, len(reasons) + 1)}]"
        shown.append(f"{count} {kind}{mark}")
    return ", ".join(shown) or "-"
