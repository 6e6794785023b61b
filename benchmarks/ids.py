"""The cost of ids: those that ascend, which Pitstop gives to messages without an id (UUIDv7), beside random ones (UUID4).

Two stores of one place get the same messages in turn, batch by batch. The table shows the bytes for each message in the index of the ids
(MongoDB) or in the whole file (SQLite), and the CPU time of the client and the server for each message that is stored beside the others.
"""

from __future__ import annotations

import argparse
import uuid

from contextlib import ExitStack, closing
from datetime import timedelta
from typing import Any

from places import PLACES, Place
from stores import opened, store_at
from subjects import BATCH, BODY, sizes

import pitstop


LATER = timedelta(days=1)
NAMES = ("UUIDv7, by Pitstop", "UUID4")
#: Messages in each turn. One turn costs some milliseconds of CPU, which a server counts in hundredths of a second.
TURN = 20 * BATCH


def message(name: str) -> dict[str, Any]:
    return {"id": str(uuid.uuid4()), **BODY} if name == "UUID4" else BODY


def store(pit: pitstop.Pitstop, name: str, count: int) -> None:
    for size in sizes(count):
        pit.store_many([(message(name), LATER) for _ in range(size)])


def measure(place: Place, total: int) -> None:
    with ExitStack() as stack:
        stores = {name: stack.enter_context(closing(store_at(place, f"ids{n}"))) for n, name in enumerate(NAMES)}
        pits = {name: stack.enter_context(opened(each)) for name, each in stores.items()}
        costs: dict[str, list[float]] = {name: [] for name in NAMES}
        for turn in range(max(total // TURN, 1)):
            for name in NAMES[:: -1 if turn % 2 else 1]:
                begun = stores[name].cpu()
                store(pits[name], name, min(total, TURN))
                costs[name].append((stores[name].cpu() - begun) * 1e6 / min(total, TURN))
        for name in NAMES:
            sizes = stores[name].bytes()
            part = "_id_" if "_id_" in sizes else "file"
            # Of the second half: the index is large by then.
            half = costs[name][len(costs[name]) // 2 :]
            each = sizes[part] / (TURN * len(costs[name]) if total >= TURN else total)
            print(f"{place.name:11}{name:28}{part:>8}{each:12.1f}{sum(half) / len(half):16.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=1_000_000, help="in each store")
    parser.add_argument("--places", type=lambda text: text.split(","), default=["sqlite", "mongo"], metavar="PLACE,...")
    options = parser.parse_args()
    print(f"{options.messages:,} messages\n{'':39}{'part':>8}{'bytes each':>12}{'CPU, us each':>16}")
    for name in options.places:
        with PLACES[name]() as place:
            print(place.server, flush=True)
            measure(place, options.messages)


if __name__ == "__main__":
    main()
