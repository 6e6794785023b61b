"""A database file to try things in, beside the store's and told by its name; and how it goes away."""

from __future__ import annotations

import os

from pathlib import Path

from pitstop import BackendUnavailable


__all__ = ["beside", "take_away"]

#: What SQLite may keep beside a database, by the end of its name.
_FILES = ("", "-wal", "-shm", "-journal")


def beside(path: str) -> str:
    """A new path beside the file itself, so on the same disk, also when ``path`` is a link: ``<path>.check-<random>``."""
    return f"{os.path.realpath(path)}.check-{os.urandom(8).hex()}"


def take_away(path: str) -> None:
    """Delete the file, which is closed, and those that belong to it.

    :raises BackendUnavailable: when the system does not let us.
    """
    try:
        for end in _FILES:
            Path(path + end).unlink(missing_ok=True)
    except OSError as error:
        raise BackendUnavailable(
            f"{path!r}, which was made to try things in, cannot be deleted ({error.strerror}). Delete it by hand, with what "
            f"stands beside it under that name; it holds none of the store's messages."
        ) from error
