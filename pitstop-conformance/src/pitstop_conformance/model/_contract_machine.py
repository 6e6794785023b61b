"""A state machine that does anything, in any order, to a backend and to a model of it, and compares them."""

from __future__ import annotations

import os

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import attrs

from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    multiple,
    precondition,
    rule,
)

from pitstop import State
from pitstop.abc import Aside, Backend, Capability, Damaged, Outcome, Progress, Record, Settlement
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles
from pitstop_conformance._values import same
from pitstop_conformance.model._contract import ModelStore
from pitstop_conformance.model._messages import IDS, PLAIN


__all__ = ["ContractMachine", "Times", "emptied"]

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000

#: The two handles. They are peers: which one does something must make no difference.
_BY = st.sampled_from(["one", "other"])
#: Due times, in milliseconds from now; None: dead, with a token, so that whoever knows that may redrive it.
_DUE_IN = st.sampled_from([0, -1, 1, -_SECOND, _SECOND, -_DAY, None])
_RECORDS = st.lists(st.tuples(IDS, _DUE_IN), max_size=4, unique_by=lambda each: each[0])
_OUTCOMES = st.sampled_from(
    ["complete", "release", "release later", "reschedule", "extend", "shorten", "bury", "set aside"]
)
_STEPS = st.sampled_from(
    [
        "to the next due time",
        "to just before it",
        "by a millisecond",
        "by half a millisecond",
        "by a second",
        "by a day",
    ]
)
#: Milliseconds for which a handle may look from where it was, when it was a peer that put something older.
_REMEMBERED = 1000


class Times:
    """The clock of one example: it begins at a whole second, for the same example is to be the same each time."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        clock.advance(-clock.time_us() % 1_000_000 / 1e6)

    @property
    def now(self) -> int:
        """The instant."""
        return self._clock.time_us() // 1000

    def advance(self, step: str, dues: Sequence[int]) -> None:
        """Move it as the words say; ``dues`` are the instants at which something happens."""
        now_us = self._clock.time_us()
        due_us = min((due * 1000 for due in dues if due * 1000 > now_us), default=now_us + 1)
        to_us = {
            "to the next due time": due_us,
            "to just before it": due_us - 1,
            "by half a millisecond": now_us + 500,
            "by a millisecond": now_us + 1000,
            "by a second": now_us + _SECOND * 1000,
            "by a day": now_us + _DAY * 1000,
        }[step]
        self._clock.advance((to_us - now_us) / 1e6)


def emptied(backend: Backend) -> None:
    """Remove everything from the store, which all examples of a test have in common."""
    gone = set[str]()
    while left := backend.scan(None, 100, None):
        for each in left:
            assert each.id not in gone, f"scan() still shows {each.id!r}, which was deleted"
            gone.add(each.id)
            assert backend.delete(each.id), f"delete({each.id!r}) says that what scan() has just shown is not there"
    tally = backend.tally()
    assert (tally.scheduled, tally.due, tally.leased, tally.dead) == (0, 0, 0, 0), f"all was deleted, yet {tally}"


class ContractMachine(RuleBasedStateMachine):
    """Rules are what may be done to a store; the model says what comes of it.

    Their arguments are few and short, so that a failing example reads like a program that one would have written.
    """

    #: Records as they were leased, or put as dead ones: each with its token, most of them stale after a while.
    leases = Bundle("leases")

    def __init__(self, handles: Handles, clock: ManualClock) -> None:
        super().__init__()
        self._open: Callable[[], Backend] = handles.peer
        self._times = Times(clock)
        self._model = ModelStore()
        self._handles: dict[str, Backend] = {}
        self._dropped: list[Backend] = []
        self._tokens: set[str] = set()
        # By id: who put or settled it last, and when.
        self._written: dict[str, tuple[str, int]] = {}
        self._turns = count()

    @initialize(target=leases, records=_RECORDS)
    def begin(self, records: list[tuple[str, int | None]]) -> MultipleResults[Record]:
        """With something in the store, as a rule: most operations on an empty one are tedious."""
        emptied(self._handle("one"))
        return self._put("one", [self._new(id, due_in, {}, series=False) for id, due_in in records])

    def teardown(self) -> None:
        for each in (*self._handles.values(), *self._dropped):
            each.close()

    # What the user and the listener do.

    @rule(
        by=_BY,
        records=_RECORDS,
        message=PLAIN,
        series=st.booleans(),
        again=st.booleans(),
        target=leases,
    )
    def put(
        self, by: str, records: list[tuple[str, int | None]], message: dict[str, Any], series: bool, again: bool
    ) -> MultipleResults[Record]:
        """``records``: ids, and in how many milliseconds they are due. ``again``: the reply got lost, so once more."""
        return self._put(by, [self._new(id, due_in, message, series=series) for id, due_in in records], again=again)

    @rule(by=_BY, id=IDS)
    def delete(self, by: str, id: str) -> None:
        told, there = self._handle(by).delete(id), self._model.delete(id)
        assert told is there, f"delete({id!r}) says {told}; that it was there is {there}"
        self._look()

    @rule(
        by=_BY,
        limit=st.integers(1, 4),
        duration=st.sampled_from([_SECOND, 1, _MINUTE]),
        when=st.sampled_from(["when something is due", "when something is due", "now"]),
        target=leases,
    )
    def lease(self, by: str, limit: int, duration: int, when: str) -> MultipleResults[Record]:
        if when != "now" and not self._model.claimable(self._times.now):
            self._times.advance("to the next due time", self._model.dues())
        claim = self._handle(by).lease(limit, duration)
        now = self._times.now
        due = self._model.claimable(now)
        assert len(claim) <= limit, f"a claim of {limit} got {len(claim)}"
        assert claim or not due, f"nothing was leased, although {[each.id for each in due]} are due"
        tokens = {_token(each) for each in claim}
        assert len(tokens) <= 1, "the records of one claim have several tokens"
        assert not tokens & self._tokens, "the token of a claim was used before"
        self._tokens |= tokens
        for each in claim:
            self._refuse_if_not_due(each, now)
            expected = self._model.lease(each.id, _token(each), now, now + duration, limit)
            self._compare(each, expected, f"lease({each.id!r})")
        self._check_order(by, [each.id for each in claim], [each.id for each in due], now)
        self._look()
        return multiple(*(each for each in claim if isinstance(each, Record)))

    @precondition(lambda self: self._has_leased)
    @rule(
        by=_BY,
        batch=st.lists(st.tuples(leases, _OUTCOMES), min_size=1, max_size=4),
        when=st.sampled_from(["now", "now", "when the first lease ends", "just before that"]),
        again=st.booleans(),
    )
    def settle(self, by: str, batch: list[tuple[Record, str]], when: str, again: bool) -> None:
        """Of several with one id the first counts. ``again``: the reply got lost, so once more."""
        end = batch[0][0].progress.due
        if when != "now" and end is not None:
            self._times.advance("to just before it" if when == "just before that" else "to the next due time", [end])
        distinct = {lease.id: (lease, outcome) for lease, outcome in reversed(batch)}
        settlements = [self._settlement(lease, outcome) for lease, outcome in distinct.values()]
        for _ in range(1 + again):
            self._settle(by, settlements)
            self._look()

    @precondition(lambda self: self._has_leased)
    @rule(by=_BY, id=IDS, outcome=_OUTCOMES, other=leases)
    def settle_with_the_token_of_another(self, by: str, id: str, outcome: str, other: Record) -> None:
        """Nearly always of another record, or of an earlier lease."""
        theirs = self._settlement(other, outcome)
        self._settle(by, [attrs.evolve(theirs, id=id), Settlement(f"not {id}", theirs.token, theirs.outcome, None)])
        self._look()

    @rule(step=_STEPS)
    def advance(self, step: str) -> None:
        self._times.advance(step, self._model.dues())
        self._look()

    # What happens to a process.

    @rule(how=st.sampled_from(["one crashes", "other crashes", "all are closed"]))
    def restart(self, how: str) -> None:
        """Handles are opened anew. What was leased through them stays leased.

        One that crashed was not closed by anybody. All are closed if the store outlives that; else all but one.
        """
        durable = Capability.DURABLE in self._handle("one").capabilities
        crashed = how.removesuffix(" crashes")
        if crashed in self._handles:
            self._dropped.append(self._handles.pop(crashed))
        elif how == "all are closed":
            for by in list(self._handles) if durable else ["other"]:
                self._close(by)
        self._look()

    # What may be looked at.

    @rule(
        by=_BY,
        state=st.sampled_from([None, "due", "scheduled", "leased", "dead"]),
        limit=st.integers(1, 3),
        behind=st.none() | IDS,
    )
    def scan(self, by: str, state: State | None, limit: int, behind: str | None) -> None:
        """``behind``: the place of this id, or where it would be if it were due now."""
        now = self._times.now
        after = None
        if behind is not None:
            there = self._model.get(behind)
            after = (now if there is None else there.progress.due, behind)
        self._compare_scan(by, state, limit, after)

    @rule()
    def next_due(self) -> None:
        """Through a new handle: one that has seen others may be somewhat old."""
        peer = self._open()
        try:
            told, is_so = peer.next_due(), self._model.next_due()
        finally:
            peer.close()
        assert told == is_so, f"next_due() is {self._shown(told)}; it should be {self._shown(is_so)}"

    @property
    def _has_leased(self) -> bool:
        return bool(self.bundles.get("leases"))

    def _look(self) -> None:
        """What holds after each step: all is as the model says, whichever handle one asks.

        No invariant of hypothesis: those would be a line more after each step of a failing example.
        """
        turn = next(self._turns)
        by = "other" if turn % 2 else "one"
        self._compare_scan(by, None, 100, None)
        if turn % 3:
            for record in self._model.scan(None, 100, None, self._times.now):
                self._compare(self._handle(by).get(record.id), record, f"get({record.id!r})")
        else:
            told, is_so = self._handle(by).tally(), self._model.tally(self._times.now)
            assert told == is_so, f"tally() is {told}; it should be {is_so}"

    def _handle(self, by: str) -> Backend:
        """Opened when it is needed: to open one may take longer than anything else here."""
        if by not in self._handles:
            self._handles[by] = self._open()
        return self._handles[by]

    def _close(self, by: str) -> None:
        backend = self._handles.pop(by, None)
        if backend is not None:
            backend.close()

    def _new(self, id: str, due_in: int | None, message: dict[str, Any], *, series: bool) -> Record:
        now = self._times.now
        if due_in is None:
            progress = Progress(None, now - _HOUR, 3, now - _MINUTE, "gave up", os.urandom(16).hex())
        else:
            progress = Progress(now + due_in, now + due_in)
        every = {"start": now, "every": {"v": 1, "ms": _HOUR}, "end": None, "$list": [{"a.b": [0, None, "x"]}]}
        return Record(id, message, every if series else None, os.urandom(16).hex(), progress)

    def _put(self, by: str, put: list[Record], *, again: bool = False) -> MultipleResults[Record]:
        self._model.put(put)
        given = [attrs.evolve(each, message=_copy(each.message)) for each in put]
        for _ in range(1 + again):
            self._handle(by).put(given)
        for each in given:
            _spoil(each.message)
            self._written[each.id] = (by, self._times.now)
        self._look()
        return multiple(*(each for each in put if each.progress.due is None))

    def _settlement(self, lease: Record, outcome: str) -> Settlement:
        """What core writes, or what it might: the contract does not ask what is sensible."""
        now, progress, token = self._times.now, lease.progress, lease.progress.token
        assert token is not None
        first = progress.first_leased or 0
        back = attrs.evolve(progress, last_error="failed", token=None)
        written: dict[str, tuple[Outcome, Progress | Aside | None]] = {
            "complete": (Outcome.COMPLETE, None),
            "release": (Outcome.RELEASE, attrs.evolve(back, due=max(now, first))),
            "release later": (Outcome.RELEASE, attrs.evolve(back, due=now + _SECOND)),
            "reschedule": (Outcome.RESCHEDULE, Progress(now + _HOUR, now + _HOUR, last_error="parked")),
            "extend": (Outcome.EXTEND, attrs.evolve(progress, due=now + 2 * _MINUTE)),
            "shorten": (Outcome.EXTEND, attrs.evolve(progress, due=now + 1)),
            "bury": (Outcome.BURY, attrs.evolve(progress, due=None, last_error="gave up")),
            "set aside": (Outcome.BURY, Aside("cannot be read")),
        }
        return Settlement(lease.id, token, *written[outcome])

    def _settle(self, by: str, settlements: list[Settlement]) -> None:
        now = self._times.now
        told = list(self._handle(by).settle(settlements))
        applies = self._model.settle(settlements, now)
        shown = [(each.id, each.outcome.value) for each in settlements]
        # Of several deletes, one that finds nothing may count as done: what it was to delete is gone.
        lenient = sum(each.progress is None for each in settlements) > 1
        gone = [lenient and each.progress is None and self._model.get(each.id) is None for each in settlements]
        right = [said == done or (said and free) for said, done, free in zip(told, applies, gone, strict=True)]
        assert all(right), f"settle({shown}) says {told}; it should be {applies}"
        for each, done in zip(settlements, applies, strict=True):
            if done:
                self._written[each.id] = (by, now)

    def _refuse_if_not_due(self, leased: Record | Damaged, now: int) -> None:
        """A text for each way in which a claim may be wrong."""
        state, record = self._model.state(leased.id, now), self._model.get(leased.id)
        assert record is not None, f"{leased.id!r} was leased, and is not stored any more: acked, or removed"
        due = record.progress.due
        assert state != "dead", f"{leased.id!r} was leased, and is dead"
        assert due is not None
        assert state != "leased", f"{leased.id!r} was leased while its lease runs for another {due - now} ms"
        assert state == "due", f"{leased.id!r} was leased {due - now} ms before it is due"

    def _check_order(self, by: str, claimed: list[str], due: list[str], now: int) -> None:
        """The oldest ``due`` first; of those with one ``due``, the id that came in first.

        Within a claim always. What a claim leaves for a later one is younger, but for what a peer wrote a moment ago.
        """
        order = [id for id in due if id in claimed]
        assert claimed == order, f"a claim holds {claimed} in this order; by due time, and then by age, it is {order}"
        for id in due[: due.index(claimed[-1])] if claimed else []:
            writer, at = self._written[id]
            passed_over = id not in claimed and (writer == by or now - at >= _REMEMBERED)
            assert not passed_over, f"a claim holds {claimed}, although {id!r} is due before; the order is {due}"

    def _compare_scan(self, by: str, state: State | None, limit: int, after: tuple[int | None, str] | None) -> None:
        what = f"scan({state!r}, {limit}, {after})"
        told = self._handle(by).scan(state, limit, after)
        is_so = self._model.scan(state, limit, after, self._times.now)
        told_ids, ids = [each.id for each in told], [each.id for each in is_so]
        assert told_ids == ids, f"{what} shows {told_ids}; it should be {ids}"
        for each, record in zip(told, is_so, strict=True):
            self._compare(each, record, what)

    def _shown(self, value: object) -> str:
        """A time as a distance from now: that is what the steps are given."""
        return f"now{value - self._times.now:+}" if type(value) is int and value > _DAY else repr(value)

    def _compare(self, told: Record | Damaged | None, is_so: Record, what: str) -> None:
        assert isinstance(told, Record), f"{what}: {is_so.id!r} came as {told!r}"
        assert told.id == is_so.id, f"{what}: it has the id {told.id!r}"
        for field, value in attrs.asdict(is_so.progress).items():
            found = getattr(told.progress, field)
            assert found == value, f"{what}: {field} is {self._shown(found)}; it should be {self._shown(value)}"
        assert told.revision == is_so.revision, f"{what}: the revision is not that of the last put"
        assert same(told.message, is_so.message), f"{what}: {told.message!r}; it should be {is_so.message!r}"
        assert same(told.series, is_so.series), f"{what}: {told.series!r}; it should be {is_so.series!r}"
        # Whoever got it may do with it what they like.
        _spoil(told.message)


def _token(leased: Record | Damaged) -> str:
    token = leased.token if isinstance(leased, Damaged) else leased.progress.token
    assert token, f"{leased.id!r} was leased without a token"
    return token


def _copy(message: Any) -> Any:
    if isinstance(message, dict):
        return {key: _copy(value) for key, value in message.items()}
    return [_copy(each) for each in message] if isinstance(message, list) else message


def _spoil(value: Any) -> None:
    """Change everything that can be changed in a message."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in list(inner):
        _spoil(each)
    if isinstance(value, dict):
        value["spoiled"] = True
    elif isinstance(value, list):
        value.append("spoiled")
