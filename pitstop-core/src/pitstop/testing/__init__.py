"""Tools for tests: a clock in the hand, and the suite that a backend has to pass.

The suite needs pytest and hypothesis (``pip install 'pitstop-core[testing]'``); the rest of this package does not, and
``BackendConformance`` is imported when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pitstop.testing._clock import ManualClock


if TYPE_CHECKING:
    from pitstop.testing._conformance import BackendConformance

__all__ = ["BackendConformance", "ManualClock"]


def __getattr__(name: str) -> Any:
    if name != "BackendConformance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import hypothesis  # noqa: F401, PLC0415 - an extra, and slow to import
        import pytest  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        raise ImportError(
            f"pitstop.testing.{name} needs pytest and hypothesis ({error}). Install them with: "
            "pip install 'pitstop-core[testing]'"
        ) from error
    # Before the suite is imported, so that a failure shows the values that were compared.
    pytest.register_assert_rewrite("pitstop.testing._conformance")
    from pitstop.testing._conformance import BackendConformance  # noqa: PLC0415 - see above

    return BackendConformance
