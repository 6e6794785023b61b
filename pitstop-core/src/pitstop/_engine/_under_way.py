"""UnderWay: the claims that are under way, and the messages that were stored or removed since each began.

A claim may bring an older version of such a message, which no handler is to get.

Threads: any; a claiming thread adds and deletes its own claim, and any thread notes messages for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


__all__ = ["UnderWay", "Versions"]

#: The messages, by id: the revision that was stored, None if the message was removed.
Versions = dict[str, str | None]


class UnderWay:
    """The claims of one listener."""

    def __init__(self) -> None:
        #: The messages that are noted for each claim, by a key of its own. A claiming thread adds and deletes its own, without a
        #: call of this class for each claim.
        self.claims: dict[object, Versions] = {}

    @contextmanager
    def noting(self) -> Iterator[Versions]:
        """Yield the messages that are stored or removed in this context, by any thread."""
        key, versions = object(), Versions()
        self.claims[key] = versions
        try:
            yield versions
        finally:
            self.claims.pop(key, None)

    def note(self, versions: Mapping[str, str | None]) -> None:
        """Note messages that were stored anew or removed, for all claims."""
        for each in tuple(self.claims.values()):
            each.update(versions)
