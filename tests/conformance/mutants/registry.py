"""Mutants, and the list of all of them."""

from __future__ import annotations

import threading

from collections.abc import Callable

import attrs

from pitstop.abc import Backend
from pitstop_memory import MemoryBackend
from pitstop_sqlite import SqliteBackend


__all__ = ["MUTANTS", "RIGHT", "Mutant", "mutant", "right", "round_trip"]


@attrs.frozen
class Mutant:
    """A backend with one defect, as a real author might make it."""

    backend: type[Backend]
    #: Tests of the suite that must fail on the mutant and pass on its origin: their names, with a parameter where only that
    #: parameter shows the defect.
    killed_by: tuple[str, ...]
    #: Finding the defect takes seconds, so only ``nox -s mutants`` runs this mutant.
    slow: bool = False

    @property
    def name(self) -> str:
        return self.backend.__name__

    @property
    def origin(self) -> type[Backend]:
        """The backend without the defect."""
        return next(each for each in self.backend.__mro__ if each.__name__ in RIGHT)

    @property
    def defect(self) -> str:
        """The first sentence of its docstring."""
        text = " ".join((self.backend.__doc__ or "").split())
        return text.partition(". ")[0].rstrip(".")


#: By name: the origins of mutants. The suite must pass on them.
RIGHT: dict[str, type[Backend]] = {"MemoryBackend": MemoryBackend, "SqliteBackend": SqliteBackend}
#: By name, in the order of their modules.
MUTANTS: dict[str, Mutant] = {}


def mutant(*killed_by: str, slow: bool = False) -> Callable[[type[Backend]], type[Backend]]:
    """List a class of backends as a mutant."""

    def add(backend: type[Backend]) -> type[Backend]:
        assert backend.__name__ not in MUTANTS
        assert backend.__doc__, f"{backend.__name__} has no docstring that names its mistake"
        MUTANTS[backend.__name__] = Mutant(backend, killed_by, slow)
        return backend

    return add


def right(backend: type[Backend]) -> type[Backend]:
    """List a class of backends that is the origin of mutants."""
    RIGHT[backend.__name__] = backend
    return backend


def round_trip() -> None:
    """Take as long as a server does to answer, so that tests see the events in between."""
    threading.Event().wait(0.001)
