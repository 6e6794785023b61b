"""Locks, queues and threads that the scheduler controls. Their names and behaviour are those of ``threading``.

Outside of a run they do nothing, and succeed: objects that a run has left behind must not stop the program at its end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from queue import Empty
from threading import get_ident
from types import TracebackType
from typing import Any, Self

from schedules.scheduler import Controlled, active


__all__ = ["Condition", "Event", "Lock", "RLock", "SimpleQueue", "Thread", "start_new_thread"]


class Lock:
    """A lock that is not reentrant."""

    def __init__(self) -> None:
        self._held = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler = active()
        if scheduler is None:
            self._held = True
            return True
        scheduler.point("acquire")
        if not self._held:
            self._held = True
            return True
        if not blocking or timeout == 0:
            return False
        if not scheduler.block(lambda: not self._held, None if timeout < 0 else timeout, self):
            return False
        self._held = True
        return True

    def release(self) -> None:
        scheduler = active()
        if not self._held:
            if scheduler is None or scheduler.dying:
                return
            raise RuntimeError("release unlocked lock")
        self._held = False
        if scheduler is not None and not scheduler.dying:
            scheduler.point("release")

    def locked(self) -> bool:
        return self._held

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"a {type(self).__name__}"


class RLock:
    """A lock that its owner may take again."""

    def __init__(self) -> None:
        self._owner: int | None = None
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        scheduler, me = active(), get_ident()
        if scheduler is None:
            return True
        if self._owner == me:
            self._count += 1
            return True
        scheduler.point("acquire")
        if self._owner is not None:
            if not blocking or timeout == 0:
                return False
            if not scheduler.block(lambda: self._owner is None, None if timeout < 0 else timeout, self):
                return False
        self._owner, self._count = me, 1
        return True

    def release(self) -> None:
        scheduler = active()
        if self._owner != get_ident():
            if scheduler is None or scheduler.dying:
                return
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if self._count == 0:
            self._owner = None
            if scheduler is not None and not scheduler.dying:
                scheduler.point("release")

    def give_up(self) -> int:
        """Release it, however often it was taken; return how often that was."""
        count, self._owner, self._count = self._count, None, 0
        return count

    def take_up(self, count: int) -> None:
        """Take it again so many times."""
        self.acquire()
        self._count = count

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"an RLock held by {self._owner}"


class Condition:
    """A condition with a lock of its own, or a given one."""

    def __init__(self, lock: RLock | None = None) -> None:
        self._lock = RLock() if lock is None else lock
        self.acquire, self.release = self._lock.acquire, self._lock.release
        self._waiting: list[list[bool]] = []

    def __enter__(self) -> bool:
        return self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = active()
        if scheduler is None:
            return True
        told = [False]
        self._waiting.append(told)
        count = self._lock.give_up()
        try:
            woken = scheduler.block(lambda: told[0], timeout, self)
        finally:
            if told in self._waiting:
                self._waiting.remove(told)
            if not scheduler.dying:
                self._lock.take_up(count)
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        scheduler = active()
        ends = None if scheduler is None or timeout is None else scheduler.now_us + round(timeout * 1e6)
        while not (result := predicate()):
            left = None
            if scheduler is not None and ends is not None:
                left = (ends - scheduler.now_us) / 1e6
                if left <= 0:
                    break
            if scheduler is None:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        told, self._waiting = self._waiting[:n], self._waiting[n:]
        for each in told:
            each[0] = True

    def notify_all(self) -> None:
        self.notify(len(self._waiting))

    def __repr__(self) -> str:
        return "a Condition"


class Event:
    """A flag that threads wait for."""

    def __init__(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def set(self) -> None:
        self._flag = True
        if (scheduler := active()) is not None and not scheduler.dying:
            scheduler.point("set")

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        scheduler = active()
        if scheduler is None:
            return True
        scheduler.point("wait")
        if timeout is not None and timeout <= 0:
            return self._flag
        return scheduler.block(lambda: self._flag, timeout, self)

    def __repr__(self) -> str:
        return "an Event"


class SimpleQueue:
    """A queue without an end."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        self._items.append(item)
        if (scheduler := active()) is not None and not scheduler.dying:
            scheduler.point("put")

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        scheduler = active()
        if scheduler is not None:
            scheduler.point("get")
            if block and not scheduler.block(lambda: bool(self._items), timeout, self):
                raise Empty
        if not self._items:
            raise Empty
        return self._items.popleft()

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return "a SimpleQueue"


class Thread:
    """A thread that the scheduler starts."""

    def __init__(
        self,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
    ) -> None:
        self._target, self._args, self._kwargs = target, tuple(args), dict(kwargs or {})
        self.name = name or "thread"
        self.daemon = bool(daemon)
        self.ident: int | None = None
        self._controlled: Controlled | None = None

    def start(self) -> None:
        scheduler = active()
        if scheduler is None:
            raise RuntimeError("can't start new thread outside of a run")
        name = f"{self.name}-{sum(each.name.startswith(self.name) for each in scheduler.threads) + 1}"
        self._controlled = scheduler.spawn(name, self.run)

    def run(self) -> None:
        self.ident = get_ident()
        try:
            if self._target is not None:
                self._target(*self._args, **self._kwargs)
        finally:
            # As in threading: the references to the arguments are dropped.
            del self._target, self._args, self._kwargs

    def join(self, timeout: float | None = None) -> None:
        scheduler, controlled = active(), self._controlled
        if scheduler is not None and controlled is not None:
            scheduler.point("join")
            if timeout is None or timeout > 0:
                scheduler.block(lambda: controlled.done, timeout, f"the end of {controlled.name}")

    def is_alive(self) -> bool:
        return self._controlled is not None and not self._controlled.done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None: ...

    def __repr__(self) -> str:
        return f"<Thread {self.name}>"


def start_new_thread(
    function: Callable[..., object], args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> int:
    """Do as ``_thread.start_new_thread``, but for the number that is returned."""
    scheduler = active()
    if scheduler is None:
        raise RuntimeError("can't start new thread outside of a run")
    scheduler.spawn(getattr(function, "__name__", "thread"), lambda: function(*args, **(kwargs or {})))
    return 0
