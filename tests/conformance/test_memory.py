"""The shared suite on the memory backend."""

from __future__ import annotations

import uuid

from typing import ClassVar

import pytest

from pitstop.testing import BackendConformance
from pitstop_memory import MemoryBackend


class TestMemory(BackendConformance):
    not_shown: ClassVar = {
        "nobody but the backend itself can reach what is stored in this process": {
            "test_a_damaged_message_is_not_redriven_but_can_be_removed_or_stored_anew",
            "test_a_damaged_message_is_seen_before_it_is_due",
            "test_a_damaged_message_is_set_aside_and_the_others_are_emitted",
            "test_a_damaged_record_can_be_deleted",
            "test_a_damaged_record_can_be_set_aside",
            "test_a_damaged_record_is_healed_by_a_put",
            "test_a_damaged_record_is_leased_as_such_and_holds_nobody_up",
            "test_a_damaged_record_is_read_as_damaged",
            "test_a_damaged_record_is_seen_among_the_others",
        },
    }

    @pytest.fixture
    def make_backend(self):
        name = uuid.uuid4().hex
        return lambda **options: MemoryBackend.from_options({"name": name, **options})
