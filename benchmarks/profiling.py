"""Where a drain spends its time: the consuming thread by cProfile, and all threads by py-spy, if it is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cases import Plan, lasting
from crew import Crew
from figures import OURS
from places import Place


#: Seconds for which py-spy samples, and its samples per second.
_SECONDS, _RATE = 5, 500
_LINES = 25


def profile(place: Place, plan: Plan) -> Iterator[str]:
    """Yield the lines to print."""
    with Crew(OURS, place, **plan.options) as crew:
        count = lasting(crew, plan)
        crew.ask("store_many", count=count)
        drained = crew.drain(count, profile=True)
        yield f"{place.name}: {count:,} messages, {drained.rate:,.0f}/s under cProfile; the thread that consumes"
        yield drained.profile or ""
        spy = shutil.which("py-spy")
        if spy is None:
            yield "py-spy is not installed: pip install py-spy to see the threads behind it, too"
        else:
            yield _spied(spy, crew, int(count * (_SECONDS + 1) / plan.seconds))


def _spied(spy: str, crew: Crew, count: int) -> str:
    """Yield all threads that did not wait, by their place in the samples of py-spy."""
    crew.ask("store_many", count=count)
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        options = ["--format", "raw", "--output", file.name, "--rate", str(_RATE), "--duration", str(_SECONDS), "--gil"]
        command = [spy, "record", "--pid", str(crew.pid), "--nonblocking", *options]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        drained = crew.drain(count)
        _, said = process.communicate(timeout=60)
        stacks = Path(file.name).read_text()
    if process.returncode or not stacks:
        return f"py-spy failed: {said.strip()[-300:]}"
    lines = [f"py-spy, threads that hold the interpreter, {drained.rate:,.0f}/s:    in it   and below"]
    return "\n".join([*lines, *_summed(stacks)])


def _summed(stacks: str) -> Iterator[str]:
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    for line in stacks.splitlines():
        names, _, seen = line.rpartition(" ")
        frames = [_without_line(each) for each in names.split(";")]
        own[frames[-1]] += int(seen)
        below.update(dict.fromkeys(frames, int(seen)))
    total = sum(own.values())
    for name, number in own.most_common(_LINES):
        yield f"    {name:70.70}{number / total:8.1%}{below[name] / total:11.1%}"


def _without_line(frame: str) -> str:
    """``name (file.py:12)`` of any line."""
    name, colon, _ = frame.rpartition(":")
    return f"{name})" if colon else frame
