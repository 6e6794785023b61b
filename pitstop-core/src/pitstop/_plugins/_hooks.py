"""The hooks of one ``init``: its plugins are registered, checked, and frozen into tuples."""

from __future__ import annotations

import logging

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import pluggy

from pitstop._decisions._ending import ends_program
from pitstop._decisions._logs import Throttle
from pitstop._errors import ConfigError, PluginConflict
from pitstop._plugins._discovery import by_name, installed, origin
from pitstop._plugins._hookspecs import PROJECT, HookSpecs
from pitstop._values._arguments import several_plugins
from pitstop._values._quoting import quoted
from pitstop.abc import Clock, SystemClock


__all__ = ["Hooks", "plugin_manager"]

PLUGIN_GROUP = "pitstop.plugins"

_log = logging.getLogger("pitstop.plugins")

#: The implementations of a hook, each with the names of the arguments that it takes.
_Calls = tuple[tuple[Callable[..., Any], tuple[str, ...]], ...]


def plugin_manager(plugins: Iterable[object], resolver: object) -> pluggy.PluginManager:
    """Return a manager with the installed plugins, the given ones, and ``resolver`` as the last to make a backend.

    Pluggy's ``load_setuptools_entrypoints`` is not used: it stops at the first plugin that fails to load, and silently
    skips a second plugin of the same name. Here an installed plugin that fails is logged and left out.

    :raises PluginConflict: if two installed distributions offer a plugin of one name, or one plugin is given twice.
    :raises ConfigError: if a plugin implements a hook that does not exist, or wraps one.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    for name, entry_point in sorted(by_name(PLUGIN_GROUP, installed(PLUGIN_GROUP)).items()):
        try:
            plugin = entry_point.load()
        except (Exception, SystemExit):  # noqa: BLE001 - a plugin may raise anything, and must not end the program
            _log.exception("plugin %r from %s failed to load and is left out", name, origin(entry_point))
        else:
            _register(manager, plugin, name)
    for plugin in several_plugins(plugins):
        _register(manager, plugin, None)
    # Registered after all others: among implementations that ask to be last, the last registered one is last.
    manager.register(resolver)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise ConfigError(f"A plugin implements a hook that does not exist: {error}") from None
    return manager


def _refuse_unmarked(manager: pluggy.PluginManager, plugin: object, name: str | None) -> None:
    for hook in vars(HookSpecs):
        if hook.startswith("pitstop_") and hasattr(plugin, hook) and manager.parse_hookimpl_opts(plugin, hook) is None:
            raise ConfigError(
                f"The plugin {_shown(plugin, name)} has a {hook} that is not marked, so it would never be called. "
                f"Put @pitstop.hookimpl before it."
            )


def _shown(plugin: object, name: str | None) -> str:
    return repr(name) if name else quoted(plugin)


def _register(manager: pluggy.PluginManager, plugin: object, name: str | None) -> None:
    if isinstance(plugin, type):
        # The methods of a class would be called without their self.
        raise ConfigError(f"The plugin {name or plugin.__name__!r} is a class. Give an instance of it.")
    _refuse_unmarked(manager, plugin, name)
    try:
        manager.register(plugin, name)
    except ValueError:
        raise PluginConflict(f"The plugin {_shown(plugin, name)} is registered twice. Give each once.") from None
    except pluggy.PluginValidationError as error:
        raise ConfigError(f"The plugin {_shown(plugin, name)} does not fit the hooks: {error}") from None
    if name is None and not manager.get_hookcallers(plugin):
        raise ConfigError(
            f"The plugin {quoted(plugin)} has no hook, so it would never be called. Give an object with methods that are "
            f"marked by @pitstop.hookimpl."
        )


class Hooks:
    """The hooks as they stood at ``init``. A hook without an implementation costs one check of an empty tuple."""

    def __init__(self, manager: pluggy.PluginManager) -> None:
        self.stored = _freeze(manager, "pitstop_message_stored")
        self.leased = _freeze(manager, "pitstop_message_leased")
        self.acked = _freeze(manager, "pitstop_message_acked")
        self.retried = _freeze(manager, "pitstop_message_retried")
        self.dead = _freeze(manager, "pitstop_message_dead")
        self.lease_lost = _freeze(manager, "pitstop_lease_lost")
        self.expired = _freeze(manager, "pitstop_message_expired")
        self.advanced = _freeze(manager, "pitstop_recurrence_advanced")
        self.handling = _freeze(manager, "pitstop_handling")
        #: Errors that observers raised, by the qualified name of the function.
        self.errors: Counter[str] = Counter()
        #: The clock that decides which errors are logged: that of the store that uses these hooks.
        self.clock: Clock = SystemClock()
        self._throttles: defaultdict[str, Throttle] = defaultdict(Throttle)

    def notify(self, calls: _Calls, **event: Any) -> None:
        """Call the observers of an event. An exception of one observer affects neither the others nor the caller."""
        for function, names in calls:
            try:
                function(*[event[name] for name in names])
            except BaseException as raised:  # noqa: BLE001 - raised again if it asks for the end of the program
                self._isolate(function, raised)

    def enter(self, delivery: object) -> list[AbstractContextManager[Any]]:
        """Enter the contexts that plugins put around the handling of a delivery. Return them for :meth:`leave`."""
        entered: list[AbstractContextManager[Any]] = []
        for function, names in reversed(self.handling):
            try:
                context = function(*[delivery for _ in names])
                if context is not None:
                    context.__enter__()
                    entered.append(context)
            except BaseException as raised:  # noqa: BLE001 - raised again if it asks for the end of the program
                self._isolate(function, raised)
        return entered

    def leave(self, entered: list[AbstractContextManager[Any]], error: BaseException | None) -> None:
        """Leave the contexts, the last one first. No context can suppress the error, or raise another."""
        trace = None if error is None else error.__traceback__
        while entered:
            context = entered.pop()
            try:
                context.__exit__(None if error is None else type(error), error, trace)
            except BaseException as raised:  # noqa: BLE001 - raised again if it asks for the end of the program
                # A context made by contextlib raises the body's own error again if that is a StopIteration.
                if raised is not error:
                    self._isolate(context, raised)

    def _isolate(self, culprit: object, raised: BaseException) -> None:
        """Log and count an error of a plugin. Raise it if it asks for the end of the program."""
        if ends_program(raised):
            raise raised
        where = getattr(culprit, "__qualname__", type(culprit).__qualname__)
        self.errors[where] += 1
        note = self._throttles[where].passes(self.clock.monotonic())
        if note is not None:
            _log.exception("plugin hook %s raised; the message is not affected%s", where, note)


def _freeze(manager: pluggy.PluginManager, name: str) -> _Calls:
    implementations = getattr(manager.hook, name).get_hookimpls()
    for implementation in implementations:
        if implementation.wrapper or implementation.hookwrapper:
            raise ConfigError(
                f"The plugin {implementation.plugin_name!r} wraps {name}, which is only observed. "
                f"Implement it without wrapper=True; pitstop_handling puts a context around a handler."
            )
    # Pluggy calls the implementation that was registered last first, and so do we.
    return tuple((each.function, tuple(each.argnames)) for each in reversed(implementations))
