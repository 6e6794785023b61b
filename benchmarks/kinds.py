"""The cost of kinds: a listener of one kind beside the backlog of another one, and the index that its claims use.

Beside: messages of the kind "mail", which are known in advance, come to a listener of this kind. It works in an empty store, and in a
store with many due messages of the kind "bulk", which no listener takes. The two stores take turns. The table shows the lateness, and the
work of one claim: the keys that MongoDB examines, or the steps of SQLite's virtual machine.

Index: messages without a kind are stored and drained by a program without kinds, in a store without the index of the kinds and in a
store that has it, in turn. The table shows the CPU time of the client and the server together, which is the least of all rounds.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time

from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta

import attrs

from places import PLACES, Place
from stores import Store, opened, store_at
from subjects import BATCH, BODY, sizes

import pitstop


NOW = timedelta(0)
#: Messages of one claim whose work is counted.
CLAIM = 100


def fill(pit: pitstop.Pitstop, count: int, kind: str = "") -> None:
    for size in sizes(count):
        pit.store_many([(BODY, NOW)] * size, kind=kind)


def lateness(pit: pitstop.Pitstop, count: int) -> list[float]:
    """Return the milliseconds from the due time of each mail until a listener of mails handed it out."""
    gaps = [random.uniform(0.01, 0.03) for _ in range(count)]
    begin = datetime.now(UTC) + timedelta(seconds=0.3)
    pit.store_many([(BODY, begin + timedelta(seconds=each)) for each in itertools.accumulate(gaps)], kind="mail")
    late = []
    with pit.listen(kinds=["mail"]) as listener:
        for delivery in itertools.islice(listener, count):
            late.append((time.time() - delivery.scheduled_for.timestamp()) * 1000)
            delivery.ack()
    return late


def claim(store: Store) -> str:
    """Return the work of the claim of some mails that are due."""
    with opened(store) as pit:
        fill(pit, CLAIM, "mail")
    with store.backend() as backend:
        backend.next_due(["mail"])  # looks for the index
        leased: list[object] = []
        work = store.work(lambda: leased.extend(backend.lease(CLAIM, 60_000, ["mail"])))
    assert len(leased) == CLAIM
    return work


def beside(place: Place, options: argparse.Namespace) -> None:
    names = ("empty", f"{options.backlog:,} of another kind")
    with ExitStack() as stack:
        stores = {name: stack.enter_context(closing(store_at(place, f"m{n}"))) for n, name in enumerate(names)}
        pits = {name: stack.enter_context(opened(each)) for name, each in stores.items()}
        fill(pits[names[1]], options.backlog, "bulk")
        late: dict[str, list[float]] = {name: [] for name in names}
        for pit in pits.values():
            lateness(pit, 10)  # makes the index
        for number in range(options.rounds):
            for name in names[:: -1 if number % 2 else 1]:
                late[name] += lateness(pits[name], options.messages)
        for name, values in late.items():
            p50, p99 = (_at(values, part) for part in (0.5, 0.99))
            print(f"{place.name:11}{name:28}{p50:8.2f}{p99:8.2f}   {claim(stores[name])}", flush=True)


def _at(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


@attrs.define
class Cost:
    """Microseconds of CPU for each message: the least of all rounds."""

    store: float = float("inf")
    store_many: float = float("inf")
    drain: float = float("inf")

    def note(self, name: str, begun: float, ended: float, count: int) -> None:
        setattr(self, name, min(getattr(self, name), (ended - begun) * 1e6 / count))


def index(place: Place, options: argparse.Namespace) -> None:
    names = ("without the index", "with it")
    with ExitStack() as stack:
        stores = {name: stack.enter_context(closing(store_at(place, f"i{n}"))) for n, name in enumerate(names)}
        pits = {name: stack.enter_context(opened(each)) for name, each in stores.items()}
        with pits["with it"].listen(kinds=["mail"]) as listener:
            listener.get(timeout=0)
        costs = {name: Cost() for name in names}
        for number in range(max(options.rounds // 2, 1)):
            for name in names[:: -1 if number % 2 else 1]:
                measure(stores[name], pits[name], costs[name], options)
        for name, cost in costs.items():
            print(f"{place.name:11}{name:28}{cost.store:8.0f}{cost.store_many:12.1f}{cost.drain:8.1f}", flush=True)
        built(place, stores["without the index"], pits["without the index"], options)


def measure(store: Store, pit: pitstop.Pitstop, cost: Cost, options: argparse.Namespace) -> None:
    begun = store.cpu()
    for _ in range(options.singles):
        pit.store(BODY, NOW)
    stored = store.cpu()
    fill(pit, options.many)
    filled = store.cpu()
    total = options.singles + options.many
    with pit.listen() as listener:
        for delivery in itertools.islice(listener, total):
            delivery.ack()
    cost.note("store", begun, stored, options.singles)
    cost.note("store_many", stored, filled, options.many)
    cost.note("drain", filled, store.cpu(), total)


def built(place: Place, store: Store, pit: pitstop.Pitstop, options: argparse.Namespace) -> None:
    """Make the index beside the backlog, and print its time and size."""
    fill(pit, options.backlog, "bulk")
    before, begun, wall = store.bytes(), store.cpu(), time.monotonic()
    with pit.listen(kinds=["mail"]) as listener:
        listener.get(timeout=0)
        # The listener may not wait for the index. The next claims use it when it is there.
        while place.name != "sqlite" and "kind_1_due_1" not in store.bytes():
            time.sleep(0.1)
    took, waited = store.cpu() - begun, time.monotonic() - wall
    after = store.bytes()
    grown = (sum(after.values()) - sum(before.values())) / options.backlog
    print(
        f"{place.name:11}made beside {options.backlog:,} messages: {took:.2f} s of CPU, {waited:.2f} s in all, "
        f"{grown:.0f} bytes for each message",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backlog", type=int, default=300_000, help="due messages of the other kind")
    parser.add_argument("--messages", type=int, default=20, help="mails in each round and store")
    parser.add_argument("--rounds", type=int, default=15, help="of the first part; the second one has half of them")
    parser.add_argument("--singles", type=int, default=500, help="messages that are stored one by one in each round")
    parser.add_argument("--many", type=int, default=10 * BATCH, help="messages that are stored together in each round")
    parser.add_argument("--places", type=lambda text: text.split(","), default=["sqlite", "mongo"], metavar="PLACE,...")
    parser.add_argument("--only", choices=["beside", "index"], help="one of the two parts")
    options = parser.parse_args()
    for head, part in (
        (f"{'':39}{'p50':>8}{'p99':>8}   a claim of {CLAIM}\n{'lateness, ms':39}", beside),
        (f"{'':39}{'store':>8}{'store_many':>12}{'drain':>8}\n{'CPU, us a message':39}", index),
    ):
        if options.only not in (None, part.__name__):
            continue
        print(head)
        for name in options.places:
            with PLACES[name]() as place:
                print(f"{place.server}", flush=True)
                part(place, options)
        print()


if __name__ == "__main__":
    main()
