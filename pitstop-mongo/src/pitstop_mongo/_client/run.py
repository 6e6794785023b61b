"""Run: one run of a write that may be repeated, and whether it has changed anything yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import attrs

from pymongo.errors import OperationFailure

from pitstop_mongo._client.link import Link


__all__ = ["Run"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


@attrs.define
class Run:
    """One run of a write. A run sends one command or several, and may read between them.

    Invariant: once a command has changed something, or may have, :attr:`wrote` is true. No later failure of the run, of a
    read for example, then means that nothing was written. So each command that writes is sent by :meth:`send`
    or :meth:`send_many`. Only the thread that runs the write uses this object.
    """

    link: Link
    #: Whether an earlier run, or an earlier command of this run, may have written the same.
    again: bool
    #: Whether a command of this run has changed something, or may have.
    wrote: bool = attrs.field(default=False, init=False)
    #: Ids of messages that an earlier run, or a command of this run, may have changed, and that another program has changed since.
    unknown: set[str] = attrs.field(factory=set, init=False)

    def send(self, command: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """Send a command that writes. If it fails, its own error says whether something was written."""
        result = command(*args, **options)
        self.wrote = True
        return result

    def send_many(self, command: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
        """Send a command that the server may refuse halfway, with some of its documents written."""
        try:
            return self.send(command, *args, **options)
        except OperationFailure:
            self.wrote = True
            raise
