"""The cost of hooks for each message, with no plugin, with one and with three: `nox -s hooks`.

Stores in memory get the same messages in turn, and a listener handles them. The table shows the CPU time for each message, without and
with the time of the store. The third number of each row is what the plugins add. The observers do nothing: their own work comes on top. "metrics" is
the plugin of pitstop.metrics, which counts each of these events, the lateness and the time of the handler.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from prometheus_client import CollectorRegistry

import pitstop

from pitstop.metrics import Metrics


class Observer:
    """A plugin with all hooks that a message without faults passes."""

    @pitstop.hookimpl
    def pitstop_message_stored(self, kind: str) -> None: ...

    @pitstop.hookimpl
    def pitstop_message_leased(self, delivery: pitstop.Delivery) -> None: ...

    @pitstop.hookimpl
    def pitstop_message_acked(self, delivery: pitstop.Delivery) -> None: ...


class WithContext(Observer):
    @pitstop.hookimpl
    def pitstop_handling(self, delivery: pitstop.Delivery) -> nullcontext[None]:
        return NOTHING


NOTHING = nullcontext()
CASES: dict[str, list[Callable[[], Any]]] = {
    "no plugin": [],
    "1 observer": [Observer],
    "3 observers": [Observer] * 3,
    "3, with contexts": [WithContext] * 3,
    "metrics": [lambda: Metrics.prometheus(CollectorRegistry())],
}


def run(plugins: list[Callable[[], object]], messages: int) -> tuple[float, float]:
    """Return the microseconds of CPU for each message: to store it, and to handle it."""
    with pitstop.init("memory://", plugins=[each() for each in plugins]) as pit:
        gc.collect()
        begun = time.process_time()
        for n in range(messages):
            pit.store({"id": str(n)})
        stored = time.process_time()
        left = messages
        with pit.listen() as listener:
            for delivery in listener:
                with delivery:
                    left -= 1
                if not left:
                    listener.stop()
        handled = time.process_time()
    return (stored - begun) / messages * 1e6, (handled - stored) / messages * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    costs: dict[str, list[tuple[float, float]]] = {name: [] for name in CASES}
    for _ in range(arguments.rounds):
        for name, plugins in CASES.items():
            costs[name].append(run(plugins, arguments.messages))
    # The least of each: other programs only add to it.
    least = {name: [min(each) for each in zip(*rows, strict=True)] for name, rows in costs.items()}
    spread = statistics.median(sum(each) for each in costs["no plugin"]) - sum(least["no plugin"])
    print(f"{'us of CPU per message':20}{'store':>10}{'handle':>10}{'added':>10}")
    for name, (store, handle) in least.items():
        added = store + handle - sum(least["no plugin"])
        print(f"{name:20}{store:10.2f}{handle:10.2f}{added:10.2f}")
    print(f"(the median round without plugins took {spread:.2f} us longer than the least)")


if __name__ == "__main__":
    main()
