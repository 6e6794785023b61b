"""Scratch: a temporary collection beside the store's, in which a check can try all operations. Its name says what it is."""

from __future__ import annotations

import logging
import os
import re

from collections.abc import Iterator
from contextlib import closing, contextmanager

from pymongo.errors import OperationFailure

from pitstop import BackendUnavailable
from pitstop.abc import Clock, log_fields
from pitstop_mongo._client.collection import refused
from pitstop_mongo._client.config import MongoConfig
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import is_login_refused
from pitstop_mongo._client.link import Link


__all__ = ["is_scratch", "scratch_collection", "scratch_name"]

_log = logging.getLogger("pitstop.mongo")

#: Bytes of the store's name that are kept, so that the new name is not too long.
_MOST_KEPT = 80

#: Codes of "not allowed", also of hosted servers.
_MAY_NOT = frozenset({13, 8000})


def scratch_name(coll: str) -> str:
    """Return a new name, ``<coll>.check_<random>``: a reader of a list of collections can tell what it is."""
    kept = coll.encode()[:_MOST_KEPT].decode(errors="ignore").rstrip(".")
    return f"{kept}.check_{os.urandom(8).hex()}"


def is_scratch(coll: str) -> bool:
    """Whether a name is one that :func:`scratch_name` returned."""
    return re.search(r"\.check_[0-9a-f]{16}$", coll) is not None


@contextmanager
def scratch_collection(config: MongoConfig, clock: Clock, suffix: str) -> Iterator[None]:
    """Make the collection that ``config`` names, and drop it at the end.

    :param suffix: of a second collection beside it, which is dropped as well.
    :raises BackendUnavailable: if this user may not make and drop it (then nothing was made), or if dropping it fails.
    """
    connection = Connection(config, clock)
    with closing(connection):
        # The collection is not there yet, so this drops nothing. It fails for a user who may not drop it, before it is made.
        with _allowed(connection) as link:
            _drop_both(link, suffix)
        try:
            with _allowed(connection) as link:
                link.handles.coll.create_index([("due", 1)])
            yield
        except BaseException:
            try:
                _drop(connection, suffix)
            except BackendUnavailable as error:
                # The caller needs the first error.
                _log.warning("%s", error, extra=log_fields("scratch_not_dropped", backend="mongodb"))
            raise
        _drop(connection, suffix)


@contextmanager
def _allowed(connection: Connection) -> Iterator[Link]:
    with connection.operation() as link:
        try:
            yield link
        except OperationFailure as error:
            if error.code not in _MAY_NOT or is_login_refused(error):
                raise
            raise refused(
                f"This user may not make and drop {connection.location}, a temporary collection for the check. The user needs "
                f"the role readWrite on the database. Rights on the collection of the messages alone are not enough."
            ) from None


def _drop(connection: Connection, suffix: str) -> None:
    try:
        with connection.operation() as link:
            _drop_both(link, suffix)
    except BackendUnavailable as error:
        raise BackendUnavailable(
            f"The collection {connection.location}, which was made for a check, cannot be dropped: {error} "
            f"Drop it by hand. It contains none of the store's messages.",
            permanent=error.permanent,
        ) from None


def _drop_both(link: Link, suffix: str) -> None:
    coll = link.handles.coll
    for each in (coll[suffix.removeprefix(".")], coll):
        each.drop()
