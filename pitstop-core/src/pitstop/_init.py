"""Make a :class:`pitstop.Pitstop` from a configuration."""

from __future__ import annotations

import re

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from pitstop._errors import BackendLoadError, ConfigError
from pitstop._pitstop import Pitstop
from pitstop._plugins._backends import EntryPointResolver, are_different, backend_class, load_backend
from pitstop._plugins._hooks import Hooks, plugin_manager
from pitstop._values._arguments import flag
from pitstop._values._quoting import quoted
from pitstop._values._white_space import checked_url
from pitstop.abc import Backend


if TYPE_CHECKING:
    from pluggy import PluginManager

__all__ = ["init", "open_backend", "prepare_backend"]

#: The scheme of a URL, and a key that an error shows without quotes.
_SCHEME = re.compile(r"[\w.+-]{1,100}")
#: The remedy for a class that was given as ``type`` and cannot be used.
_BY_CLASS = "Mend the class, or give the name of an installed backend."


def init(config: Mapping[str, Any] | str, *, plugins: Iterable[object] = (), strict_plugins: bool = False) -> Pitstop:
    """Open a store.

    :param config: a mapping with a ``"type"`` (the name of an installed backend, a :class:`pitstop.abc.Backend` class,
        or a ready instance) and that backend's options; or a URL with the same content, whose scheme is the type. A
        mapping may also hold a ``"url"``. Its other keys take precedence over those of the URL.
    :param plugins: objects with methods marked by :data:`pitstop.hookimpl`, beside the installed plugins.
    :param strict_plugins: raise the errors of plugins, rather than log them and go on. An exception of a hook is raised as
        :class:`pitstop.PluginFailed` by the ``store`` in which it happened. Else the next message that is handed out, the end of
        ``consume``, or ``close`` raises it.
    :return: the open store.
    :raises UnknownBackend: if no installed backend has that name.
    :raises BackendLoadError: if the backend does not load.
    :raises ConfigError: if a key is unknown or a value is wrong; the text names the key.
    :raises PluginConflict: if two plugins claim one name.
    :raises PluginLoadError: with ``strict_plugins``, if an installed plugin does not load or does not fit the hooks.
    """
    return Pitstop(*open_backend(config, plugins, strict=strict_plugins))


def open_backend(
    config: Mapping[str, Any] | str, plugins: Iterable[object], *, strict: bool = False
) -> tuple[Backend, Hooks]:
    """Return the parts of a :class:`Pitstop`: see :func:`init`."""
    make, hooks = prepare_backend(config, plugins, strict=strict)
    return make(), hooks


def prepare_backend(
    config: Mapping[str, Any] | str, plugins: Iterable[object], *, strict: bool = False
) -> tuple[Callable[[], Backend], Hooks]:
    """Return a function that makes the backend, and the hooks. The function may wait for the store; call it once.

    Errors of the configuration are raised here, except for a backend that a plugin makes.
    """
    kind, options = _read(config)
    found = plugin_manager(plugins, EntryPointResolver(), strict=flag(strict, "strict_plugins"))
    manager, hooks = found.manager, Hooks(found, strict=strict)
    if isinstance(kind, Backend):
        if options:
            raise ConfigError(
                f"type is a ready {type(kind).__name__}, which has its configuration. Leave out: "
                f"{', '.join(map(_key, options))}."
            )
        backend_class(type(kind), type(kind).__name__, _BY_CLASS)
        return partial(_itself, kind), hooks
    if isinstance(kind, type):
        return _maker(backend_class(kind, kind.__name__, _BY_CLASS), options), hooks
    if len(manager.hook.pitstop_create_backend.get_hookimpls()) == 1:
        # The resolver of entry points is the only implementation.
        return _maker(load_backend(kind), options), hooks
    return partial(_made_by_plugins, manager, kind, options), hooks


def _maker(kind: type[Backend], options: Mapping[str, Any]) -> Callable[[], Backend]:
    if kind.from_options.__func__ is not Backend.from_options.__func__:  # type: ignore[attr-defined]
        return partial(kind.from_options, options)
    return partial(kind, kind.Config.from_options(options))


def _made_by_plugins(manager: PluginManager, kind: str, options: Mapping[str, Any]) -> Backend:
    backend = manager.hook.pitstop_create_backend(type=kind, options=options)
    if not isinstance(backend, Backend):
        raise BackendLoadError(
            f"A plugin answered for type {quoted(kind)} with a {type(backend).__name__}, which is no pitstop.abc.Backend."
        )
    return backend


def _itself(backend: Backend) -> Backend:
    return backend


def _read(config: object) -> tuple[str | type | Backend, dict[str, Any]]:
    if isinstance(config, str):
        whole = checked_url(config)
        return _scheme(whole), {"url": whole}
    if not isinstance(config, Mapping):
        raise ConfigError(
            f"The configuration is a {type(config).__name__}. "
            f"Give a mapping such as {{'type': 'sqlite', 'path': 'pitstop.db'}}, or a URL such as 'sqlite:///pitstop.db'."
        )
    options = dict(config)
    kind: object = options.pop("type", None)
    url: object = options.get("url")
    if isinstance(url, str):
        options["url"] = url = checked_url(url)
        if kind is None:
            kind = _scheme(url)
    if kind is None or (isinstance(kind, str) and not kind):
        raise ConfigError("The configuration has no 'type'. Give one, such as 'mongo', 'sqlite' or 'memory'.")
    if url is not None and not isinstance(url, str):
        raise ConfigError(f"url is a {type(url).__name__}. Give a str such as 'sqlite:///pitstop.db'.")
    if not isinstance(kind, str | type | Backend):
        raise ConfigError(
            f"type={quoted(kind)} is a {type(kind).__name__}. Give a name, a Backend class or an instance."
        )
    if isinstance(kind, str) and url is not None and are_different(kind, scheme := _scheme(url)):
        raise ConfigError(
            f"The type is {quoted(kind)}, but the URL's scheme is {scheme!r}. Give one, or make them the same."
        )
    return kind, options


def _key(key: object) -> str:
    # Quotes around a plain name would not help.
    return key if isinstance(key, str) and _SCHEME.fullmatch(key) else quoted(key)


def _scheme(url: str) -> str:
    # The URL is never quoted in an error, because it may hold a password.
    scheme, separator, _ = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        raise ConfigError("The URL has no scheme. Write it as in 'sqlite:///pitstop.db' or 'mongo://localhost/app'.")
    return scheme.lower()
