"""Claimers: the claimer for all kinds, and one for each choice of some kinds that listeners made.

Threads: any thread claims, and adds the claimer of its choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import count

import attrs

from pitstop.abc import AllBut
from pitstop_mongo._messages.claimer import Claimer


__all__ = ["Claimers"]

#: The most choices of kinds that are remembered. Each store of a message looks at all of them.
_MOST = 64


@attrs.define
class _Used:
    claimer: Claimer
    #: The number of its last use.
    last: int


class Claimers:
    """The claimers of one backend."""

    def __init__(self, new: Callable[[Collection[str] | None], Claimer]) -> None:
        """Return claimers, of which only the one for all kinds exists.

        :param new: makes the claimer of a choice of kinds. None: of all kinds.
        """
        self._new = new
        self._uses = count()
        self._some: dict[tuple[bool, frozenset[str]], _Used] = {}
        #: The claimer for all kinds.
        self.all = new(None)

    def of(self, kinds: Collection[str]) -> Claimer:
        """Return the claimer of a choice of kinds, the same one as before unless many others were used since."""
        key = (isinstance(kinds, AllBut), frozenset(kinds))
        used = self._some.get(key)
        if used is None:
            self._make_room()
            used = self._some.setdefault(key, _Used(self._new(kinds), 0))
        used.last = next(self._uses)
        return used.claimer

    def written(self, due: int | None) -> None:
        """Note that this process wrote a message with this ``due``."""
        self.all.written(due)
        if self._some:
            for each in tuple(self._some.values()):
                each.claimer.written(due)

    def __len__(self) -> int:
        """Return the number of choices that are remembered."""
        return len(self._some)

    def _make_room(self) -> None:
        # A claimer with a lost claim finds its messages again. Without it, they come back when their leases end.
        known = tuple(self._some.items())
        if len(known) >= _MOST:
            key, _ = min(known, key=lambda each: (each[1].claimer.in_doubt, each[1].last))
            self._some.pop(key, None)
