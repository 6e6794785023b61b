"""The configuration of the SQLite backend."""

from __future__ import annotations

import os
import re

from datetime import timedelta
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import attrs

from pitstop import ConfigError
from pitstop.abc import (
    BackendConfig,
    did_you_mean,
    duration_field,
    query_options,
    quoted,
    split_url,
)


__all__ = ["SqliteConfig", "Synchronous"]

#: When SQLite waits for the disk: at each commit, or only when the log is written back.
Synchronous = Literal["full", "normal"]

_SYNCHRONOUS = ("full", "normal")
_OCTAL = re.compile(r"(?:0[oO])?[0-7]{1,6}")
_NO_NAME = re.compile(r"[\0\n\r]")
_DRIVE = re.compile(r"/[A-Za-z]:[/\\]")


def _path(value: object) -> str:
    # Bytes come from the percent-encoded path of a URL. They are taken as they are.
    if not isinstance(value, str | os.PathLike | bytes):
        raise ConfigError(
            f"path={quoted(value)} is a {type(value).__name__}. Give a str or a Path, such as 'pitstop.db'."
        )
    path = os.fsdecode(value)
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ConfigError(
            f"path={quoted(path)} holds a lone surrogate, which is half of a character, so it names no file. Give a path "
            f"that can be encoded."
        ) from None
    if path == ":memory:":
        raise ConfigError("path=':memory:' would be forgotten with the process. Give a file, or use type 'memory'.")
    if path.startswith("file:"):
        raise ConfigError(
            f"path={quoted(path)} is an SQLite URI. Give the path of the file itself, such as 'pitstop.db'."
        )
    if not path or _NO_NAME.search(path):
        raise ConfigError(
            f"path={quoted(path)} cannot name a file: it is empty, or has a line break or a NUL in it. Give a path such as "
            f"'pitstop.db'."
        )
    return path


def _mode(value: object) -> int | None:
    if value is None:
        return None
    mode = value if type(value) is int else None
    if isinstance(value, str) and _OCTAL.fullmatch(value):
        mode = int(value.lower().removeprefix("0o"), 8)
    if mode is None or mode & ~0o666 or mode & 0o600 != 0o600:
        raise ConfigError(
            f"mode={quoted(value)} cannot be used. Give permissions in octal that let the owner read and write, and let no user execute: "
            f"'0600' (the owner alone), '0640' or '0660'. In Python 0o600 means the same."
        )
    if os.name != "posix":
        raise ConfigError("mode: this system has no such permissions. Leave it out, and protect the folder instead.")
    return mode


def _synchronous(value: object) -> str:
    text = value.lower() if isinstance(value, str) else None
    if text not in _SYNCHRONOUS:
        hint = did_you_mean(text, _SYNCHRONOUS) if text else ""
        raise ConfigError(f"synchronous={quoted(value)} is unknown. {hint}Give 'full' or 'normal'.")
    return text


@attrs.frozen(kw_only=True)
class SqliteConfig(BackendConfig):
    """The options of the SQLite backend. All are optional."""

    #: The database file; made if it does not exist. A relative path starts at the folder that is current at ``init``.
    path: str = attrs.field(default="pitstop.db", converter=_path)
    #: ``full``: stored messages survive a power loss. ``normal``: single writes are several times faster; messages survive
    #: the death of the process, but a power loss may take back the last moments.
    synchronous: Synchronous = attrs.field(default="full", converter=_synchronous)
    #: How long to wait for other writers of the file before :class:`pitstop.BackendUnavailable` is raised.
    busy_timeout: timedelta = duration_field(timedelta(seconds=5), zero=True)
    #: Permissions of a file that is made here, such as ``"0600"``. An existing file keeps its own. None: the umask decides.
    mode: int | None = attrs.field(default=None, converter=_mode)

    @classmethod
    def options_of_url(cls, url: str) -> dict[str, Any]:
        """Return the options of ``sqlite:///relative.db``, ``sqlite:////absolute/path.db`` or ``sqlite:///C:/path.db``."""
        parts = split_url(url)
        if parts.netloc:
            raise ConfigError(
                "An SQLite URL has no host. Write it with three slashes, as in 'sqlite:///pitstop.db', "
                "or with four and an absolute path, as in 'sqlite:////var/lib/app/pitstop.db'."
            )
        if parts.fragment:
            raise ConfigError("The URL has a '#'. Write it as '%23' when it belongs to the path.")
        options = query_options(parts.query)
        if "path" in options:
            raise ConfigError("The URL gives 'path' twice. Write the path before the '?' alone.")
        path = unquote_to_bytes(parts.path)
        if not path.startswith(b"/") or path == b"/":
            raise ConfigError("The URL names no file. Write it as 'sqlite:///pitstop.db'.")
        # The first slash only ends the (empty) host, before a drive as well as before a relative path.
        return {"path": path[1:], **options}
