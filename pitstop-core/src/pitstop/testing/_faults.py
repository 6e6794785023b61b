"""Faults on demand, between Pitstop and any backend. They are the same in each run."""

from __future__ import annotations

import random

from collections.abc import Collection, Iterable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, get_args

import attrs

from pitstop._engine._intake import Intake
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, PitstopError
from pitstop._values._arguments import whole_number
from pitstop._values._id import valid_id
from pitstop._values._plain import shown
from pitstop._values._quoting import quoted
from pitstop.abc import (
    Outcome,
    Record,
    Settlement,
    did_you_mean,
    state_of,
)
from pitstop.testing._clock import span_of
from pitstop.testing._faulty_backend import Fault, FaultKind, FaultyBackend
from pitstop.testing._report import clock_text, table


__all__ = ["Crash", "Faults", "at_least_one", "crash"]

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


class Crash(BaseException):
    """Raise this in a driven handler to let the process die there: there is no ack and no nack, and the leases stay behind."""


def crash(store: Session) -> int:
    """Let the holder of this handle's leases die, and with it the messages that were claimed ahead. Return the number of leases."""
    for component in store.components:
        if isinstance(component, Intake):
            # A process that dies loses its unwritten acks.
            component.drop_all()
    return store.backend.crash() if isinstance(store.backend, FaultyBackend) else 0


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
        """Let a part of the calls of these operations fail from now on. Equal calls and seeds give equal faults.

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
                self._session.written(now, (stored.kind,))
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
