"""Doubts: claims whose outcome is unknown. A later claim finds their messages by token, and leases them again.

Otherwise these messages would come back when their leases end. No listener got the messages that were leased by such a claim.
So they get a new lease, by one write that is conditional on the old lease. If two threads look for the same claim, only one
of them gets a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pymongo.read_concern import ReadConcern

from pitstop import PitstopError
from pitstop.abc import Damaged, Record, from_instant
from pitstop_mongo._bson.raw import any_of, is_text
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import CAUGHT, Kind, is_before_sending, kind_of
from pitstop_mongo._client.link import Link
from pitstop_mongo._messages.document import read
from pitstop_mongo._messages.lease import Lease


__all__ = ["Doubts"]


class Doubts:
    """The claims of one backend whose outcome is unknown, until it becomes known or their leases end."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        # Of each claim its lease, and the leases of later tries to lease its messages again. Any of them may be written.
        self._waiting: deque[tuple[Lease, ...]] = deque()

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._waiting)

    @contextmanager
    def unless_known(self, lease: Lease, link: Link, *, sent: bool = False) -> Iterator[None]:
        """Remember the claim if its outcome is unknown at the end of the body.

        :param sent: whether the claim was sent before. Then an error that means "not sent" is about a later command.
        """
        try:
            yield
        except CAUGHT as error:
            kind = kind_of(error)
            doubted = kind is Kind.UNKNOWN or (sent and kind is not Kind.PERMANENT)
            # The driver repeats a claim of one message by itself.
            doubted = doubted or (self._dialect.repeats_writes(link.client) and is_before_sending(error))
            if doubted and (lease,) not in self._waiting:
                self._waiting.append((lease,))
                self._connection.counters["claim_unknown"] += 1
            raise

    def take_up(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        """Lease up to ``limit`` records of claims that were done, for ``duration`` milliseconds from now.

        :raises pitstop.BackendUnavailable: if their outcome is still unknown.
        """
        while self._waiting:
            try:
                leases = self._waiting.popleft()
            except IndexError:
                break  # another thread took it
            taken = self._take_up(leases, limit, duration)
            if taken:
                return taken
        return []

    def _take_up(self, leases: tuple[Lease, ...], limit: int, duration: int) -> Sequence[Record | Damaged]:
        renewed: Lease | None = None
        try:
            now = self._connection.now_us() // 1000
            leases = tuple(each for each in leases if each.until > now)
            if not leases:
                return []
            with self._connection.indexed() as link:
                ids = self._ids(link, leases, limit)
                taken: Sequence[Record | Damaged] = []
                if ids:
                    renewed = Lease.new(now, duration, limit)
                    taken = self._renew(link, ids, leases, renewed)
        except PitstopError:
            self._waiting.append(leases if renewed is None else (*leases, renewed))
            raise
        if len(ids) == limit:
            self._waiting.append(leases)  # there may be more
        self._connection.counters["claim_recovered"] += len(taken)
        return taken

    def _ids(self, link: Link, leases: tuple[Lease, ...], limit: int) -> list[str]:
        # The state of the primary is enough, because the next write is conditional, and a majority confirms it.
        found = link.handles.raw.find(_under(leases), {"_id": 1}, limit=limit, **self._dialect.by_due)
        return [read(each).id for each in found]

    def _renew(
        self, link: Link, ids: Sequence[str], leases: tuple[Lease, ...], renewed: Lease
    ) -> Sequence[Record | Damaged]:
        listed = {"$in": list(ids)} if all(map(is_text, ids)) else any_of(ids)
        wanted = {"_id": listed, **_under(leases)}
        link.handles.coll.update_many(wanted, renewed.renewal, **self._dialect.by_id)
        raw = link.handles.raw.with_options(read_concern=ReadConcern("majority"))
        found = raw.find({"_id": listed, "token": renewed.token}, **self._dialect.by_id)
        return [read(each).content for each in found]


def _under(leases: tuple[Lease, ...]) -> dict[str, object]:
    """Return the filter of documents under these leases. The end of a lease is in the index, and the token is not."""
    return {
        "due": {"$in": [from_instant(each.until) for each in leases]},
        "token": {"$in": [each.token for each in leases]},
    }
