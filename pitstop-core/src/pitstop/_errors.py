"""All errors that Pitstop raises, in one tree.

::

    PitstopError
    ├── ConfigError             a value given to init() cannot be used
    │   ├── UnknownBackend      no installed backend has this type
    │   ├── BackendLoadError    the backend is installed but does not load
    │   ├── PluginConflict      two plugins claim one name
    │   └── PluginLoadError     an installed plugin does not load or does not fit, with strict_plugins=True
    ├── MessageError            a message or an id that cannot be stored
    ├── ScheduleError           a time, an end or a recurrence that makes no sense
    ├── Conflict                another message exists, or has changed meanwhile
    ├── LeaseLost               the lease is over, so the delivery cannot be settled
    ├── BackendUnavailable      the store cannot be reached or used right now
    │   └── OutcomeUnknown      the answer got lost, so the write may be done or not
    ├── PluginFailed            a hook of a plugin raised, with strict_plugins=True
    └── Unsupported             the backend lacks a capability

Every text says what was wrong, what was given and what to do. No text holds a password or a message's body.
"""

from __future__ import annotations

from pitstop._values._quoting import masked


__all__ = [
    "BackendLoadError",
    "BackendUnavailable",
    "ConfigError",
    "Conflict",
    "LeaseLost",
    "MessageError",
    "OutcomeUnknown",
    "PitstopError",
    "PluginConflict",
    "PluginFailed",
    "PluginLoadError",
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
    """No installed backend has the ``type`` (or URL scheme) that was given."""


class BackendLoadError(ConfigError):
    """The backend is installed but could not be loaded; the text names its distribution and version."""


class PluginConflict(ConfigError):
    """Two installed distributions (or two plugins) claim the same name."""


class PluginLoadError(ConfigError):
    """An installed plugin does not load, or does not fit the hooks; the text names its distribution and version.

    It is raised with ``strict_plugins=True`` only. Otherwise the plugin is logged and left out.
    """


class PluginFailed(PitstopError):
    """A hook of a plugin raised an exception, which is the ``__cause__``. The message was not affected.

    It is raised with ``strict_plugins=True`` only. Otherwise the exception is logged and counted.
    """


class MessageError(PitstopError, ValueError):
    """The message or its id cannot be stored as given; the text names the path, as in ``msg['a'][3]``."""


class ScheduleError(PitstopError, ValueError):
    """A time, an end, a recurrence or a catch-up policy makes no sense as given."""


class Conflict(PitstopError):
    """A message with the id exists, and the caller did not want to replace it; or it has changed since the caller read it.

    It may be gone by now: acknowledged, or removed. Nothing was changed.
    """

    #: The id of the message.
    id: str

    def __init__(self, text: str = "", *, id: str = "") -> None:
        super().__init__(text)
        self.id = id


class LeaseLost(PitstopError):
    """The lease is over, so nothing was changed.

    The lease ran out, the message was stored anew or removed, or the delivery was settled before. With at-least-once
    delivery this is part of normal life: another consumer may have the message now.
    """


class BackendUnavailable(PitstopError):
    """The store did not do what it was asked to do: it cannot be reached, refuses, is full, or is closed."""

    #: Whether a retry is useless until a person has changed something: a password, a role, an index.
    permanent: bool
    #: Whether plugins have seen this error. Written by Pitstop.
    reported: bool = False

    def __init__(self, text: str = "", *, permanent: bool = False) -> None:
        super().__init__(text)
        self.permanent = permanent


class OutcomeUnknown(BackendUnavailable):
    """The store may have done it or not: its answer got lost, and later tries did not find out.

    It is safe to do the same again under the same ids. A message may then be emitted twice.
    """

    #: Ids of the affected messages, including an id that Pitstop made.
    ids: tuple[str, ...]

    def __init__(self, text: str = "", *, ids: tuple[str, ...] = (), permanent: bool = False) -> None:
        super().__init__(text, permanent=permanent)
        self.ids = ids


class Unsupported(PitstopError):
    """The backend lacks a capability that the call needs; the text names it."""
