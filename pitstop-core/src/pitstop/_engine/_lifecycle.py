"""The ends of a process: fork, ``atexit``, and the moment at which Python waits for threads. Sessions are told of them.

Threads: the thread that forks, and the main thread.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, Protocol
from weakref import WeakMethod, WeakSet

from pitstop._decisions._announce import Listens
from pitstop._engine._glance import wait_for_all
from pitstop.abc import Backend, Doorbell


__all__ = ["STOP_PATIENCE", "Component", "close_at_exit", "enroll", "renew_after_fork", "stop_at_exit"]


#: Seconds that a stop waits until the claimed messages are given back.
STOP_PATIENCE = 0.5
#: Seconds that the end of the interpreter waits for the listeners that the program did not close.
_EXIT_PATIENCE = 2.0


class Component:
    """A part of a session that waits for messages, or holds something that has to be written before the session is closed.

    A component overrides the methods that it cares about. The others do nothing.
    """

    #: Whether this component uses other components, which have to be open until it has ended.
    closes_first: ClassVar[bool] = False

    def notice(self, due: int | None, kinds: Collection[str] | None = None) -> None:
        """Wake up if a message with this ``due`` is news. None: its ``due`` is not known. Called by any thread.

        :param kinds: the kinds of the messages that were written. None: they are not known.
        """

    def forget(self, versions: Mapping[str, str | None]) -> None:
        """Drop claimed messages that were stored anew or removed.

        :param versions: by id: the revision that was stored, None if the message was removed.
        """

    def listens(self) -> Listens | None:
        """Return what a listener says of itself to operators. None: this is no listener."""
        return None

    def flush(self, ids: Collection[str] | None = None) -> None:
        """Write pending settlements, if one of these messages is among them. None: write all."""

    def flush_aside(self, ids: Collection[str]) -> bool:
        """Do as :meth:`flush` in another thread, and wait no longer than a moment. Return whether none of them is pending."""
        return True

    def begin_stop(self) -> Doorbell | None:
        """Wait for no more messages: the program is about to end. Blocks for nothing.

        :return: rings when the messages that were claimed are given back; None: nothing is waited for.
        """
        return None

    def end_soon(self) -> None:
        """Wake the threads that wait for messages, without taking a lock.

        A signal handler has closed the session in the middle of a call. The session is closed when that call ends.
        """

    def close(self) -> None:
        """Write and give back everything: the session is about to be closed."""

    def closes_later(self) -> bool:
        """True if the calling thread is one of this component's workers.

        A worker cannot wait for itself, so the component stops and closes the session when its work ends.
        """
        return False

    def at_exit(self) -> Doorbell | None:
        """Begin to write and give back everything: the interpreter is about to end, and the program did not close the session.

        :return: rings when it is done; None: nothing is waited for.
        """
        return None

    def after_fork(self) -> None:
        """Forget the threads and the leases of the parent: this process is the child of a fork."""


class Owner(Protocol):
    """The part of a session that is used here."""

    @property
    def components(self) -> Sequence[Component]: ...
    def after_fork(self) -> None: ...


_owners: WeakSet[Owner] = WeakSet()
_renewals: set[WeakMethod[Callable[[], None]]] = set()


def enroll(owner: Owner) -> None:
    """Tell ``owner`` of forks and of the end of the program, for as long as it lives."""
    _owners.add(owner)


def renew_after_fork(method: Callable[[], None]) -> None:
    """Call ``method`` in each child of a fork, for as long as its object lives."""
    _renewals.add(WeakMethod(method, _renewals.discard))


def _after_fork() -> None:
    """Renew all that is in use. An error of one part leaves the others renewed; Python prints it as it does for all such hooks."""
    renewals = [owner.after_fork for owner in list(_owners)]
    renewals += [method for renewal in list(_renewals) if (method := renewal()) is not None]
    errors = []
    for renew in renewals:
        try:
            renew()
        except Exception as error:  # noqa: BLE001 - raised below
            errors.append(error)
    if errors:
        raise ExceptionGroup("Pitstop could not be renewed in the child of a fork", errors)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _at_exit() -> None:
    _end_soon()
    wait_for_all([each.at_exit() for each in _components()], _EXIT_PATIENCE)


def _end_soon() -> None:
    """Have no component hand out a message while others are waited for."""
    for component in _components():
        component.end_soon()


def _components() -> list[Component]:
    return [component for owner in list(_owners) for component in owner.components]


_kinds: set[type[Backend]] = set()


def close_at_exit(kind: type[Backend]) -> None:
    """Call :meth:`Component.at_exit` of all components before the driver of this kind of backend ends its own threads.

    ``atexit`` calls the function first that was registered last. A driver registers when it is imported. So this registers
    when a backend is in use, and once more for each kind of backend.
    """
    if kind not in _kinds:
        _kinds.add(kind)
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)


def _stop_all() -> None:
    _end_soon()
    wait_for_all([each.begin_stop() for each in _components()], STOP_PATIENCE)


def stop_at_exit() -> None:
    """Stop all listeners when the main thread ends, before Python waits for the other threads.

    Without this a thread that iterates over a listener, and is no daemon, would keep the program from ending, and messages
    that were claimed ahead would stay leased. ``atexit`` comes after that wait, which is too late.
    """
    global _stops_at_exit  # noqa: PLW0603 - of the process, as its end is
    # The function that was registered last is called first. Pools of threads, which wait for their own threads, register
    # when they are imported. So this registers once more after that.
    wanted = 2 if "concurrent.futures.thread" in sys.modules else 1
    if _stops_at_exit < wanted:
        _stops_at_exit = wanted
        # As concurrent.futures does. Where the function is missing, programs close what they open.
        register = getattr(threading, "_register_atexit", None)
        if register is not None:
            try:
                register(_stop_all)
            except RuntimeError:
                # Python waits for the threads already, this one among them; or this is the main thread, in ``atexit``.
                if threading.current_thread() is not threading.main_thread():
                    _stop_all()


_stops_at_exit = 0
