"""A collection to try things in, beside the store's and told by its name; and how it goes away."""

from __future__ import annotations

import logging
import os

from collections.abc import Iterator
from contextlib import contextmanager

from pymongo.errors import OperationFailure

from pitstop import BackendUnavailable
from pitstop_mongo._client.collection import refused
from pitstop_mongo._client.connection import Connection, Link
from pitstop_mongo._client.failures import is_login_refused
from pitstop_mongo._wakeup.wakeups import SUFFIX


__all__ = ["only_for_now", "scratch_name"]

_log = logging.getLogger("pitstop.mongo")

#: Bytes of the store's name that are kept, so that the new one is not too long for a collection.
_MOST_KEPT = 80

#: Not allowed, also in the words of hosted servers.
_MAY_NOT = frozenset({13, 8000})


def scratch_name(coll: str) -> str:
    """A new name, ``<coll>.check_<random>``: whoever sees it in a list of collections can tell whose it is."""
    kept = coll.encode()[:_MOST_KEPT].decode(errors="ignore").rstrip(".")
    return f"{kept}.check_{os.urandom(8).hex()}"


@contextmanager
def only_for_now(connection: Connection) -> Iterator[None]:
    """Make the collection that this connection is for; drop it at the end, and that of its wake-ups.

    :raises BackendUnavailable: when this user may not, and then nothing was made; or when it cannot be dropped.
    """
    # There is nothing yet, so this does nothing; but who may not drop it is told so before it is made.
    with _allowed(connection) as link:
        _drop_both(link)
    try:
        with _allowed(connection) as link:
            link.handles.coll.create_index([("due", 1)])
        yield
    except BaseException:
        try:
            _drop(connection)
        except BackendUnavailable as error:
            # What went wrong before that is what the caller has to hear.
            _log.warning("%s", error)
        raise
    _drop(connection)


@contextmanager
def _allowed(connection: Connection) -> Iterator[Link]:
    with connection.operation() as link:
        try:
            yield link
        except OperationFailure as error:
            if error.code not in _MAY_NOT or is_login_refused(error):
                raise
            raise refused(
                f"This user may not make {connection.location}, a collection to try things in, and drop it again. The role "
                f"readWrite on the database is needed; rights on the collection of the messages alone are not enough."
            ) from None


def _drop(connection: Connection) -> None:
    try:
        with connection.operation() as link:
            _drop_both(link)
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"The collection {connection.location}, which was made to try things in, cannot be dropped: {error} "
            f"Drop it by hand; it holds none of the store's messages.",
            permanent=error.permanent,
        ) from None


def _drop_both(link: Link) -> None:
    coll = link.handles.coll
    for each in (coll[SUFFIX.removeprefix(".")], coll):
        each.drop()
