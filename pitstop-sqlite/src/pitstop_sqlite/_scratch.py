"""A database file beside the store's, in which things are tried. It is recognised by its name and deleted afterwards."""

from __future__ import annotations

import os

from pathlib import Path

from pitstop import BackendUnavailable


__all__ = ["beside", "take_away"]

#: The ends of the names of the files that SQLite may keep: the database and its companions.
_FILES = ("", "-wal", "-shm", "-journal")


def beside(path: str) -> str:
    """Return a new path beside the real file, on the same disk, even if ``path`` is a link: ``<path>.check-<random>``."""
    return f"{os.path.realpath(path)}.check-{os.urandom(8).hex()}"


def take_away(path: str) -> None:
    """Delete the file, which is closed, and its companions.

    :raises BackendUnavailable: if the system refuses.
    """
    try:
        for end in _FILES:
            Path(path + end).unlink(missing_ok=True)
    except OSError as error:
        raise BackendUnavailable(
            f"{path!r}, which was made to try things in, cannot be deleted ({error.strerror}). Delete it by hand, together with the "
            f"files beside it whose names begin with its name; it holds none of the store's messages."
        ) from error
