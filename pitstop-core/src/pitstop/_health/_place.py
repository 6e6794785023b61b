"""Place: where a consumer shows its health: an address for HTTP, a Unix socket, or a file whose time is touched.

Threads: any; a place is a value.
"""

from __future__ import annotations

import os
import re

from typing import Literal

import attrs

from pitstop._errors import ConfigError
from pitstop._values._arguments import positive_duration
from pitstop._values._quoting import quoted


__all__ = ["WITHIN", "Place", "parse_place"]

#: Seconds in which a loop has to turn, unless the place says otherwise.
WITHIN = 10.0

_OPTION = re.compile(r"(?P<place>.*)\?within=(?P<within>[^?]*)", re.DOTALL)
_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>[0-9]{1,5})")
_MOST_PORT = 65_535


@attrs.frozen
class Place:
    """Where a consumer shows its health."""

    kind: Literal["tcp", "unix", "file"]
    #: The host of an address.
    host: str = ""
    #: The port of an address. 0: a free one is chosen.
    port: int = 0
    #: The absolute path of a socket or a file.
    path: str = ""
    #: Seconds in which a loop has to turn.
    within: float = WITHIN

    @property
    def shared_as(self) -> str | None:
        """The name by which consumers of one process share the place. None: each has its own."""
        return None if self.kind == "tcp" and not self.port else self.text(self.port)

    def text(self, port: int) -> str:
        """Return the place as a user writes it.

        :param port: the port that was chosen.
        """
        if self.kind != "tcp":
            return f"{self.kind}:{self.path}"
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


def parse_place(value: object) -> Place | None:
    """Return the place of an option ``health``; None if it is not given.

    :param value: ``"127.0.0.1:8080"``, ``"[::1]:8080"``, ``"unix:PATH"``, ``"file:PATH"``, a path with a slash, or a ``Path``;
        ``"?within=30s"`` may follow.
    :raises ConfigError: if the value is none of these.
    """
    if value is None:
        return None
    given = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(given, str) or not given or "\0" in given:
        raise _wrong(value)
    within = WITHIN
    if (option := _OPTION.fullmatch(given)) is not None:
        given, within = option["place"], positive_duration(option["within"], "within in health").total_seconds()
    kind, _, path = given.partition(":")
    if kind in {"unix", "file"} and path:
        return Place("unix" if kind == "unix" else "file", path=os.path.abspath(path), within=within)  # noqa: PTH100 - links stay
    if isinstance(value, os.PathLike) or given.startswith(("/", "./", "../")):
        return Place("file", path=os.path.abspath(given), within=within)  # noqa: PTH100 - as above
    address = _ADDRESS.fullmatch(given)
    if address is None or int(address["port"]) > _MOST_PORT:
        raise _wrong(value)
    return Place("tcp", host=address["six"] or address["host"], port=int(address["port"]), within=within)


def _wrong(value: object) -> ConfigError:
    return ConfigError(
        f"health={quoted(value)} cannot be used. Give a host and a port, as in '127.0.0.1:8080', '0.0.0.0:8080' or '[::1]:8080'; "
        f"a Unix socket, as in 'unix:/run/pitstop.sock'; or a file, as in '/run/pitstop.alive' or 'file:pitstop.alive'."
    )
