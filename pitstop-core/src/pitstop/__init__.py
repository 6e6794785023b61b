"""Pitstop takes a message now and gives it back later, at least once.

PYTEST_DONT_REWRITE: a run of pytest that begins when this package is imported already is nothing to be warned of.
"""

from __future__ import annotations

from pitstop._engine._delivery import Delivery
from pitstop._engine._listener import Listener
from pitstop._errors import (
    BackendLoadError,
    BackendUnavailable,
    ConfigError,
    LeaseLost,
    MessageError,
    OutcomeUnknown,
    PitstopError,
    PluginConflict,
    ScheduleError,
    UnknownBackend,
    Unsupported,
)
from pitstop._init import init
from pitstop._pitstop import Pitstop
from pitstop._plugins._hookspecs import hookimpl
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._recurrence import Recurrence
from pitstop._values._summary import Summary


__version__ = "0.1.0"

__all__ = [
    "BackendLoadError",
    "BackendUnavailable",
    "ConfigError",
    "Delivery",
    "Entry",
    "LeaseLost",
    "Listener",
    "MessageError",
    "OutcomeUnknown",
    "Pitstop",
    "PitstopError",
    "PluginConflict",
    "Recurrence",
    "ScheduleError",
    "State",
    "Stats",
    "Summary",
    "UnknownBackend",
    "Unsupported",
    "__version__",
    "hookimpl",
    "init",
]
