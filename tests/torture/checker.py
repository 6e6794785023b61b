"""Checker: whether a history keeps the promises of Pitstop.

Each message gets one of Jepsen's five words: *ok* (stored and emitted), *lost* (stored, never emitted), *recovered* (emitted,
and the outcome of its store is unknown), *unexpected* (emitted, never stored), *duplicated* (emitted more than once, which
needs a reason). Any other fault is a violation, named by its rule:

====  ==================================================================================================
S1    no stored message is lost
S2    no message is emitted that was not stored
S3    no message is emitted early
S4    no message is out twice under live leases, emitted after its ack, or handed out after its lease
S5    each duplicate has a reason
S6    no ack succeeds after another process got the message, or after the message was replaced
S7    each occurrence of a recurring message is emitted, and no others
S8    attempts count up
S9    no lease is reported as lost while it runs, or after its message was acknowledged under it
L1    each stored message is emitted soon after the last fault
====  ==================================================================================================
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise

import attrs

from torture.history import Event, Kind


#: Reasons of duplicates, as they are reported.
LEASE_EXPIRED = "lease expired"
CONSUMER_DIED = "consumer died"
ACK_UNKNOWN = "ack unknown"
NACK = "nack"
STORE_UNKNOWN = "store unknown"
REASONS = (LEASE_EXPIRED, CONSUMER_DIED, ACK_UNKNOWN, NACK, STORE_UNKNOWN)

#: The most milliseconds between the clocks of two processes on one machine.
_TOLERANCE = 20

_Occurrence = tuple[str, int]


@attrs.frozen
class Violation:
    """A rule that was broken, and how."""

    rule: str
    text: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@attrs.define
class Verdict:
    """The judgement of the messages of a history."""

    #: Stores that returned.
    stored: int = 0
    ok: int = 0
    recovered: int = 0
    lost: list[str] = attrs.field(factory=list)
    unexpected: list[str] = attrs.field(factory=list)
    #: Emissions after the first of an occurrence, by reason.
    duplicated: Counter[str] = attrs.field(factory=Counter)
    violations: list[Violation] = attrs.field(factory=list)
    #: How often an outcome was unknown, by kind. Faults without any effect would prove nothing.
    unknown: Counter[str] = attrs.field(factory=Counter)
    #: Acks and nacks that failed with a lost lease.
    leases_lost: int = 0
    emissions: int = 0
    #: The longest time in seconds in which no operation of a kind succeeded, while messages were stored.
    gaps: dict[str, float] = attrs.field(factory=dict)

    def broken(self, *rules: str) -> list[Violation]:
        """Return the violations of these rules, or of all rules if none is named."""
        return [each for each in self.violations if not rules or each.rule in rules]


def check(events: Sequence[Event], left: Collection[str] = (), *, tolerance: int = _TOLERANCE) -> Verdict:
    """Check a history.

    :param left: the versions that are still stored, although all should have been emitted.
    :param tolerance: the most milliseconds between two clocks.
    """
    return _Check(events, left, tolerance).verdict


class _Check:
    def __init__(self, events: Sequence[Event], left: Collection[str], tolerance: int) -> None:
        self._left = set(left)
        self._tolerance = tolerance
        by_kind: dict[Kind, list[Event]] = defaultdict(list)
        for each in events:
            by_kind[each.kind].append(each)
        self._stores = {each.version: each for each in by_kind["store"]}
        self._emissions: dict[_Occurrence, list[Event]] = defaultdict(list)
        for each in by_kind["emit"]:
            self._emissions[each.version, each.scheduled_for].append(each)
        self._settlements = {_lease(each): each for kind in ("ack", "nack") for each in by_kind[kind]}
        self._deaths = {each.process: each.begun for each in by_kind["death"]}
        #: By id. Only one process writes an id, one write after the other.
        self._writes: dict[str, list[Event]] = defaultdict(list)
        for each in sorted(by_kind["store"] + by_kind["remove"], key=lambda event: event.begun):
            self._writes[each.id].append(each)

        self.verdict = Verdict(
            stored=sum(each.outcome == "ok" for each in by_kind["store"]),
            emissions=len(by_kind["emit"]),
            unknown=Counter(each.kind for each in events if each.outcome == "unknown"),
            leases_lost=sum(each.outcome == "fail" for each in self._settlements.values()),
            gaps=_gaps(by_kind),
        )
        self._check_stores()
        self._check_emissions()

    def _break(self, rule: str, text: str) -> None:
        self.verdict.violations.append(Violation(rule, text))

    # Stores.

    def _check_stores(self) -> None:
        for writes in self._writes.values():
            for each in writes:
                if each.kind == "store" and self._emitted(each):
                    if each.outcome == "ok":
                        self.verdict.ok += 1
                    elif each.outcome == "unknown":
                        self.verdict.recovered += 1
            self._check_kept(writes)

    def _check_kept(self, writes: Sequence[Event]) -> None:
        """Check that the last certain store of an id was emitted, or a later store whose outcome is unknown."""
        sure = [index for index, each in enumerate(writes) if each.outcome == "ok"]
        if not sure:
            return
        last = writes[sure[-1]]
        perhaps = [each for each in writes[sure[-1] + 1 :] if each.outcome == "unknown"]
        if last.kind == "remove" or any(each.kind == "remove" for each in perhaps):
            return
        if any(self._emitted(each) for each in (last, *perhaps)):
            if not perhaps:
                self._check_occurrences(last)
            return
        if self._left & {last.version, *(each.version for each in perhaps)}:
            self._break("L1", f"{last.version} was stored and is there, and was not emitted")
            return
        self.verdict.lost.append(last.version)
        self._break("S1", f"{last.version} was stored, and is neither emitted nor there")

    def _check_occurrences(self, store: Event) -> None:
        missing = [time for time in _times(store) if (store.version, time) not in self._emissions]
        if not missing:
            return
        if store.version in self._left:
            self._break("L1", f"{store.version} recurs, and {len(missing)} occurrences are still to come")
        else:
            self.verdict.lost.append(store.version)
            self._break("S7", f"{store.version} recurs, and {len(missing)} occurrences were not emitted")

    def _emitted(self, store: Event) -> bool:
        return any((store.version, time) in self._emissions for time in _times(store))

    # Emissions.

    def _check_emissions(self) -> None:
        for (version, time), emissions in self._emissions.items():
            store = self._stores.get(version)
            if store is None or store.outcome == "fail" or any(each.id != store.id for each in emissions):
                self.verdict.unexpected.append(version)
                said = "never stored" if store is None else f"stored in vain, or not so ({store.error})"
                self._break("S2", f"{version} was emitted, and {said}")
                continue
            if time not in _times(store):
                self.verdict.unexpected.append(version)
                self._break("S7", f"{version} was emitted for {time}, and has no such occurrence")
            emissions.sort(key=lambda event: (event.claimed, event.attempt, event.begun))
            for each in emissions:
                self._check_emission(store, each)
                self._check_loss(store, each, again=each is not emissions[-1])
            for first, second in pairwise(emissions):
                self._check_duplicate(store, first, second)

    def _check_emission(self, store: Event, emission: Event) -> None:
        at = _wall(emission)
        if emission.claimed < emission.scheduled_for or at < emission.scheduled_for - self._tolerance:
            self._break("S3", f"{emission.key} was emitted {emission.scheduled_for - at} ms early")
        if at > emission.leased_until + self._tolerance:
            self._break("S4", f"{emission.key} was handed out {at - emission.leased_until} ms after its lease")
        if store.outcome == "unknown":
            # The store may have been done at any time, also after the next store of that id.
            return
        ack = self._ack(emission)
        for later in self._writes[store.id]:
            if later.begun <= store.begun or later.outcome != "ok" or later.ended_wall is None:
                continue
            done = int(later.ended_wall * 1000) + self._tolerance
            what = "replaced" if later.kind == "store" else "removed"
            if emission.claimed > done:
                self._break("S6", f"{emission.key} was leased {emission.claimed - done} ms after it was {what}")
            if ack is not None and ack.outcome == "ok" and ack.begun > (later.ended or 0.0):
                self._check_late_ack(ack, later)

    def _check_late_ack(self, ack: Event, later: Event) -> None:
        """Check an ack that succeeded after its message was stored again or removed.

        If its reply was lost, it was repeated, and a message that was gone then counts as acknowledged. So the ack is wrong
        only if the message was there.
        """
        handled = (each for each in self._settlements.values() if each.version == later.version)
        gone = any(each.kind == "ack" and each.outcome == "ok" and each.begun < (ack.ended or 0.0) for each in handled)
        if later.kind == "store" and not gone:
            self._break("S6", f"{ack.key} was acked by {ack.process} after it was replaced")

    def _check_loss(self, store: Event, emission: Event, *, again: bool) -> None:
        """Check an ack that failed with a lost lease: the lease must be over by then, and the message must come again.

        This does not hold for a nack. If it is repeated, another process may have got and settled the released message.
        """
        settled = self._ack(emission)
        if settled is None or settled.outcome != "fail" or settled.ended is None or settled.ended_wall is None:
            return
        # Any write of the message since the claim has ended the lease, also before it was handed out.
        for each in self._writes[store.id]:
            if each.outcome == "fail" or each.begun > settled.ended:
                continue
            since = each.outcome == "unknown" or each.ended_wall is None
            if since or int((each.ended_wall or 0.0) * 1000) + self._tolerance > emission.claimed:
                return
        # So has the next occurrence, which exists since the ack was done. Once it is settled too, the mark of the ack is gone.
        # Then an ack that is repeated after a lost reply cannot be told from an ack that came too late.
        if self._goes_on(emission, int(settled.ended_wall * 1000) + self._tolerance):
            return
        early = emission.leased_until - int(settled.ended_wall * 1000)
        if early > self._tolerance:
            self._break("S9", f"{emission.process} lost {emission.key} by an error {early} ms before its lease ended")
        later = any(each.begun > store.begun and each.outcome != "fail" for each in self._writes[store.id])
        if not (again or later or store.version in self._left):
            self._break("S9", f"{emission.process} lost {emission.key} by an error, and no other process settled it")

    def _goes_on(self, emission: Event, end: int) -> bool:
        """Whether a later occurrence was claimed by then, or may have been, so that the series went on from this one."""
        return any(
            version == emission.version and time > emission.scheduled_for and any(each.claimed <= end for each in later)
            for (version, time), later in self._emissions.items()
        )

    def _check_duplicate(self, store: Event, first: Event, second: Event) -> None:
        # A store that is repeated after a lost reply brings a message back that was emitted meanwhile.
        unsure = store.outcome == "unknown" or store.ended_wall is None or store.ended_wall * 1000 > first.claimed
        reason = self._reason(first, second)
        if reason is None and unsure:
            reason = STORE_UNKNOWN
        if second.attempt <= first.attempt and not unsure:
            self._break("S8", f"{second.key} had attempt {first.attempt} and then {second.attempt}")
        if reason is not None:
            self.verdict.duplicated[reason] += 1
            return
        self.verdict.duplicated["no reason"] += 1
        ack = self._ack(first)
        acked = ack is not None and ack.outcome == "ok"
        if ack is not None and acked and int(ack.begun_wall * 1000) > second.claimed + self._tolerance:
            # Also if it changed nothing, because the other ack was done by then: the success was wrong.
            self._break("S6", f"{first.key} was acked by {first.process} after {second.process} had got it")
        elif acked:
            self._break("S4", f"{first.key} was emitted again after its ack (S5: for no reason)")
        else:
            early = first.leased_until - second.claimed
            self._break(
                "S4",
                f"{first.key} was leased by {second.process} {early} ms before {first.process}'s lease ended "
                f"(S5: for no reason)",
            )

    def _reason(self, first: Event, second: Event) -> str | None:
        """Return why an occurrence was emitted again; None if there is no good reason."""
        settled = self._settlements.get(_lease(first))
        if settled is not None and settled.kind == "nack":
            # It comes back at the time of the nack, which may be before the end of the lease. If the nack was repeated while
            # another process got the released message and settled it, the nack failed with a lost lease.
            after = second.claimed >= int(settled.begun_wall * 1000) - self._tolerance
            while_repeated = settled.ended_wall is not None and second.claimed < int(settled.ended_wall * 1000)
            if settled.outcome != "fail" or while_repeated:
                return NACK if after else None
        if second.claimed < first.leased_until:
            return None
        if settled is not None and settled.outcome == "ok":
            # It was sent in time, and repeated until after the lease, so its outcome was unknown meanwhile.
            begun, ended = (int((at or 0.0) * 1000) for at in (settled.begun_wall, settled.ended_wall))
            return ACK_UNKNOWN if begun < first.leased_until <= second.claimed < ended else None
        if self._deaths.get(first.process, 0.0) > first.begun and (settled is None or settled.ended is None):
            return CONSUMER_DIED
        return ACK_UNKNOWN if settled is not None and settled.outcome == "unknown" else LEASE_EXPIRED

    def _ack(self, emission: Event) -> Event | None:
        settled = self._settlements.get(_lease(emission))
        return settled if settled is not None and settled.kind == "ack" else None


def _times(store: Event) -> range:
    """Return the instants for which a message must be emitted, in ms."""
    every = store.every or 1
    return range(store.due, store.due + store.occurrences * every, every)


def _lease(event: Event) -> tuple[str, str, int, int, int]:
    """Return the fields that identify an emission and its settlement."""
    return event.process, event.version, event.scheduled_for, event.attempt, event.leased_until


def _wall(event: Event) -> int:
    return int(event.begun_wall * 1000)


def _gaps(by_kind: dict[Kind, list[Event]]) -> dict[str, float]:
    until = max((each.begun for each in by_kind["store"]), default=0.0)
    return {kind: _longest_gap(by_kind[kind], until) for kind in ("store", "emit", "ack")}


def _longest_gap(events: Iterable[Event], until: float) -> float:
    done = sorted(each.ended for each in events if each.outcome == "ok" and each.ended is not None)
    return max((later - earlier for earlier, later in pairwise(done) if earlier < until), default=0.0)
