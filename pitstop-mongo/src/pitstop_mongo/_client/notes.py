"""The notes: one document for each in the collection ``<coll>.notes`` beside the messages, so that no claim sees them.

::

    _id      the key
    text     the text
    until    the instant (milliseconds) at which the note ends

The collection is made by the first note. A user without rights on it has no notes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.pauses import beside


__all__ = ["NOTES_SUFFIX", "Notes"]

#: The name of this collection is the name of the messages' collection and this suffix.
NOTES_SUFFIX = ".notes"


class Notes:
    """Reads and writes the notes for one backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, key: str, text: str, until: int) -> None:
        """See :meth:`pitstop.abc.Backend.note`."""
        with self._connection.operation() as link:
            coll = beside(self._connection, link, NOTES_SUFFIX)
            note = {"_id": key, "text": text, "until": until}
            coll.replace_one({"_id": self._connection.dialect.one(key)}, note, upsert=True)
            coll.delete_many({"until": {"$lte": self._connection.now_us() // 1000}})

    def forget(self, key: str) -> None:
        """See :meth:`pitstop.abc.Backend.forget_note`."""
        with self._connection.operation() as link:
            beside(self._connection, link, NOTES_SUFFIX).delete_one({"_id": self._connection.dialect.one(key)})

    def all(self) -> Mapping[str, str]:
        """See :meth:`pitstop.abc.Backend.notes`."""
        with self._connection.operation() as link:
            found = list(beside(self._connection, link, NOTES_SUFFIX).find({}))
        now = self._connection.now_us() // 1000
        return {
            each["_id"]: each["text"]
            for each in found
            if isinstance(each["_id"], str) and isinstance(each.get("text"), str) and _lasts(each.get("until"), now)
        }


def _lasts(until: object, now: int) -> bool:
    return isinstance(until, int) and until > now
