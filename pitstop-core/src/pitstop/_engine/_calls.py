"""Calls of Pitstop by one thread: calls inside of calls, and the locks that such a call must not wait for.

Threads: any; the notes are kept for each thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import Lock, RLock
from types import TracebackType
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from pitstop._errors import BackendUnavailable
from pitstop.abc import Calls
from pitstop.abc._turn import REFUSED


__all__ = ["Closable", "Inside", "entrance", "unbroken"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_A = TypeVar("_A")
_B = TypeVar("_B")


class Inside(Calls):
    """Notes, per thread, whether the thread is inside of a method that is :func:`unbroken`.

    A call inside of another call of the same thread has one of two causes. A signal handler has *interrupted* the outer
    call, at any line, perhaps while the thread held a lock. Or the outer call has *called out*, to a hook or to a mapping
    of the user, at a line where it holds nothing. The first kind must not wait for another thread, the second kind may.

    All attributes belong to one thread each.
    """

    #: Whether the calling thread is in a call that must not wait for other threads.
    interrupting = False
    #: Whether a call of the calling thread has called out, and waits for the end of that.
    called_out = False

    def __init__(self) -> None:
        super().__init__()
        #: Locked while the calling thread has a lock by :meth:`holding`.
        self.holds = Lock()

    @property
    def inside(self) -> bool:
        """Whether the calling thread is inside of a call, at any depth."""
        return self.called_out or self.note.locked()

    @contextmanager
    def holding(self, lock: RLock) -> Iterator[None]:
        """Hold a lock that other threads hold while they call the backend.

        :raises BackendUnavailable: in a call that must not wait, if another thread has the lock. That thread may wait
            for the call that was interrupted.
        """
        if self.interrupting:
            if not lock.acquire(blocking=False):
                raise BackendUnavailable(REFUSED)
            try:
                yield
            finally:
                lock.release()
        elif self.holds.locked():
            with lock:
                yield
        else:
            with self.holds, lock:
                yield

    def call_out(self, function: Callable[[_A, _B], object], first: _A, second: _B) -> None:
        """Call ``function(first, second)`` inside of :meth:`callout`, in less time: each event of a plugin comes here."""
        note = self.note
        if not note.locked() or self.interrupting or self.holds.locked():
            function(first, second)
            return
        before = note, self.called_out
        self.note, self.called_out = Lock(), True
        try:
            function(first, second)
        finally:
            self.note, self.called_out = before

    def callout(self) -> Callout:
        """Return the context in which a call runs code of the user: a hook, or a method of a mapping.

        Calls of Pitstop by that code count as calls of their own, unless the thread holds a lock of the engine.
        """
        return Callout(self)


class Callout:
    """See :meth:`Inside.callout`. Used by one thread, once."""

    __slots__ = ("_before", "_calls")

    def __init__(self, calls: Inside) -> None:
        self._calls = calls
        # None: the code counts as a part of the outer call.
        self._before: tuple[Lock, bool] | None = None

    def __enter__(self) -> None:
        calls = self._calls
        note = calls.note
        if note.locked() and not (calls.interrupting or calls.holds.locked()):
            # The note of the outer call stays locked and is put back. No step of this can leave a wrong note behind: the
            # outer call releases its own note by itself.
            self._before = note, calls.called_out
            calls.note, calls.called_out = Lock(), True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            self._calls.note, self._calls.called_out = self._before


class _Failures(Protocol):
    """The part of the events of a session that marked methods use."""

    def store_failed(self, error: BackendUnavailable) -> None: ...


class Closable(Protocol):
    """The part of a session that marked methods use."""

    @property
    def calls(self) -> Inside: ...
    @property
    def closing(self) -> bool: ...
    @property
    def closes_here(self) -> bool: ...
    @property
    def closed(self) -> bool: ...
    @property
    def events(self) -> _Failures: ...
    def close(self) -> None: ...


class _OfASession(Protocol):
    @property
    def _session(self) -> Closable: ...


_Self = TypeVar("_Self", bound=_OfASession)


def unbroken(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """Decorate a method in which its thread holds something for the session, or calls the backend.

    If a signal handler closes the session meanwhile, the session is closed when the outermost of these methods ends.
    """
    return _marked(method, entrance=False)


def entrance(method: Callable[Concatenate[_Self, _P], _T]) -> Callable[Concatenate[_Self, _P], _T]:
    """Decorate an :func:`unbroken` method that the program calls, and that calls no other method of this kind.

    If the thread is in such a method already, a signal handler makes the call: see :attr:`Inside.interrupting`.
    """
    return _marked(method, entrance=True)


def _marked(method: Callable[Concatenate[_Self, _P], _T], *, entrance: bool) -> Callable[Concatenate[_Self, _P], _T]:
    @wraps(method)
    def call(self: _Self, /, *args: _P.args, **options: _P.kwargs) -> _T:
        session = self._session
        calls = session.calls
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
        except BackendUnavailable as error:
            # A closed session is no failure of the store.
            if not session.closed:
                session.events.store_failed(error)
            raise
        finally:
            if session.closing and session.closes_here:
                session.close()

    return call
