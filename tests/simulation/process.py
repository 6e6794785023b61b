"""A process that uses Pitstop like an application: the real facade, the real listeners, the real deliveries."""

from __future__ import annotations

import copy

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs

from pitstop import BackendUnavailable, Conflict, Entry, LeaseLost, OutcomeUnknown
from pitstop._engine._delivery import Delivery, lease_of
from pitstop._engine._intake import Intake
from pitstop._engine._lease import State
from pitstop._engine._listener import Listener, intake_of
from pitstop._engine._waiting import Waiter
from pitstop._pitstop import Pitstop
from pitstop._plugins._hooks import Hooks, implementation, plugin_manager
from pitstop._values._instant import floor_instant, from_instant
from pitstop.abc import Record
from simulation.remote import Broken, Crash, ProcessClock, Remote


if TYPE_CHECKING:
    from simulation.world import World

#: Made once, because the search for plugins takes longer than a run.
_HOOKS = Hooks(plugin_manager((), object()))
#: The number of emissions of the healer that shows a fault.
_MOST_EMISSIONS = 3000
_MS = timedelta(milliseconds=1)


@attrs.define
class _Held:
    """A delivery that a process holds."""

    d: int
    delivery: Delivery
    #: Whether the process knows that it is settled, or that it cannot be.
    done: bool = False

    @property
    def posts(self) -> bool:
        """Whether its ack returns at once, and is written with others."""
        return not self.delivery._at_once


class _Handler(Exception):
    """The error of a failing handler."""


class Process:
    """Processes under one name, one after the other: after a crash, the next one begins with nothing."""

    def __init__(self, world: World, name: str, *, consumer: bool) -> None:
        self.name = name
        self._world = world
        self._rng = world.rng
        self._consumer = consumer
        #: The number of the current API call.
        self.call = 0
        self._remote: Remote | None = None
        self._pit: Pitstop | None = None
        self._listeners: list[Listener] = []
        #: The listeners whose user loops over messages; the others are sometimes asked for one.
        self._iterated: list[Listener] = []
        self._inside: list[Listener] = []
        #: The rest of the dropped listeners.
        self._dropped: list[Intake] = []
        self._held: list[_Held] = []
        #: The entries that this process read to edit them, with the records, and how often each had been written.
        self._entries: list[tuple[Entry, Record, int]] = []
        #: The deliveries that this process handed out.
        self._numbers: dict[Delivery, int] = {}
        #: The deliveries whose settlement cannot be known any more.
        self._doubts: set[Delivery] = set()

    # Events that the world causes.

    def act(self) -> None:
        """Do one action. A crash ends here."""
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
        """Die, perhaps in the middle of a call: that call then ends with :class:`Crash`, when the world continues it."""
        if self._remote is not None:
            self._remote.dead = True
            self._note("crash")
        self.vanish()

    def vanish(self) -> None:
        """Disappear, and leave no settlements for the end of the interpreter."""
        if self._pit is not None:
            for each in self._pit._session.components:
                self._pit._session.discard(each)
                if isinstance(each, Intake):
                    # A process that dies leaves no listener that could be dropped afterwards.
                    each.drop_all()
        self._remote, self._pit = None, None
        self._listeners, self._iterated, self._inside, self._held, self._numbers = [], [], [], [], {}
        self._dropped, self._entries = [], []

    def interrupt(self) -> None:
        """Stop the listener in a signal handler, in the middle of a call."""
        for listener in self._inside:
            if not listener.stopped:
                self._do("stop", listener.stop)

    def close(self) -> None:
        if self._pit is not None:
            self._do("close", self._pit.close)
        self._remote, self._pit = None, None
        self._listeners, self._iterated, self._held = [], [], []

    def drain(self) -> None:
        """Handle all messages, until only series without an end are left."""
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
                self._settle(held, "ack", (), partial(held.delivery.ack, wait=held.posts))
            else:
                self._settle(held, "nack", (None, None), held.delivery.nack)
            what = (held.delivery.id, held.delivery.msg["v"])
            seen[what] = seen.get(what, 0) + 1
            if seen[what] >= 12:
                self._do("remove", self._pit.remove, held.delivery.id, told=(held.delivery.id,))
        self._held = []

    # Actions of the process.

    def _start(self) -> None:
        world, rng = self._world, self._rng
        skew = 0 if world.healed else world.settings.skew_ms * 1000
        offset = rng.randint(-skew, skew)
        clock = ProcessClock(world, self, rng.uniform(0, 1e5), rng.choice([1.0, 0.995, 1.005]))
        self._remote = Remote(world, self, clock, offset, **world.settings.options)
        hooks = copy.copy(_HOOKS)
        hooks.acked = (
            implementation("pitstop_message_acked", lambda delivery: self._told(delivery, "acked"), ["delivery"]),
        )
        hooks.lease_lost = (
            implementation("pitstop_lease_lost", lambda delivery: self._told(delivery, "lost"), ["delivery"]),
        )
        self._numbers = {}
        self._pit = Pitstop(self._remote, hooks)
        self._note("start", offset // 1000)

    def _consume(self) -> None:
        rng = self._rng
        unsettled = [each for each in self._held if not each.done]
        what = rng.random()
        if rng.random() < 0.15:
            self._pump()
        elif what < 0.42 or not self._held:
            if rng.random() < 0.6:
                self._world.until_due()
            self._claim()
        elif what < 0.75 and unsettled:
            self._handle(rng.choice(unsettled))
        elif what < 0.80:
            # This may be the second settlement, or long after the lease.
            self._handle(rng.choice(self._held))
        elif what < 0.84:
            self._with(rng.choice(self._held))
        elif what < 0.87:
            # The delivery is forgotten: the message comes back when its lease ends.
            self._held.remove(rng.choice(self._held))
        elif what < 0.90 and self._listeners:
            listener = self._listeners.pop(rng.randrange(len(self._listeners)))
            self._do("stop", rng.choice([listener.stop, listener.close]))
            self._drop(listener)
        elif what < 0.91:
            self.close()
        else:
            self._produce()

    def _claim(self) -> None:
        rng = self._rng
        usable = [each for each in self._listeners if not each.stopped]
        listener = rng.choice(usable) if usable and rng.random() < 0.95 else self._listen()
        waits = self._world.settings.skew_ms <= 200 and rng.random() < 0.1
        if listener in self._iterated:
            # Take several at once without a call of the store for each, like a loop or a worker.
            for _ in range(rng.choice([1, 1, 3])):
                held = self._get(listener, 0)
                if held is not None and rng.random() < 0.7:
                    self._handle(held)
            return
        held = self._get(listener, rng.choice([0.01, 1, 5]) if waits else 0)
        if held is not None and rng.random() < 0.5:
            self._handle(held)

    def _pump(self) -> None:
        """Do the work of a listener's thread at one of its looks."""
        turns = [intake_of(each).background.turn for each in self._listeners]
        turns += [each.background._flush for each in self._dropped]
        if turns:
            self._do("pump", self._rng.choice(turns), answer=lambda _: None)
        if self._rng.random() < 0.4:
            self._look()

    def _look(self) -> None:
        """Read all messages: the acks of this process must be visible."""
        pit = self._pit
        assert pit is not None
        self._do("look", lambda: (pit.entries(limit=3), pit.stats()), answer=lambda _: None)

    def _listen(self) -> Listener:
        assert self._pit is not None
        iterates = self._rng.random() < 0.5
        prefetch = self._rng.choice([None, None, 2, 4] if iterates else [1, 1, 2, 4])
        listener = self._pit.listen(prefetch=prefetch, kinds=self._choice())
        kept = [each for each in self._listeners if not each.stopped]
        for each in kept[:-1]:
            self._drop(each)
        self._listeners = [*kept[-1:], listener]
        self._iterated = [*[each for each in self._iterated if each in self._listeners], *[listener] * iterates]
        return listener

    def _drop(self, listener: Listener) -> None:
        """Drop the listener, perhaps without a close. Its thread then does this, until it succeeds."""
        intake = intake_of(listener)
        intake.end()
        intake.background.end()
        self._dropped = [*self._dropped[-3:], intake]
        self._do("drop", lambda: (intake.leftovers.give_back_all(), intake.background._flush()), answer=lambda _: None)

    def _get(self, listener: Listener, timeout: float) -> _Held | None:
        self._inside.append(listener)
        try:
            take = self._next if listener in self._iterated else listener.get
            got = lambda got: got is not None  # noqa: E731
            delivery = self._do("get", take, *self._of(listener, timeout), told=(timeout,), answer=got)
        finally:
            self._inside = [each for each in self._inside if each is not listener]
        if delivery is None:
            return None
        world = self._world
        world.deliveries += 1
        held = _Held(world.deliveries, delivery)
        self._held = [*self._held[-5:], held]
        self._numbers[delivery] = held.d
        progress = lease_of(delivery).record.progress
        self._note(
            "emit", self.call, held.d, delivery.id, delivery.msg["v"], world.history.name(progress.token), delivery.key,
            floor_instant(delivery.scheduled_for), delivery.attempt, delivery.missed, floor_instant(delivery.leased_until),
        )  # fmt: skip
        return held

    def _next(self, listener: Listener, wanted: int) -> Delivery | None:
        """Do a step of a loop, or of a worker that takes several messages, without a wait."""
        intake = intake_of(listener)
        lease = intake.take_at_hand() or intake.wait(Waiter(wanted), intake.session.clock.monotonic())
        return None if lease is None else intake.deliver(lease)

    def _of(self, listener: Listener, timeout: float) -> tuple[Any, ...]:
        return (listener, self._rng.choice([1, 2, 4])) if listener in self._iterated else (timeout,)

    def _told(self, delivery: Delivery, what: str) -> None:
        if delivery in self._numbers and not delivery._at_once:
            self._note("told", self.call, self._numbers[delivery], what)

    def _tell_of_doubts(self) -> None:
        """Settlements whose outcome cannot be known any more are not reported, but they are not forgotten."""
        for delivery in self._numbers:
            if delivery not in self._doubts and lease_of(delivery).state is State.UNKNOWN:
                self._doubts.add(delivery)
                self._note("told", self.call, self._numbers[delivery], "in doubt")

    def _handle(self, held: _Held) -> None:
        rng, delivery = self._rng, held.delivery
        what = rng.random()
        if what < 0.6:
            if not held.posts:
                self._settle(held, "ack", (), delivery.ack)
            elif rng.random() < 0.15:
                self._settle(held, "ack", (), partial(delivery.ack, wait=True))
            else:
                self._settle(held, "post", (), delivery.ack)
        elif what < 0.85:
            delay = rng.choice([None, None, timedelta(0), timedelta(seconds=1), timedelta(seconds=45)])
            told = None if delay is None else delay // _MS
            error = rng.choice([None, "failed"])
            self._settle(held, "nack", (told, error), delivery.nack, error, delay)
        else:
            span = rng.choice([None, self._world.settings.lock * 2, timedelta(milliseconds=300)])
            told = (lease_of(delivery).lock_time or self._world.settings.lock if span is None else span) // _MS
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
            return  # it may be retried
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

        if held.posts and not fails:
            self._do("post", body, told=(held.d,))
        else:
            self._do("with", body, told=(held.d, fails))
        held.done = True

    def _produce(self) -> None:
        rng, pit, world = self._rng, self._pit, self._world
        assert pit is not None
        id = f"m{rng.randint(1, world.settings.ids)}"
        if world.settings.control and rng.random() < 0.4:
            self._change(id)
            return
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
            self._look()

    def _change(self, id: str) -> None:
        """Change a stored message: edit one that was read, or move one in time."""
        rng, pit = self._rng, self._pit
        assert pit is not None
        what = rng.random()
        if what < 0.35:
            self._read(id)
        elif what < 0.6 and self._entries:
            self._edit(*self._entries.pop(rng.randrange(len(self._entries))))
        elif what < 0.75:
            delay = rng.choice([0, 0, 300, 4000, 30_000])
            self._do("reschedule", pit.reschedule, id, delay * _MS, told=(id, delay))
        elif what < 0.9:
            self._do("emit_now", pit.emit_now, id, told=(id,))
        else:
            self._do("release", pit.release, id, told=(id,))

    def _read(self, id: str) -> None:
        assert self._pit is not None
        assert self._remote is not None
        entry = self._do("look", self._pit.get, id, told=(id,), answer=lambda entry: entry and entry.state)
        if entry is not None:
            self._entries = [*self._entries[-2:], (entry, *self._remote.seen[id])]

    def _edit(self, entry: Entry, read: Record, writes: int) -> None:
        """Store the entry with another body, and all its other fields."""
        pit, remote, scribe = self._pit, self._remote, self._world.scribe
        assert pit is not None
        assert remote is not None
        message = self._message(entry.id)
        start = entry.scheduled_for if entry.start is None else entry.start
        names = ("grace", "kind", "retry", "lock_time", "expires")
        options = {name: getattr(entry, name) for name in names} | {"catch_up": entry.catch_up or "latest"}
        remote.edited = read
        try:
            self._do(
                "edit", pit.store, message, start, entry.end, entry.every, if_revision=entry.revision,
                told=((entry.id, message["v"]),), reraise=True, **options,
            )  # fmt: skip
        except Conflict:
            fine = scribe.is_edit_refused_rightly(read, writes, self._world.settings.skew_ms)
            self._note("refused", entry.id, fine)
        except BackendUnavailable:
            pass
        finally:
            remote.edited = None

    def _labels(self) -> tuple[dict[str, Any], tuple[Any, ...]]:
        """Return a kind and policies as options of a store, and as they are recorded."""
        rng = self._rng
        if not self._world.settings.control or rng.random() < 0.3:
            return {}, ()
        kind = rng.choice(["", "mail", "bulk"])
        expires = rng.choice([None, None, 50, 4000, 60_000])
        lock = rng.choice([None, None, 1500, 90_000])
        retry = rng.choice([None, None, 0, 2500])
        most = rng.choice([None, None, 1, 2, 3])
        options: dict[str, Any] = {"kind": kind}
        options |= {} if expires is None else {"expires": expires * _MS}
        options |= {} if lock is None else {"lock_time": lock * _MS}
        waits = {} if retry is None else {"delay": retry * _MS, "factor": 1, "jitter": 0}
        waits |= {} if most is None else {"max_attempts": most}
        options |= {"retry": waits} if waits else {}
        labels = (kind, expires, lock, retry, most)
        return options, labels if any(each not in ("", None) for each in labels) else ()

    def _choice(self) -> list[str] | None:
        """Return the kinds of a new listener."""
        if not self._world.settings.control or self._world.healed:
            return None
        return self._rng.choice([None, None, ["mail"], ["mail", ""], ["bulk", ""], ["", "mail", "bulk"]])

    def _store(self, id: str) -> None:
        rng = self._rng
        args, told = self._times(rng.random() < 0.35)
        options, labels = self._labels()
        if len(args) > 1:
            options["catch_up"] = rng.choice(["latest", "latest", "all", "skip"])
            if options["catch_up"] == "skip":
                options["grace"] = timedelta(seconds=rng.choice([0, 5, 60]))
        grace = options["grace"] // _MS if "grace" in options else None
        message = self._message(id)
        plan = (*told, options.get("catch_up"), grace, *labels)
        self._do("store", self._pit.store, message, *args, told=((id, message["v"], *plan),), **options)

    def _store_many(self) -> None:
        items, told = [], []
        options, labels = self._labels()
        for n in range(1, self._world.settings.ids + 1):
            args, plan = self._times(self._rng.random() < 0.2)
            message = self._message(f"m{n}")
            items.append((message, *args))
            told.append((f"m{n}", message["v"], *plan, "latest" if len(args) > 1 else None, None, *labels))
        self._do("store", self._pit.store_many, items, told=tuple(told), **options)

    def _message(self, id: str) -> dict[str, Any]:
        self._world.versions += 1
        return {"id": id, "v": self._world.versions}

    def _times(self, recurs: bool) -> tuple[list[Any], tuple[Any, ...]]:
        """Return the times of a store as arguments, and as they are recorded: relative or not, start, interval, end, in ms."""
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

    # Recording.

    def _do(
        self, name: str, function: Callable[..., Any], *args: Any, told: tuple[Any, ...] = (),
        answer: Callable[[Any], Any] = lambda given: given, reraise: bool = False, **kwargs: Any,
    ) -> Any:  # fmt: skip
        """Make a call of the API, and record its outcome."""
        outer, self._world.calls = self.call, self._world.calls + 1
        n = self.call = self._world.calls
        self._note("begin", n, name, *told)
        result, outcome, failure = None, "ok", None
        try:
            result = function(*args, **kwargs)
        except LeaseLost as error:
            outcome, failure = "lost", error
        except Conflict as error:
            outcome, failure = "conflict", error
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
        self._tell_of_doubts()
        self._note("end", n, name, outcome, shown if isinstance(shown, bool | str) else None)
        if name == "get":
            self.call = n  # the emission is recorded under it
        else:
            self.call = outer
        if failure is not None and reraise:
            raise failure
        return result

    def _note(self, what: str, *details: Any) -> None:
        self._world.scribe.note(self.name, what, *details)
