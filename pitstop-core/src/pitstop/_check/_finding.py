"""What a check found."""

from __future__ import annotations

from typing import Literal

import attrs


__all__ = ["Finding", "Status"]

#: ``warning``: nothing is broken, but somebody should know.
Status = Literal["ok", "failed", "warning"]


@attrs.frozen
class Finding:
    """One thing that was looked at or tried. Its texts hold no secret, and nothing of a stored message."""

    name: str
    status: Status
    expected: str
    #: What was seen instead, or what there was to see.
    seen: str
    #: How long it took, on this machine's clock.
    milliseconds: float
