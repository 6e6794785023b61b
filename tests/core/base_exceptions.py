"""Exceptions of handlers that are no ``Exception``: failures of one message, and those that ask for the end of the program."""

from __future__ import annotations

import asyncio


class Panic(BaseException):
    """As PyO3 raises it for a panic in Rust."""


FAILURES = {
    "Panic": Panic("called `Option::unwrap()` on a `None` value"),
    "CancelledError": asyncio.CancelledError(),
    "GeneratorExit": GeneratorExit(),
    "BaseExceptionGroup": BaseExceptionGroup("of a task group", [Panic(), ValueError()]),
}
ENDS = {
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "group": BaseExceptionGroup("of a task group", [ValueError(), BaseExceptionGroup("inner", [KeyboardInterrupt()])]),
}
