"""The options of every command: which store to use, and whether to print JSON."""

from __future__ import annotations

import os
import traceback

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import attrs
import click

import pitstop

from pitstop import PitstopError
from pitstop._pitstop import session_of
from pitstop._plugins._backends import load_backend
from pitstop._values._quoting import masked as without_credentials
from pitstop.abc import Backend


__all__ = ["DEFAULT_URL", "URL_VARIABLE", "Settings", "common_options", "common_options_but", "masked"]

URL_VARIABLE = "PITSTOP_URL"
DEFAULT_URL = "sqlite:///pitstop.db"

_Command = TypeVar("_Command", bound=Callable[..., Any])


@attrs.define
class Settings:
    """The options that stand before or after a command's name. The options after it win."""

    # Left out of the repr: a URL may hold a password.
    url: str | None = attrs.field(default=None, repr=False)
    json: bool = False
    #: Other URLs of this command, whose passwords no output may hold.
    _hidden: list[str] = attrs.field(factory=list, init=False, repr=False)
    #: The class of the backend that was opened last.
    _opened: type[Backend] | None = attrs.field(default=None, init=False, repr=False)

    @property
    def store_url(self) -> str:
        """The URL of the store: ``--url``, else the environment's, else a file in the working directory."""
        return self.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL

    def hide(self, url: str) -> None:
        """Keep the password of another URL out of all output."""
        self._hidden.append(url)

    @property
    def urls(self) -> list[str]:
        """All URLs that were given to the command."""
        return [url for url in (self.url, os.environ.get(URL_VARIABLE), *self._hidden) if url]

    def open(self, plugins: Iterable[object] = ()) -> pitstop.Pitstop:
        """Open the store, and make it if it does not exist.

        :param plugins: as for :func:`pitstop.init`.
        :raises pitstop.PitstopError: as :func:`pitstop.init` does.
        """
        return self.open_other(self.store_url, plugins)

    def open_other(self, url: str, plugins: Iterable[object] = ()) -> pitstop.Pitstop:
        """Open the store at a URL, and make it if it does not exist.

        :raises pitstop.PitstopError: as :func:`pitstop.init` does.
        """
        pit = pitstop.init(url, plugins=plugins)
        self._opened = type(session_of(pit).backend)
        return pit

    def blame(self, error: Exception) -> str | None:
        """Return a line that blames the backend for a foreign error; None if the backend did not raise it."""
        backend = self._opened or _backend_of(self.store_url)
        if backend is None:
            return None
        package = backend.__module__.partition(".")[0]
        places = [
            f"{Path(frame.f_code.co_filename).name}:{line}"
            for frame, line in traceback.walk_tb(error.__traceback__)
            if str(frame.f_globals.get("__name__")).partition(".")[0] == package
        ]
        if not places:
            return None
        # The text of an error may hold anything, also contents of a message. The reason given by the system does not.
        said = error.strerror if isinstance(error, OSError) else None
        return (
            f"The backend {backend.__qualname__} of {package!r} let an error out, which is a fault in it: "
            f"{type(error).__name__}{f': {said}' if said else ''} (at {places[-1]}). Report it to its author."
        )

    def open_existing(self, plugins: Iterable[object] = ()) -> pitstop.Pitstop:
        """Open the store for a command that reads or changes its messages. A mistyped URL makes no empty store.

        :param plugins: as for :func:`pitstop.init`.
        :raises pitstop.ConfigError: if there is no store, as far as the backend knows (``create=False``). A backend that
            connects later raises :class:`pitstop.BackendUnavailable` at the first use.
        :raises pitstop.PitstopError: as :func:`pitstop.init` does.
        """
        return pitstop.init({"url": self.store_url, "create": False}, plugins=plugins)


def common_options(command: _Command) -> _Command:
    """Give a command the options ``--url`` and ``--json``, stored in its :class:`Settings`."""
    return common_options_but(
        f"The store. Default: {URL_VARIABLE} of the environment (better for a password), else {DEFAULT_URL}."
    )(command)


def common_options_but(url_help: str) -> Callable[[_Command], _Command]:
    """Give a command the :func:`common_options`, with another help text for ``--url``."""
    url = click.option("--url", metavar="URL", expose_value=False, callback=_remember("url"), help=url_help)
    json = click.option(
        "--json", is_flag=True, default=None, expose_value=False, callback=_remember("json"), help="Print JSON."
    )
    return lambda command: url(json(command))


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _: click.Parameter, value: Any) -> None:
        settings = context.ensure_object(Settings)
        if value is not None:
            setattr(settings, name, value)

    return callback


def _backend_of(url: str) -> type[Backend] | None:
    try:
        return load_backend(url.partition(":")[0].lower())
    except PitstopError:
        return None


def masked(text: str, settings: Settings | None) -> str:
    """Return ``text`` without credentials.

    Errors of Pitstop hold none. This is a second safeguard, for a URL that was typed in the wrong place, and for a log record
    of a plugin whose author was careless.
    """
    # Errors show how to write a URL as user:password@. If the URL has that very password, it is replaced below.
    text = without_credentials(text)
    for url in settings.urls if settings else [os.environ.get(URL_VARIABLE) or ""]:
        for secret in _passwords(url):
            text = text.replace(secret, "***")
    return text


def _passwords(url: str) -> set[str]:
    try:
        found = urlsplit(url).password
    except ValueError:
        return set()
    # A password of one or two letters would occur all over the text, and the masks would give it away.
    return {each for each in (found, unquote(found)) if len(each) > 2} if found else set()
