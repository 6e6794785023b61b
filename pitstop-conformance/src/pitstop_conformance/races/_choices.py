"""Choices of kinds for the claimers of a race: claims without kinds, claims of some kinds, and both together."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from pitstop.abc import AllBut, Backend, Capability, Damaged, Record
from pitstop_conformance._kit import needs


__all__ = ["CHOICES", "Choice"]

#: The kinds of the records, in turn.
_KINDS = ("mail", "bulk", "")


@attrs.frozen
class Choice:
    """The kinds that the claimers of a race choose. Together they choose all."""

    #: For each claimer its kinds. None: it claims without kinds.
    of: tuple[Collection[str] | None, ...]

    def check(self, backend: Backend) -> None:
        """End the test if it needs kinds and the backend does not declare them."""
        if self.has_kinds:
            needs(backend, Capability.KINDS)

    @property
    def has_kinds(self) -> bool:
        return any(each is not None for each in self.of)

    def kind(self, n: int) -> str:
        """Return the kind of record number ``n``."""
        return _KINDS[n % len(_KINDS)] if self.has_kinds else ""

    def room(self, count: int) -> int:
        """Return how many records to store, so that there are ``count`` of each kind."""
        return count * len(_KINDS) if self.has_kinds else count

    def lease(self, claimer: int, backend: Backend, limit: int, duration: int) -> Sequence[Record | Damaged]:
        """Claim with the kinds of this claimer. A claim without kinds leaves the argument out, as core does."""
        kinds = self.of[claimer]
        return backend.lease(limit, duration) if kinds is None else backend.lease(limit, duration, kinds)


#: By name. Each has four claimers.
CHOICES: dict[str, Choice] = {
    "without_kinds": Choice((None, None, None, None)),
    "of_kinds": Choice((["mail", "bulk"], ["bulk", "", "mail"], AllBut(["bulk"]), AllBut(["none"]))),
    "of_both": Choice((None, ["mail", ""], AllBut(["mail"]), ["bulk"])),
}
