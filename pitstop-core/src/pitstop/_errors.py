"""Everything that Pitstop raises, in one tree.

::

    PitstopError
    ├── ConfigError             what was given to init() cannot be used
    │   ├── UnknownBackend      no installed backend answers to this type
    │   ├── BackendLoadError    the backend is installed but does not load
    │   └── PluginConflict      two plugins claim one name
    ├── MessageError            a message or an id that cannot be stored
    ├── ScheduleError           a time, an end or a recurrence that makes no sense
    ├── LeaseLost               the delivery is no longer ours to settle
    ├── BackendUnavailable      the store cannot be reached, or not used right now
    │   └── OutcomeUnknown      it may have been done, or not: the answer got lost
    └── Unsupported             this backend has not got that capability

Every text says what was wrong, what was given and what to do. None holds a password or a message's body.
"""

from __future__ import annotations

from pitstop._values._quoting import masked


__all__ = [
    "BackendLoadError",
    "BackendUnavailable",
    "ConfigError",
    "LeaseLost",
    "MessageError",
    "OutcomeUnknown",
    "PitstopError",
    "PluginConflict",
    "ScheduleError",
    "UnknownBackend",
    "Unsupported",
]


class PitstopError(Exception):
    """Base of all errors that Pitstop raises on purpose.

    Credentials in the text are masked, because a backend or a plugin of another author may quote a URL.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*[masked(each) if isinstance(each, str) else each for each in args])


class ConfigError(PitstopError):
    """A configuration key or value cannot be used; the text names the key."""


class UnknownBackend(ConfigError):
    """No installed backend answers to the ``type`` (or URL scheme) that was given."""


class BackendLoadError(ConfigError):
    """The backend is installed but could not be loaded; the text names its distribution and version."""


class PluginConflict(ConfigError):
    """Two installed distributions (or two plugins) claim the same name."""


class MessageError(PitstopError, ValueError):
    """The message or its id cannot be stored as given; the text names the path, as in ``msg['a'][3]``."""


class ScheduleError(PitstopError, ValueError):
    """A time, an end, a recurrence or a catch-up policy makes no sense as given."""


class LeaseLost(PitstopError):
    """The lease is over, so nothing was changed.

    It ran out, the message was stored anew or removed, or the delivery was settled before. With at-least-once
    delivery this is part of normal life: somebody else may have the message now.
    """


class BackendUnavailable(PitstopError):
    """The store did not do what it was asked to: not reachable, refusing, full, or closed."""

    #: Whether it is no use to try again before somebody has changed something: a password, a role, an index.
    permanent: bool

    def __init__(self, text: str = "", *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class OutcomeUnknown(BackendUnavailable):
    """The store may have done it or not: its answer got lost, and what was tried since did not tell.

    To do the same again under the same ids does no harm, but that a message may be emitted twice.
    """

    #: Ids of the messages that it is about; also of one whose id Pitstop made.
    ids: tuple[str, ...]

    def __init__(self, text: str = "", *, ids: tuple[str, ...] = (), permanent: bool = False) -> None:
        super().__init__(text, permanent=permanent)
        self.ids = ids


class Unsupported(PitstopError):
    """The backend lacks a capability that the call needs; the text names it."""
