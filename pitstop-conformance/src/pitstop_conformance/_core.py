"""The releases of pitstop-core that this kit fits, checked when the kit is imported.

pip checks the same range when it installs the kit. A later ``pip install`` of core, or ``--no-deps``, may still put
another release beside it. Then the import of a name that core lacks would fail, and say nothing of the versions.
"""

from __future__ import annotations

import re

import pitstop


__all__ = ["SUITE_VERSION", "__version__", "check_core"]

__version__ = "0.1.0"

#: The version of the suite. It grows whenever a backend that passed may no longer do so.
SUITE_VERSION = 6

#: From the first of these releases of pitstop-core on, and before the second one; pyproject.toml has the same range.
_FIRST, _BEFORE = (0, 1), (0, 2)


def check_core() -> None:
    """Refuse a release of pitstop-core that this kit is not made for.

    :raises ImportError: naming both versions, and the command that installs a pair that fits.
    """
    given = tuple(int(part) for part in re.findall(r"\d+", pitstop.__version__)[:2])
    if _FIRST <= given < _BEFORE:
        return
    age, remedy = (
        ("older", "pip install --upgrade pitstop-core")
        if given < _FIRST
        else ("newer", "pip install --upgrade pitstop-conformance")
    )
    raise ImportError(
        f"pitstop-conformance {__version__} tests backends of pitstop-core >={_text(_FIRST)},<{_text(_BEFORE)}. The installed "
        f"pitstop-core {pitstop.__version__} is {age}. Install releases that fit together: {remedy}"
    )


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
