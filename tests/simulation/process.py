"""A process that uses Pitstop as an application does: the real facade, the real listeners, the real deliveries."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import attrs

from pitstop import BackendUnavailable, LeaseLost, OutcomeUnknown
from pitstop._engine._delivery import Delivery
from pitstop._engine._listener import Listener
from pitstop._pitstop import Pitstop
from pitstop._plugins._hooks import Hooks, plugin_manager
from pitstop._values._instant import floor_instant, from_instant
from simulation.remote import Broken, Crash, ProcessClock, Remote


if TYPE_CHECKING:
    from simulation.world import World

#: Made once: to look for plugins takes longer than a run.
_HOOKS = Hooks(plugin_manager((), object()))
#: Emissions of the healer after which something must be wrong.
_MOST_EMISSIONS = 3000
_MS = timedelta(milliseconds=1)


@attrs.define
class _Held:
    """A delivery in the hands of a process."""

    d: int
    delivery: Delivery
    #: Whether it was told that it is settled, or that it cannot be.
    done: bool = False


class _Handler(Exception):
    """What a handler fails with."""


class Process:
    """One process after the other under one name: when it crashes, the next begins with nothing."""

    def __init__(self, world: World, name: str, *, consumer: bool) -> None:
        self.name = name
        self._world = world
        self._rng = world.rng
        self._consumer = consumer
        #: The number of the API call that it is in.
        self.call = 0
        self._remote: Remote | None = None
        self._pit: Pitstop | None = None
        self._listeners: list[Listener] = []
        self._inside: list[Listener] = []
        self._held: list[_Held] = []

    # What the world does with it.

    def act(self) -> None:
        """Do one thing. Whatever it is that it dies of, ends here."""
        try:
            if self._pit is None:
                self._start()
            elif self._consumer:
                self._consume()
            else:
                self._produce()
        except Crash:
            self.crash()

    def crash(self) -> None:
        """Die, perhaps in the middle of a call: then that call ends with :class:`Crash`, when the world gets back to it."""
        if self._remote is not None:
            self._remote.dead = True
            self._note("crash")
        self._remote, self._pit = None, None
        self._listeners, self._inside, self._held = [], [], []

    def interrupt(self) -> None:
        """A signal handler, in the middle of a call, that stops the listener."""
        for listener in self._inside:
            if not listener.stopped:
                self._do("stop", listener.stop)

    def close(self) -> None:
        if self._pit is not None:
            self._do("close", self._pit.close)
        self._remote, self._pit = None, None
        self._listeners, self._held = [], []

    def drain(self) -> None:
        """Handle all there is, until nothing comes any more but what never ends."""
        world = self._world
        self._start()
        seen: dict[tuple[str, int], int] = {}
        listener = self._listen()
        store = world.scribe.store
        for _ in range(_MOST_EMISSIONS):
            held = self._get(listener, 0)
            if held is None:
                due = store.next_due()
                if due is None:
                    break
                world.clock.advance_to(max(from_instant(due), world.clock.now()))
                continue
            if held.delivery.attempt > 1 or self._rng.random() < 0.95:
                self._settle(held, "ack", (), held.delivery.ack)
            else:
                self._settle(held, "nack", (None,), held.delivery.nack)
            what = (held.delivery.id, held.delivery.msg["v"])
            seen[what] = seen.get(what, 0) + 1
            if seen[what] >= 12:
                self._do("remove", self._pit.remove, held.delivery.id, told=(held.delivery.id,))
        self._held = []

    # What it does by itself.

    def _start(self) -> None:
        world, rng = self._world, self._rng
        skew = 0 if world.healed else world.settings.skew_ms * 1000
        offset = rng.randint(-skew, skew)
        clock = ProcessClock(world, self, rng.uniform(0, 1e5), rng.choice([1.0, 0.995, 1.005]))
        self._remote = Remote(world, self, clock, offset, **world.settings.options)
        self._pit = Pitstop(self._remote, _HOOKS)
        self._note("start", offset // 1000)

    def _consume(self) -> None:
        rng = self._rng
        unsettled = [each for each in self._held if not each.done]
        what = rng.random()
        if what < 0.42 or not self._held:
            if rng.random() < 0.6:
                self._world.until_due()
            self._claim()
        elif what < 0.75 and unsettled:
            self._handle(rng.choice(unsettled))
        elif what < 0.80:
            # Perhaps for the second time, or long after its lease.
            self._handle(rng.choice(self._held))
        elif what < 0.84:
            self._with(rng.choice(self._held))
        elif what < 0.87:
            # Forgotten: it comes back when its lease runs out.
            self._held.remove(rng.choice(self._held))
        elif what < 0.90 and self._listeners:
            listener = self._listeners.pop(rng.randrange(len(self._listeners)))
            self._do("stop", rng.choice([listener.stop, listener.close]))
        elif what < 0.91:
            self.close()
        else:
            self._produce()

    def _claim(self) -> None:
        rng = self._rng
        usable = [each for each in self._listeners if not each.stopped]
        listener = rng.choice(usable) if usable and rng.random() < 0.95 else self._listen()
        waits = self._world.settings.skew_ms <= 200 and rng.random() < 0.1
        held = self._get(listener, rng.choice([0.01, 1, 5]) if waits else 0)
        if held is not None and rng.random() < 0.5:
            self._handle(held)

    def _listen(self) -> Listener:
        assert self._pit is not None
        listener = self._pit.listen(prefetch=self._rng.choice([1, 1, 2, 4]))
        self._listeners = [*[each for each in self._listeners if not each.stopped][-1:], listener]
        return listener

    def _get(self, listener: Listener, timeout: float) -> _Held | None:
        self._inside.append(listener)
        try:
            delivery = self._do("get", listener.get, timeout, told=(timeout,), answer=lambda got: got is not None)
        finally:
            self._inside = [each for each in self._inside if each is not listener]
        if delivery is None:
            return None
        world = self._world
        world.deliveries += 1
        held = _Held(world.deliveries, delivery)
        self._held = [*self._held[-5:], held]
        progress = delivery._emission.record.progress
        self._note(
            "emit", self.call, held.d, delivery.id, delivery.msg["v"], world.history.name(progress.token), delivery.key,
            floor_instant(delivery.scheduled_for), delivery.attempt, delivery.missed, floor_instant(delivery.leased_until),
        )  # fmt: skip
        return held

    def _handle(self, held: _Held) -> None:
        rng, delivery = self._rng, held.delivery
        what = rng.random()
        if what < 0.6:
            self._settle(held, "ack", (), delivery.ack)
        elif what < 0.85:
            delay = rng.choice([None, None, timedelta(0), timedelta(seconds=1), timedelta(seconds=45)])
            told = None if delay is None else delay // _MS
            error = rng.choice([None, "failed"])
            self._settle(held, "nack", (told,), delivery.nack, error, delay)
        else:
            span = rng.choice([None, self._world.settings.lock * 2, timedelta(milliseconds=300)])
            told = self._world.settings.lock // _MS if span is None else span // _MS
            self._settle(held, "extend", (told,), delivery.extend, span, settles=False)

    def _settle(
        self,
        held: _Held,
        name: str,
        told: tuple[Any, ...],
        function: Callable[..., Any],
        *args: Any,
        settles: bool = True,
    ) -> None:
        try:
            self._do(name, function, *args, told=(held.d, *told), reraise=True)
        except BackendUnavailable:
            return  # perhaps it is tried again
        except LeaseLost:
            held.done = True
        else:
            held.done = held.done or settles

    def _with(self, held: _Held) -> None:
        """Handle it in the body of a ``with``, which acks or nacks at its end."""
        fails = self._rng.random() < 0.4

        def handler() -> None:
            if fails:
                raise _Handler

        def body() -> None:
            with suppress(_Handler), held.delivery:
                handler()

        self._do("with", body, told=(held.d, fails))
        held.done = True

    def _produce(self) -> None:
        rng, pit, world = self._rng, self._pit, self._world
        assert pit is not None
        id = f"m{rng.randint(1, world.settings.ids)}"
        what = rng.random()
        if what < 0.6:
            self._store(id)
        elif what < 0.7:
            self._store_many()
        elif what < 0.82:
            self._do("remove", pit.remove, id, told=(id,))
        elif what < 0.92:
            self._do("redrive", pit.redrive, id, told=(id,))
        elif what < 0.96:
            self._do("look", pit.get, id, told=(id,), answer=lambda entry: entry and entry.state)
        else:
            self._do("look", lambda: (pit.entries(limit=3), pit.stats()), answer=lambda _: None)

    def _store(self, id: str) -> None:
        rng = self._rng
        args, told = self._times(rng.random() < 0.35)
        options: dict[str, Any] = {}
        if len(args) > 1:
            options["catch_up"] = rng.choice(["latest", "latest", "all", "skip"])
            if options["catch_up"] == "skip":
                options["grace"] = timedelta(seconds=rng.choice([0, 5, 60]))
        grace = options["grace"] // _MS if "grace" in options else None
        message = self._message(id)
        plan = (*told, options.get("catch_up"), grace)
        self._do("store", self._pit.store, message, *args, told=((id, message["v"], *plan),), **options)

    def _store_many(self) -> None:
        items, told = [], []
        for n in range(1, self._world.settings.ids + 1):
            args, plan = self._times(self._rng.random() < 0.2)
            message = self._message(f"m{n}")
            items.append((message, *args))
            told.append((f"m{n}", message["v"], *plan, "latest" if len(args) > 1 else None, None))
        self._do("store", self._pit.store_many, items, told=tuple(told))

    def _message(self, id: str) -> dict[str, Any]:
        self._world.versions += 1
        return {"id": id, "v": self._world.versions}

    def _times(self, recurs: bool) -> tuple[list[Any], tuple[Any, ...]]:
        """The times of a store, as arguments and as they are noted: relative or not, start, interval, end, in ms."""
        rng, now = self._rng, self._world.scribe.now_ms()
        relative = rng.random() < 0.4
        start = rng.choice([0, 1, 800, 3000, 30_000]) if relative else now + rng.choice([-20_000, 0, 5, 2500, 40_000])
        when = timedelta(milliseconds=start) if relative else from_instant(start)
        if not recurs:
            return [when], (relative, start, None, None)
        every = rng.choice([700, 3000, 20_000, 90_000])
        count = rng.choice([1, 3, 8, None])
        if count is None:
            every = max(every, 20_000)
        end = None if count is None else start + every * count
        until = None if end is None else timedelta(milliseconds=end) if relative else from_instant(end)
        return [when, until, every * _MS], (relative, start, every, end)

    # What is written down.

    def _do(
        self, name: str, function: Callable[..., Any], *args: Any, told: tuple[Any, ...] = (),
        answer: Callable[[Any], Any] = lambda given: given, reraise: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Make a call of the API, and note how it ended."""
        outer, self._world.calls = self.call, self._world.calls + 1
        n = self.call = self._world.calls
        self._note("begin", n, name, *told)
        result, outcome, failure = None, "ok", None
        try:
            result = function(*args, **kwargs)
        except LeaseLost as error:
            outcome, failure = "lost", error
        except OutcomeUnknown as error:
            outcome, failure = "unknown", error
        except BackendUnavailable as error:
            outcome, failure = "unavailable", error
        except Crash:
            self._note("end", n, name, "crash", None)
            raise
        except Exception as error:
            self._note("end", n, name, "error", type(error).__name__)
            raise Broken from error
        shown = answer(result) if outcome == "ok" else None
        self._note("end", n, name, outcome, shown if isinstance(shown, bool | str) else None)
        if name == "get":
            self.call = n  # the emission is noted under it
        else:
            self.call = outer
        if failure is not None and reraise:
            raise failure
        return result

    def _note(self, what: str, *details: Any) -> None:
        self._world.scribe.note(self.name, what, *details)
