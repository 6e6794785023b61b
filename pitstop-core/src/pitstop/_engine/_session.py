"""Session: a backend in use. The facade, its listeners and their deliveries share it.

Threads: any.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from threading import get_ident

from pitstop._decisions._announce import Listens
from pitstop._decisions._logs import StoreLog
from pitstop._engine._calls import Inside
from pitstop._engine._events import Events, Observers
from pitstop._engine._handled import HandledSuspects
from pitstop._engine._lifecycle import Component, close_at_exit, enroll
from pitstop._engine._pauses import Pauses
from pitstop._engine._presence import Presence
from pitstop._errors import BackendUnavailable
from pitstop.abc import Backend, Capability, Retry


__all__ = ["Session"]


class Session:
    """A backend in use, with the components that wait for its messages."""

    def __init__(self, backend: Backend, hooks: Observers) -> None:
        # Set to None by the thread that closes the session.
        self._backend: Backend | None = backend
        self._kind = type(backend)
        #: Which threads are inside of a call.
        self.calls = Inside()
        # The thread that closes the session when it leaves its call. Written by that thread, in a signal handler.
        self._closer: int | None = None
        self.clock = hooks.clock = backend.clock
        #: Decides what is logged.
        self.log = StoreLog(backend.location)
        self.events = Events(hooks, self.clock, self.log, self.calls, self.written)
        self.log.outages.report = self.events.store_failed
        #: The suspects that handlers of all listeners have.
        self.handled = HandledSuspects()
        self.retry: Retry = backend.config.retry
        self.lock_time: timedelta = backend.config.lock_time
        self.loop_time: timedelta = backend.config.loop_time
        self.capabilities = backend.capabilities
        #: The paused kinds. None: the store has none.
        self.pauses = Pauses() if Capability.PAUSES in backend.capabilities else None
        self.location = backend.location
        #: Whether the session is being closed. A call that fails now is not tried again for long. Written by the thread
        #: that closes it.
        self.closing = False
        # A dict, as an ordered set: any thread changes it in one step, so that it needs no lock for which a signal handler
        # might wait without end. Each component discards itself when nothing is left to be written or given back.
        self._components: dict[Component, None] = {}
        #: Tells other processes that this one consumes.
        self.presence = Presence(backend, self._listeners, self._handling)
        enroll(self)

    @property
    def backend(self) -> Backend:
        """The backend.

        :raises BackendUnavailable: when the session was closed.
        """
        # Read once: another thread may close the session meanwhile.
        backend = self._backend
        if backend is None:
            raise BackendUnavailable("This Pitstop was closed. Make a new one with pitstop.init().")
        return backend

    @property
    def backend_or_none(self) -> Backend | None:
        """The backend, None if the session was closed."""
        return self._backend

    @property
    def closed(self) -> bool:
        """Whether the backend was closed."""
        return self._backend is None

    @property
    def closes_here(self) -> bool:
        """Whether the calling thread closes the session as soon as it can."""
        return self._closer == get_ident()

    def close(self) -> None:
        """Close the components and then the backend. Again is harmless.

        In a worker of a component this returns at once, and the session is closed when the work of that component has
        ended. In a signal handler that has interrupted a call this returns at once, too, and that call closes the session
        at its end.
        """
        # All of them are asked: each one ends by this.
        later = [each.closes_later() for each in self.components]
        if any(later):
            return
        self.closing = True
        if self.calls.inside:
            self._closer = get_ident()
            for each in self.components:
                each.end_soon()
            return
        with self.calls.enter():
            self._close()
        self._closer = None

    def _close(self) -> None:
        with self.bounded():
            for component in sorted(self.components, key=lambda each: not each.closes_first):
                component.close()
            self.presence.withdraw()
            backend, self._backend = self._backend, None
            if backend is not None:
                backend.close()

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        """See :meth:`pitstop.abc.Backend.bounded`."""
        backend = self._backend
        return nullcontext(0.0) if backend is None else backend.bounded(seconds)

    @property
    def components(self) -> list[Component]:
        """The components that are open."""
        return list(self._components)

    def add(self, component: Component) -> None:
        """Tell ``component`` of what happens, until :meth:`discard`."""
        close_at_exit(self._kind)
        self._components[component] = None
        self.presence.begin()

    def discard(self, component: Component) -> None:
        """Tell ``component`` nothing any more. Again is harmless."""
        self._components.pop(component, None)
        self.presence.reconsider()

    def written(self, due: int | None, kinds: Collection[str] | None = None, by: Component | None = None) -> None:
        """Wake components that would sleep past a message with this ``due``. None: its ``due`` is not known.

        :param kinds: the kinds of the messages that were written. None: they are not known.
        :param by: a component that is not woken, because it wrote them. None: none.
        """
        for component in tuple(self._components):
            if component is not by:
                component.notice(due, kinds)

    def forget(self, versions: Mapping[str, str | None]) -> None:
        """Drop messages that were claimed before they were stored anew or removed here: see :meth:`Component.forget`."""
        for each in self.components:
            each.forget(versions)

    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write the pending settlements of this process, so that a reader of the store sees them."""
        for each in self.components:
            each.flush(ids)

    def flush_aside(self, ids: Collection[str]) -> bool:
        """Let other threads write the pending settlements of these messages: this thread has a transaction of the user.

        :return: whether none of them is pending after a moment. Otherwise they wait for the end of the transaction, perhaps.
        """
        return all(each.flush_aside(ids) for each in self.components)

    def after_fork(self) -> None:
        """Replace locks that threads of the parent may hold: this process is the child of a fork."""
        self.handled.after_fork()
        self.events.running.clear()
        self.presence.after_fork()
        for component in self.components:
            component.after_fork()

    def _listeners(self) -> list[Listens]:
        return [told for each in self.components if (told := each.listens()) is not None]

    def _handling(self) -> list[str]:
        return [each.lease.id for each in list(self.events.running)]
