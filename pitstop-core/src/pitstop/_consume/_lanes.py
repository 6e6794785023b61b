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
from pitstop._engine._throttle import Throttle
from pitstop._errors import ConfigError, MessageError, PitstopError
from pitstop._values._arguments import MOST_KINDS, ListenOptions, flag, whole_number
from pitstop._values._kind import OTHERS, valid_kind
from pitstop._values._quoting import quoted
from pitstop._values._rate import parse_rate
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
    #: The most messages of this kind in a time, as in ``"50/s"``. The rate of ``consume`` holds as well, for all kinds together.
    rate: str | None = attrs.field(default=None, kw_only=True)
    #: Whether the handler is called with a list of deliveries, of this number at most.
    batch: int | None = attrs.field(default=None, kw_only=True)


#: A handler for all messages, or for each kind a handler or a :class:`Handle`; ``"*"`` stands for all other kinds.
Handlers = Handler | Mapping[str, Handler | Handle]
#: The same, for an event loop.
AsyncHandlers = AsyncHandler | Mapping[str, AsyncHandler | Handle]

#: The options of ``consume`` that a :class:`Handle` may have as well.
_OPTIONS = ("lock_time", "loop_time", "prefetch", "heartbeat", "max_lease", "batch")
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
    #: The rates at which its messages are claimed: its own one first, and that of all kinds together.
    throttles: tuple[Throttle, ...] = ()


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
    #: How many deliveries the handler gets at most at a time, in a list. None: it gets one, and no list.
    batch: int | None = None
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
    rate: object = None,
) -> list[Plan]:
    """Check the handlers and options of ``consume``. Return a plan for each kind, or one for all messages.

    :param field: the name of the option ``workers``.
    :param options: those of ``listen``.
    :param rate: the rate of all messages together; None: any.
    :raises ConfigError: if an option cannot be used; the text names it, and its kind.
    :raises PitstopError: if ``handlers`` is an empty mapping, or has a key that is no kind.
    """
    count = whole_number(workers, field, most=most)
    shared = _throttles(rate)
    if isinstance(handlers, Handle):
        raise PitstopError(
            "The handler is a Handle, which belongs to a kind. Give it in a mapping, as in {'mail': Handle(send)}."
        )
    if not isinstance(handlers, Mapping):
        chosen = ListenOptions.of(**options, kinds=kinds)
        return [Plan(handlers, _takes(deliveries, chosen), count, chosen, None, shared)]  # type: ignore[arg-type]
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
        own_kinds = (AllBut(names) if names else None) if kind == OTHERS else (_kind(kind),)
        with named(kind):
            chosen = attrs.evolve(ListenOptions.of(**_options(handle, options)), kinds=own_kinds)
            plans.append(
                Plan(
                    handle.handler,
                    _takes(deliveries if handle.deliveries is None else handle.deliveries, chosen),
                    count if handle.workers is None else whole_number(handle.workers, "workers", most=most),
                    chosen,
                    kind,
                    (*_throttles(handle.rate), *shared),
                )
            )
    together = sum(each.workers for each in plans)
    if together > most:
        raise ConfigError(
            f"The handlers have {together} {field} together, and at most {most} can be. Each kind has its own: give a smaller "
            f"{field}, or a Handle with fewer workers."
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


def _takes(deliveries: bool | None, options: ListenOptions) -> bool | None:
    """Return whether the handler gets deliveries; None: as its signature shows."""
    if options.batch is None:
        return deliveries
    if deliveries is not None and not flag(deliveries, "deliveries"):
        raise ConfigError(
            f"deliveries=False does not go with batch={options.batch}: a batch is a list of deliveries, so that the handler may "
            f"settle each by itself. Leave deliveries out."
        )
    return True


def _throttles(rate: object) -> tuple[Throttle, ...]:
    return () if rate is None else (Throttle(parse_rate(rate, "rate")),)


def _kind(kind: object) -> str:
    try:
        return valid_kind(kind)
    except MessageError as error:
        raise PitstopError(f"The handlers have a key that is no kind. {error}") from None
