"""The filter and the update of one settlement."""

from __future__ import annotations

import os

from collections.abc import Iterator
from itertools import count
from typing import Any

from pitstop.abc import Aside, Progress, Settlement, from_instant
from pitstop_mongo._messages.document import EPOCH, progress_fields
from pitstop_mongo._messages.lease import set_aside


__all__ = ["FIELDS", "fence", "fenced", "new_etags", "progress_of", "unexpired", "update_of"]

#: Every field that a settlement writes or removes.
FIELDS = ("due", "scheduled_for", "attempts", "first_leased", "last_error", "token", "unsettled", "ahead", "excused")


def new_etags() -> Iterator[str]:
    """Yield the marks that updates leave in documents. Each is unique."""
    nonce = os.urandom(16).hex()
    return (f"{nonce}:{index}" for index in count())


def fenced(id: Any, token: str, now: int) -> dict[str, Any]:
    """Return the filter of a settlement.

    :param id: the filter of the ``_id``.
    """
    return {"_id": id, **fence(token, now)}


def fence(token: str, now: int) -> dict[str, Any]:
    """Return the condition that a document carries a token, and that its lease runs or it is dead."""
    return {"token": {"$eq": token}, "due": unexpired(now)}


def unexpired(now: int) -> dict[str, Any]:
    """Return the condition on ``due``. A leased message has one in the future. A dead one has none, or one that does not count."""
    return {"$not": {"$gte": EPOCH, "$lte": from_instant(now)}}


def update_of(settlement: Settlement, etag: str, *, with_error: bool = True) -> dict[str, Any]:
    """Return the update that writes a settlement.

    :param with_error: whether with the error, which may be too long for a document of another program.
    """
    progress = settlement.progress
    if isinstance(progress, Aside):
        return set_aside(progress.last_error, etag) if with_error else set_aside(None)
    fields = progress_fields(progress_of(settlement)) | {"etag": etag}
    absent = [name for name in FIELDS if name not in fields]
    if not with_error:
        fields.pop("last_error", None)
    return {"$set": fields} | ({"$unset": dict.fromkeys(absent, "")} if absent else {})


def progress_of(settlement: Settlement) -> Progress:
    """Return the progress that a settlement writes."""
    progress = settlement.progress
    assert isinstance(progress, Progress), "a settlement without a progress is a delete"
    return progress
