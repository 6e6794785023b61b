"""What every command is told: which store to use, and whether to speak JSON."""

from __future__ import annotations

import os

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import attrs
import click

import pitstop

from pitstop._values._quoting import masked as without_credentials


__all__ = ["DEFAULT_URL", "URL_VARIABLE", "Settings", "common_options", "common_options_but", "masked"]

URL_VARIABLE = "PITSTOP_URL"
DEFAULT_URL = "sqlite:///pitstop.db"

_Command = TypeVar("_Command", bound=Callable[..., Any])


@attrs.define
class Settings:
    """The options that stand before or after a command's name; the ones after it win."""

    # Out of the repr: a URL may hold a password.
    url: str | None = attrs.field(default=None, repr=False)
    json: bool = False

    @property
    def store_url(self) -> str:
        """The store to use: ``--url``, else the environment's, else a file in the working directory."""
        return self.url or os.environ.get(URL_VARIABLE) or DEFAULT_URL

    def open(self) -> pitstop.Pitstop:
        """Open the store.

        :raises pitstop.PitstopError: as :func:`pitstop.init` does.
        """
        return pitstop.init(self.store_url)


def common_options(command: _Command) -> _Command:
    """Give a command the options ``--url`` and ``--json``, to be found in its :class:`Settings`."""
    return common_options_but(
        f"The store. Else {URL_VARIABLE} of the environment (better for a password), else {DEFAULT_URL}."
    )(command)


def common_options_but(url_help: str) -> Callable[[_Command], _Command]:
    """:func:`common_options` for a command to which ``--url`` means something else, as ``url_help`` says."""
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


def masked(text: str, settings: Settings | None) -> str:
    """``text`` without credentials.

    Errors of Pitstop hold none; this is the second lock on the door: for a URL that was typed in the wrong place, and
    for a log record of a plugin whose author was careless.
    """
    # Errors show how to write a URL as user:password@. If that very password is in the URL, it is replaced below.
    text = without_credentials(text)
    for url in (settings.url if settings else None, os.environ.get(URL_VARIABLE)):
        for secret in _passwords(url or ""):
            text = text.replace(secret, "***")
    return text


def _passwords(url: str) -> set[str]:
    try:
        found = urlsplit(url).password
    except ValueError:
        return set()
    # A password of one or two letters would be found all over the text, and so be given away by what is masked.
    return {each for each in (found, unquote(found)) if len(each) > 2} if found else set()
