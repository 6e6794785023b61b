"""The promises of the contract that can be tried in a second, each by itself. ``pitstop_conformance`` tries all of them."""

from __future__ import annotations

import math

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Barrier
from typing import Any

import attrs

from pitstop._check._bench import MINUTE, Bench, released
from pitstop.abc import Outcome, Progress, Record, dump_message


__all__ = ["PROMISES", "Promise"]


@attrs.frozen
class Promise:
    """A behaviour that a store must have."""

    name: str
    #: The behaviour in words.
    expected: str
    #: Tries the promise and returns the finding. Raises :class:`pitstop._check._bench.Broken` if it is not kept.
    keep: Callable[[Bench], str]


#: The promises in the order in which they are tried.
PROMISES: list[Promise] = []


def _promise(name: str, expected: str) -> Callable[[Callable[[Bench], str]], Callable[[Bench], str]]:
    def add(keep: Callable[[Bench], str]) -> Callable[[Bench], str]:
        PROMISES.append(Promise(name, expected, keep))
        return keep

    return add


#: A value of each kind, by the name that a finding gives it.
_VALUES: dict[str, Any] = {
    "None": None,
    "bool": [True, False],
    "int": [0, 1, 2**53 + 1, 2**63 - 1, -(2**63)],
    "float": [0.1 + 0.2, 1.0, 5e-324, 1.7976931348623157e308],
    "minus zero": -0.0,
    "infinity": [math.inf, -math.inf],
    "NaN": math.nan,
    "str": ["", "Ü e\u0301 \U0001f3ce", "a\0b\n\u2028", "'\"\\`${}"],
    "bytes": [b"", bytes(range(256))],
    "datetime": [datetime(2031, 5, 4, 10, 0, 0, 123000, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)],
    "list": [[], [None, [1, "2"]], [{}]],
    "mapping": {"inner": {"deeper": {"deepest": 1}}, "empty": {}},
    "key": {"": 1, "with space": 2, "\u00e9": 3},
    "key with $ or .": {"$set": {"$where": 1}, "a.b": 2, ".": 3},
}
_SERIES = {"start": 1_577_836_800_000, "end": None, "every": {"v": 1, "kind": "every", "ms": 3_600_000}}


@_promise("values come back", "every kind of value as it was stored")
def _values(bench: Bench) -> str:
    record = bench.record(due_in=MINUTE, message=_VALUES, series=_SERIES)
    bench.store.put([record])
    found = bench.there(record)
    lost = [kind for kind, value in _VALUES.items() if not _same(found.message, kind, value)]
    bench.expect(not lost, f"not the same value came back for: {', '.join(lost)}")
    bench.expect(len(found.message) == len(_VALUES), "the message has more keys than it was stored with")
    bench.expect(found.series is not None and dict(found.series) == _SERIES, "the recurrence is not the same")
    bench.expect(found.revision == record.revision, "the revision is not the same")
    bench.expect(found.progress == record.progress, "the due time or the number of attempts is not the same")
    return f"{len(_VALUES)} kinds of values"


def _same(message: dict[str, Any], kind: str, value: Any) -> bool:
    try:
        # Compared as text, in which 1, 1.0 and true are not equal, and NaN equals itself.
        return kind in message and dump_message({kind: message[kind]}) == dump_message({kind: value})
    except (TypeError, ValueError, AttributeError):
        return False


@_promise("nothing comes early", "claimed at its time and not before")
def _not_early(bench: Bench) -> str:
    (record,) = bench.put("a", due_in=2 * bench.tick)
    due = record.progress.due or 0
    claimed, late = bench.claim_at(due)
    bench.expect(claimed.id == record.id, "another message was claimed than the one that is due")
    return f"it came {late:.0f} ms after its time, polled continuously"


@_promise("the oldest comes first", "claimed in the order of their times, and else as they were stored")
def _order(bench: Bench) -> str:
    later, first, tied = (bench.record(name, due_in) for name, due_in in (("c", -1000), ("a", -3000), ("b", -3000)))
    tied = attrs.evolve(tied, progress=first.progress)
    bench.store.put([later, first, tied])
    claimed = [bench.name(each) for _ in range(3) for each in bench.claim(limit=1)]
    bench.expect(claimed == ["a", "b", "c"], f"claimed in the order {', '.join(claimed) or '(nothing)'}, not a, b, c")
    return "3 messages in order"


@_promise("a lease keeps others off", "no other claim gets a message while it is leased")
def _exclusive(bench: Bench) -> str:
    bench.put("a")
    first = bench.claim_one()
    again = bench.claim()
    bench.expect(not again, "the same message was claimed a second time, under a lease of a minute")
    found = bench.get(first)
    bench.expect(found == first, "the stored message differs from the one that the claim returned")
    bench.expect(first.progress.attempts == 1, f"the first claim counts as attempt {first.progress.attempts}")
    left = (first.progress.due or 0) - bench.now()
    bench.expect(abs(left - MINUTE) < MINUTE / 2, f"a lease of 60000 ms has {left} ms left")
    return "the second claim got nothing"


@_promise("a stale token changes nothing", "ack, nack and extension without the lease are refused")
def _fenced(bench: Bench) -> str:
    bench.put("a")
    leased = bench.claim_one()
    later = bench.now() + 2 * MINUTE
    tries = {
        "an ack": (Outcome.COMPLETE, None),
        "a nack": (Outcome.RELEASE, released(leased, later, "stale")),
        "an extension": (Outcome.EXTEND, attrs.evolve(leased.progress, due=later)),
    }
    for name, (outcome, progress) in tries.items():
        applied = bench.settle(leased, outcome, progress, token="0" * 32)
        bench.expect(not applied, f"{name} with a token that is not its own was reported as applied")
        bench.expect(bench.get(leased) == leased, f"{name} with a token that is not its own changed the message")
    return f"{len(tries)} were refused"


@_promise("an ack deletes", "an acknowledged message is gone")
def _ack(bench: Bench) -> str:
    bench.put("a")
    leased = bench.claim_one()
    bench.expect(bench.settle(leased, Outcome.COMPLETE, None), "an ack under a running lease was refused")
    bench.expect(bench.get(leased) is None, "it is still there after its ack")
    return "it is gone"


@_promise("a nack comes back", "given back, it comes at its new time, as the next attempt")
def _nack(bench: Bench) -> str:
    bench.put("a")
    leased = bench.claim_one()
    due = bench.now() + bench.tick
    bench.expect(
        bench.settle(leased, Outcome.RELEASE, released(leased, due, "failed")), "a nack under a lease was refused"
    )
    again, late = bench.claim_at(due)
    bench.expect(again.progress.attempts == 2, f"it came as attempt {again.progress.attempts}, not 2")
    bench.expect(again.progress.last_error == "failed", "the error of the nack was not kept")
    bench.expect(again.progress.token != leased.progress.token, "the new claim has the old token")
    return f"attempt 2 came {late:.0f} ms after its time"


@_promise("a lease ends", "not acknowledged in time, the message comes back, and the late ack has no effect")
def _expiry(bench: Bench) -> str:
    bench.put("a")
    # Claimed once: if the store is slow, the lease may be over before the claim is answered.
    claimed = bench.claim(limit=1, duration=bench.tick)
    bench.expect(len(claimed) == 1, "nothing was claimed where one message was due")
    (leased,) = claimed
    again, late = bench.claim_at(leased.progress.due or 0)
    bench.expect(again.progress.attempts == 2, f"it came as attempt {again.progress.attempts}, not 2")
    bench.expect(not bench.settle(leased, Outcome.COMPLETE, None), "an ack after the end of its lease was applied")
    bench.expect(bench.get(again) == again, "an ack after the end of its lease changed the message")
    return f"attempt 2 came {late:.0f} ms after the end of the lease"


@_promise("an extension holds", "the lease goes on to its new end")
def _extension(bench: Bench) -> str:
    bench.put("a")
    leased = bench.claim_one()
    longer = attrs.evolve(leased.progress, due=(leased.progress.due or 0) + MINUTE)
    bench.expect(bench.settle(leased, Outcome.EXTEND, longer), "an extension under a running lease was refused")
    bench.expect(bench.there(leased).progress == longer, "the lease does not have its new end")
    bench.expect(bench.settle(leased, Outcome.COMPLETE, None), "an ack after an extension was refused")
    return "and the ack after it counts"


@_promise("storing again ends the lease", "the new version takes the place of the old one, and the old ack is stale")
def _stored_again(bench: Bench) -> str:
    bench.put("a")
    leased = bench.claim_one()
    (newer,) = bench.put("a")
    bench.expect(not bench.settle(leased, Outcome.COMPLETE, None), "the ack of the old version was applied to the new")
    bench.expect(bench.get(newer) == newer, "the new version is not there as it was stored")
    claimed = bench.claim_one()
    bench.expect(claimed.revision == newer.revision, "the old version was claimed")
    return "the new version was claimed"


@_promise("a removed message is gone", "leased or not; and no nack brings it back")
def _removal(bench: Bench) -> str:
    waiting, leased = bench.record("waiting", MINUTE), bench.record("leased")
    bench.store.put([waiting, leased])
    leased = bench.claim_one()
    for each in (waiting, leased):
        bench.expect(
            bench.store.delete(each.id) is True, f"removing the {bench.name(each)} one reported that it was not there"
        )
        bench.expect(bench.store.delete(each.id) is False, "a second removal reported that it was there")
    applied = bench.settle(leased, Outcome.RELEASE, released(leased, bench.now()))
    bench.expect(not applied, "a nack of a removed message was reported as applied")
    bench.expect(bench.get(leased) is None and bench.get(waiting) is None, "it is there again")
    return "2 were removed"


@_promise("a batch is settled one by one", "each settlement is applied, or refused, by its own token")
def _batch(bench: Bench) -> str:
    bench.put("acked", "recurring", "dead", "stale")
    claimed = {bench.name(each): each for each in bench.claim()}
    bench.expect(len(claimed) == 4, f"{len(claimed)} messages were claimed where 4 were due")
    acked, recurring, dead, stale = (claimed[name] for name in ("acked", "recurring", "dead", "stale"))
    following = Progress(bench.now() + MINUTE, bench.now() + MINUTE)
    buried = attrs.evolve(dead.progress, due=None, last_error="given up")
    applied = bench.store.settle(
        [
            bench.settlement(acked, Outcome.COMPLETE, None),
            bench.settlement(recurring, Outcome.RESCHEDULE, following),
            bench.settlement(dead, Outcome.BURY, buried),
            bench.settlement(stale, Outcome.COMPLETE, None, token="0" * 32),
        ]
    )
    said = [bool(each) for each in applied]
    bench.expect(said == [True, True, True, False], f"reported as applied: {said}, not [True, True, True, False]")
    bench.expect(bench.get(acked) is None, "the acknowledged one is still there")
    for record, progress in ((recurring, following), (dead, buried), (stale, stale.progress)):
        written = bench.there(record).progress == progress
        bench.expect(written, f"the {bench.name(record)} one is not as it was written")
    return "3 applied, 1 refused"


@_promise("stored messages are listed", "in the order of their times, dead messages last, and counted by state")
def _listed(bench: Bench) -> str:
    records = [bench.record(name, due_in) for name, due_in in (("b", MINUTE), ("a", -1000), ("c", 2 * MINUTE))]
    dead = bench.record("dead")
    dead = attrs.evolve(dead, progress=attrs.evolve(dead.progress, due=None, token="0" * 32))
    bench.store.put([*records, dead])
    listed: list[str] = []
    after: tuple[int | None, str] | None = None
    while page := [bench.sound(each) for each in bench.store.scan(None, 2, after)]:
        listed += [bench.name(each) for each in page]
        after = (page[-1].progress.due, page[-1].id)
        bench.expect(len(listed) <= 100, "a listing goes on without end")
    bench.expect(listed == ["a", "b", "c", "dead"], f"listed as {', '.join(listed)}, not as a, b, c, dead")
    tally = bench.store.tally()
    counts = (tally.scheduled, tally.due, tally.leased, tally.dead)
    bench.expect(counts == (2, 1, 0, 1), f"counted as {counts}, not as 2 scheduled, 1 due, 0 leased, 1 dead")
    return "4 messages in order"


#: The number of threads, of messages, and of messages per claim.
_THREADS, _MESSAGES, _LIMIT = 4, 40, 3


@_promise("each goes to one", "if threads claim at the same time, only one gets a message")
def _race(bench: Bench) -> str:
    stored = {record.id for record in bench.put(*map(str, range(_MESSAGES)))}
    start = Barrier(_THREADS)

    def claim() -> list[Record]:
        claimed: list[Record] = []
        start.wait(10)
        while len(claimed) <= _MESSAGES and (some := bench.claim(_LIMIT)):
            claimed += some
        return claimed

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="pitstop-check") as threads:
        running = [threads.submit(claim) for _ in range(_THREADS)]
        claimed = [record for each in running for record in each.result()]
    ids = {record.id for record in claimed}
    bench.expect(len(claimed) == len(ids), f"{len(claimed) - len(ids)} of {_MESSAGES} messages were claimed twice")
    bench.expect(ids == stored, f"{len(stored - ids)} of {_MESSAGES} messages were not claimed")
    applied = bench.store.settle([bench.settlement(record, Outcome.COMPLETE, None) for record in claimed])
    bench.expect(all(applied), f"{_MESSAGES - sum(map(bool, applied))} of {_MESSAGES} acks were refused")
    return f"{_MESSAGES} messages, {_THREADS} threads"
