"""AtLeast: a count that stopped at its bound."""

from __future__ import annotations


__all__ = ["MOST_COUNTED", "AtLeast"]

#: The most missed occurrences that are counted one by one. A backlog of a year must not delay an emission.
MOST_COUNTED = 1000


class AtLeast(int):
    """A number that is a lower bound. It is an ``int``, and its text is "at least 1000"."""

    __slots__ = ()

    def __str__(self) -> str:
        return f"at least {int(self)}"

    def __repr__(self) -> str:
        return f"AtLeast({int(self)})"

    def __format__(self, spec: str) -> str:
        return format(int(self), spec) if spec else str(self)
