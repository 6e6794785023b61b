"""Check that a plugin fits the hooks, before it is registered. An error names the plugin, the hook and the hook's arguments."""

from __future__ import annotations

import inspect

from collections.abc import Iterator
from typing import Any

import pluggy

from pitstop._errors import ConfigError
from pitstop._plugins._hookspecs import PROJECT, HookSpecs
from pitstop.abc import did_you_mean


__all__ = ["HOOKS", "check_fit"]

_MAKES_BACKENDS = "pitstop_create_backend"
#: The arguments of each hook, by its name.
HOOKS: dict[str, tuple[str, ...]] = {
    name: tuple(inspect.signature(spec).parameters)[1:]
    for name, spec in vars(HookSpecs).items()
    if name.startswith("pitstop_")
}
#: Knows how implementations are marked. Nothing is registered with it.
_READER = pluggy.PluginManager(PROJECT)


def check_fit(plugin: object, where: str) -> tuple[str, ...]:
    """Return the names of the hooks that a plugin implements.

    :param where: the plugin, for people. The text of an error begins with it.
    :raises ConfigError: if a hook does not exist, is not marked, or cannot be called as it is written.
    """
    if isinstance(plugin, type):
        # The methods of a class would be called without their self.
        raise ConfigError(f"{where} is a class. Give an instance of it.")
    for hook in HOOKS:
        if hasattr(plugin, hook) and _READER.parse_hookimpl_opts(plugin, hook) is None:
            raise ConfigError(
                f"{where} has a {hook} that is not marked, so it would never be called. Put @pitstop.hookimpl before it."
            )
    found = []
    for hook, implementation in _implementations(plugin):
        _check_implementation(hook, implementation, where)
        found.append(hook)
    return tuple(sorted(found))


def _implementations(plugin: object) -> Iterator[tuple[str, pluggy.HookImpl]]:
    """Yield the implementations of a plugin, each with the name of its hook."""
    for name in dir(plugin):
        options = _READER.parse_hookimpl_opts(plugin, name)
        if options is not None:
            yield options["specname"] or name, pluggy.HookImpl(plugin, name, getattr(plugin, name), options)


def _check_implementation(hook: str, implementation: pluggy.HookImpl, where: str) -> None:
    if hook not in HOOKS:
        if implementation.optionalhook:
            # The author has marked it as a hook that only other releases have.
            return
        raise ConfigError(
            f"{where} implements a hook that does not exist: {hook}. {did_you_mean(hook, HOOKS)}"
            f"The hooks are: {', '.join(HOOKS)}."
        )
    if (implementation.wrapper or implementation.hookwrapper) and hook != _MAKES_BACKENDS:
        raise ConfigError(
            f"{where} wraps {hook}, which is only observed. "
            f"Implement it without wrapper=True; pitstop_handling puts a context around a handler."
        )
    function, arguments = implementation.function, HOOKS[hook]
    there = f"The arguments there are: {', '.join(arguments)}. Take those that you need, by these names."
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ConfigError(f"{where} has an async {hook}, which nothing would await. Write it with a plain def.")
    unknown = [each for each in implementation.argnames if each not in arguments]
    if unknown:
        hints = "".join(did_you_mean(each, arguments) for each in unknown[:1])
        raise ConfigError(
            f"{where} has a {hook} that takes {', '.join(map(repr, unknown))}, which this hook does not have. {hints}{there}"
        )
    swallowed = _first_argument(function)
    if swallowed in arguments and swallowed not in implementation.argnames:
        raise ConfigError(f"{where} has a {hook} whose first argument is {swallowed!r}: its self is missing. {there}")
    required = _keyword_only(function)
    if required:
        raise ConfigError(
            f"{where} has a {hook} with keyword-only arguments ({', '.join(required)}), but arguments are given by position. {there}"
        )


def _first_argument(function: Any) -> str | None:
    """Return the name of the argument that a bound method gets its object by; None if there is none."""
    if not inspect.ismethod(function):
        return None
    return next(iter(inspect.signature(function.__func__).parameters), None)


def _keyword_only(function: Any) -> list[str]:
    """Return the arguments that a function needs and takes by their names only."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        # Python does not know the signature of some functions that are written in C.
        return []
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty]
