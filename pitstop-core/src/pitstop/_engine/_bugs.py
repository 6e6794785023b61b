"""Bugs: where an unforeseen error was raised, for the log. Its text is left out, because it may quote a message or a secret.

Threads: any; a pure function.
"""

from __future__ import annotations


__all__ = ["traceback_of"]


def traceback_of(error: BaseException) -> str:
    """Return the traceback of an error, line by line, without the error's text."""
    lines = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        lines.append(f'\n  File "{code.co_filename}", line {trace.tb_lineno}, in {code.co_qualname}')
        trace = trace.tb_next
    return "".join(lines)
