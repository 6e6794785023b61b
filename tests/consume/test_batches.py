"""A process that dies in a handler of a batch, for real: its neighbours must not pay for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pitstop

from pitstop.testing import ManualClock


#: One process: it handles all messages that are due, and dies at once if a batch has the message that kills.
CHILD = """
import os, sys
from datetime import timedelta
import pitstop
from pitstop.testing import ManualClock

clock = ManualClock()
clock.advance(timedelta(minutes=int(sys.argv[2])))
config = {"type": "sqlite", "path": sys.argv[1], "clock": clock, "lock_time": 30, "retry": {"max_attempts": 2}}

def handler(batch):
    print("began", len(batch), *[f"{each.id}:{each.attempt}" for each in batch], flush=True)
    if any(each.id == "killer" for each in batch):
        os._exit(9)

with pitstop.init(config) as pit:
    pit.consume(handler, batch=10, until_idle=True)
"""


@pytest.mark.parametrize("place", [0, 4, 9])
def test_only_the_message_that_kills_its_worker_dies(tmp_path, place):
    path = str(tmp_path / "messages.db")
    ids = [f"m{n}" for n in range(9)]
    ids.insert(place, "killer")
    config = {"type": "sqlite", "path": path, "clock": ManualClock(), "lock_time": 30}
    with pitstop.init(config) as pit:
        pit.store_many([({"id": id}, "0s") for id in ids])

    codes, first = [], ""
    for minute in range(1, 4):
        child = subprocess.run(
            [sys.executable, "-c", CHILD, path, str(minute)], capture_output=True, text=True, check=False, timeout=120
        )
        first = first or child.stdout
        codes.append(child.returncode)
        sizes = [int(line.split()[1]) for line in child.stdout.splitlines()]
        assert sizes == ([10] if minute == 1 else [1] * len(sizes)), child.stderr

    # It dies once with its batch, and once alone.
    assert codes == [9, 9, 0]
    with pitstop.init(config) as pit:
        (left,) = pit.entries()
    assert (left.id, left.state) == ("killer", "dead")
