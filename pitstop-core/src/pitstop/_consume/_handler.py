"""Handlers, which users write: checks of a handler, its argument (message or delivery), and the log of its failures.

Threads: any; the functions share no state.
"""

from __future__ import annotations

import inspect
import logging

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, get_args

from pitstop._consume._verdict import Verdict
from pitstop._decisions._ending import ends_program
from pitstop._engine._bugs import chain_of
from pitstop._engine._delivery import Delivery
from pitstop._engine._lease import Lease
from pitstop._errors import LeaseLost, PitstopError
from pitstop._values._arguments import flag
from pitstop.abc import Backend, log_fields


__all__ = [
    "AsyncHandler",
    "Handler",
    "HandlerIsAsync",
    "async_handler",
    "awaited_by_nothing",
    "callable_handler",
    "close_awaitable",
    "is_async",
    "log_failed_batch",
    "log_failure",
    "log_left",
    "log_unanswered",
    "sync_handler",
    "takes_delivery",
]

_log = logging.getLogger("pitstop.consumer")

#: A function that handles a message. It is called with the message, or with the delivery; its result is ignored.
Handler = Callable[[Any], object]
#: The same, for an event loop.
AsyncHandler = Callable[[Any], Awaitable[object]]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class HandlerIsAsync(PitstopError):
    """The handler is async where a plain function is needed. This is a mistake in the program and no failure of one message."""


def callable_handler(handler: Handler) -> Handler:
    """Return the handler, if a call with one argument handles a message.

    :raises PitstopError: when it cannot be called, takes no argument or needs several, or is a generator function.
    """
    if not callable(handler):
        raise PitstopError(
            f"The handler is a {type(handler).__name__}, which cannot be called. Give a function of the message."
        )
    if _is_made_by(handler, inspect.isgeneratorfunction) or _is_made_by(handler, inspect.isasyncgenfunction):
        raise PitstopError(
            f"The handler {_name(handler)} has a yield in it, so a call of it does nothing. Give a function that handles "
            f"the message before it returns."
        )
    if not _takes_one(handler):
        raise PitstopError(
            f"The handler {_name(handler)} cannot be called with one argument, the message or the delivery. Give a function "
            f"of one argument, with functools.partial or a lambda if it needs more."
        )
    return handler


def async_handler(handler: AsyncHandler) -> AsyncHandler:
    """Return the handler, if it is async.

    :raises PitstopError: when it is not.
    """
    callable_handler(handler)
    if not is_async(handler):
        raise PitstopError(
            f"The handler {_name(handler)} is not async, so it would block the "
            f"event loop. Write it with 'async def', or open the store with pitstop.init() and use its consume(), which "
            f"calls handlers in threads."
        )
    return handler


def sync_handler(handler: Handler) -> Handler:
    """Return the handler, if a thread can call it.

    :raises PitstopError: when it cannot be called, or is async.
    """
    if is_async(callable_handler(handler)):
        raise awaited_by_nothing()
    return handler


def awaited_by_nothing() -> PitstopError:
    """Return the error of an async handler that a thread was to call."""
    return HandlerIsAsync(
        "The handler is async, so a thread would call it and nothing would await it. Open the store with "
        "pitstop.init_async(), and await its consume(); or give a plain function."
    )


def is_async(handler: Handler) -> bool:
    """Whether the result of a call would have to be awaited, as far as that shows without a call."""
    return _is_made_by(handler, inspect.iscoroutinefunction)


def takes_delivery(handler: Handler, deliveries: bool | None, kind: type = Delivery) -> bool:
    """Whether the handler is to be called with the delivery, and not with the message.

    :param deliveries: the user's choice. None: the delivery, if the handler's first parameter is annotated as a delivery or
        named ``delivery``.
    :param kind: the class of the deliveries.
    """
    if deliveries is not None:
        return flag(deliveries, "deliveries")
    parameter = _first_parameter(handler)
    return parameter is not None and (parameter.name == "delivery" or _says(parameter.annotation, kind))


def close_awaitable(result: Awaitable[object]) -> None:
    """Close an awaitable that will never be awaited, so that Python does not warn "was never awaited"."""
    if inspect.iscoroutine(result):
        result.close()
    elif callable(cancel := getattr(result, "cancel", None)):
        # A task. Its class is not imported: asyncio would slow down programs that do not use it.
        cancel()


def log_failure(lease: Lease, error: BaseException, decided: Verdict, backend: object) -> None:
    """Log that a handler raised, with the traceback, and without the error's text, which may quote the message.

    The log is silent about an error that ``consume`` raises, and about a handler that was interrupted. If the handler has
    stored or removed its own message, the error is kept nowhere else. Then the log has the traceback, and the text.

    :param decided: the verdict on the delivery.
    :param backend: the backend in use: its package is no place of the user's either. None: it is closed by now.
    """
    if decided is Verdict.GIVE_BACK or ends_program(error):
        return
    id, attempt = lease.id, lease.attempt
    if lease.superseded:
        if isinstance(error, LeaseLost):
            # Of an extension: the handler itself has ended the lease.
            return
        trace = type(error), error, error.__traceback__
        _log.error(
            "%r (attempt %d) failed after it had stored or removed its own message: that stands",
            id,
            attempt,
            exc_info=trace,
            extra=_fields(lease, backend),
        )
        return
    if decided is Verdict.NACK and not lease.lost:
        kept = "last_error has its text"
    else:
        kept = "its lease was over before" if lease.lost else "its delivery had been settled before"
    place = _place(error.__traceback__, _own(backend))
    told = id, attempt, type(error).__qualname__, place, kept, chain_of(error)
    _log.error("%r (attempt %d) failed: %s%s; %s%s", *told, extra=_fields(lease, backend))


def log_failed_batch(failed: Sequence[tuple[Lease, Verdict]], error: BaseException, backend: object) -> None:
    """Log once that a handler raised with several messages: see :func:`log_failure`.

    :param failed: the messages that it had, with the verdict on each.
    """
    if all(decided is Verdict.GIVE_BACK for _, decided in failed) or ends_program(error):
        return
    kept = [
        lease.id for lease, decided in failed if decided is Verdict.NACK and not lease.lost and not lease.superseded
    ]
    if len(kept) < 2:
        lease, decided = next((each for each in failed if each[0].id in kept), failed[0])
        log_failure(lease, error, decided, backend)
        return
    named, more = ", ".join(map(repr, kept[:3])), f" and {len(kept) - 3} more" if len(kept) > 3 else ""
    place = _place(error.__traceback__, _own(backend))
    text = "%d messages failed together (%s%s): %s%s; last_error has its text%s"
    told = len(kept), named, more, type(error).__qualname__, place, chain_of(error)
    _log.error(text, *told, extra=log_fields("handler_failed", backend=_scheme(backend)))


def log_left(ids: list[str]) -> None:
    """Log that running handlers are left behind."""
    handlers = "1 handler is" if len(ids) == 1 else f"{len(ids)} handlers are"
    extra = log_fields("handlers_left")
    _log.warning("%s not waited for any longer: of %s", handlers, ", ".join(map(repr, ids)), extra=extra)


def log_unanswered() -> None:
    """Log that the end does not wait for the store any longer."""
    extra = log_fields("end_not_answered")
    _log.warning("the store does not answer: unwritten messages come back when their leases run out", extra=extra)


def _fields(lease: Lease, backend: object) -> dict[str, Any]:
    """Return the fields of a line about a failed handler."""
    kind = lease.emission.leased.kind
    return log_fields("handler_failed", backend=_scheme(backend), message_id=lease.id, kind=kind, attempt=lease.attempt)


def _scheme(backend: object) -> str | None:
    return backend.location.partition(":")[0] if isinstance(backend, Backend) else None


def _own(backend: object) -> set[str]:
    """Return the packages that are no place of the user's."""
    return {__name__.partition(".")[0], type(backend).__module__.partition(".")[0]}


def _place(trace: TracebackType | None, own: set[str]) -> str:
    """Return the innermost line that is not the library's."""
    place = ""
    while trace is not None:
        frame = trace.tb_frame
        if str(frame.f_globals.get("__name__")).partition(".")[0] not in own:
            place = f" at {frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _is_made_by(handler: Handler, is_kind: Callable[[object], bool]) -> bool:
    # Partials are seen through by inspect itself; an object with a __call__ is not.
    return is_kind(handler) or is_kind(getattr(handler, "__call__", None))  # noqa: B004 - its kind is what is asked


def _takes_one(handler: Handler) -> bool:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        # A function in C may have no signature.
        return True
    try:
        signature.bind(None)
    except TypeError:
        return False
    return True


def _first_parameter(handler: Handler) -> inspect.Parameter | None:
    try:
        signature = inspect.signature(handler, eval_str=True)
    except Exception:  # noqa: BLE001 - an annotation is any expression, of names that may not be there at run time
        try:
            signature = inspect.signature(handler)
        except (TypeError, ValueError):
            # A function in C may have no signature.
            return None
    first = next(iter(signature.parameters.values()), None)
    return first if first is not None and first.kind in _POSITIONAL else None


def _says(annotation: object, kind: type) -> bool:
    if isinstance(annotation, str):
        # Imported for type checkers only, as a rule.
        names = (each.strip(" \"'").rpartition(".")[2] for each in annotation.split("|"))
        return kind.__name__ in names
    if isinstance(annotation, type):
        return issubclass(annotation, kind)
    return any(_says(each, kind) for each in get_args(annotation))


def _name(handler: object) -> str:
    return str(getattr(handler, "__qualname__", type(handler).__qualname__))
