"""All that is random in a run comes from its seed: also what the engine and the backends take from the system."""

from __future__ import annotations

import os
import random

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def all_from(seed: int) -> Iterator[random.Random]:
    """Give a generator of that seed. Inside, ``os.urandom`` (ids, tokens, revisions) and the functions of ``random``
    (pauses) draw from two others of that seed: what they are asked for has no effect on what happens next.
    """
    before = random.getstate()
    random.seed(f"{seed} pauses")
    try:
        with mock.patch.object(os, "urandom", random.Random(f"{seed} names").randbytes):
            yield random.Random(f"{seed} world")
    finally:
        random.setstate(before)
