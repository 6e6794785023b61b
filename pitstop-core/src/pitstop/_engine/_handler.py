"""The handlers of users: whether one can be called, and whether with the message or with the delivery."""

from __future__ import annotations

import inspect
import logging

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, get_args

from pitstop._engine._delivery import Delivery
from pitstop._errors import PitstopError
from pitstop._values._arguments import flag


__all__ = [
    "Handler",
    "HandlerIsAsync",
    "callable_handler",
    "close_awaitable",
    "is_async",
    "log_failure",
    "takes_delivery",
]

_log = logging.getLogger("pitstop.consumer")

#: What handles a message: called with the message, or with the delivery. What it returns is not looked at.
Handler = Callable[[Any], object]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class HandlerIsAsync(PitstopError):
    """A mistake in the program, and no failure of one message: raised to whoever gave the handler, whatever is done of others."""


def callable_handler(handler: Handler) -> Handler:
    """The handler, if it can be called, and if that does something.

    :raises PitstopError: when it cannot, takes no argument or needs several, or is a generator function.
    """
    if not callable(handler):
        raise PitstopError(
            f"The handler is a {type(handler).__name__}, which cannot be called. Give a function of the message."
        )
    if _is_made_by(handler, inspect.isgeneratorfunction) or _is_made_by(handler, inspect.isasyncgenfunction):
        raise PitstopError(
            f"The handler {_name(handler)} has a yield in it, so that to call it does nothing. Give a function that handles "
            f"the message before it returns."
        )
    if not _takes_one(handler):
        raise PitstopError(
            f"The handler {_name(handler)} cannot be called with one argument, the message or the delivery. Give a function "
            f"of that; for what else it needs, functools.partial or a lambda."
        )
    return handler


def is_async(handler: Handler) -> bool:
    """Whether what a call returns would have to be awaited, as far as can be told without calling it."""
    return _is_made_by(handler, inspect.iscoroutinefunction)


def takes_delivery(handler: Handler, deliveries: bool | None, kind: type = Delivery) -> bool:
    """Whether the handler is to be called with the delivery, and not with the message.

    :param deliveries: what the user said. None: it is if the handler's first parameter is annotated as a delivery, or named
        ``delivery``.
    :param kind: the class of the deliveries.
    """
    if deliveries is not None:
        return flag(deliveries, "deliveries")
    parameter = _first_parameter(handler)
    return parameter is not None and (parameter.name == "delivery" or _says(parameter.annotation, kind))


def close_awaitable(result: Awaitable[object]) -> None:
    """Let go of what nobody is going to wait for, without a warning that nobody did."""
    if inspect.iscoroutine(result):
        result.close()
    elif callable(cancel := getattr(result, "cancel", None)):
        # A task. To import asyncio for its class would slow down those who have none.
        cancel()


def log_failure(id: str, attempt: int, error: BaseException, backend: object) -> None:
    """Tell that a handler raised, and where; without the error's text, which may quote the message.

    :param backend: the backend in use: its package is no place of the user's either. None: it is closed by now.
    """
    own = {__name__.partition(".")[0], type(backend).__module__.partition(".")[0]}
    place = _place(error.__traceback__, own)
    _log.error("%r (attempt %d) failed: %s%s; last_error has its text", id, attempt, type(error).__qualname__, place)


def _place(trace: TracebackType | None, own: set[str]) -> str:
    """The innermost line that is not the library's."""
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
        # Written in C, and says nothing.
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
            # Written in C, and says nothing.
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
