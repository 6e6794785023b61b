"""Stored: the id of a message that was stored, with the result of the store."""

from __future__ import annotations

from typing import Any, Literal, Self


__all__ = ["Done", "IfExists", "Stored"]

#: The treatment of a stored message with the id. ``replace``: the new message takes its place. ``keep``: the message stays
#: if it has the same schedule. ``error``: :class:`pitstop.Conflict` is raised.
IfExists = Literal["replace", "keep", "error"]

#: The result of a store: see :attr:`Stored.outcome`.
Done = Literal["stored", "created", "replaced", "updated", "kept"]


class Stored(str):
    """The id of a message, as ``store`` returns it: text that also has the result of the store.

    It is equal to the plain id, has its hash and its repr, and is the plain id in JSON, in a pickle and in a copy.

    >>> from pitstop import Stored
    >>> stored = Stored("report", "kept")
    >>> stored == "report", stored.outcome, stored
    (True, 'kept', 'report')
    """

    __slots__ = ("_outcome",)
    _outcome: Done

    def __new__(cls, id: str, outcome: Done) -> Self:
        stored = super().__new__(cls, id)
        stored._outcome = outcome
        return stored

    @property
    def outcome(self) -> Done:
        """The result of the store.

        ``"created"``: there was no message with the id. ``"replaced"``: the message took the place of another one. ``"updated"``:
        the body of the message was replaced, and its schedule stayed. ``"kept"``: nothing was written. ``"stored"``: created or
        replaced. A store with ``if_exists="replace"`` does not look, because that would take a round trip.
        """
        return self._outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str.__str__(self),)
