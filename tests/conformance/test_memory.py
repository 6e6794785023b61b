"""The conformance suite on the memory backend."""

from __future__ import annotations

import uuid

import pytest

from pitstop.testing import BackendConformance
from pitstop_memory import MemoryBackend


class TestMemory(BackendConformance):
    """Without ``damage``, because no other program can reach the messages in this process."""

    has_server = False

    @pytest.fixture
    def make_backend(self):
        name = uuid.uuid4().hex
        return lambda **options: MemoryBackend.from_options({"name": name, **options})
