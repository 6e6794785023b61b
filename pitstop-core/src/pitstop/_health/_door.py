"""Door: the listening socket of an attendant, made so that a place that is taken is an error at the start.

Threads: the thread that begins a ``consume`` opens; the attendant's thread closes.
"""

from __future__ import annotations

import os
import socket
import stat

from contextlib import suppress
from pathlib import Path

from pitstop._errors import ConfigError
from pitstop._health._place import Place


__all__ = ["Door", "cannot"]


class Door:
    """A listening socket."""

    def __init__(self, place: Place) -> None:
        """Open the socket.

        :raises ConfigError: if the place is taken, or cannot be used.
        """
        #: The socket. It does not block.
        self.socket = _of_tcp(place) if place.kind == "tcp" else _of_unix(place)
        self.socket.setblocking(False)
        #: The place, with the port that was chosen.
        self.text = place.text(self.socket.getsockname()[1] if place.kind == "tcp" else 0)
        self._path = place.path
        # The file of a Unix socket: another process may have put its own there since.
        self._file = os.stat(place.path).st_ino if place.path else None  # noqa: PTH116 - one call, of the path as given

    def close(self) -> None:
        """Close the socket, and remove its file."""
        self.socket.close()
        if self._file is not None:
            with suppress(OSError):
                if os.stat(self._path).st_ino == self._file:  # noqa: PTH116 - as above
                    Path(self._path).unlink()


def cannot(place: Place, reason: str) -> ConfigError:
    """Return the error of a place that cannot be used.

    :param reason: one or two sentences, the second of which is an advice.
    """
    return ConfigError(f"health='{place.text(place.port)}' cannot be used: {reason}")


def _of_tcp(place: Place) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0]
        both = place.host == "::" and socket.has_dualstack_ipv6()
        # Not to be inherited by commands, and on no system an address that another process has.
        return socket.create_server(address[:2], family=family, backlog=64, dualstack_ipv6=both)
    except socket.gaierror as error:
        raise cannot(
            place, f"the host is unknown ({error.strerror}). Give an address of this machine, as in '127.0.0.1:8080'."
        ) from None
    except OSError as error:
        raise cannot(
            place,
            f"{error.strerror or error}. Another process, perhaps another consumer, may have this port. Give each process a port "
            f"of its own, on an address of this machine.",
        ) from None


def _of_unix(place: Place) -> socket.socket:
    if not hasattr(socket, "AF_UNIX"):
        raise cannot(place, "this system has no Unix sockets. Give an address, as in '127.0.0.1:8080'.")
    _remove_dead(place)
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        opened.bind(place.path)
        opened.listen(64)
    except OSError as error:
        opened.close()
        raise cannot(
            place,
            f"{error.strerror or error}. Give a path of at most 100 bytes, in a folder that this user may write to, and that no other "
            f"program has taken.",
        ) from None
    return opened


def _remove_dead(place: Place) -> None:
    """Remove the socket of a process that has died. A socket that answers stays, and its place is taken."""
    try:
        if not stat.S_ISSOCK(os.lstat(place.path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(place.path)
    except ConnectionRefusedError:
        with suppress(OSError):
            Path(place.path).unlink()
    except OSError:
        # It cannot be bound either, and that error says why.
        return
