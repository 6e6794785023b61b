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
        # By a key of each claim. A thread changes it in one step.
        self._claims: dict[object, Versions] = {}

    def begin(self) -> tuple[object, Versions]:
        """Return the key of a new claim, and the messages that are noted from now on."""
        key, versions = object(), Versions()
        self._claims[key] = versions
        return key, versions

    def end(self, key: object) -> None:
        """Note nothing more for a claim. Again is harmless."""
        self._claims.pop(key, None)

    @contextmanager
    def noting(self) -> Iterator[Versions]:
        """Yield the messages that are stored or removed in this context, by any thread."""
        key, versions = self.begin()
        try:
            yield versions
        finally:
            self.end(key)

    def note(self, versions: Mapping[str, str | None]) -> None:
        """Note messages that were stored anew or removed, for all claims."""
        for each in tuple(self._claims.values()):
            each.update(versions)
