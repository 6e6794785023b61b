"""The findings of a check."""

from __future__ import annotations

from typing import Literal

import attrs


__all__ = ["Finding", "Status"]

#: ``warning``: nothing is broken, but the user should know the finding.
Status = Literal["ok", "failed", "warning"]


@attrs.frozen
class Finding:
    """One thing that was inspected or tried. Its texts hold no secret, and nothing of a stored message."""

    name: str
    status: Status
    expected: str
    #: The value that was found, or the way in which it differs from the expected one.
    seen: str
    #: How long it took, on this machine's clock.
    milliseconds: float
