"""Link: a client as one process uses it, with its open collection and the server's clock."""

from __future__ import annotations

import os

from typing import Any

from pitstop.abc import Clock
from pitstop_mongo._client.config import MongoConfig
from pitstop_mongo._client.dialect import Dialect, Handles
from pitstop_mongo._client.kind_index import KindIndex
from pitstop_mongo._client.server_time import ServerTime


__all__ = ["Link"]


class Link:
    """A client as one process uses it."""

    def __init__(self, client: Any, dialect: Dialect, config: MongoConfig, clock: Clock) -> None:
        self.pid = os.getpid()
        self.client = client
        self.time = ServerTime(clock, dialect, client)
        self.handles: Handles = dialect.open(client, config.dbname, config.coll, config.ack_write_concern)
        #: Whether the collection was checked, and has the index.
        self.indexed = False
        #: The index of the kinds, which only claims of some kinds look for.
        self.kinds = KindIndex(clock, lasting=config.clock is None)
        #: Whether its documents were checked.
        self.known = False
        #: Whether the collection exists, or may be made.
        self.exists = config.create or not dialect.describes_collections
