"""What the facade, its listeners and their deliveries share: the backend, the hooks, and who is to be woken."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import wraps
from threading import RLock, get_ident
from typing import TYPE_CHECKING, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar
from weakref import ReferenceType, WeakMethod, WeakSet, ref

from pitstop._decisions._logs import StoreLog
from pitstop._errors import BackendUnavailable
from pitstop._plugins._hooks import Hooks
from pitstop._values._instant import from_instant
from pitstop.abc import Aside, Backend, Calls, Damaged, Outcome, Record, Retry, Settlement
from pitstop.abc._turn import REFUSED


if TYPE_CHECKING:
    from pitstop._engine._delivery import Delivery

__all__ = ["Sleeper", "Store", "entrance", "renew_after_fork", "stop_at_exit", "unbroken"]

_log = logging.getLogger("pitstop.delivery")


_P = ParamSpec("_P")
_T = TypeVar("_T")


class _OfAStore(Protocol):
    @property
    def _store(self) -> Store: ...


_Self = TypeVar("_Self", bound=_OfAStore)


class Inside(Calls):
    """Notes, per thread, whether the thread is in a method that is :func:`unbroken`."""

    #: Whether the calling thread is in a call that interrupts another one of its own: in a signal handler or a hook.
    interrupting = False

    @contextmanager
    def holding(self, lock: RLock) -> Iterator[None]:
        """Hold a lock that other threads hold while they call the backend.

        :raises BackendUnavailable: in a call that interrupts another one, if another thread has the lock. That thread may
            wait for the call that was interrupted.
        """
        if not self.interrupting:
            with lock:
                yield
            return
        if not lock.acquire(blocking=False):
            raise BackendUnavailable(REFUSED)
        try:
            yield
        finally:
            lock.release()


def unbroken(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """Decorate a method in which its thread holds something for the store, or calls the backend.

    If a signal handler closes the store meanwhile, it is closed when the outermost of these methods ends.
    """
    return _marked(method, entrance=False)


def entrance(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """Decorate an :func:`unbroken` method that the program calls, and no other such method.

    If its thread is in such a method already, a signal handler or a hook calls it: :attr:`Inside.interrupting`.
    """
    return _marked(method, entrance=True)


def _marked(method: Callable[Concatenate[_Self, _P], _T], *, entrance: bool) -> Callable[Concatenate[_Self, _P], _T]:
    @wraps(method)
    def call(self: _Self, /, *args: _P.args, **options: _P.kwargs) -> _T:
        store = self._store
        calls = store.calls
        note = calls.note
        if note.locked():
            if not entrance or calls.interrupting:
                return method(self, *args, **options)
            try:
                calls.interrupting = True
                return method(self, *args, **options)
            finally:
                calls.interrupting = False
        try:
            with note:
                return method(self, *args, **options)
        finally:
            if store.closing and store.closes_here:
                store.close()

    return call


_stores: WeakSet[Store] = WeakSet()


_renewals: set[WeakMethod[Callable[[], None]]] = set()


def renew_after_fork(method: Callable[[], None]) -> None:
    """Have a method called in each child of a fork, for as long as its object lives."""
    _renewals.add(WeakMethod(method, _renewals.discard))


def _after_fork() -> None:
    for store in list(_stores):
        store.after_fork()
    for renewal in list(_renewals):
        renew = renewal()
        if renew is not None:
            renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    for store in list(_stores):
        for sleeper in store.sleepers:
            sleeper.at_exit()


_kinds: set[type[Backend]] = set()


def _register_at_exit(kind: type[Backend]) -> None:
    """Register not before a store is in use: the last function registered is called first, and a driver may end its threads there.

    So once more for each kind of backend. Its driver may have been imported after the last time.
    """
    if kind not in _kinds:
        _kinds.add(kind)
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)


def _stop_all() -> None:
    for store in list(_stores):
        for sleeper in store.sleepers:
            sleeper.stop()


def stop_at_exit() -> None:
    """Have all listeners stopped when the main thread is at its end, before Python waits for the other ones.

    Else a thread that iterates over a listener, and is no daemon, would keep the program from ending; and leases of what was
    claimed ahead would be left behind. ``atexit`` comes too late for that: after the wait.
    """
    global _stops_at_exit  # noqa: PLW0603 - of the process, as its end is
    # Those who registered last are called first, and pools of threads, which wait for their own, register when they are
    # imported: so once more after that.
    wanted = 2 if "concurrent.futures.thread" in sys.modules else 1
    if _stops_at_exit < wanted:
        _stops_at_exit = wanted
        # What concurrent.futures uses. Where it is missing, programs close what they open.
        register = getattr(threading, "_register_atexit", None)
        if register is not None:
            try:
                register(_stop_all)
            except RuntimeError:
                # That end has come already, and waits for this thread; unless this is what it left, in ``atexit``.
                if threading.current_thread() is not threading.main_thread():
                    _stop_all()


_stops_at_exit = 0


class Sleeper:
    """Something that waits for messages, and wants to know of one that is due before it would look again.

    What it does not care about it leaves as it is here: nothing is done.
    """

    #: Whether it works with others of these, which have to be open until it has come to its end.
    closes_first: ClassVar[bool] = False

    def notice(self, due: int | None) -> None:
        """A message with this ``due`` was written (None: nobody knows which). Any thread."""

    def forget(self, ids: Collection[str]) -> None:
        """These messages were stored anew or removed."""

    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write what is on its way to the store, if it is about one of these messages (None: about any)."""

    def stop(self) -> None:
        """The program is at its end: nothing more is to be waited for."""

    def end_soon(self) -> None:
        """The store is closed as soon as the call ends that a signal handler has interrupted: wake the threads that wait
        for messages. Takes no lock.
        """

    def close(self) -> None:
        """The store is about to be closed."""

    def closes_later(self) -> bool:
        """Whether this thread does this one's work, so that it cannot wait for the end of that. Then the work ends, and the
        store is closed after it.
        """
        return False

    def at_exit(self) -> None:
        """The interpreter is about to end, and nobody has closed the store."""

    def after_fork(self) -> None:
        """This is the child of a fork: the threads of the parent are not here."""


class Store:
    """A backend in use."""

    def __init__(self, backend: Backend, hooks: Hooks) -> None:
        self._backend: Backend | None = backend
        self._kind = type(backend)
        #: Which threads are in a method that is :func:`unbroken`.
        self.calls = Inside()
        # The thread that closes the store when it leaves such a method.
        self._closer: int | None = None
        self.hooks = hooks
        self.clock = hooks.clock = backend.clock
        #: Decides what is logged.
        self.log = StoreLog()
        self.retry: Retry = backend.config.retry
        self.lock_time: timedelta = backend.config.lock_time
        self.loop_time: timedelta = backend.config.loop_time
        self.capabilities = backend.capabilities
        self.location = backend.location
        #: Whether it is being closed: what fails now is not tried for long.
        self.closing = False
        #: What happened, by name; ``lease_lost`` so far.
        self.counters: Counter[str] = Counter()
        #: Told of each settlement that was applied, and of the record when nobody saw it: how tests that drive this store
        #: know what became of a message.
        self.tap: Callable[[Settlement, Record | Damaged | None], None] | None = None
        # Weak, so that a listener that was dropped without close() is not kept. A dict, as an ordered set: it is changed in
        # one step each time, so that it needs no lock, for which a signal handler might wait without end.
        self._sleepers: dict[ReferenceType[Sleeper], None] = {}
        _stores.add(self)

    @property
    def backend(self) -> Backend:
        """The backend.

        :raises BackendUnavailable: when it was closed.
        """
        if self._backend is None:
            raise BackendUnavailable("This Pitstop was closed. Make a new one with pitstop.init().")
        return self._backend

    @property
    def closed(self) -> bool:
        return self._backend is None

    @property
    def closes_here(self) -> bool:
        """Whether the calling thread closes this as soon as it can."""
        return self._closer == get_ident()

    def close(self) -> None:
        """Close the sleepers and then the backend. Again is harmless.

        By one whose own end the sleepers wait for: soon, and not yet when this returns. So it is in a signal handler that
        has interrupted a call: that call is not waited for here, and closes this at its end.
        """
        # Each of them ends by this.
        later = [each.closes_later() for each in self.sleepers]
        if any(later):
            return
        self.closing = True
        if self.calls.inside:
            self._closer = get_ident()
            for each in self.sleepers:
                each.end_soon()
            return
        with self.calls.enter():
            self._close()
        self._closer = None

    def _close(self) -> None:
        with self.bounded():
            for sleeper in sorted(self.sleepers, key=lambda each: not each.closes_first):
                sleeper.close()
            backend, self._backend = self._backend, None
            if backend is not None:
                backend.close()

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        """See :meth:`pitstop.abc.Backend.bounded`."""
        backend = self._backend
        return nullcontext(0.0) if backend is None else backend.bounded(seconds)

    @property
    def sleepers(self) -> list[Sleeper]:
        if not self._sleepers:
            # As in a program that only stores: each call asks for them several times.
            return []
        return [sleeper for each in tuple(self._sleepers) if (sleeper := each()) is not None]

    def add(self, sleeper: Sleeper) -> None:
        _register_at_exit(self._kind)
        for each in tuple(self._sleepers):
            if each() is None:
                self._sleepers.pop(each, None)
        self._sleepers[ref(sleeper)] = None

    def discard(self, sleeper: Sleeper) -> None:
        self._sleepers.pop(ref(sleeper), None)

    def written(self, due: int | None) -> None:
        """Wake those who would otherwise sleep past a message that is ``due`` then (None: nobody knows when)."""
        for each in tuple(self._sleepers):
            sleeper = each()
            if sleeper is not None:
                sleeper.notice(due)

    def forget(self, ids: Collection[str]) -> None:
        """These messages were stored anew or removed here: what was claimed of them before is not handed out any more."""
        for each in self.sleepers:
            each.forget(ids)

    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write the acks of this process that are on their way, so that who looks at the store sees them."""
        for each in self.sleepers:
            each.flush(ids)

    def after_fork(self) -> None:
        """In the child of a fork: locks that the parent's threads held will not be let go of here."""
        for sleeper in self.sleepers:
            sleeper.after_fork()

    def tell(self, settlement: Settlement, unseen: Record | Damaged | None = None) -> None:
        """Let observers and sleepers know of a settlement that was applied.

        :param unseen: the record that was leased, when it was settled without having been handed out.
        """
        if self.tap is not None:
            self.tap(settlement, unseen)
        progress, hooks = settlement.progress, self.hooks
        if progress is None:
            return
        if settlement.outcome is Outcome.BURY:
            # Without the error: that is the text of somebody's exception, which may hold anything.
            note = self.log.dead.passes(self.clock.monotonic())
            if note is not None:
                _log.warning("message %r is dead; its last_error says why%s", settlement.id, note)
            if hooks.dead:
                hooks.notify(hooks.dead, id=settlement.id, error=progress.last_error)
        if isinstance(progress, Aside):
            return
        if settlement.outcome is Outcome.RESCHEDULE and hooks.advanced:
            hooks.notify(
                hooks.advanced,
                id=settlement.id,
                scheduled_for=from_instant(progress.scheduled_for),
                last_error=progress.last_error,
            )
        if progress.due is not None:
            self.written(progress.due)

    def count_lost_lease(self, delivery: Delivery) -> None:
        """Note that a delivery was settled too late. Part of normal life, so quiet."""
        self.counters["lease_lost"] += 1
        _log.debug("lease lost: %r attempt %d", delivery.id, delivery.attempt)
        if self.hooks.lease_lost:
            self.hooks.notify(self.hooks.lease_lost, delivery=delivery)
