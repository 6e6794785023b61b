"""Which exceptions end the program, and which are the failure of the code that raised them."""

from __future__ import annotations


__all__ = ["ends_program"]


def ends_program(error: BaseException | None) -> bool:
    """Whether an exception asks for the end of the program.

    Only :class:`SystemExit` and :class:`KeyboardInterrupt` do, and a group that holds one of them. All other exceptions that
    are no :class:`Exception` are failures: a panic of an extension written in Rust (PyO3), a timeout of func_timeout or
    gevent, a ``CancelledError`` out of ``asyncio.run()``, a ``GeneratorExit``.
    """
    # Not by recursion: a group may be nested as deeply as its maker likes.
    left = [error]
    while left:
        each = left.pop()
        if isinstance(each, SystemExit | KeyboardInterrupt):
            return True
        if isinstance(each, BaseExceptionGroup):
            left.extend(each.exceptions)
    return False
