"""The cases at a place: Pitstop and the raw driver take turns, round by round."""

from __future__ import annotations

import random
import sys

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import attrs

from crew import Crew
from figures import MS, OURS, PER_SECOND, RAW, Book
from places import Place


#: The names for `--only`.
CASES = ("store", "store_many", "drain", "claim", "lateness", "recurring", "peers")
#: A raw loop that claims and acknowledges one by one, in memory, where a batch saves no round trip.
ONE_BY_ONE = "raw, one by one"


@attrs.frozen
class Plan:
    """The size of a run."""

    rounds: int
    consumers: Sequence[int]
    #: Messages that are due a day later, while the others are drained.
    futures: Sequence[int]
    #: Messages of a drain: as many as take this number of seconds, within these bounds.
    least: int
    most: int
    seconds: float
    #: Messages that are stored one by one, claimed one by one, and awaited.
    stores: int
    claims: int
    waits: int
    #: For peers, which take longer.
    peer_rounds: int = 3
    #: Options of the listeners that drain.
    options: dict[str, Any] = attrs.field(factory=dict)
    #: Cases and places to measure; None: all.
    only: tuple[str, str] | None = None

    def wants(self, case: str, place: str = "") -> bool:
        if self.only is None:
            return True
        only_case, only_place = self.only
        return only_case in ("", case) and (not place or only_place in ("", place))


class Cases:
    """All cases at one place."""

    def __init__(self, place: Place, plan: Plan, book: Book) -> None:
        self._place = place
        self._plan = plan
        self._book = book
        self._counts: dict[str, int] = {}

    def run(self) -> None:
        plan, name = self._plan, self._place.name
        with ExitStack() as stack:
            crews = {
                RAW: stack.enter_context(Crew(RAW, self._place)),
                OURS: stack.enter_context(Crew(OURS, self._place, **plan.options)),
            }
            if self._place.threads:
                crews[ONE_BY_ONE] = stack.enter_context(Crew(RAW, self._place, claim=1))
            for future in plan.futures:
                if future:
                    if not any(plan.wants(each, name) for each in CASES[:5]):
                        continue
                    self._say(f"storing {future:,} messages to come")
                    for each in crews.values():
                        each.ask("backlog", count=future)
                self._at(crews, future)
                if not future:
                    self._recurring(crews)

    def _at(self, crews: dict[str, Crew], future: int) -> None:
        plan, name = self._plan, self._place.name
        if plan.wants("store", name) or plan.wants("store_many", name) or plan.wants("drain", name):
            for number in self._rounds(f"store and drain, {future:,} to come"):
                self._store(crews, number, future)
                for consumers in plan.consumers if plan.wants("drain", name) else (1,):
                    self._drain(crews, number, future, consumers)
        if plan.wants("claim", name):
            for number in self._rounds(f"claims of one, {future:,} to come"):
                self._each(crews, number, lambda who, crew: self._claims(who, crew, future))
        if plan.wants("lateness", name):
            for _ in self._rounds(f"lateness, {future:,} to come"):
                self._lateness(crews[OURS], future)

    def _store(self, crews: dict[str, Crew], number: int, future: int) -> None:
        def store(who: str, crew: Crew) -> None:
            count = self._plan.stores
            self._note("store", who, count / crew.ask("store", count=count), future=future)
            crew.drain(count)

        if self._plan.wants("store", self._place.name):
            self._each(crews, number, store)

    def _drain(self, crews: dict[str, Crew], number: int, future: int, consumers: int) -> None:
        def drain(who: str, crew: Crew) -> None:
            count = self._count(who, crew)
            rate = count / crew.ask("store_many", count=count)
            if self._plan.wants("store_many", self._place.name) and consumers == 1:
                self._note("store_many", who, rate, future=future)
            drained = crew.drain(count, consumers)
            if self._plan.wants("drain", self._place.name):
                self._note("drain", who, drained.rate, consumers=consumers, future=future)

        self._each(crews, number, drain)

    def _count(self, who: str, crew: Crew) -> int:
        """Return the number of messages that takes long enough to be measured."""
        if who not in self._counts:
            self._counts[who] = lasting(crew, self._plan)
        return self._counts[who]

    def _recurring(self, crews: dict[str, Crew]) -> None:
        def recur(who: str, crew: Crew) -> None:
            count = min(self._count(who, crew), self._plan.most // 4)
            crew.ask("store_many", count=count, recurring=True)
            self._note("recurring", who, crew.drain(count).rate)
            crew.ask("clear")

        if self._plan.wants("recurring", self._place.name):
            for number in self._rounds("recurring"):
                self._each(crews, number, recur)

    def _claims(self, who: str, crew: Crew, future: int) -> None:
        if who == ONE_BY_ONE:
            return
        crew.ask("store_many", count=self._plan.claims)
        took = sorted(crew.ask("claims", count=self._plan.claims))
        self._note("claim p50", who, at(took, 0.5), future=future, unit=MS)
        self._note("claim p99", who, at(took, 0.99), future=future, unit=MS)

    def _lateness(self, crew: Crew, future: int) -> None:
        late = sorted(crew.ask("lateness", gaps=[random.uniform(0.01, 0.03) for _ in range(self._plan.waits)]))
        self._note("lateness p50", OURS, at(late, 0.5), future=future, unit=MS)
        self._note("lateness p99", OURS, at(late, 0.99), future=future, unit=MS)

    def _each(self, crews: dict[str, Crew], number: int, action: Callable[[str, Crew], None]) -> None:
        """Run both in turns, in reverse order in each second round, because each leaves the store to the other."""
        for who, crew in list(crews.items())[:: -1 if number % 2 else 1]:
            action(who, crew)

    def _rounds(self, what: str) -> range:
        self._say(what)
        return range(self._plan.rounds)

    def _note(self, case: str, who: str, value: float, **key: Any) -> None:
        self._book.note(case, self._place.name, value, who=who, **({"unit": PER_SECOND} | key))

    def _say(self, what: str) -> None:
        print(f"{self._place.name}: {what}", file=sys.stderr, flush=True)


def lasting(crew: Crew, plan: Plan) -> int:
    """Return the number of messages for a drain of the planned length."""
    # The first messages may be slow: connections are made, batches grow.
    for _ in range(2):
        crew.ask("store_many", count=plan.least)
        wanted = crew.drain(plan.least).rate * plan.seconds
    return int(min(max(wanted, plan.least), plan.most))


def at(values: Sequence[float], part: float) -> float:
    """Return the value below which this part of the sorted values lies."""
    return values[min(int(len(values) * part), len(values) - 1)]
