"""All randomness of a run comes from its seed, including the randomness that the engine and the backends take from the system."""

from __future__ import annotations

import os
import random

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


@contextmanager
def all_from(seed: int) -> Iterator[random.Random]:
    """Yield a generator of that seed. Inside, ``os.urandom`` (ids, tokens, revisions) and the functions of ``random`` (pauses)
    draw from two other generators of that seed, so that their use does not affect the next events.
    """
    before = random.getstate()
    random.seed(f"{seed} pauses")
    try:
        with mock.patch.object(os, "urandom", random.Random(f"{seed} names").randbytes):
            yield random.Random(f"{seed} world")
    finally:
        random.setstate(before)
