"""A number with its noun, for sentences that people read."""

from __future__ import annotations


__all__ = ["counted"]


def counted(count: int, one: str, many: str) -> str:
    """Return the number and its words: ``one`` if the number is 1, else ``many``."""
    return f"{count} {one if count == 1 else many}"
