"""CPU seconds for storing and draining messages on the clock of a test, beside a bare heap loop, in one run.

Each message is due at its own second, so that the clock moves for each. Times depend on the machine and its load; compare the ratios. Each figure is the median of `--rounds` rounds, in which raw and Pitstop take turns.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import statistics
import time

from datetime import UTC, datetime, timedelta

import pitstop

from pitstop import testing


START = datetime(2020, 1, 1, tzinfo=UTC)
BODY = {"to": "ada@example.com", "text": "welcome", "count": 3}


def raw(count: int) -> tuple[float, float]:
    """A heap, a dict, and a time that jumps, as a program without Pitstop would have them."""
    heap: list[tuple[datetime, int, str]] = []
    messages: dict[str, dict[str, object]] = {}
    order = itertools.count()
    handled: list[tuple[datetime, str]] = []
    begin = time.process_time()
    for second in range(count):
        number = next(order)
        messages[str(number)] = dict(BODY)
        heapq.heappush(heap, (START + timedelta(seconds=second), number, str(number)))
    stored = time.process_time()
    while heap:
        now, _, identifier = heapq.heappop(heap)
        handle(messages.pop(identifier))
        handled.append((now, identifier))
    return stored - begin, time.process_time() - stored


def driven(count: int, pit: pitstop.Pitstop) -> tuple[float, float]:
    begin = time.process_time()
    for second in range(count):
        pit.store(BODY, timedelta(seconds=second))
    stored = time.process_time()
    report = testing.drain(pit, handle, max_jumps=count)
    assert report.acked == count
    pit.close()
    return stored - begin, time.process_time() - stored


def handle(msg: object) -> None:
    pass


def plain(count: int) -> tuple[float, float]:
    return driven(count, pitstop.init({"type": "memory", "clock": testing.ManualClock()}))


def whole(count: int) -> tuple[float, float]:
    return driven(count, testing.init())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="messages per case and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    cases = {
        "a heap and a dict": raw,
        "pitstop.init, drain(pit)": plain,
        "pitstop.testing.init": whole,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, case in cases.items():
            times[name].append(case(options.count))
    print(f"{options.count} messages, each at its own second; median of {options.rounds} rounds; CPU seconds")
    print("pitstop.testing.init: with events written down, and faults ready to strike\n")
    print(f"{'':26}{'store':>8}{'drain':>8}{'both':>8}{'ratio':>8}{'µs each':>9}")
    bare = statistics.median(sum(each) for each in times["a heap and a dict"])
    for name, runs in times.items():
        store, drain, both = (
            statistics.median(part) for part in zip(*((*each, sum(each)) for each in runs), strict=True)
        )
        print(f"{name:26}{store:8.2f}{drain:8.2f}{both:8.2f}{both / bare:8.1f}{both / options.count * 1e6:9.1f}")


if __name__ == "__main__":
    main()
