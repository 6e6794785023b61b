"""The stored form of a series that stands for a document which could not be read when its store was copied."""

from __future__ import annotations


__all__ = ["LEFT_BEHIND"]

#: The one key of that form. Its value is the reason. No release emits a message with such a series.
LEFT_BEHIND = "left_behind"
