"""The watch of a store for changes by others."""

from __future__ import annotations

from typing import Protocol


__all__ = ["Watch"]


class Watch(Protocol):
    """Notices that a store may have changed. It only gives hints: an unnoticed change costs lateness, nothing else."""

    #: Seconds to wait between two polls; 0 when :meth:`poll` itself waits for the server.
    pause: float
    #: Whether the last :meth:`poll` has noticed that a kind was paused or resumed. Core reads the paused kinds again then. A watch
    #: that does not notice this leaves it out: listeners read the kinds each ``loop_time``.
    paused: bool = False

    def poll(self) -> int | None:
        """Return the least ``due``, an instant, of the records that others wrote since the last call.

        Return 0 if something may have changed and it is unknown what, and None if nothing changed.

        The call may block for some seconds, 10 at most. After the backend was closed it returns or fails within that time.
        Only the thread that polls closes the watch.
        """
        ...

    def close(self) -> None:
        """Release the watch's resources."""
        ...
