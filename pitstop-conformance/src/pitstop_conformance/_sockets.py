"""The connections that this process has open, and those that a test leaves open."""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
import time

from pathlib import Path


__all__ = ["connections", "left_open"]

#: Seconds for the other end of a connection that is closed, which may be in this process.
_PATIENCE = 1.0
_PAUSE = 0.02
_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}


def left_open(before: set[str]) -> list[str]:
    """Return the connections that are open and were not open before.

    A connection that only the garbage collector closes counts as open. The warning of its driver comes here, and not in a later
    test.
    """
    deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
    while left := connections() - before:
        if time.monotonic() > deadline:
            gc.collect()
            return sorted(left)
        pause.wait(_PAUSE)
    return []


def connections() -> set[str]:
    """Return the connections of this process, each as both addresses. Empty if the system does not tell."""
    found = set()
    for each in _descriptors():
        try:
            status = os.fstat(each)
            if not stat.S_ISSOCK(status.st_mode):
                continue
            with socket.socket(fileno=os.dup(each)) as one:
                peer = one.getpeername() if one.family in _FAMILIES else None
                # A pair of sockets within this process has no names.
                if peer:
                    found.add(f"{_text(one.getsockname(), status.st_ino)} to {_text(peer, status.st_ino)}")
        except OSError:
            # Closed meanwhile, or not connected.
            continue
    return found


def _descriptors() -> list[int]:
    for folder in (Path("/proc/self/fd"), Path("/dev/fd")):
        if folder.is_dir():
            return [int(each.name) for each in folder.iterdir()]
    return []


def _text(address: object, number: int) -> str:
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    # Of a Unix socket, the server's end has a name alone.
    return str(address or f"socket {number}")
