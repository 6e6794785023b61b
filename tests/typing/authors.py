"""The kit as the author of a backend uses it, for a type checker: never run, checked by ``mypy --strict``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, assert_type

import pytest

import pitstop.testing
import pitstop_conformance

from pitstop.abc import Backend
from pitstop.testing import BackendConformance, ManualClock
from pitstop_conformance import SUITE_VERSION, BackendContract
from pitstop_memory import MemoryBackend


class TestMine(BackendConformance):
    """All options that an author may give."""

    known_failures: ClassVar[Mapping[str, Collection[str]]] = {"not yet": {"test_a_claim_is_in_order"}}

    @pytest.fixture
    def make_backend(self, tmp_path: Path) -> Callable[..., Backend]:
        return lambda **options: MemoryBackend.from_options({"name": tmp_path.name, **options})

    def damage(self, backend: Backend, id: str) -> None:
        assert isinstance(backend, MemoryBackend)

    @contextmanager
    def transaction(self, backend: Backend) -> Iterator[object]:
        yield object()

    def test_of_its_own(self, backend: Backend, clock: ManualClock) -> None:
        assert_type(backend.put([]), None)


class TestContract(BackendContract):
    """A part of the suite alone."""


assert_type(SUITE_VERSION, int)
assert_type(pitstop.testing.BackendConformance, type[pitstop_conformance.BackendConformance])
assert_type(pitstop.testing.BackendConformance.part_of("test_a_claim_is_in_order"), str | None)
