"""Bugs: where an error was raised, for the log. Its text is left out, because it may quote a message or a secret.

Threads: any; a pure function.
"""

from __future__ import annotations


__all__ = ["chain_of", "traceback_of"]

#: Errors of one chain that are logged.
_MOST = 5


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error, line by line, without the error's text."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f'\n  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_qualname}')
        trace = trace.tb_next
    return "".join(lines)


def chain_of(error: BaseException) -> str:
    """Return the traceback of an error, and of the errors that caused it, without their texts."""
    text, seen, cause = traceback_of(error), {id(error)}, _cause(error)
    while cause is not None and id(cause) not in seen and len(seen) < _MOST:
        text += f"\n  caused by {type(cause).__qualname__}{traceback_of(cause)}"
        seen.add(id(cause))
        cause = _cause(cause)
    return text


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ if error.__cause__ is not None or error.__suppress_context__ else error.__context__
