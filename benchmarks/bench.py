"""The benchmarks: one run, one table, one JSON, one picture. docs/performance.md explains the cases and the figures.

A full run puts its table and its picture into the documentation. ``--quick`` has fewer messages and rounds. ``--only drain/mongo``, ``--only lateness``, ``--only /sqlite``
measure a part. ``--compare FILE`` prints the changes since an earlier run, and fails if any figure is worse.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import time

from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import attrs
import report

from cases import CASES, Cases, Plan, at, lasting
from crew import Crew, Failed
from figures import MS, OURS, PER_SECOND, Book, Unreadable, changes
from peering import PEERS, Installed, LeftOut, install
from picture import draw
from places import PLACES, NoServer, Place
from profiling import profile
from verdict import verdicts


ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "performance.svg"
#: The last full run, to compare the next one with.
LAST = ROOT / "benchmarks" / "last.json"
_DISTRIBUTIONS = (
    "pitstop-core",
    "pitstop-memory",
    "pitstop-mongo",
    "pitstop-sqlite",
    "pitstop-postgres",
    "pymongo",
    "psycopg",
)

FULL = Plan(
    rounds=3, consumers=(1, 2, 4), futures=(0, 1_000_000), least=1000, most=20_000, seconds=1.0,
    stores=500, claims=200, waits=150,
)  # fmt: skip
QUICK = Plan(
    rounds=2,
    consumers=(1, 4),
    futures=(0, 20_000),
    least=500,
    most=5000,
    seconds=0.3,
    stores=200,
    claims=100,
    waits=50,
    peer_rounds=1,
)
#: For the test that only checks that a run ends.
TINY = Plan(
    rounds=2,
    consumers=(1, 2),
    futures=(0, 100),
    least=50,
    most=100,
    seconds=0.01,
    stores=10,
    claims=5,
    waits=5,
    peer_rounds=1,
)


def main() -> int:
    options = _parser().parse_args()
    plan = TINY if options.tiny else QUICK if options.quick else FULL
    plan = attrs.evolve(plan, only=_only(options.only))
    if options.prefetch:
        plan = attrs.evolve(plan, options={"prefetch": options.prefetch})
    then = Book.load(options.compare) if options.compare else None
    if options.profile:
        return _profile(plan, options.places)
    started, begin = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", time.monotonic()
    book = Book({"run": _machine(plan, options)})
    with ExitStack() as stack:
        places = _start(stack, book, plan, options.places)
        for each in places.values():
            if not options.no_peers:
                # This runs first, while the store is empty.
                _peers(book, plan, each, options.cache)
            Cases(each, plan, book).run()
    book.setup["run"]["minutes"] = round((time.monotonic() - begin) / 60, 1)
    print(report.whole(book))
    words = [{"expected": str(each.expected), "word": each.word} for each in verdicts(book)]
    full = plan == FULL and options.places == list(PLACES) and not options.no_peers
    figures = options.json or (LAST if full else Path("bench.json"))
    picture = options.picture or (PICTURE if full else Path("bench.svg"))
    book.save(figures, started=started, verdict=words)
    draw(book, picture)
    print(f"\nfigures: {figures}; picture: {picture}")
    if full:
        report.into_page(book, PAGE, started)
    if then is None:
        return 0
    text, worse = report.compared(changes(then, book))
    print(f"\nCompared with {options.compare}\n{text}")
    return int(worse)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute or two, for trying")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", metavar="CASE/PLACE", help=f"cases: {', '.join(CASES)}; places: {', '.join(PLACES)}")
    parser.add_argument("--places", type=lambda text: text.split(","), default=list(PLACES), metavar="PLACE,...")
    parser.add_argument("--no-peers", action="store_true", help="neither install nor measure peers")
    parser.add_argument("--prefetch", type=int, help="pin it, for drains; without it, the default")
    parser.add_argument(
        "--profile", action="store_true", help="show where the time of one drain goes (--only drain/PLACE)"
    )
    parser.add_argument("--compare", type=Path, metavar="FILE", help="the JSON of an earlier run")
    where = "default: benchmarks/last.json of a full run, else bench.json"
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"where the figures go ({where})")
    where = "default: docs/performance.svg of a full run, else bench.svg"
    parser.add_argument("--picture", type=Path, metavar="FILE", help=f"where the picture goes ({where})")
    parser.add_argument("--cache", type=Path, default=ROOT / ".nox" / "peers", help="where peers are installed")
    return parser


def _only(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    case, _, place = text.partition("/")
    for given, known in ((case, CASES), (place, tuple(PLACES))):
        if given and given not in known:
            raise SystemExit(
                f"--only {text}: there is no {given!r}. Give CASE/PLACE, CASE or /PLACE of {', '.join(known)}."
            )
    return case, place


def _machine(plan: Plan, options: argparse.Namespace) -> dict[str, Any]:
    return {
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_memory()}",
        "python": platform.python_version(),
        "versions": ", ".join(f"{name} {_version(name)}" for name in _DISTRIBUTIONS),
        "rounds": f"{plan.rounds}, with peers {plan.peer_rounds}",
        "drain": f"as many messages as take {plan.seconds:g} s, {plan.least:,} to {plan.most:,}; the rate is from the "
        "common start to the last ack, over all consumers",
        "listeners": ", ".join(f"{name}={value}" for name, value in plan.options.items()) or "as configured by default",
        "load before": ", ".join(f"{each:.1f}" for each in os.getloadavg()),
        "size": "tiny" if options.tiny else "quick" if options.quick else "full",
    }


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _start(stack: ExitStack, book: Book, plan: Plan, names: list[str]) -> dict[str, Place]:
    """Yield each wanted place, and name those that cannot be used."""
    places: dict[str, Place] = {}
    for name in names:
        wanted = [case for case in CASES[:-1] if plan.wants(case, name)]
        beside = plan.wants("peers", name) and any(each.beside == name for each in PEERS)
        if not (wanted or beside):
            continue
        try:
            places[name] = place = stack.enter_context(PLACES[name]())
        except NoServer as error:
            book.left_out[name] = str(error)
        else:
            book.setup[name] = {"server": place.server, "durability": place.durability}
    return places


def _peers(book: Book, plan: Plan, place: Place, cache: Path) -> None:
    """Measure peers in rounds, each with a drain of Pitstop beside theirs."""
    name = place.name
    chosen = _installed(name, book, cache) if plan.wants("peers", name) else []
    if not chosen:
        return
    share = 1.0 if plan.peer_rounds > 2 else 0.3
    with Crew(OURS, place, **plan.options) as ours:
        count = lasting(ours, plan)
        for number in range(plan.peer_rounds):
            print(f"{name}: peers, round {number + 1}", file=sys.stderr, flush=True)
            most = max(each.peer.waits for each in chosen)
            gaps = [random.uniform(0.05, 0.15) for _ in range(most if share == 1 else 15)]
            several = any(each.peer.beside == "postgres" for each in chosen)
            _ours(book, name, ours, plan.stores, count, gaps, several=several)
            for each in list(chosen):
                try:
                    told = each.measure(place, share, gaps)
                except LeftOut as reason:
                    book.left_out[each.peer.name] = str(reason)
                    chosen.remove(each)
                else:
                    _note(book, name, each.peer.name, told)


def _installed(place: str, book: Book, cache: Path) -> list[Installed]:
    """Return the peers of a place that can be measured."""
    found = []
    for each in PEERS:
        if each.beside == place:
            try:
                found.append(install(each, cache))
            except LeftOut as reason:
                book.left_out[each.name] = str(reason)
    return found


def _ours(
    book: Book, place: str, ours: Crew, stores: int, drains: int, gaps: list[float], *, several: bool = False
) -> None:
    """Measure Pitstop in the cases of the peers.

    :param several: whether the peers of this place are also drained by four processes.
    """
    took = ours.ask("store", count=stores)
    ours.drain(stores)
    stored = drains / ours.ask("store_many", count=drains)
    told = {"store": stores / took, "store_many": stored, "drain": ours.drain(drains).rate}
    if several:
        ours.ask("store_many", count=drains)
        told["drain4"] = ours.drain(drains, 4).rate
    _note(book, place, OURS, told | {"late": ours.ask("lateness", gaps=gaps)})


def _note(book: Book, place: str, who: str, told: dict[str, Any]) -> None:
    for name, consumers in (("store", 1), ("store_many", 1), ("drain", 1), ("drain4", 4)):
        if told.get(name):
            case = f"{name.rstrip('4')} beside peers"
            book.note(case, place, told[name], who=who, consumers=consumers, unit=PER_SECOND)
    if told.get("late"):
        late = sorted(told["late"])
        book.note("lateness p50 beside peers", place, at(late, 0.5), who=who, unit=MS)
        book.note("lateness p99 beside peers", place, at(late, 0.99), who=who, unit=MS)
    if "version" in told:
        book.setup.setdefault("peers", {})[who] = f"{told['version']}; {told['config']}"


def _profile(plan: Plan, names: list[str]) -> int:
    for name in names:
        if plan.wants("drain", name):
            with PLACES[name]() as place:
                for text in profile(place, plan):
                    print(text)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, Unreadable) as error:
        sys.exit(str(error))
