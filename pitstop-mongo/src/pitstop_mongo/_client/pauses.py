"""The paused kinds: one document for each in the collection ``<coll>.paused`` beside the messages, so that no claim sees them.

::

    _id      the kind
    until    the instant (milliseconds) at which the pause ends by itself; null if a person has to end it

The collection is made by the first pause. A user without rights on it can listen as before: then no kind counts as paused.
"""

from __future__ import annotations

import logging

from collections.abc import Mapping
from typing import Any

from pymongo.errors import OperationFailure

from pitstop import BackendUnavailable
from pitstop.abc import log_fields
from pitstop_mongo._bson.codecs import CODEC
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link


__all__ = ["PAUSED_SUFFIX", "Pauses", "beside"]

_log = logging.getLogger("pitstop.mongo")

#: The name of this collection is the name of the messages' collection and this suffix.
PAUSED_SUFFIX = ".paused"
#: Codes of "not allowed", also of hosted servers.
_MAY_NOT = frozenset({13, 8000})


class Pauses:
    """Reads and writes the paused kinds for one backend."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._warned = False

    def pause(self, kind: str, until: int | None) -> None:
        """See :meth:`pitstop.abc.Backend.pause_kind`."""
        with self._connection.operation() as link:
            coll = self._coll(link)
            try:
                coll.replace_one(
                    {"_id": self._connection.dialect.one(kind)}, {"_id": kind, "until": until}, upsert=True
                )
                coll.delete_many({"until": {"$lte": self._connection.now_us() // 1000}})
            except OperationFailure as error:
                raise self._explained(error, coll.full_name) from None

    def resume(self, kind: str) -> bool:
        """See :meth:`pitstop.abc.Backend.resume_kind`."""
        with self._connection.operation() as link:
            coll = self._coll(link)
            try:
                found = coll.find_one_and_delete({"_id": self._connection.dialect.one(kind)})
            except OperationFailure as error:
                raise self._explained(error, coll.full_name) from None
            return found is not None and self._lasts(found.get("until"))

    def kinds(self) -> Mapping[str, int | None]:
        """See :meth:`pitstop.abc.Backend.paused_kinds`."""
        with self._connection.operation() as link:
            coll = self._coll(link)
            try:
                found = list(coll.find({}))
            except OperationFailure as error:
                if error.code not in _MAY_NOT:
                    raise
                if not self._warned:
                    self._warned = True
                    _log.warning(
                        "paused kinds have no effect here, because this user may not read %s. The user needs the role readWrite "
                        "on the database",
                        coll.full_name,
                        extra=log_fields("pauses_not_read", backend="mongodb"),
                    )
                return {}
        ends = {each["_id"]: each.get("until") for each in found if isinstance(each["_id"], str)}
        return {kind: end for kind, end in ends.items() if self._lasts(end)}

    def _lasts(self, end: Any) -> bool:
        return end is None or (isinstance(end, int) and end > self._connection.now_us() // 1000)

    def _explained(self, error: OperationFailure, name: str) -> Exception:
        if error.code not in _MAY_NOT:
            return error
        return BackendUnavailable(
            f"This user may not write to {name}, where the paused kinds are. The user needs the role readWrite on the database.",
            permanent=True,
        )

    def _coll(self, link: Link) -> Any:
        return beside(self._connection, link, PAUSED_SUFFIX)


def beside(connection: Connection, link: Link, suffix: str) -> Any:
    """Return the collection whose name is that of the messages' collection and this suffix."""
    coll = link.handles.coll
    options = {}
    if connection.dialect.batches:
        # The user's client may read from secondaries.
        concerns = {"read_concern": coll.read_concern, "write_concern": coll.write_concern}
        options = {"codec_options": CODEC, "read_preference": coll.read_preference, **concerns}
    return coll.database.get_collection(coll.name + suffix, **options)
