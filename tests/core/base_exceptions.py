"""Exceptions of handlers that are not an ``Exception``: some are failures of one message, others end the program."""

from __future__ import annotations

import asyncio


class Panic(BaseException):
    """The exception that PyO3 raises for a panic in Rust."""


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
