"""A plugin of pytest that writes the result of each test to a file at once, as a line of JSON.

A run that hangs and is ended still leaves the results before.
"""

from __future__ import annotations

import json
import sys
import time

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Imported first, because the import asks pytest to rewrite the suite's assertions.
from pitstop.testing import BackendConformance
from pitstop_conformance import kit_tests


_KIT = str(Path(sys.modules[BackendConformance.__module__].__file__ or "").parent)
_STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--wanted", help="a file with the classes and tests to collect: Class or Class::test", required=True
    )
    parser.addoption("--reports", help="where to write what becomes of each test", required=True)
    parser.addoption("--first", action="store_true", help="end when the first test finds the defect")


def pytest_configure(config: pytest.Config) -> None:
    reports = Path(config.getoption("--reports"))
    wanted = Path(config.getoption("--wanted")).read_text(encoding="utf-8").split()
    config.pluginmanager.register(_Wanted(wanted, _begun(reports)))
    config.pluginmanager.register(_Reports(reports, config.getoption("--first")))


def _begun(reports: Path) -> set[tuple[str, str]]:
    """Return the classes and names of the tests that a process before this one has begun."""
    lines = [json.loads(each) for each in reports.read_text(encoding="utf-8").splitlines()]
    return {(each["cls"], each["name"]) for each in lines}


class _Wanted:
    """Collect the wanted tests alone: collecting the others would take most of the time."""

    def __init__(self, wanted: list[str], begun: set[tuple[str, str]]) -> None:
        self._begun = begun
        self._whole = {each for each in wanted if "::" not in each}
        self._wanted = {*wanted, *(each.partition("::")[0] for each in wanted)}
        #: Each class, and each test without its parameters.
        self._collected = {each.partition("[")[0] for each in self._wanted}

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector: Any, name: str) -> list[pytest.Item] | None:
        if isinstance(collector, pytest.Class):
            wanted = collector.name in self._whole or f"{collector.name}::{name}" in self._collected
        else:
            wanted = name in self._collected
        return None if wanted else []

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [each for each in items if self._wants(each)]

    def _wants(self, item: Any) -> bool:
        cls = item.cls.__name__
        if (cls, item.name) in self._begun:
            return False
        return cls in self._whole or bool(self._wanted & {f"{cls}::{item.originalname}", f"{cls}::{item.name}"})


class _Reports:
    def __init__(self, path: Path, first: bool) -> None:
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._first = first

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: Any) -> None:
        self._file.write(json.dumps({"begun": True, "cls": item.cls.__name__, "name": item.name}) + "\n")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        report = yield
        if report.when == "call" or report.failed:
            line = _line(item, call, report)
            self._file.write(json.dumps(line) + "\n")
            if self._first and report.failed and line["by_kit"]:
                item.session.shouldstop = "the suite has found the defect"
        return report

    def pytest_unconfigure(self) -> None:
        self._file.close()


def _line(item: Any, call: pytest.CallInfo[None], report: pytest.TestReport) -> dict[str, Any]:
    error = call.excinfo.value if call.excinfo else None
    return {
        "cls": item.cls.__name__,
        "part": kit_tests(item.cls)[item.originalname].__module__.rpartition(".")[2],
        "test": item.originalname,
        "name": item.name,
        "outcome": report.outcome,
        "by_kit": report.when == "call" and error is not None and all(_is_of_kit(each) for each in _leaves(error)),
        "error": "" if error is None else f"{type(error).__name__}: {error}".strip().partition("\n")[0],
        "steps": "" if error is None else "\n".join(note for each in _leaves(error) for note in _notes(each)),
        "seconds": time.monotonic() - _STARTED,
    }


def _is_of_kit(error: BaseException) -> bool:
    """Whether an assertion of the suite failed, and not the mutant itself."""
    if isinstance(error, pytest.fail.Exception):
        # Also at the limit of the suite.
        return True
    trace, last = error.__traceback__, ""
    while trace is not None:
        last, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    return isinstance(error, AssertionError) and last.startswith(_KIT)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for each in error.exceptions for leaf in _leaves(each)]
    return [error]


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])
