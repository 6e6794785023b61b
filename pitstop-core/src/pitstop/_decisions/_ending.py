"""Tell exceptions that end the program from exceptions that are a failure of the code that raised them."""

from __future__ import annotations


__all__ = ["ends_program"]


def ends_program(error: BaseException | None) -> bool:
    """Whether an exception asks for the end of the program.

    Only :class:`SystemExit`, :class:`KeyboardInterrupt`, and a group that holds one of them do. All other exceptions that are
    not an :class:`Exception` are failures: a panic of an extension written in Rust (PyO3), a timeout of func_timeout or
    gevent, a ``CancelledError`` from ``asyncio.run()``, a ``GeneratorExit``.
    """
    # Without recursion: groups may be nested more deeply than Python's stack allows.
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, SystemExit | KeyboardInterrupt):
            return True
        if isinstance(each, BaseExceptionGroup):
            left.extend(each.exceptions)
    return False
