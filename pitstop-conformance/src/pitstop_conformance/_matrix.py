"""What became of each test of the suite on each backend, printed at the end of a run.

A plugin of pytest that the first test of the suite registers, so that a subclass of ``BackendConformance`` is all that
an author has to write.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator
from typing import NoReturn

import attrs
import pytest

from pitstop_conformance._core import SUITE_VERSION


__all__ = ["MATRIX_PLUGIN", "PART_PROPERTY", "Matrix", "Row", "end", "take_part"]

#: In ``user_properties`` of a report: the part of the suite that its test is from. These properties also get from the
#: process that runs a test to the one that reports, if they are two.
PART_PROPERTY = "pitstop-conformance"
#: The name of the plugin that makes the table. The first test of the suite registers it in its own process.
MATRIX_PLUGIN = "pitstop-matrix"
#: Likewise in ``user_properties``: the test was skipped, or expected to fail, by code that is not the suite's.
_FOREIGN = "pitstop-conformance-skipped"
#: On a test that ``known_failures`` lists.
_LISTED = pytest.StashKey[bool]()


class _End(pytest.xfail.Exception):  # type: ignore[misc, name-defined]
    """The suite itself ends a test: it knows why there is nothing to see."""


def end(reason: str) -> NoReturn:
    """End a test that has no result, with a reason for the matrix. What anybody else ends counts as skipped there."""
    raise _End(reason)


def take_part(item: pytest.Item, *, listed: bool) -> None:
    """Let the results of tests be in the matrix from here on.

    :param listed: this one is listed as a known failure.
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
    """The table: by row, then by the class of tests, a word or a reason."""

    def __init__(self) -> None:
        self.cells: dict[Row, dict[str, str]] = defaultdict(dict)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        part_of = getattr(getattr(item, "cls", None), "part_of", None)
        part = None if part_of is None else part_of(getattr(item, "originalname", item.name))
        if part is not None:
            report.user_properties.append((PART_PROPERTY, part))
            by_kit = isinstance(call.excinfo and call.excinfo.value, _End) or item.stash.get(_LISTED, False)
            if (report.skipped or hasattr(report, "wasxfail")) and not by_kit:
                report.user_properties.append((_FOREIGN, True))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        part = dict(report.user_properties).get(PART_PROPERTY)
        if part is None:
            return
        _, cls, name = _split(report.nodeid)
        test, _, parameters = name.partition("[")
        cells = self.cells[Row(str(part), test, parameters)]
        result = _result(report)
        # What went wrong in the beginning or at the end of a test counts more than what was seen in between.
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
        for line in self._passing_now(columns):
            write(line, yellow=True)

    def _rows(self, *, whole: bool) -> dict[str, list[dict[str, str]]]:
        """By test, or by part of the suite, its cells."""
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


_PASSES = " (passed this time)"


def _split(nodeid: str) -> list[str]:
    # Parameters may hold "::" themselves.
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
    """The word for a result; the rest of it is a reason."""
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
