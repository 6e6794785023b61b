"""The shared suite on the memory backend."""

from __future__ import annotations

import uuid

import pytest

from pitstop.testing import BackendConformance
from pitstop_memory import MemoryBackend


class TestMemory(BackendConformance):
    """Without ``damage``: nobody but the backend itself can reach what is stored in this process."""

    @pytest.fixture
    def make_backend(self):
        name = uuid.uuid4().hex
        return lambda **options: MemoryBackend.from_options({"name": name, **options})
