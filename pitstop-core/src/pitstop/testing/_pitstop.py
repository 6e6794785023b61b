"""The Pitstop of a test, with its clock, its events and its faults. The test drives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar

from pitstop._errors import ConfigError
from pitstop._init import open_backend
from pitstop._pitstop import OneShot, Recurring
from pitstop._plugins._hooks import Hooks
from pitstop._recurrence._base import Recurrence
from pitstop._values._arguments import several_plugins
from pitstop._values._entry import Entry, State
from pitstop._values._id import valid_id
from pitstop._values._quoting import quoted
from pitstop._values._stored import IfExists, Stored
from pitstop.abc import Backend
from pitstop.testing import _assertions
from pitstop.testing._clock import ManualClock
from pitstop.testing._driven_pitstop import DrivenPitstop
from pitstop.testing._events import Event, Events
from pitstop.testing._faults import Faults
from pitstop.testing._faulty_backend import FaultyBackend, ServerClock
from pitstop.testing._ids import id_maker, ids_of
from pitstop.testing._matching import ANYTHING, Anything, Match
from pitstop.testing._report import Step


__all__ = ["TestPitstop", "init"]

#: How often a function of ids may repeat an id before it counts as one that repeats for ever.
_MOST_REPEATS = 1000


def init(
    config: Mapping[str, Any] | str | None = None,
    *,
    clock: ManualClock | None = None,
    ids: str | Callable[[int], str] | None = None,
    seed: int | None = None,
    plugins: Iterable[object] = (),
    strict_plugins: bool = False,
) -> TestPitstop:
    """Open a store for a test, whose clock the test moves.

    :param config: as for :func:`pitstop.init`; any backend. Default: an empty store in memory.
    :param clock: the clock. Default: the one in ``config``, else a new :class:`ManualClock`.
    :param ids: the ids of messages that have none, the same in each run: text with ``{n}`` in it, such as ``"msg-{n}"``, or a
        function of the number, which begins with 1. A number is skipped if its id is stored, or given to another message of
        the same ``store_many``. Default: UUIDs.
    :param seed: these UUIDs and ``faults.at_random()`` are drawn from it, the same in each run.
    :param plugins: as for :func:`pitstop.init`.
    :param strict_plugins: as for :func:`pitstop.init`.
    :return: the open store.
    :raises ConfigError: if an argument cannot be used; also if the clock is a real one.
    """
    options = _options(config)
    ready = options.get("type")
    configured = ready.clock if isinstance(ready, Backend) else options.pop("clock", None)
    clock = _one_clock(clock, configured)
    make_id = id_maker(ids, seed)
    server = None if isinstance(ready, Backend) else ServerClock(clock)
    if server is not None:
        options["clock"] = server
    events = Events(clock)
    backend, hooks = open_backend(options, [events, *several_plugins(plugins)], strict=strict_plugins)
    if server is not None and backend.clock is not server:
        backend.close()
        raise ConfigError(
            f"The backend {type(backend).__name__} uses a clock of its own, not the one in its configuration. Let it "
            f"use config.clock, as pitstop.abc.Backend does."
        )
    return TestPitstop(FaultyBackend(backend, clock, server), hooks, clock, events, make_id, seed)


class TestPitstop(DrivenPitstop):
    """A :class:`pitstop.Pitstop` that a test drives. :func:`pitstop.testing.init` makes it.

    ``run_until_idle``, ``run_for``, ``run_until`` and ``drain`` call the handler in this thread, and move the clock.
    """

    #: For pytest: this is not a class of tests.
    __test__: ClassVar[bool] = False

    #: The clock. Nothing happens unless the clock is moved, directly or by ``run_for`` and similar functions.
    clock: ManualClock
    #: The events so far.
    events: Events
    #: The faults of the store.
    faults: Faults

    def __init__(
        self,
        backend: FaultyBackend,
        hooks: Hooks,
        clock: ManualClock,
        events: Events,
        make_id: Callable[[int], str] | None,
        seed: int | None = None,
    ) -> None:
        super().__init__(backend, hooks)
        self.clock = clock
        self.events = events
        self.faults = Faults(backend, self._session, seed)
        self._make_id = make_id
        self._made_ids = 0
        self._inner = backend.inner
        # The ids of the messages that are being stored together. None of the messages is in the store yet.
        self._together: set[str] | None = None

    def store_many(
        self,
        items: Iterable[OneShot | Recurring],
        *,
        kind: str = "",
        retry: Mapping[str, Any] | None = None,
        lock_time: timedelta | str | None = None,
        expires: timedelta | str | None = None,
        if_exists: IfExists = "replace",
        keep_schedule: bool = False,
        session: Any = None,
    ) -> list[Stored]:
        """See :meth:`pitstop.Pitstop.store_many`."""
        labels: dict[str, Any] = {"kind": kind, "retry": retry, "lock_time": lock_time, "expires": expires}
        store_many: Callable[..., list[Stored]] = super().store_many
        store = partial(store_many, if_exists=if_exists, keep_schedule=keep_schedule, session=session, **labels)
        if self._make_id is None or not isinstance(items, Iterable):
            return store(items)
        items = list(items)
        self._together = set(ids_of(items))
        try:
            return store(items)
        finally:
            self._together = None

    def assert_stored(
        self,
        match: Match | None = None,
        *,
        id: str | None = None,
        state: State | None = None,
        due_in: timedelta | float | str | None = None,
        due: datetime | None = None,
        every: timedelta | float | str | Recurrence | Anything | None = ANYTHING,
        **fields: Any,
    ) -> Entry:
        """See :func:`pitstop.testing.assert_stored`."""
        __tracebackhide__ = True
        return _assertions.assert_stored(self, match, id=id, state=state, due_in=due_in, due=due, every=every, **fields)

    def refute_stored(
        self,
        match: Match | None = None,
        *,
        id: str | None = None,
        state: State | None = None,
        due_in: timedelta | float | str | None = None,
        due: datetime | None = None,
        every: timedelta | float | str | Recurrence | Anything | None = ANYTHING,
        **fields: Any,
    ) -> None:
        """See :func:`pitstop.testing.refute_stored`."""
        __tracebackhide__ = True
        _assertions.refute_stored(self, match, id=id, state=state, due_in=due_in, due=due, every=every, **fields)

    def assert_emitted(
        self,
        match: Match | None = None,
        *,
        id: str | None = None,
        at: datetime | None = None,
        times: int | None = None,
        **fields: Any,
    ) -> list[Step | Event]:
        """See :func:`pitstop.testing.assert_emitted`; this searches all events so far.

        The report of the run has the outcome and the error: ``testing.assert_emitted(report, ...)``.
        """
        __tracebackhide__ = True
        return _assertions.assert_emitted(self.events, match, id=id, at=at, times=times, **fields)

    def assert_dead(
        self, match: Match | None = None, *, id: str | None = None, error: str | None = None, **fields: Any
    ) -> Entry:
        """See :func:`pitstop.testing.assert_dead`."""
        __tracebackhide__ = True
        return _assertions.assert_dead(self, match, id=id, error=error, **fields)

    def assert_no_leases(self) -> None:
        """See :func:`pitstop.testing.assert_no_leases`."""
        __tracebackhide__ = True
        _assertions.assert_no_leases(self)

    def _new_ids(self, now_us: int, count: int) -> list[str]:
        if self._make_id is None:
            return super()._new_ids(now_us, count)
        return [self._new_id(now_us) for _ in range(count)]

    def _new_id(self, now_us: int) -> str:
        if self._make_id is None:
            return super()._new_id(now_us)
        tried: set[str] = set()
        repeats = 0
        while repeats < _MOST_REPEATS:
            self._made_ids += 1
            made = valid_id(self._make_id(self._made_ids))
            if made in tried:
                repeats += 1
            elif made not in (self._together or ()) and self._inner.get(made) is None:
                if self._together is not None:
                    self._together.add(made)
                return made
            tried.add(made)
        raise ConfigError(
            f"The function ids repeats ids that are stored already: {quoted(made)} for {self._made_ids}. Let it "
            f"return another id for each number, such as lambda n: f'msg-{{n}}'."
        )


def _options(config: object) -> dict[str, Any]:
    if config is None:
        return {"type": "memory"}
    if isinstance(config, str):
        return {"url": config}
    if isinstance(config, Mapping):
        return dict(config)
    raise ConfigError(f"The configuration is a {type(config).__name__}. Give a mapping, a URL, or nothing.")


def _one_clock(given: object, configured: object) -> ManualClock:
    if given is not None and configured is not None and given is not configured:
        raise ConfigError("clock= and the clock of the configuration are two clocks. Give one.")
    clock = configured if given is None else given
    if clock is None:
        return ManualClock()
    if isinstance(clock, ManualClock):
        return clock
    raise ConfigError(
        f"clock is a {clock.__name__ if isinstance(clock, type) else type(clock).__name__}, which a test cannot move. Give a "
        f"pitstop.testing.ManualClock(), or leave it out. For real time use pitstop.init()."
    )
