"""Notes: the part of a backend that keeps a few short texts beside the messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pitstop.abc._lacks import lacks_notes


__all__ = ["Notes"]


class _Store(Protocol):
    @property
    def location(self) -> str: ...


class Notes:
    """A part of :class:`pitstop.abc.Backend`. Core keeps there which consumers run: a note for each process, once a minute."""

    def note(self: _Store, key: str, text: str, until: int) -> None:
        """Keep a text under a key until an instant, in the place of an earlier one. Notes that have ended are removed by this.

        A note is no record: it changes none, and no claim, listing or count shows it. When the method returns, all handles see the
        note. It need not outlive a crash of the machine.

        :param key: at most 200 characters, like the text without NUL and lone surrogates.
        :param text: at most 16,000 characters.
        :raises pitstop.Unsupported: without :attr:`pitstop.abc.Capability.NOTES`.
        """
        raise lacks_notes(self, self.location)

    def forget_note(self: _Store, key: str) -> None:
        """Remove the note with this key, if there is one.

        :raises pitstop.Unsupported: without :attr:`pitstop.abc.Capability.NOTES`.
        """
        raise lacks_notes(self, self.location)

    def notes(self: _Store) -> Mapping[str, str]:
        """Return the texts by their keys, without those that have ended by :meth:`pitstop.abc.Backend.now`.

        :raises pitstop.Unsupported: without :attr:`pitstop.abc.Capability.NOTES`.
        """
        raise lacks_notes(self, self.location)
