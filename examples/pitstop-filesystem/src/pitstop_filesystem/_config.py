"""The configuration: an attrs class that checks itself, so that ``init`` reports a mistake by its name."""

from __future__ import annotations

import os

from datetime import timedelta
from typing import Any
from urllib.parse import unquote

import attrs

from pitstop import ConfigError
from pitstop.abc import BackendConfig, duration_field, query_options, quoted, split_url


__all__ = ["FilesystemConfig"]

_SPELLINGS = {True: True, False: False, "true": True, "false": False}


def _path(value: object) -> str:
    if value is None:
        raise ConfigError(
            "path is missing. Give the folder for the messages, as in 'filesystem:///var/lib/app/messages'."
        )
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"path={quoted(value)} is a {type(value).__name__}. Give a str or a Path.")
    path = os.fsdecode(value)
    if not path or "\0" in path:
        raise ConfigError(f"path={quoted(path)} cannot name a folder. Give a path such as '/var/lib/app/messages'.")
    return path


def _sync(value: object) -> bool:
    # A URL has only text.
    known = value.lower() if isinstance(value, str) else value
    if not isinstance(known, bool | str) or known not in _SPELLINGS:
        raise ConfigError(f"sync={quoted(value)} is neither true nor false. Give one of them.")
    return _SPELLINGS[known]


@attrs.frozen(kw_only=True)
class FilesystemConfig(BackendConfig):
    """The options of this backend, in addition to those of every backend."""

    #: The folder. It is made if it does not exist; its parent is not. Every option has a default, even a required one: for a
    #: missing option attrs itself would raise a TypeError, whose text is not meant for users.
    path: str = attrs.field(default=None, converter=_path)
    #: Wait for the disk at each write. Without it, a power loss may take back the last moments or leave files empty.
    sync: bool = attrs.field(default=True, converter=_sync)
    #: How long to wait for other users of the folder before :class:`pitstop.BackendUnavailable` is raised.
    busy_timeout: timedelta = duration_field(timedelta(seconds=5), zero=True)

    @classmethod
    def options_of_url(cls, url: str) -> dict[str, Any]:
        """Return the options of ``filesystem:///path/to/folder?sync=false``. The path is absolute, as in a ``file:`` URL."""
        parts = split_url(url)
        # No error here quotes the URL: a URL that was meant for another backend may hold a password.
        if parts.netloc or not parts.path.strip("/"):
            raise ConfigError(
                "The URL has a host or no path. Write it with three slashes: 'filesystem:///path/to/folder'."
            )
        if parts.fragment:
            raise ConfigError("The URL has a '#'. Write it as '%23' when it belongs to the path.")
        return {"path": unquote(parts.path), **query_options(parts.query)}
