"""Turn: lets one thread at a time use a store's state, and keeps forks and signal handlers out of a call that is under way."""

from __future__ import annotations

import os

from collections.abc import Callable
from contextlib import suppress
from itertools import count
from threading import Lock, RLock, get_ident, local
from typing import Any
from weakref import WeakMethod, WeakSet

from pitstop._errors import BackendUnavailable


__all__ = ["Calls", "Turn"]

REFUSED = (
    "Pitstop was called in the middle of another call of Pitstop by the same thread, as happens in signal handlers and in "
    "__del__. Nothing was done: the new call would wait for the interrupted one without end. Let the handler set a flag or "
    "a threading.Event, and call Pitstop where the program checks it. close() may be called in a handler, and consume() "
    "ends at SIGTERM by itself."
)


class Calls(local):
    """Notes, per thread, whether the thread is inside a call: ``with calls.enter(): ...``.

    The note is a lock that only its own thread takes. A ``with`` of a lock has no step at which Ctrl-C could leave a wrong
    note behind.
    """

    def __init__(self) -> None:
        #: The note of the calling thread, locked while the thread is inside a call.
        self.note = Lock()

    @property
    def inside(self) -> bool:
        """Whether the calling thread is inside a call."""
        return self.note.locked()

    def enter(self) -> Lock:
        """Return the note of the calling thread, for a ``with`` around the call.

        :raises BackendUnavailable: if this thread is inside a call already. A signal handler or a finalizer has interrupted
            that call, and the new call would wait for it without end.
        """
        note = self.note
        if note.locked():
            raise BackendUnavailable(REFUSED)
        return note


class Turn:
    """A lock for state that the threads of a process share: ``with turn.lock, turn.call(): ...``.

    - A call by a thread that is inside already (in a signal handler) raises instead of waiting for itself.
    - A fork waits until no other thread is inside. In the child the lock is a new lock, so that the child does not wait for
      a thread that only its parent has.

    Do not keep ``turn.lock`` in a variable: it is replaced in the child of a fork.

    >>> turn = Turn()
    >>> with turn.lock, turn.call():
    ...     turn.inside
    True
    """

    def __init__(
        self, *, before_fork: Callable[[], object] | None = None, after_fork: Callable[[bool], object] | None = None
    ) -> None:
        """Make a turn that no thread has.

        Both functions are methods of the turn's owner, and are held weakly. They must not raise.

        :param before_fork: called in the forking thread before each fork, when no thread is inside. It is not called if the
            forking thread itself is inside, which means that a signal handler forks.
        :param after_fork: called in the child, with True if ``before_fork`` was called before this fork.
        """
        #: Held by the thread that is inside, and during a fork by the forking thread.
        self.lock = RLock()
        self._calls = Calls()
        self._number = next(_numbers)
        self._before_fork: WeakMethod[Any] | None = None if before_fork is None else WeakMethod(before_fork)
        self._after_fork: WeakMethod[Any] | None = None if after_fork is None else WeakMethod(after_fork)
        # A fork that is under way goes through all turns.
        with _forks.lock:
            _turns.add(self)

    @property
    def inside(self) -> bool:
        """Whether the calling thread is inside a call."""
        return self._calls.inside

    def call(self) -> Lock:
        """Note that the calling thread, which holds :attr:`lock`, is inside a call from now on.

        :raises BackendUnavailable: if the thread is inside a call already.
        """
        # The same as Calls.enter(), repeated because this is a hot path.
        note = self._calls.note
        if note.locked():
            raise BackendUnavailable(REFUSED)
        return note

    def _prepare_for_fork(self) -> None:
        before = None if self._before_fork is None else self._before_fork()
        if before is not None:
            before()

    def _renew(self, *, prepared: bool) -> None:
        """In the child of a fork: replace the lock, which a thread of the parent may hold."""
        if not self._calls.inside:
            self.lock = RLock()
        after = None if self._after_fork is None else self._after_fork()
        if after is not None:
            after(prepared)


class _Fork:
    """A fork that is in progress."""

    def __init__(self) -> None:
        #: The turns that the fork takes.
        self.taken: list[Turn] = []
        #: The taken turns that are prepared.
        self.prepared: list[Turn] = []
        #: Whether the hook before the fork has ended.
        self.ready = False


class _Forks:
    """The forks that are in progress in this process."""

    def __init__(self) -> None:
        #: Held during a fork, and while a turn is added.
        self.lock = RLock()
        #: The forks of each thread. A thread may have several: a signal handler may fork while its thread is about to fork.
        self.under_way: dict[int, list[_Fork]] = {}


_numbers = count()
_turns: WeakSet[Turn] = WeakSet()
_forks = _Forks()


def _before_fork() -> None:
    # Python prints any exception of a hook, Ctrl-C included, and forks nevertheless. So each lock is noted before it is
    # taken, and a noted lock is later released if it was taken.
    fork = _Fork()
    _forks.under_way.setdefault(get_ident(), []).append(fork)
    try:
        _forks.lock.acquire()
        # All threads take the turns in one order, so that two threads that fork do not wait for each other.
        for turn in sorted(_turns, key=_number):
            if not turn.inside:
                fork.taken.append(turn)
                turn.lock.acquire()
                _prepare(turn)
                fork.prepared.append(turn)
    finally:
        fork.ready = True


def _after_fork_in_parent() -> None:
    me = get_ident()
    under_way = _forks.under_way.get(me)
    if not under_way:
        return
    taken = under_way[-1].taken
    while taken:
        _release(taken[-1].lock)
        taken.pop()
    _release(_forks.lock)
    under_way.pop()
    if not under_way:
        _forks.under_way.pop(me, None)


def _after_fork_in_parent_again() -> None:
    """Do the rest of the work if Ctrl-C has ended the previous hook."""
    under_way = _forks.under_way.get(get_ident())
    if under_way and under_way[-1].ready:
        _after_fork_in_parent()


def _after_fork_in_child() -> None:
    global _forks  # noqa: PLW0603 - of the process, as a fork is
    # C code may run this hook without the hook before the fork.
    under_way = _forks.under_way.get(get_ident())
    prepared = under_way[-1].prepared if under_way else []
    _forks = _Forks()
    for turn in sorted(_turns, key=_number):
        _renew(turn, prepared=any(each is turn for each in prepared))


def _prepare(turn: Turn) -> None:
    turn._prepare_for_fork()


def _renew(turn: Turn, *, prepared: bool) -> None:
    turn._renew(prepared=prepared)


def _number(turn: Turn) -> int:
    return turn._number


def _release(lock: Any) -> None:
    # The lock may not be taken: Ctrl-C may have ended the hook before that.
    with suppress(RuntimeError):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
    os.register_at_fork(after_in_parent=_after_fork_in_parent_again)
