"""Find the plugins that distributions offer by entry points: load each, check it, and note why one cannot be used."""

from __future__ import annotations

import os

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

from pitstop._errors import PitstopError, PluginConflict, PluginLoadError
from pitstop._plugins._discovery import by_name, installed, name_of, origin, version_of
from pitstop._plugins._loading import load, remedy
from pitstop._values._plugin import Plugin, PluginStatus


if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["ALL", "DISABLE_VARIABLE", "Found", "disabled_names", "find", "found", "is_disabled", "survey"]

#: Names of installed plugins that are not loaded, separated by commas; or :data:`ALL`.
DISABLE_VARIABLE = "PITSTOP_DISABLE_PLUGINS"
ALL = "all"


@attrs.define(eq=False)
class Found:
    """A plugin that was looked at."""

    name: str
    distribution: str | None
    version: str | None
    status: PluginStatus
    #: The plugin and its distribution, for people. Sentences begin with it.
    where: str
    #: The loaded object. None: it was not loaded.
    plugin: object = None
    hooks: tuple[str, ...] = ()
    #: The reason why it cannot be used.
    error: PitstopError | None = None
    #: How often its hooks have raised. Counted by the thread in which they raise.
    raised: int = 0

    def told(self) -> Plugin:
        """Return the state of the plugin, as users see it."""
        error = None if self.error is None else " ".join(str(self.error).split())
        return Plugin(
            name=self.name,
            distribution=self.distribution,
            version=self.version,
            status=self.status,
            hooks=self.hooks,
            error=error,
            raised=self.raised,
        )


def disabled_names() -> frozenset[str]:
    """Return the names in ``PITSTOP_DISABLE_PLUGINS``."""
    return frozenset(filter(None, (each.strip() for each in os.environ.get(DISABLE_VARIABLE, "").split(","))))


def is_disabled(name: str, names: frozenset[str]) -> bool:
    """Whether these names disable a plugin."""
    return ALL in names or name in names


def find(group: str, what: str, accept: Callable[[object, str], tuple[str, ...]]) -> list[Found]:
    """Return the plugins of a group in the order of their names. A plugin that is disabled is not loaded.

    :param what: the noun for such a plugin, with a capital letter.
    :param accept: called with each plugin and its name for people. Returns the hooks of the plugin, and raises an error if the
        plugin cannot be used.
    :raises PluginConflict: if two distributions offer a plugin of one name, which is not disabled.
    """
    names = disabled_names()
    points = sorted(installed(group), key=lambda each: (each.name, each.value))
    enabled = by_name(group, [each for each in points if not is_disabled(each.name, names)])
    disabled = {each.name: each for each in points if is_disabled(each.name, names)}
    return [
        found(each, what, accept, disabled=name in disabled) for name, each in sorted({**enabled, **disabled}.items())
    ]


def survey(
    group: str, what: str, accept: Callable[[object, str], tuple[str, ...]], *, only: str | None = None
) -> list[Found]:
    """Return all plugins of a group, in the order of their names. Those of one name are all broken.

    The other arguments are those of :func:`find`.

    :param only: the name of the only plugin to look at. None: all.
    """
    names = disabled_names()
    points = sorted(installed(group), key=lambda each: (each.name, each.value))
    points = [each for each in points if only is None or each.name == only]
    result: dict[tuple[str, str], Found] = {}
    for each in points:
        if (each.name, each.value) in result:
            # A distribution that stands on sys.path twice.
            continue
        one = found(each, what, accept, disabled=is_disabled(each.name, names))
        if one.status != "disabled":
            try:
                by_name(group, [other for other in points if other.name == each.name])
            except PluginConflict as conflict:
                one.status, one.error, one.plugin, one.hooks = "broken", conflict, None, ()
        result[each.name, each.value] = one
    return list(result.values())


def found(
    entry_point: EntryPoint, what: str, accept: Callable[[object, str], tuple[str, ...]], *, disabled: bool = False
) -> Found:
    """Look at one entry point: see :func:`find`."""
    distribution = entry_point.dist
    name, version = (None, None) if distribution is None else (name_of(distribution), version_of(distribution))
    where = f"{what} {entry_point.name!r} from {origin(entry_point)}"
    result = Found(entry_point.name, name, version, "disabled" if disabled else "ok", where)
    if disabled:
        return result
    try:
        result.plugin = load(entry_point, where, error=PluginLoadError, noun="distribution")
        result.hooks = _accepted(result.plugin, where, remedy(entry_point), accept)
    except PluginLoadError as error:
        result.status, result.error, result.plugin = "broken", error, None
    return result


def _accepted(
    plugin: object, where: str, otherwise: str, accept: Callable[[object, str], tuple[str, ...]]
) -> tuple[str, ...]:
    try:
        return accept(plugin, where)
    except PitstopError as error:
        raise PluginLoadError(f"{error} {otherwise}") from error.__cause__
    except Exception as error:
        # A property of the plugin may raise anything.
        raise PluginLoadError(f"{where} cannot be used: {type(error).__name__}: {error}. {otherwise}") from error
