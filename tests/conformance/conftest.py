"""The matrix of the shared suite: test by backend, without a gap."""

from __future__ import annotations

import pytest


# Before anything imports it, so that a failure shows the values that were compared.
pytest.register_assert_rewrite("conformance.suite")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "concurrent: threads that race; needs a store whose writes are atomic")
