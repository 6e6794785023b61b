"""Pauses: the paused kinds of a store, as this process last read them.

A listener reads them before its first claim, after a pause or a resume in this process, after a hint of the watch, and otherwise
once per ``loop_time``. So other claims cost nothing more.

Threads: claiming threads read; any thread notes a change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pitstop.abc import AllBut, Backend


__all__ = ["NO_KINDS", "Pauses"]

#: A choice whose kinds are all paused.
NO_KINDS: frozenset[str] = frozenset()

_LONG_AGO = float("-inf")


class Pauses:
    """The paused kinds of one session."""

    def __init__(self) -> None:
        """Return pauses that were not read yet."""
        #: The paused kinds, each with the end of its pause. None: it has none. Replaced by threads that read, never changed.
        self.ends: Mapping[str, int | None] = {}
        #: When they were last read, by the monotonic clock. Any thread.
        self.read_at = _LONG_AGO
        # The last change that this process knows of. A reading that began before a change does not count.
        self._change = object()

    def changed(self) -> None:
        """Note that a kind was paused or resumed. The next claim reads the kinds again."""
        self._change = object()
        self.read_at = _LONG_AGO

    def read(self, backend: Backend, now: float) -> None:
        """Read the paused kinds.

        :param now: the time by the monotonic clock.
        :raises BackendUnavailable: when the store did not answer.
        """
        change = self._change
        found = dict(backend.paused_kinds())
        if change is self._change:
            # In this order: a thread that claims meanwhile reads the kinds by itself.
            self.ends = found
            self.read_at = now
            if change is not self._change:
                # It came just now, and its own note may have been overwritten.
                self.read_at = _LONG_AGO

    def choice_at(
        self, now: float, each: float, backend: Backend, kinds: Collection[str] | None
    ) -> Collection[str] | None:
        """Return a choice without the paused kinds, as :meth:`choice` does. These are read first if they were read long ago.

        :param now: the time by the monotonic clock.
        :param each: after how many seconds they are read again.
        :raises BackendUnavailable: when the store did not answer.
        """
        if now >= self.read_at + each:
            self.read(backend, now)
        return self.choice(backend, kinds)

    def choice(self, backend: Backend, kinds: Collection[str] | None) -> Collection[str] | None:
        """Return a choice of kinds without the paused ones: :data:`NO_KINDS` if none is left. None: all kinds."""
        paused = self._lasting(backend)
        if not paused:
            return kinds
        if kinds is None:
            return AllBut(paused)
        if isinstance(kinds, AllBut):
            return kinds if kinds >= paused else AllBut(kinds | paused)
        return (frozenset(kinds) - paused or NO_KINDS) if paused.intersection(kinds) else kinds

    def next_due(self, backend: Backend, kinds: Collection[str] | None) -> int | None:
        """Return when the next message of a choice is due that is not paused, or when a pause ends, if that is earlier.

        :raises BackendUnavailable: when the store did not answer.
        """
        chosen = self.choice(backend, kinds)
        now = backend.now() // 1000
        times = [end for end in self.ends.values() if end is not None and end > now]
        if chosen is not NO_KINDS:
            due = backend.next_due() if chosen is None else backend.next_due(chosen)
            times += [] if due is None else [due]
        return min(times, default=None)

    def _lasting(self, backend: Backend) -> frozenset[str]:
        ends = self.ends
        if not any(ends.values()):
            return frozenset(ends)
        now = backend.now() // 1000
        return frozenset(kind for kind, end in ends.items() if end is None or end > now)
