"""The kit's plugin for pytest: it has the table of results printed when the tests ran in other processes (pytest-xdist).

Each run of pytest imports this module wherever the kit is installed, also for projects without a backend. So it stands
beside the package, and imports nothing of it before a report of the suite arrives.
"""

from __future__ import annotations

import pytest


__all__ = ["SuiteElsewhere"]

#: These two names stand in pitstop_conformance/_matrix.py as well, which explains them.
_PART_PROPERTY = "pitstop-conformance"
_MATRIX_PLUGIN = "pitstop-matrix"


def pytest_configure(config: pytest.Config) -> None:
    """Watch the reports in a process that does not run the tests: no test registers the table there."""
    if config.pluginmanager.has_plugin("xdist") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SuiteElsewhere(config), "pitstop-suite")


class SuiteElsewhere:
    """Registers the table when the first report of the suite arrives from another process."""

    def __init__(self, config: pytest.Config) -> None:
        self._plugins = config.pluginmanager

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Register the table, and give it this report, which was on its way before the table could see it."""
        if self._plugins.has_plugin(_MATRIX_PLUGIN) or all(
            name != _PART_PROPERTY for name, _ in report.user_properties
        ):
            return
        from pitstop_conformance._matrix import Matrix  # noqa: PLC0415 - see the docstring of the module

        matrix = Matrix()
        self._plugins.register(matrix, _MATRIX_PLUGIN)
        matrix.pytest_runtest_logreport(report)
