"""Faults on demand, between Pitstop and any backend. They are the same in each run."""

from __future__ import annotations

import random

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, NoReturn, TypeVar, get_args

import attrs

from pitstop._engine._intake import Intake
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, OutcomeUnknown, PitstopError
from pitstop._values._arguments import whole_number
from pitstop._values._entry import State
from pitstop._values._message import valid_id
from pitstop._values._plain import shown
from pitstop._values._quoting import quoted
from pitstop.abc import (
    API_VERSION,
    Backend,
    Capability,
    Clock,
    Damaged,
    Doorbell,
    Legacy,
    LegacyPage,
    Outcome,
    Record,
    Settlement,
    Tally,
    Watch,
    Writes,
    did_you_mean,
    state_of,
)
from pitstop.testing._clock import ManualClock, span_of
from pitstop.testing._report import clock_text, table


__all__ = ["Crash", "Fault", "FaultKind", "Faults", "FaultyBackend", "ServerClock", "at_least_one", "crash"]

#: ``fail``: refused, nothing was done. ``lose``: it was done, and the answer got lost.
FaultKind = Literal["fail", "lose"]

#: The operations that can fail: the words of an application, and the methods of a backend that do them.
_OPERATIONS = {
    "store": "put",
    "remove": "delete",
    "get": "get",
    "entries": "scan",
    "stats": "tally",
    "lease": "lease",
    "settle": "settle",
    "next_due": "next_due",
}
#: Other words for the same operations.
_ALIASES = {
    "store_many": "store",
    "claim": "lease",
    "ack": "settle",
    "nack": "settle",
    "extend": "settle",
    "redrive": "settle",
    **{method: operation for operation, method in _OPERATIONS.items()},
}
_WRITES = frozenset({"store", "remove", "settle"})

#: A part of error texts.
_SCRIPTED = 'such as [("settle", 3, "lose")] (operation, number of the call, kind), or the log of another Pitstop'

_T = TypeVar("_T")


class Crash(BaseException):
    """Raise this in a driven handler to let the process die there: there is no ack and no nack, and the leases stay behind."""


@attrs.frozen
class Fault:
    """One fault, as it struck."""

    operation: str
    #: The number of the call of the operation: 1 is the first one of this Pitstop.
    call: int
    kind: FaultKind
    #: The time by the clock of the test.
    at: datetime | None = attrs.field(default=None, eq=False)


def crash(store: Session) -> int:
    """Let the holder of this handle's leases die, and with it the messages that were claimed ahead. Return the number of leases."""
    for component in store.components:
        if isinstance(component, Intake):
            # A process that dies loses its unwritten acks.
            component.drop_all()
    return store.backend.crash() if isinstance(store.backend, FaultyBackend) else 0


class ServerClock:
    """The clock of a backend: the clock that the test moves, plus an offset."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.offset_us = 0

    def time_us(self) -> int:
        return self._clock.time_us() + self.offset_us

    def monotonic(self) -> float:
        return self._clock.monotonic()

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        return self._clock.wait(bell, seconds)

    def __repr__(self) -> str:
        return f"ServerClock({self._clock!r}, {self.offset_us / 1e6:+} s)"


class Faults:
    """The faults of a test: planned, or drawn with a seed. :func:`pitstop.testing.init` makes it.

    Operations are ``store``, ``remove``, ``get``, ``entries``, ``stats``, ``lease`` (a listener's claim), ``settle`` (ack, nack,
    extend, redrive) and ``next_due`` (a listener reads when to wake up). Assertions, and the functions that drive a test, set
    off no fault when they read the store. Writes with ``session=`` set off none either: they are the session's, and reach the
    store when its transaction ends.
    """

    def __init__(self, backend: FaultyBackend, store: Session, seed: int | None = None) -> None:
        self._backend = backend
        self._session = store
        self._seed = seed

    def fail_next(self, operation: str, times: int = 1, *, error: BackendUnavailable | None = None) -> None:
        """Let the next call (or that many calls) be refused before anything is done: :class:`pitstop.BackendUnavailable`.

        :param error: raise this one, such as ``BackendUnavailable("wrong password", permanent=True)``.
        :raises PitstopError: if there is no such operation.
        """
        if error is not None and not isinstance(error, BackendUnavailable):
            raise PitstopError(f"error is a {type(error).__name__}. A backend raises BackendUnavailable: give one.")
        self._backend.plan(_operation(operation), "fail", at_least_one(times, "times"), error)

    def lose_reply(self, operation: str, times: int = 1) -> None:
        """Let the next call (or that many calls) be done, and its answer get lost.

        A write raises :class:`pitstop.OutcomeUnknown` with the ids. Other calls raise :class:`pitstop.BackendUnavailable`.
        Messages that a claim leased then have no holder until their lease runs out.

        :raises PitstopError: if there is no such operation.
        """
        self._backend.plan(_operation(operation), "lose", at_least_one(times, "times"), None)

    def at_random(
        self,
        rate: float,
        *,
        seed: int | None = None,
        operations: Iterable[str] = ("store", "lease", "settle"),
        kinds: Collection[FaultKind] = ("fail", "lose"),
    ) -> None:
        """Let this part of the calls of these operations fail from now on. Equal calls and seeds give equal faults.

        :param rate: the part, from 0 (none) to 1 (all).
        :param seed: needed unless the Pitstop was made with one.
        :raises PitstopError: if an argument cannot be used.
        """
        if type(rate) not in {int, float} or not 0 <= rate <= 1:
            raise PitstopError(f"rate={quoted(rate)} cannot be used. Give a number from 0 to 1, such as 0.1.")
        seed = self._seed if seed is None else seed
        if seed is None:
            raise PitstopError("There is no seed, so the run could not be repeated. Give one, such as seed=1.")
        if type(seed) is not int:
            raise PitstopError(f"seed={seed!r:.80} is a {type(seed).__name__}. Give a whole number.")
        names = {_operation(each) for each in _several(operations, "operations", tuple(_OPERATIONS))}
        some = _several(kinds, "kinds", get_args(FaultKind))
        if any(kind not in get_args(FaultKind) for kind in some):
            raise PitstopError(f"kinds={kinds!r:.80} cannot be used. Give some of: {', '.join(get_args(FaultKind))}.")
        self._backend.draw(random.Random(seed), rate, names, sorted(some))  # noqa: S311

    def script(self, faults: Iterable[Fault | tuple[str, int, FaultKind]]) -> None:
        """Let exactly these faults happen, by the number of the call: a :attr:`log` of an earlier run, or ``(operation, call, kind)``.

        :raises PitstopError: if one cannot be used.
        """
        given: object = faults
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise PitstopError(f"faults={faults!r:.80} cannot be used. Give a list, {_SCRIPTED}.")
        # All are checked before the first is set.
        told = [_told(each) for each in given]
        for operation, call, kind in told:
            self._backend.scripted[operation, call] = kind
        self._backend.arm()

    @property
    def log(self) -> tuple[Fault, ...]:
        """The calls that failed, in order. Given to :meth:`script` of another Pitstop, they fail there as well."""
        return tuple(self._backend.log)

    def crash_holder(self) -> int:
        """Let the holder of this Pitstop's leases die, as by ``kill -9``: it settles and gives back nothing any more.

        The messages come back when their leases run out. A handler that is running cannot settle its delivery any more:
        :class:`pitstop.LeaseLost`. Listeners live on, like those of the next process.

        :return: the number of leases that ended so. Leases that were over already do not count.
        """
        return crash(self._session)

    def crash(self) -> NoReturn:
        """Die here: call :meth:`crash_holder`, and raise :class:`Crash`. For handlers; a driven run goes on with the next message."""
        self.crash_holder()
        raise Crash

    def expire_lease(self, id: str) -> None:
        """Let the lease of this message run out now: the message is due again, and its holder's settlement comes too late.

        :raises PitstopError: if the message is not leased.
        """
        backend = self._backend.inner
        now = backend.now() // 1000
        stored = backend.get(valid_id(id))
        if isinstance(stored, Record):
            progress = stored.progress
            if state_of(progress.due, progress.token, now) == "leased" and progress.token is not None:
                over = Settlement(id, progress.token, Outcome.EXTEND, attrs.evolve(progress, due=now))
                backend.settle([over])
                self._session.written(now)
                return
            state: str = state_of(progress.due, progress.token, now)
        else:
            state = "not there" if stored is None else "damaged"
        raise PitstopError(f"{id!r} is not leased, it is {state}. Take it with a listener first, or see pit.entries().")

    def skew(self, delta: timedelta | float | str) -> None:
        """Set the backend's clock apart from the listeners' clock: ahead by ``delta``, or behind if that is negative.

        Zero makes them equal again. ``pit.now()`` and due times follow the backend's clock, waits follow the other one.

        :raises PitstopError: if ``delta`` is not a length of time, or ``pitstop.testing.init`` did not make the backend.
        """
        server = self._backend.server_clock
        if server is None:
            raise PitstopError(
                "The backend was given ready-made, so its clock cannot be set apart. Give its name or class as type."
            )
        server.offset_us = span_of(delta, "delta") // timedelta(microseconds=1)
        self._session.written(None)

    def latency(self, operation: str, delta: timedelta | float | str, *, before: bool = False) -> None:
        """Let each call take this long from now on: the clock of the test moves by ``delta``. Zero: no delay.

        :param before: the request is slow, not the answer: the clock moves before the call is done, not after.
        :raises PitstopError: if there is no such operation, or ``delta`` is negative.
        """
        span = span_of(delta, "delta")
        if span < timedelta(0):
            raise PitstopError(f"delta={shown(delta)} is negative. The clock does not go back.")
        self._backend.latencies[_operation(operation)] = (span, before)
        self._backend.arm()

    def clear(self) -> None:
        """End all faults: forget planned and drawn ones, and make the clocks equal. Leases of crashed holders stay lost."""
        self._backend.clear()
        if self._backend.server_clock is not None:
            self.skew(0)

    def __str__(self) -> str:
        rows = [(clock_text(each.at), each.operation, str(each.call), each.kind) for each in self.log]
        return table(f"{len(rows)} fault{'' if len(rows) == 1 else 's'}", ("at", "operation", "call", "kind"), rows)

    def __repr__(self) -> str:
        return f"<Faults {len(self._backend.log)} so far>"


@attrs.frozen
class _Dice:
    random: random.Random
    rate: float
    operations: set[str]
    kinds: Sequence[FaultKind]


class FaultyBackend(Backend):
    """A wrapper of another backend, whose calls fail as planned. Its own clock is the listeners' clock."""

    api_version: ClassVar[int] = API_VERSION

    def __init__(self, inner: Backend, clock: Clock, server_clock: ServerClock | None) -> None:
        self.inner = inner
        self.config = inner.config
        self.capabilities: Capability = inner.capabilities  # type: ignore[misc] # those of the backend behind
        self.clock = clock
        self.server_clock = server_clock
        self.log: list[Fault] = []
        #: The number of calls so far, by operation.
        self.calls: Counter[str] = Counter()
        #: Kinds of faults, by operation and number of the call.
        self.scripted: dict[tuple[str, int], FaultKind] = {}
        self.latencies: dict[str, tuple[timedelta, bool]] = {}
        self._planned: dict[str, deque[tuple[FaultKind, BackendUnavailable | None]]] = {}
        self._dice: _Dice | None = None
        # Whether anything is planned at all. Without a plan, a call costs next to nothing.
        self._armed = False
        self._last: BackendUnavailable | None = None
        # The tokens that listeners of this handle hold, by id; and the tokens of dead holders.
        self._held: dict[str, str] = {}
        self._crashed: set[str] = set()

    def arm(self) -> None:
        self._armed = True

    def plan(self, operation: str, kind: FaultKind, times: int, error: BackendUnavailable | None) -> None:
        self._planned.setdefault(operation, deque()).extend([(kind, error)] * times)
        self._armed = True

    def draw(self, dice: random.Random, rate: float, operations: set[str], kinds: Sequence[FaultKind]) -> None:
        self._dice = _Dice(dice, rate, operations, kinds)
        self._armed = True

    def clear(self) -> None:
        self._armed, self._dice = False, None
        self._planned.clear()
        self.scripted.clear()
        self.latencies.clear()

    def caused(self, error: BackendUnavailable) -> bool:
        """Whether this error is a fault of this wrapper."""
        return error is self._last

    def crash(self) -> int:
        """Refuse all settlements under the tokens that were given out so far. Return the number of live leases among them."""
        count = sum(self._is_live(id, token) for id, token in self._held.items())
        self._crashed.update(self._held.values())
        self._held.clear()
        return count

    def now(self) -> int:
        return self.inner.now()

    def put(self, records: Sequence[Record]) -> None:
        self._call("store", self.inner.put, records, ids=lambda: tuple(each.id for each in records))

    def delete(self, id: str) -> bool:
        return self._call("remove", self.inner.delete, id, ids=lambda: (id,))

    def get(self, id: str) -> Record | Damaged | None:
        return self._call("get", self.inner.get, id)

    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        return self._call("entries", self.inner.scan, state, limit, after)

    def tally(self) -> Tally:
        return self._call("stats", self.inner.tally)

    def lease(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        leased = self._call("lease", self.inner.lease, limit, duration)
        for each in leased:
            token = each.token if isinstance(each, Damaged) else each.progress.token
            if token is not None:
                self._held[each.id] = token
        return leased

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        if self._crashed:
            return self._settle_of_the_living(settlements)
        return self._settle(settlements)

    def next_due(self) -> int | None:
        return self._call("next_due", self.inner.next_due)

    def within(self, session: object) -> Writes:
        return self.inner.within(session)

    def ping(self) -> None:
        self.inner.ping()

    def concerns(self) -> Sequence[str]:
        return self.inner.concerns()

    def watch(self) -> Watch | None:
        return self.inner.watch()

    def legacy(self, after: Any = None, *, locked_after: int | None = None) -> LegacyPage:
        return self.inner.legacy(after, locked_after=locked_after)

    def adopt(self, items: Sequence[tuple[Legacy, Record]]) -> Sequence[bool]:
        return self.inner.adopt(items)

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        return self.inner.bounded(seconds)

    def close(self) -> None:
        self.inner.close()

    @property
    def location(self) -> str:
        return self.inner.location

    def __repr__(self) -> str:
        return f"<FaultyBackend of {self.inner!r}>"

    def _settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        applied = self._call(
            "settle", self.inner.settle, settlements, ids=lambda: tuple(each.id for each in settlements)
        )
        for each in settlements:
            if each.outcome is not Outcome.EXTEND and self._held.get(each.id) == each.token:
                del self._held[each.id]
        return applied

    def _is_live(self, id: str, token: str) -> bool:
        stored = self.inner.get(id)
        if stored is None:
            return False
        lease = stored if isinstance(stored, Damaged) else stored.progress
        return lease.token == token and state_of(lease.due, token, self.inner.now() // 1000) == "leased"

    def _settle_of_the_living(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        living = [each for each in settlements if each.token not in self._crashed]
        applied = dict(zip((each.id for each in living), self._settle(living) if living else (), strict=True))
        return [applied.get(each.id, False) for each in settlements]

    def _call(
        self,
        operation: str,
        method: Callable[..., _T],
        *arguments: Any,
        ids: Callable[[], tuple[str, ...]] | None = None,
    ) -> _T:
        self.calls[operation] += 1
        if not self._armed:
            return method(*arguments)
        kind, error = self._strikes(operation)
        latency, before = self.latencies.get(operation, (timedelta(0), False))
        if before:
            self._pass(latency)
        if kind == "fail":
            self._pass(timedelta(0) if before else latency)
            text = f"A fault of the test: {operation!r} was refused, and nothing was done."
            raise self._remembered(error or BackendUnavailable(text))
        result = method(*arguments)
        if not before:
            self._pass(latency)
        if kind == "lose":
            text = f"A fault of the test: {operation!r} was done, and its answer got lost."
            lost = OutcomeUnknown(text, ids=ids()) if ids is not None else BackendUnavailable(text)
            raise self._remembered(lost)
        return result

    def _strikes(self, operation: str) -> tuple[FaultKind | None, BackendUnavailable | None]:
        """Return the fault of this call, if there is one."""
        call, kind, error = self.calls[operation], None, None
        planned, dice = self._planned.get(operation), self._dice
        if (operation, call) in self.scripted:
            kind = self.scripted.pop((operation, call))
        elif planned:
            kind, error = planned.popleft()
        elif dice is not None and operation in dice.operations and dice.random.random() < dice.rate:
            kind = dice.random.choice(dice.kinds)
        if kind is not None:
            at = self.clock.now() if isinstance(self.clock, ManualClock) else None
            self.log.append(Fault(operation, call, kind, at))
        return kind, error

    def _remembered(self, error: BackendUnavailable) -> BackendUnavailable:
        self._last = error
        return error

    def _pass(self, latency: timedelta) -> None:
        if latency and isinstance(self.clock, ManualClock):
            self.clock.advance(latency)


def _operation(name: object) -> str:
    if isinstance(name, str) and name in _OPERATIONS:
        return name
    if isinstance(name, str) and name in _ALIASES:
        return _ALIASES[name]
    hint = did_you_mean(name if isinstance(name, str) else "", {*_OPERATIONS, *_ALIASES})
    raise PitstopError(f"There is no operation {quoted(name)}. {hint}Known: {', '.join(_OPERATIONS)}.")


def _told(fault: object) -> tuple[str, int, FaultKind]:
    if isinstance(fault, Fault):
        operation, call, kind = fault.operation, fault.call, fault.kind
    elif isinstance(fault, tuple | list) and len(fault) == 3:
        operation, call, kind = fault
    else:
        raise PitstopError(f"{quoted(fault)} is no fault. Give a list of them, {_SCRIPTED}.")
    if type(call) is not int or call < 1:
        raise PitstopError(f"call={quoted(call)} cannot be used. Give the number of the call: 1 is the first one.")
    if kind not in get_args(FaultKind):
        raise PitstopError(f"kind={quoted(kind)} is unknown. Give one of: {', '.join(get_args(FaultKind))}.")
    return _operation(operation), call, kind


def _several(values: object, field: str, known: Sequence[str]) -> list[Any]:
    """Return the items of a non-empty list. A text is refused, because its letters would be taken for items."""
    some = [] if isinstance(values, str) or not isinstance(values, Iterable) else list(values)
    if some:
        return some
    raise PitstopError(f"{field}={quoted(values)} cannot be used. Give a list of some of: {', '.join(known)}.")


def at_least_one(value: object, field: str) -> int:
    """Return the number if it can be used.

    :raises PitstopError: if it is not a whole number of at least 1.
    """
    return whole_number(value, field, error=PitstopError)
