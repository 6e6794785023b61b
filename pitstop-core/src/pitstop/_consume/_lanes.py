"""Lanes: the kinds of one ``consume``, each with its handler, its messages and its workers.

A lane waits for no other lane, so messages of a slow kind do not keep those of a fast one waiting. The exception are suspects:
see :mod:`pitstop._engine._suspects`.

Threads: any; a lane is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from threading import Lock
from typing import Any

import attrs

from pitstop._consume._handler import AsyncHandler, Handler, HandlerIsAsync
from pitstop._engine._intake import Intake
from pitstop._errors import ConfigError, MessageError, PitstopError
from pitstop._values._arguments import MOST_KINDS, ListenOptions, whole_number
from pitstop._values._kind import OTHERS, valid_kind
from pitstop._values._quoting import quoted
from pitstop.abc import AllBut


__all__ = ["AsyncHandlers", "Handle", "Handlers", "Lane", "Opening", "Plan", "named", "planned"]


@attrs.frozen
class Handle:
    """A handler of one kind in a mapping for ``consume``, with options of its own. None: the option of ``consume`` holds.

    An example is ``pit.consume({"mail": send, "report": pitstop.Handle(build, workers=1, lock_time="2h")}, workers=8)``.
    """

    #: Called with each message of the kind, or with its delivery.
    handler: Callable[[Any], Any]
    #: How many messages of this kind are handled at a time: threads, or tasks of an event loop.
    workers: int | None = attrs.field(default=None, kw_only=True)
    #: How long messages of this kind are leased.
    lock_time: timedelta | float | str | None = attrs.field(default=None, kw_only=True)
    #: The longest time between two polls of the store.
    loop_time: timedelta | float | str | None = attrs.field(default=None, kw_only=True)
    #: How many messages are claimed at once.
    prefetch: int | None = attrs.field(default=None, kw_only=True)
    #: Whether leases are extended while their handlers run.
    heartbeat: bool | None = attrs.field(default=None, kw_only=True)
    #: The longest time for which they are.
    max_lease: timedelta | float | str | None = attrs.field(default=None, kw_only=True)
    #: Whether the handler is called with the delivery, if its signature does not show it.
    deliveries: bool | None = attrs.field(default=None, kw_only=True)


#: A handler for all messages, or for each kind a handler or a :class:`Handle`; ``"*"`` stands for all other kinds.
Handlers = Handler | Mapping[str, Handler | Handle]
#: The same, for an event loop.
AsyncHandlers = AsyncHandler | Mapping[str, AsyncHandler | Handle]

#: The options of ``consume`` that a :class:`Handle` may have as well.
_OPTIONS = ("lock_time", "loop_time", "prefetch", "heartbeat", "max_lease")
#: The classes of errors about a handler, or its options.
_OF_A_KIND = (ConfigError, HandlerIsAsync, PitstopError)


@attrs.frozen
class Plan:
    """A lane that is not open yet."""

    handler: Handler
    #: Whether the handler gets the delivery; None: as its signature shows.
    deliveries: bool | None
    workers: int
    options: ListenOptions
    #: The key of the mapping, for errors. None: there is no mapping.
    kind: str | None = None


@attrs.frozen
class Opening:
    """A plan, and the way to its messages: a function that may block."""

    plan: Plan
    open_intake: Callable[[], Intake]


# Compared by identity.
@attrs.frozen(eq=False)
class Lane:
    """A lane with its intake."""

    intake: Intake
    handler: Handler
    #: Whether the handler gets the delivery.
    deliveries: bool
    workers: int
    #: Held by the worker that looks at the store.
    looking: Lock = attrs.field(factory=lambda: Lock())  # noqa: PLW0108 - looked up at each call: tests control the locks


def planned(
    handlers: object,
    *,
    field: str,
    workers: object,
    most: int,
    deliveries: bool | None,
    kinds: object,
    options: Mapping[str, object],
) -> list[Plan]:
    """Check the handlers and options of ``consume``. Return a plan for each kind, or one for all messages.

    :param field: the name of the option ``workers``.
    :param options: those of ``listen``.
    :raises ConfigError: if an option cannot be used; the text names it, and its kind.
    :raises PitstopError: if ``handlers`` is an empty mapping, or has a key that is no kind.
    """
    count = whole_number(workers, field, most=most)
    if isinstance(handlers, Handle):
        raise PitstopError(
            "The handler is a Handle, which belongs to a kind. Give it in a mapping, as in {'mail': Handle(send)}."
        )
    if not isinstance(handlers, Mapping):
        return [Plan(handlers, deliveries, count, ListenOptions.of(**options, kinds=kinds))]  # type: ignore[arg-type]
    if kinds is not None:
        raise ConfigError(
            f"kinds={quoted(kinds)} is given beside handlers by kind, which name the kinds. Leave kinds out."
        )
    # Read once, because the mapping may be of another library's class.
    given = dict(handlers)
    if not given:
        raise PitstopError("The handlers are an empty mapping. Give at least one, as in {'mail': send}.")
    names = [_kind(each) for each in given if each != OTHERS]
    if OTHERS in given and len(names) > MOST_KINDS:
        raise PitstopError(
            f"The handlers name {len(names)} kinds beside '*'. All are part of each claim for the others, and at most "
            f"{MOST_KINDS} can be. Name fewer, or leave '*' out."
        )
    heartbeat = options["heartbeat"] or any(isinstance(each, Handle) and each.heartbeat for each in given.values())
    # Those that are given to consume itself. An error of these names no kind.
    ListenOptions.of(**{**options, "heartbeat": heartbeat})
    plans = []
    for kind, value in given.items():
        handle = value if isinstance(value, Handle) else Handle(value)
        chosen = (AllBut(names) if names else None) if kind == OTHERS else (_kind(kind),)
        with named(kind):
            plans.append(
                Plan(
                    handle.handler,
                    deliveries if handle.deliveries is None else handle.deliveries,
                    count if handle.workers is None else whole_number(handle.workers, "workers", most=most),
                    attrs.evolve(ListenOptions.of(**_options(handle, options)), kinds=chosen),
                    kind,
                )
            )
    return plans


@contextmanager
def named(kind: str | None) -> Iterator[None]:
    """Put the kind into the text of an error about its handler or its options. None: there is no mapping of kinds."""
    try:
        yield
    except PitstopError as error:
        # Not those of the store, which have nothing to do with the kind.
        if kind is None or type(error) not in _OF_A_KIND:
            raise
        raise type(error)(f"The handler of {kind!r}: {error}") from None


def _options(handle: Handle, options: Mapping[str, object]) -> dict[str, Any]:
    own = {name: value for name in _OPTIONS if (value := getattr(handle, name)) is not None}
    chosen = {**options, **own}
    if not chosen["heartbeat"] and handle.max_lease is None:
        # It is for the other kinds, and has no effect without a heartbeat.
        chosen["max_lease"] = None
    return chosen


def _kind(kind: object) -> str:
    try:
        return valid_kind(kind)
    except MessageError as error:
        raise PitstopError(f"The handlers have a key that is no kind. {error}") from None
