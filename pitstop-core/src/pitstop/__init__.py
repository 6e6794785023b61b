"""Pitstop takes a message now and gives it back later, at least once.

PYTEST_DONT_REWRITE: pytest must not warn if this package is imported before its run begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pitstop._consume._lanes import Handle
from pitstop._engine._delivery import Delivery
from pitstop._engine._listener import Listener
from pitstop._errors import (
    BackendLoadError,
    BackendUnavailable,
    ConfigError,
    Conflict,
    LeaseLost,
    MessageError,
    OutcomeUnknown,
    PitstopError,
    PluginConflict,
    PluginFailed,
    PluginLoadError,
    ScheduleError,
    UnknownBackend,
    Unsupported,
)
from pitstop._init import init
from pitstop._pitstop import Pitstop
from pitstop._plugins._hookspecs import hookimpl
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._calendar import Calendar
from pitstop._recurrence._counting import AtLeast
from pitstop._recurrence._cron import Cron
from pitstop._recurrence._every import Every
from pitstop._recurrence._preview import Upcoming
from pitstop._recurrence._registry import register_recurrence
from pitstop._recurrence._rrule import RRule
from pitstop._recurrence._times import Times
from pitstop._values._consumer import Consumer
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._explanation import Explanation
from pitstop._values._plugin import Plugin
from pitstop._values._seen import SeenConsumer
from pitstop._values._stored import Stored
from pitstop._values._summary import Summary
from pitstop._values._transfer import Transfer


if TYPE_CHECKING:
    from pitstop._aio._delivery import AsyncDelivery
    from pitstop._aio._listener import AsyncListener
    from pitstop._aio._pitstop import AsyncPitstop, init_async

__version__ = "0.1.0"

__all__ = [
    "AsyncDelivery",
    "AsyncListener",
    "AsyncPitstop",
    "AtLeast",
    "BackendLoadError",
    "BackendUnavailable",
    "Calendar",
    "ConfigError",
    "Conflict",
    "Consumer",
    "Cron",
    "Delivery",
    "Entry",
    "Every",
    "Explanation",
    "Handle",
    "LeaseLost",
    "Listener",
    "MessageError",
    "OutcomeUnknown",
    "Pitstop",
    "PitstopError",
    "Plugin",
    "PluginConflict",
    "PluginFailed",
    "PluginLoadError",
    "RRule",
    "Recurrence",
    "ScheduleError",
    "SeenConsumer",
    "State",
    "Stats",
    "Stored",
    "Summary",
    "Times",
    "Transfer",
    "UnknownBackend",
    "Unsupported",
    "Upcoming",
    "__version__",
    "hookimpl",
    "init",
    "init_async",
    "register_recurrence",
]

#: The module of each name. They are imported at their first use, because they import asyncio.
_LAZY = {
    "AsyncDelivery": "_aio._delivery",
    "AsyncListener": "_aio._listener",
    "AsyncPitstop": "_aio._pitstop",
    "init_async": "_aio._pitstop",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'pitstop' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - see _LAZY

    value = globals()[name] = getattr(import_module(f"pitstop.{module}"), name)
    return value
