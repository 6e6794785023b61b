"""A state machine that applies any operations, in any order, to a backend and to a model, and compares the two."""

from __future__ import annotations

import os

from collections.abc import Callable, Collection, Sequence
from itertools import combinations, count
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
from pitstop.abc import AllBut, Aside, Backend, Capability, Damaged, Outcome, Progress, Record, Settlement, is_chosen
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles
from pitstop_conformance._values import same
from pitstop_conformance.model._contract import ModelStore
from pitstop_conformance.model._messages import IDS, PLAIN


__all__ = ["ContractMachine", "Times", "emptied"]

_SECOND, _MINUTE, _HOUR, _DAY = 1000, 60_000, 3_600_000, 86_400_000

#: The two handles. They are peers, so the choice of a handle must make no difference.
_BY = st.sampled_from(["one", "other"])
#: Due times, in milliseconds from now. None: dead, with a token, so that a redrive with that token applies.
_DUE_IN = st.sampled_from([0, -1, 1, -_SECOND, _SECOND, -_DAY, None])
#: A careless store may mistake one of them for another.
_KINDS = st.sampled_from(["", "mail", "Mail"])
_RECORDS = st.lists(st.tuples(IDS, _DUE_IN, _KINDS), max_size=4, unique_by=lambda each: each[0])
_POLICIES = st.sampled_from([None, None, {"lock_time": 5000, "retry": {"delay": None, "a.b": [True]}}, {}])
#: The kinds of a claim. None: all.
_CHOICES = st.sampled_from(
    [None, None, None, ["mail"], ["", "mail"], ["Mail", "none"], AllBut(["mail"]), AllBut(["", "Mail"]), AllBut([])]
)
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
#: Milliseconds for which a handle may search on from its last place, although a peer has stored an older record.
_REMEMBERED = 1000


class Times:
    """The clock of one example. It starts at a whole second, so that the same example always takes the same course."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        clock.advance(-clock.time_us() % 1_000_000 / 1e6)

    @property
    def now(self) -> int:
        """The current instant."""
        return self._clock.time_us() // 1000

    def advance(self, step: str, dues: Sequence[int]) -> None:
        """Move the clock as the words say. ``dues`` are the instants at which a record becomes due."""
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
    """Remove all records from the store, which all examples of a test share."""
    gone = set[str]()
    while left := backend.scan(None, 100, None):
        for each in left:
            assert each.id not in gone, f"scan() still returns {each.id!r} after delete({each.id!r})"
            gone.add(each.id)
            assert backend.delete(each.id), (
                f"delete({each.id!r}) is False, although scan() has just returned that record"
            )
    tally = backend.tally()
    assert (tally.scheduled, tally.due, tally.leased, tally.dead) == (0, 0, 0, 0), (
        f"expected no record after all were deleted, got {tally}"
    )


class ContractMachine(RuleBasedStateMachine):
    """Each rule is an operation on a store, and the model gives its expected result.

    The arguments of the rules are few and short, so that a failing example reads like a handwritten program.
    """

    #: Records as they were leased, or stored as dead ones, with their tokens. Most tokens are stale after some steps.
    leases = Bundle("leases")

    def __init__(self, handles: Handles, clock: ManualClock) -> None:
        super().__init__()
        self._open: Callable[[], Backend] = handles.peer
        self._times = Times(clock)
        self._model = ModelStore()
        self._handles: dict[str, Backend] = {}
        self._dropped: list[Backend] = []
        self._tokens: set[str] = set()
        # By id: the handle that put or settled the record last, and when.
        self._written: dict[str, tuple[str, int]] = {}
        self._turns = count()

    @initialize(target=leases, records=_RECORDS)
    def begin(self, records: list[tuple[str, int | None, str]]) -> MultipleResults[Record]:
        """Store some records first, as a rule, because most operations on an empty store show little."""
        emptied(self._handle("one"))
        return self._put("one", [self._new(id, due_in, {}, series=False, kind=kind) for id, due_in, kind in records])

    def teardown(self) -> None:
        for each in (*self._handles.values(), *self._dropped):
            each.close()

    # Operations of the user and of the listener.

    @rule(
        by=_BY,
        records=_RECORDS,
        message=PLAIN,
        series=st.booleans(),
        policy=_POLICIES,
        again=st.booleans(),
        target=leases,
    )
    def put(
        self,
        by: str,
        records: list[tuple[str, int | None, str]],
        message: dict[str, Any],
        series: bool,
        policy: dict[str, Any] | None,
        again: bool,
    ) -> MultipleResults[Record]:
        """``records``: ids, due times in milliseconds from now, and kinds. ``again``: repeat the call, as after a lost reply."""
        new = [self._new(id, due_in, message, series=series, kind=kind, policy=policy) for id, due_in, kind in records]
        return self._put(by, new, again=again)

    @precondition(lambda self: Capability.CONDITIONAL in self._handle("one").capabilities)
    @rule(
        by=_BY,
        id=IDS,
        due_in=_DUE_IN,
        message=PLAIN,
        kind=_KINDS,
        policy=_POLICIES,
        expects=st.sampled_from(["none", "this revision", "this record", "another revision", "another progress"]),
        target=leases,
    )
    def put_if(
        self,
        by: str,
        id: str,
        due_in: int | None,
        message: dict[str, Any],
        kind: str,
        policy: dict[str, Any] | None,
        expects: str,
    ) -> MultipleResults[Record]:
        """``expects``: "none" is no record with the id; "this" is the present record."""
        there = self._model.get(id)
        record = self._new(id, due_in, message, series=False, kind=kind, policy=policy)
        present = (None, None) if there is None else (there.revision, there.progress)
        other = None if there is None else attrs.evolve(there.progress, attempts=there.progress.attempts + 1)
        revision, progress = {
            "none": (None, None),
            "this revision": (present[0], None),
            "this record": present,
            "another revision": (os.urandom(16).hex(), None),
            "another progress": (present[0], other),
        }[expects]
        told = self._handle(by).put_if(attrs.evolve(record, message=_copy(message)), revision, progress)
        stored = self._model.put_if(record, revision, progress)
        assert told is stored, f"put_if({id!r}), which expects {expects}: expected {stored}, got {told}"
        if stored:
            self._written[id] = (by, self._times.now)
        self._look()
        return multiple(*([record] if stored and due_in is None else []))

    @rule(by=_BY, id=IDS)
    def delete(self, by: str, id: str) -> None:
        told, there = self._handle(by).delete(id), self._model.delete(id)
        assert told is there, f"delete({id!r}): expected {there}, got {told}"
        self._look()

    @rule(
        by=_BY,
        limit=st.integers(1, 4),
        duration=st.sampled_from([_SECOND, 1, _MINUTE]),
        kinds=_CHOICES,
        when=st.sampled_from(["when something is due", "when something is due", "now"]),
        target=leases,
    )
    def lease(
        self, by: str, limit: int, duration: int, kinds: Collection[str] | None, when: str
    ) -> MultipleResults[Record]:
        """``kinds``: None claims without the argument, as does a backend that does not declare KINDS."""
        kinds = kinds if self._has_kinds else None
        if when != "now" and not self._model.claimable(self._times.now, kinds):
            self._times.advance("to the next due time", self._model.dues(kinds))
        claim = self._handle(by).lease(limit, duration, *self._argument(kinds))
        now = self._times.now
        due = self._model.claimable(now, kinds)
        assert len(claim) <= limit, f"lease({limit}, ...): expected at most {limit} records, got {len(claim)}"
        assert claim or not due, (
            f"lease(...): expected at least one of the due records {[each.id for each in due]}, got none"
        )
        tokens = {_token(each) for each in claim}
        assert len(tokens) <= 1, "expected one token for all records of a claim, got several"
        assert not tokens & self._tokens, "expected a new token for each claim, got a token of an earlier claim"
        self._tokens |= tokens
        for each in claim:
            self._refuse_if_not_due(each, now, kinds)
            expected = self._model.lease(each.id, _token(each), now, now + duration, limit)
            self._compare(each, expected, f"lease({each.id!r})")
        self._check_order(by, [each.id for each in claim], due, now, kinds)
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
        """Of several settlements of one id the first counts. ``again``: repeat the call, as after a lost reply."""
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
        """The token is nearly always of another record, or of an earlier lease."""
        theirs = self._settlement(other, outcome)
        self._settle(by, [attrs.evolve(theirs, id=id), Settlement(f"not {id}", theirs.token, theirs.outcome, None)])
        self._look()

    @rule(step=_STEPS)
    def advance(self, step: str) -> None:
        self._times.advance(step, self._model.dues())
        self._look()

    # Events of a process.

    @rule(how=st.sampled_from(["one crashes", "other crashes", "all are closed"]))
    def restart(self, how: str) -> None:
        """Open the handles anew. Records that were leased through the old handles stay leased.

        A handle that crashed was never closed. All handles are closed if the store outlives its handles, otherwise all but one.
        """
        durable = Capability.DURABLE in self._handle("one").capabilities
        crashed = how.removesuffix(" crashes")
        if crashed in self._handles:
            self._dropped.append(self._handles.pop(crashed))
        elif how == "all are closed":
            for by in list(self._handles) if durable else ["other"]:
                self._close(by)
        self._look()

    # Reads.

    @rule(
        by=_BY,
        state=st.sampled_from([None, "due", "scheduled", "leased", "dead"]),
        limit=st.integers(1, 3),
        behind=st.none() | IDS,
    )
    def scan(self, by: str, state: State | None, limit: int, behind: str | None) -> None:
        """``behind``: start after the place of this id, or after its place if it were due now."""
        now = self._times.now
        after = None
        if behind is not None:
            there = self._model.get(behind)
            after = (now if there is None else there.progress.due, behind)
        self._compare_scan(by, state, limit, after)

    @rule(kinds=_CHOICES)
    def next_due(self, kinds: Collection[str] | None) -> None:
        """Read through a new handle, because the answer of an older handle may be out of date."""
        kinds = kinds if self._has_kinds else None
        peer = self._open()
        try:
            told, is_so = peer.next_due(*self._argument(kinds)), self._model.next_due(kinds)
        finally:
            peer.close()
        assert told == is_so, f"next_due({kinds}): expected {self._shown(is_so)}, got {self._shown(told)}"

    @property
    def _has_kinds(self) -> bool:
        return Capability.KINDS in self._handle("one").capabilities

    def _argument(self, kinds: Collection[str] | None) -> list[Collection[str]]:
        return [] if kinds is None else [kinds]

    @property
    def _has_leased(self) -> bool:
        return bool(self.bundles.get("leases"))

    def _look(self) -> None:
        """Compare the store with the model after each step, through either handle.

        This is no invariant of hypothesis, because an invariant adds a line to each step of a failing example.
        """
        turn = next(self._turns)
        by = "other" if turn % 2 else "one"
        self._compare_scan(by, None, 100, None)
        if turn % 3:
            for record in self._model.scan(None, 100, None, self._times.now):
                self._compare(self._handle(by).get(record.id), record, f"get({record.id!r})")
        else:
            told, is_so = self._handle(by).tally(), self._model.tally(self._times.now)
            assert told == is_so, f"tally(): expected {is_so}, got {told}"

    def _handle(self, by: str) -> Backend:
        """Return the handle with this name, and open it at its first use: opening may take longer than all other steps."""
        if by not in self._handles:
            self._handles[by] = self._open()
        return self._handles[by]

    def _close(self, by: str) -> None:
        backend = self._handles.pop(by, None)
        if backend is not None:
            backend.close()

    def _new(
        self,
        id: str,
        due_in: int | None,
        message: dict[str, Any],
        *,
        series: bool,
        kind: str,
        policy: dict[str, Any] | None = None,
    ) -> Record:
        capabilities = self._handle("one").capabilities
        kind = kind if Capability.KINDS in capabilities else ""
        policy = policy if Capability.POLICIES in capabilities else None
        now = self._times.now
        if due_in is None:
            progress = Progress(None, now - _HOUR, 3, now - _MINUTE, "gave up", os.urandom(16).hex())
        else:
            progress = Progress(now + due_in, now + due_in)
        every = {"start": now, "every": {"v": 1, "ms": _HOUR}, "end": None, "$list": [{"a.b": [0, None, "x"]}]}
        return Record(id, message, every if series else None, os.urandom(16).hex(), progress, kind, policy)

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
        """Return a settlement that core writes, or might write: the contract also holds for settlements that make little sense."""
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
        # Of several deletes, a delete that finds no record may count as applied, because the record is gone.
        lenient = sum(each.progress is None for each in settlements) > 1
        gone = [lenient and each.progress is None and self._model.get(each.id) is None for each in settlements]
        right = [said == done or (said and free) for said, done, free in zip(told, applies, gone, strict=True)]
        assert all(right), f"settle({shown}): expected {applies}, got {told}"
        for each, done in zip(settlements, applies, strict=True):
            if done:
                self._written[each.id] = (by, now)

    def _refuse_if_not_due(self, leased: Record | Damaged, now: int, kinds: Collection[str] | None) -> None:
        """Fail if a claim must not return this record, and name the reason."""
        state, record = self._model.state(leased.id, now), self._model.get(leased.id)
        assert record is not None, f"lease(...) returned {leased.id!r}, which was acked or removed before"
        due = record.progress.due
        assert state != "dead", f"lease(...) returned {leased.id!r}, which is dead"
        assert due is not None
        assert state != "leased", f"lease(...) returned {leased.id!r}, whose lease runs for another {due - now} ms"
        assert state == "due", f"lease(...) returned {leased.id!r} {due - now} ms before it is due"
        assert is_chosen(record.kind, kinds), (
            f"lease(..., {kinds}) returned {leased.id!r}, which is of kind {record.kind!r}"
        )

    def _check_order(
        self, by: str, claimed: list[str], due: list[Record], now: int, kinds: Collection[str] | None
    ) -> None:
        """The oldest ``due`` first; of those with one ``due``, the id that came in first.

        This order always holds within a claim. It also holds between claims, except for records that a peer has just written. A
        claim of some kinds may merge records of several kinds with one ``due`` in any order.
        """
        order = [each.id for each in due]
        records = {each.id: each for each in due}

        def is_before(one: str, other: str) -> bool:
            first, second = records[one], records[other]
            tie = first.progress.due == second.progress.due and first.kind != second.kind
            return order.index(one) < order.index(other) and not (tie and kinds is not None)

        right = [not is_before(later, earlier) for earlier, later in combinations(claimed, 2)]
        assert all(right), (
            f"lease(...): expected the order {[id for id in order if id in claimed]} (by due time, then by first store), got "
            f"{claimed}"
        )
        for id in order:
            writer, at = self._written[id]
            passed_over = id not in claimed and (writer == by or now - at >= _REMEMBERED)
            assert not (passed_over and any(is_before(id, each) for each in claimed)), (
                f"lease(...) returned {claimed} without {id!r}, which is due before; the order is {order}"
            )

    def _compare_scan(self, by: str, state: State | None, limit: int, after: tuple[int | None, str] | None) -> None:
        what = f"scan({state!r}, {limit}, {after})"
        told = self._handle(by).scan(state, limit, after)
        is_so = self._model.scan(state, limit, after, self._times.now)
        told_ids, ids = [each.id for each in told], [each.id for each in is_so]
        assert told_ids == ids, f"{what}: expected {ids}, got {told_ids}"
        for each, record in zip(told, is_so, strict=True):
            self._compare(each, record, what)

    def _shown(self, value: object) -> str:
        """Return a time as a distance from now, as in the arguments of the steps."""
        return f"now{value - self._times.now:+}" if type(value) is int and value > _DAY else repr(value)

    def _compare(self, told: Record | Damaged | None, is_so: Record, what: str) -> None:
        assert isinstance(told, Record), f"{what}: expected the record {is_so.id!r}, got {told!r}"
        assert told.id == is_so.id, f"{what}: expected the id {is_so.id!r}, got {told.id!r}"
        for field, value in attrs.asdict(is_so.progress).items():
            found = getattr(told.progress, field)
            assert found == value, f"{what}: {field}: expected {self._shown(value)}, got {self._shown(found)}"
        assert told.revision == is_so.revision, f"{what}: expected the revision of the last put, got another one"
        assert same(told.message, is_so.message), f"{what}: message: expected {is_so.message!r}, got {told.message!r}"
        assert same(told.series, is_so.series), f"{what}: series: expected {is_so.series!r}, got {told.series!r}"
        assert told.kind == is_so.kind, f"{what}: kind: expected {is_so.kind!r}, got {told.kind!r}"
        assert same(told.policy, is_so.policy), f"{what}: policy: expected {is_so.policy!r}, got {told.policy!r}"
        # The caller of a backend may change the message that it got.
        _spoil(told.message)


def _token(leased: Record | Damaged) -> str:
    token = leased.token if isinstance(leased, Damaged) else leased.progress.token
    assert token, f"expected a token on the leased record {leased.id!r}, got none"
    return token


def _copy(message: Any) -> Any:
    if isinstance(message, dict):
        return {key: _copy(value) for key, value in message.items()}
    return [_copy(each) for each in message] if isinstance(message, list) else message


def _spoil(value: Any) -> None:
    """Change everything in a message that can be changed."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for each in list(inner):
        _spoil(each)
    if isinstance(value, dict):
        value["spoiled"] = True
    elif isinstance(value, list):
        value.append("spoiled")
