"""The hooks of one ``init``: its plugins are registered, checked, and frozen into tuples."""

from __future__ import annotations

import logging

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from operator import itemgetter
from typing import Any

import attrs
import pluggy

from pitstop._decisions._ending import ends_program
from pitstop._decisions._logs import Throttle
from pitstop._errors import ConfigError, PluginConflict, PluginFailed, PluginLoadError
from pitstop._plugins._fit import HOOKS, check_fit
from pitstop._plugins._hookspecs import PROJECT, HookSpecs
from pitstop._plugins._survey import DISABLE_VARIABLE, Found, find
from pitstop._values._arguments import several_plugins
from pitstop._values._plugin import Plugin
from pitstop._values._quoting import quoted
from pitstop.abc import Clock, SystemClock, log_fields


__all__ = ["PLUGIN_GROUP", "Hooks", "Plugins", "implementation", "look_for_plugins", "plugin_manager"]

PLUGIN_GROUP = "pitstop.plugins"

_log = logging.getLogger("pitstop.plugins")

#: The implementations of a hook. The first function of each takes the arguments of the hook as a tuple, and calls the second one with
#: those that it takes.
_Calls = tuple[tuple[Callable[[tuple[Any, ...]], Any], Callable[..., Any]], ...]
#: Contexts that were entered, each with the implementation that made it.
_Entered = list[tuple[AbstractContextManager[Any], Callable[..., Any]]]


@attrs.frozen
class Plugins:
    """The plugins of one ``init``."""

    manager: pluggy.PluginManager
    #: All of them in the order of their registration: the installed ones by name, and then those that were given.
    found: list[Found]


def look_for_plugins() -> list[Found]:
    """Return the installed plugins in the order of their names, those that cannot be used included.

    :raises PluginConflict: if two distributions offer a plugin of one name.
    """
    return find(PLUGIN_GROUP, "Plugin", check_fit)


def plugin_manager(plugins: Iterable[object], resolver: object, *, strict: bool = False) -> Plugins:
    """Return the installed plugins, the given ones, and ``resolver`` as the last to make a backend.

    Pluggy's ``load_setuptools_entrypoints`` is not used: it stops at the first plugin that fails to load, and silently
    skips a second plugin of the same name. Here an installed plugin that fails is logged and left out.

    :param strict: whether the error of an installed plugin is raised instead.
    :raises PluginConflict: if two installed distributions offer a plugin of one name, or one plugin is given twice.
    :raises PluginLoadError: if ``strict``, and an installed plugin fails to load or does not fit the hooks.
    :raises ConfigError: if a given plugin does not fit the hooks.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    everything = look_for_plugins()
    for each in everything:
        if each.status == "ok":
            _register_installed(manager, each)
        if each.error is not None:
            if strict:
                raise each.error
            _log.error(
                "%s It is left out; %s=%s silences this line.",
                *(each.error, DISABLE_VARIABLE, each.name),
                exc_info=each.error.__cause__,
                extra=log_fields("plugin_left_out"),
            )
    for plugin in several_plugins(plugins):
        everything.append(_register_given(manager, plugin))
    # Registered after all others: among implementations that ask to be last, the last registered one is last.
    manager.register(resolver)
    return Plugins(manager, everything)


def _register_installed(manager: pluggy.PluginManager, each: Found) -> None:
    other = manager.get_name(each.plugin)
    if other is None:
        manager.register(each.plugin, each.name)
        return
    each.error = PluginLoadError(f"{each.where} is the same object as plugin {other!r}. One of the two is enough.")
    each.status, each.hooks = "broken", ()


def _register_given(manager: pluggy.PluginManager, plugin: object) -> Found:
    name = plugin.__name__ if isinstance(plugin, type) else None
    where = f"The plugin {quoted(plugin) if name is None else repr(name)}"
    hooks = check_fit(plugin, where)
    try:
        manager.register(plugin)
    except ValueError:
        raise PluginConflict(f"{where} is registered twice. Give each once.") from None
    if not hooks:
        raise ConfigError(
            f"{where} has no hook, so it would never be called. Give an object with methods that are marked by @pitstop.hookimpl."
        )
    return Found(quoted(plugin), None, None, "ok", where, plugin, hooks)


class Hooks:
    """The hooks as they stood at ``init``. A hook without an implementation costs one check of an empty tuple."""

    def __init__(self, plugins: Plugins, *, strict: bool = False) -> None:
        """Freeze the hooks.

        :param strict: whether an exception of an observer is kept for :meth:`raise_kept`, instead of being logged.
        """
        self._found = plugins.found
        #: Whether an exception of an observer is to be raised: see :meth:`raise_kept`.
        self.strict = strict
        # The plugins of the implementations, for their errors.
        self._owners: dict[Callable[..., Any], Found] = {}
        by_identity = {id(each.plugin): each for each in plugins.found if each.plugin is not None}

        def freeze(name: str) -> _Calls:
            implementations = getattr(plugins.manager.hook, name).get_hookimpls()
            self._owners.update({each.function: by_identity[id(each.plugin)] for each in implementations})
            # Pluggy calls the implementation that was registered last first, and so do we.
            return tuple(implementation(name, each.function, each.argnames) for each in reversed(implementations))

        self.stored = freeze("pitstop_message_stored")
        #: Whether an observer of stored messages takes the entry.
        stored = plugins.manager.hook.pitstop_message_stored.get_hookimpls()
        self.takes_entries = any("entry" in each.argnames for each in stored)
        self.leased = freeze("pitstop_message_leased")
        #: Whether an observer of deliveries takes their lateness.
        leased = plugins.manager.hook.pitstop_message_leased.get_hookimpls()
        self.takes_lateness = any("lateness" in each.argnames for each in leased)
        self.settled = freeze("pitstop_message_settled")
        self.opened = freeze("pitstop_opened")
        self.store_failed = freeze("pitstop_store_failed")
        self.acked = freeze("pitstop_message_acked")
        self.retried = freeze("pitstop_message_retried")
        self.dead = freeze("pitstop_message_dead")
        self.lease_lost = freeze("pitstop_lease_lost")
        self.expired = freeze("pitstop_message_expired")
        self.advanced = freeze("pitstop_recurrence_advanced")
        self.handling = freeze("pitstop_handling")
        #: Errors that observers raised, by the qualified name of the function.
        self.errors: Counter[str] = Counter()
        #: The clock that decides which errors are logged: that of the store that uses these hooks.
        self.clock: Clock = SystemClock()
        # Two distributions may have functions of one name.
        self._throttles: defaultdict[tuple[str, str], Throttle] = defaultdict(Throttle)
        #: With ``strict``: the first error that is to be raised. Any thread writes it; the one that raises it takes it away.
        self.kept: PluginFailed | None = None

    @property
    def plugins(self) -> list[Plugin]:
        """The plugins as they are now, in the order of their registration."""
        return [each.told() for each in self._found]

    def notify(self, calls: _Calls, arguments: tuple[Any, ...]) -> None:
        """Call the observers of an event. An exception of one observer affects neither the others nor the caller.

        :param arguments: those of the hook, in its order.
        """
        for call, function in calls:
            try:
                call(arguments)
            except BaseException as raised:  # noqa: BLE001 - raised again if it asks for the end of the program
                self._isolate(function, function, raised)

    def enter(self, delivery: object) -> _Entered:
        """Enter the contexts that plugins put around the handling of a delivery. Return them for :meth:`leave`."""
        entered: _Entered = []
        for call, function in reversed(self.handling):
            try:
                context = call((delivery,))
                if context is not None:
                    context.__enter__()
                    entered.append((context, function))
            except BaseException as raised:  # noqa: BLE001 - raised again if it asks for the end of the program
                self._isolate(function, function, raised)
        return entered

    def leave(self, entered: _Entered, error: BaseException | None) -> None:
        """Leave the contexts, the last one first. No context can suppress the error, or raise another."""
        trace = None if error is None else error.__traceback__
        while entered:
            context, function = entered.pop()
            try:
                context.__exit__(None if error is None else type(error), error, trace)
            except BaseException as raised:  # noqa: BLE001 - raised again if it asks for the end of the program
                # A context made by contextlib raises the body's own error again if that is a StopIteration.
                if raised is not error:
                    self._isolate(context, function, raised)

    def raise_kept(self) -> None:
        """Raise the error that an observer raised, if there is one. It is raised once.

        :raises PluginFailed: with ``strict``, if an observer has raised since the last call.
        """
        kept, self.kept = self.kept, None
        if kept is not None:
            raise kept

    def _isolate(self, culprit: object, function: Callable[..., Any], raised: BaseException) -> None:
        """Count an error of a plugin, and log or keep it. Raise it if it asks for the end of the program."""
        if ends_program(raised):
            raise raised
        owner = self._owners[function]
        owner.raised += 1
        where = getattr(culprit, "__qualname__", type(culprit).__qualname__)
        self.errors[where] += 1
        if self.strict:
            if self.kept is None:
                self.kept = PluginFailed(f"{owner.where} raised {type(raised).__name__} in {where}. {_remedy(owner)}")
                self.kept.__cause__ = raised
            return
        note = self._throttles[owner.where, where].passes(self.clock.monotonic())
        if note is not None:
            by = f" of plugin {owner.name!r} from {owner.distribution} {owner.version}"
            of = "" if owner.distribution is None else by
            text, extra = "plugin hook %s%s raised; the message is not affected%s", log_fields("plugin_raised")
            _log.error(text, where, of, note, exc_info=raised, extra=extra)


def implementation(
    hook: str, function: Callable[..., Any], names: Sequence[str]
) -> tuple[Callable[[tuple[Any, ...]], Any], Callable[..., Any]]:
    """Return an implementation of a hook, in the form that :meth:`Hooks.notify` calls.

    :param names: the arguments of the hook that ``function`` takes, by position.
    """
    places = [HOOKS[hook].index(each) for each in names]
    if not places:
        return lambda _: function(), function
    if len(places) == 1:
        place = places[0]
        return lambda arguments: function(arguments[place]), function
    pick = itemgetter(*places)
    return lambda arguments: function(*pick(arguments)), function


def _remedy(owner: Found) -> str:
    if owner.distribution is None:
        return "The message is not affected. Mend the plugin, or leave out strict_plugins=True."
    return f"The message is not affected. Report it to the author of {owner.distribution}, or set {DISABLE_VARIABLE}={owner.name}."
