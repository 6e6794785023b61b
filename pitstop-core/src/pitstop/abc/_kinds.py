"""The choice of kinds that a listener makes, as a backend gets it."""

from __future__ import annotations

from collections.abc import Collection


__all__ = ["AllBut", "is_chosen"]


class AllBut(frozenset[str]):
    """A choice of all kinds but these, in the place of a collection of kinds."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"AllBut({sorted(self)})"


def is_chosen(kind: str | None, kinds: Collection[str] | None) -> bool:
    """Whether a choice includes a kind.

    :param kind: None: the stored kind cannot be read. Such a record is included by an :class:`AllBut`, and by no collection.
    :param kinds: None: all kinds.
    """
    if kinds is None:
        return True
    return (kind not in kinds) if isinstance(kinds, AllBut) else (kind in kinds)
