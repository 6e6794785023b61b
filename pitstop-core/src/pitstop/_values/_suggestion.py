"""The known name that a user probably meant."""

from __future__ import annotations

import difflib

from collections.abc import Iterable


__all__ = ["did_you_mean"]

#: The most characters of a name that are compared.
_LONGEST = 100


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'x'? "`` for the known name closest to the given name, or an empty text."""
    close = difflib.get_close_matches(given[:_LONGEST], list(known), n=1)
    return f"Did you mean {close[0]!r}? " if close else ""
