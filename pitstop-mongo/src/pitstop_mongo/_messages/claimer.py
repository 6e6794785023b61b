"""Claims: leasing messages that are due, each to one listener only.

A claim of one message is one ``findAndModify``. A claim of several messages reads the first ones that are due, as a whole.
Then it marks exactly these, on the condition that they are unchanged and due. If all were marked, the documents that were
read are the leased ones.

Behind a router of a sharded cluster, a claim of one message is done like a claim of several. Routers refuse ``findAndModify``
without an ``_id``, up to MongoDB 7.0. The documents are marked by one write each, in one command, because a router may count a
document twice in a write of many documents, while it moves from one shard to another.

If the outcome of a claim is unknown (its reply got lost, or the primary changed), the next claim looks for its messages: see
:mod:`pitstop_mongo._messages.doubts`.
"""

from __future__ import annotations

import random

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from bson.errors import BSONError
from pymongo import ReturnDocument, UpdateOne
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from pitstop import BackendUnavailable
from pitstop.abc import Clock, Damaged, Record, from_instant
from pitstop_mongo._client.collection import validation_rules
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import codes_of, is_invalid, is_refusal, is_too_large
from pitstop_mongo._client.link import Link
from pitstop_mongo._messages.document import EPOCH, LARGEST, TOO_LARGE, Ambiguous, Found, read
from pitstop_mongo._messages.doubts import Doubts
from pitstop_mongo._messages.lease import Lease, set_aside
from pitstop_mongo._messages.selection import IndexLost, Selection
from pitstop_mongo._messages.unleasable import Unleasable


__all__ = ["Claimer", "due_in"]

_UNCOUNTABLE = "Damaged: attempts cannot be counted up. Store the message again, or remove it."
#: If the server refuses this many documents of a claim, and accepts none, the claim fails: the reason lies with the server.
_MOST_REFUSED = 10
#: The most reads of one call, if other claims always mark the documents first.
_LOOKS = 20
#: The most documents that a read skips, to avoid the documents of other claims.
_FARTHEST = 2000
#: Seconds after which a read begins at the first document again.
_FULL_LOOK_EVERY = 1.0


def due_in(least: datetime, most: datetime) -> dict[str, Any]:
    """Return the filter of documents with a valid ``due`` in this range, and an id that a message can have."""
    return {"due": {"$gte": least, "$lte": most}, "_id": {"$type": "string"}}


class Claimer:
    """Leases messages for one backend. It remembers where the backlog begins, and how many claims compete there."""

    def __init__(
        self,
        connection: Connection,
        clock: Clock,
        unleasable: Unleasable,
        *,
        remember: bool,
        kinds: Collection[str] | None = None,
    ) -> None:
        """Return a claimer that has not claimed yet.

        :param kinds: the kinds of the messages to lease. None: all.
        """
        self._connection = connection
        self._dialect = connection.dialect
        self._selection = Selection(connection, kinds)
        # Of its own claims alone: the messages of another claimer may be of other kinds.
        self._doubts = Doubts(connection)
        self._unleasable = unleasable
        self._clock = clock
        # Whether a read begins where the last one began. Claimed messages leave deleted keys at the head of the index, and
        # walking over them is slow. Not with the clock of a test, which would see the order change.
        self._remember = remember
        self._low: datetime | None = None
        self._low_until = 0.0
        # The most documents to skip, at random. It is 0 while no other claim competes.
        self._spread = 0

    @property
    def in_doubt(self) -> bool:
        """Whether there are claims whose outcome is unknown."""
        return bool(self._doubts)

    def written(self, due: int | None) -> None:
        """Note that this process wrote a message with this ``due``. The next read begins at it, or before."""
        low = self._low
        if due is not None and low is not None and from_instant(due) < low:
            self._low = None

    def lease(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        """See :meth:`pitstop.abc.Backend.lease`."""
        counters = self._connection.counters
        doubted, begun = counters["claim_unknown"], self._clock.monotonic()
        try:
            return self._doubts.take_up(limit, duration) or self._lease(limit, duration)
        except IndexLost:
            return self._lease(limit, duration)
        except BackendUnavailable:
            spent = self._clock.monotonic() - begun
            if counters["claim_unknown"] == doubted or spent * 2000 > self._connection.longest_ms:
                raise
        # The reply to this claim got lost. If the server is there, a new connection shows what became of the claim.
        return self._doubts.take_up(limit, duration) or self._lease(limit, duration)

    def _lease(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        if limit == 1 and self._in_one_command:
            leased = self._lease_one(duration, limit)
            # The server may refuse to lease the first document that is due (None).
            return self._lease_looked_at(limit, duration) if leased is None else leased
        return self._lease_looked_at(limit, duration)

    @property
    def _in_one_command(self) -> bool:
        """Whether the server finds and marks a document in one command."""
        return self._dialect.batches and not self._connection.is_routed

    def _lease_looked_at(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        """Read documents, and mark those that are unchanged."""
        for look in range(_LOOKS):
            lease = self._new_lease(duration, limit)
            skip = random.randint(0, self._spread) if self._spread else 0  # noqa: S311 - spreads load, hides nothing
            low = None if look == _LOOKS - 1 else self._beginning()
            with self._selection.indexed() as (link, chosen, by_due):
                found = self._read_due(link, lease, limit, low, skip, chosen, by_due)
                # Several commands follow, and the first of them marks. If a later one fails, its error is not about marking.
                with self._doubts.unless_known(lease, link, sent=True):
                    claimed = self._claim(link, found, lease) if found else []
            self._learn(found, claimed, limit, from_the_start=low is None and not skip)
            if claimed:
                return claimed
            if found:
                continue
            if not skip and low is None:
                return []
            # Before a claim returns nothing, it reads from the beginning, without skipping.
            self._spread, self._low = 0, None
        # Other claims were always faster. The server itself can find and mark one document at once, but not several.
        leased = self._lease_one(duration, limit) if self._in_one_command else None
        if leased is None and self._unleasable.is_full:
            # Without an error the caller would claim again at once, because these messages stay due.
            raise BackendUnavailable(
                f"MongoDB at {self._connection.location} refuses every write to more than {len(self._unleasable.ids)} of the "
                f"messages that are due. See concerns() or 'pitstop check' for them. Change the validation rules of the "
                f"collection, or remove the messages."
            )
        return leased or []

    def _new_lease(self, duration: int, limit: int) -> Lease:
        return Lease.new(self._connection.now_us() // 1000, duration, limit)

    def _lease_one(self, duration: int, limit: int) -> Sequence[Record | Damaged] | None:
        """Lease the first document that is due, in one command. Return None if the server refuses the command.

        :param limit: how many messages the claim asks for. Its attempts are counted accordingly.
        """
        lease = self._new_lease(duration, limit)
        with self._selection.indexed() as (link, chosen, by_due), self._doubts.unless_known(lease, link):
            if self._connection.is_routed:
                # This was the first use of the connection.
                return None
            try:
                # Not with the handle that reads bytes, with which PyMongo cannot handle some errors.
                document = link.handles.coll.find_one_and_update(
                    due_in(EPOCH, from_instant(lease.now)) | chosen | self._unleasable.condition,
                    lease.update,
                    sort=[("due", 1)],
                    return_document=ReturnDocument.AFTER,
                    **by_due,
                )
                leased = None if document is None else read(document).content
            except (BSONError, Ambiguous):
                leased = self._leased(link, lease)
                if leased is None:
                    # The server's error quotes the document, so the driver cannot decode the error.
                    return None
            except OperationFailure as error:
                if not is_refusal(error):
                    raise
                return None
            if leased is not None and not _is_under(leased, lease):
                # A field occurs twice. The server wrote the first one, and the decoder read the last one.
                leased = self._leased(link, lease)
        if leased is None:
            return []
        if isinstance(leased, Record) and leased.progress.attempts < 1:
            return [Damaged(leased.id, _UNCOUNTABLE, lease.until, lease.token)]
        return [leased]

    def _leased(self, link: Link, lease: Lease) -> Record | Damaged | None:
        """Return the document under this lease, read from its bytes, because the driver could not read it."""
        wanted = {"due": from_instant(lease.until), "token": lease.token}
        raw = link.handles.raw.with_options(read_concern=ReadConcern("majority"))
        with self._doubts.unless_known(lease, link, sent=True):
            document = raw.find_one(wanted, **self._dialect.by_due)
        return None if document is None else read(document).content

    def _beginning(self) -> datetime | None:
        if not self._remember or self._clock.monotonic() >= self._low_until:
            return None
        return self._low

    def _learn(self, found: Sequence[Found], claimed: Sequence[object], limit: int, *, from_the_start: bool) -> None:
        if len(claimed) >= len(found):
            self._spread //= 2
        elif len(claimed) < len(found) // 2 or not claimed:
            self._spread = min(max(self._spread * 2, limit), _FARTHEST)
        if self._remember and from_the_start:
            self._low_until = self._clock.monotonic() + _FULL_LOOK_EVERY
        first = found[0].content if found else None
        due = first.progress.due if isinstance(first, Record) else None
        if due is not None and not self._spread:
            self._low = from_instant(due)

    def _read_due(
        self,
        link: Link,
        lease: Lease,
        limit: int,
        low: datetime | None,
        skip: int,
        chosen: dict[str, Any],
        by_due: Mapping[str, Any],
    ) -> list[Found]:
        """Return the first documents that are due, as a whole."""
        options: dict[str, Any] = {"sort": [("due", 1)], "skip": skip, "limit": limit, **by_due}
        if self._dialect.batches:
            options["batch_size"] = limit  # else the server begins with 101
        wanted = due_in(EPOCH if low is None else low, from_instant(lease.now)) | chosen
        wanted |= self._unleasable.condition
        try:
            return [read(each) for each in _first_batch(link.handles.batches.find(wanted, **options))]
        except (BSONError, Ambiguous):
            return [read(each) for each in _first_batch(link.handles.raw.find(wanted, **options))]

    def _claim(self, link: Link, found: Sequence[Found], lease: Lease) -> list[Record | Damaged]:
        """Mark the documents that are unchanged since they were read. Return them as they are after that.

        If the server refuses a command, the documents of the claim are examined one by one. A document is set aside only
        because of its own content.
        """
        sound = [each for each in found if each.sound]
        refused: dict[str, OperationFailure] = {}
        if self._dialect.batches:
            marked, refused = self._mark(link, sound, lease)
        else:
            marked = {each.id for each in sound if self._mark_one(link, each, lease)}
        if len(marked) == len(found):
            return [lease.of(each.content) for each in found if isinstance(each.content, Record)]
        claimed: list[Record | Damaged] = []
        for each in found:
            if isinstance(each.content, Record) and each.id in marked:
                claimed.append(lease.of(each.content))
            elif each.id in refused:
                document = link.handles.raw.find_one({"_id": self._dialect.one(each.id)}, **self._dialect.by_id)
                looked_at = None if document is None else read(document)
                if looked_at is None or not looked_at.sound:
                    # By its bytes it is damaged. For example, a field occurs twice, and the decoder read the other one.
                    del refused[each.id]
                    claimed.extend([] if looked_at is None else self._set_aside(link, looked_at, lease, refused))
                elif is_too_large(refused[each.id]) and len(document.raw) > LARGEST:
                    del refused[each.id]
                    claimed.extend(self._bury(link, each, lease, TOO_LARGE))
            elif not each.sound:
                claimed.extend(self._set_aside(link, each, lease, refused))
        self._pass_over(link, refused, accepted=bool(claimed))
        return claimed

    def _pass_over(self, link: Link, refused: dict[str, OperationFailure], *, accepted: bool) -> None:
        """Leave documents as they are if the server refuses every write to them, and let claims skip them.

        :param accepted: whether the server accepted other documents of the claim. If not, the reason may lie with the server.
        :raises OperationFailure: if the reason may lie with the server.
        """
        for id, error in refused.items():
            if not accepted and not is_invalid(error):
                raise error
            self._unleasable.add(
                id,
                f"it cannot be leased, because the server refuses every write to it (code {codes_of(error)}). Claims skip it. "
                f"Store the message again, remove it, or change the validation rules of the collection.",
            )
        if self._unleasable.are_many and self._dialect.describes_collections and any(map(is_invalid, refused.values())):
            rules = validation_rules(link.handles.coll)
            if rules:
                self._unleasable.leave_out(rules)

    def _mark(self, link: Link, sound: Sequence[Found], lease: Lease) -> tuple[set[str], dict[str, OperationFailure]]:
        """Mark many documents. Return the ids of those that were marked, and the errors of those that were refused."""
        if not sound:
            return set(), {}
        ids = [each.id for each in sound]
        unchanged = {
            "_id": {"$in": ids},
            "etag": {"$in": list({each.etag for each in sound})},
            "token": {"$in": list({each.token for each in sound})},
            **_still_due(lease),
        }
        try:
            if self._connection.is_routed:
                marks = [UpdateOne(self._unchanged(each, lease), lease.update, **self._dialect.by_id) for each in sound]
                count = link.handles.coll.bulk_write(marks, ordered=False).modified_count
            else:
                count = link.handles.coll.update_many(unchanged, lease.update, **self._dialect.by_id).modified_count
        except OperationFailure as error:
            if not is_refusal(error):
                raise
            return self._mark_each(link, sound, lease)
        if count == len(ids):
            return set(ids), {}
        return (self._marked(link, ids, lease) if count else set()), {}

    def _mark_each(
        self, link: Link, sound: Sequence[Found], lease: Lease
    ) -> tuple[set[str], dict[str, OperationFailure]]:
        # The server stopped at the first document that it refused.
        marked = self._marked(link, [each.id for each in sound], lease)
        refused: dict[str, OperationFailure] = {}
        for each in sound:
            if each.id not in marked:
                try:
                    if self._mark_one(link, each, lease):
                        marked.add(each.id)
                except OperationFailure as error:
                    enough = len(refused) >= _MOST_REFUSED and not marked
                    if not is_refusal(error) or (enough and not is_invalid(error)):
                        raise
                    refused[each.id] = error
                    if enough:
                        # The next read skips these documents, and finds the ones after them.
                        break
        return marked, refused

    def _mark_one(self, link: Link, found: Found, lease: Lease) -> bool:
        result = link.handles.coll.update_one(self._unchanged(found, lease), lease.update, **self._dialect.by_id)
        return bool(result.modified_count)

    def _marked(self, link: Link, ids: Sequence[str], lease: Lease) -> set[str]:
        """Return the ids of the documents with the token, in the state of a majority, which is never rolled back."""
        wanted = {"_id": {"$in": list(ids)}, "token": lease.token}
        once = {"limit": len(ids), "batch_size": len(ids)}
        found = link.handles.majority.find(wanted, {"_id": 1}, **once, **self._dialect.by_id)
        return {each["_id"] for each in found}

    def _set_aside(self, link: Link, found: Found, lease: Lease, refused: dict[str, OperationFailure]) -> list[Damaged]:
        """Lease a document that cannot be read, or whose attempts cannot be counted. The write needs no other field of it.

        :param refused: gets the error, by id, if the server refuses this write as well.
        """
        content = found.content
        error = content.error if isinstance(content, Damaged) else _UNCOUNTABLE
        try:
            result = link.handles.coll.update_one(self._unchanged(found, lease), lease.renewal, **self._dialect.by_id)
        except OperationFailure as refusal:
            if is_too_large(refusal):
                return self._bury(link, found, lease, error)
            if not is_refusal(refusal):
                raise
            refused[found.id] = refusal
            return []
        return [Damaged(found.id, error, lease.until, lease.token)] if result.modified_count else []

    def _bury(self, link: Link, found: Found, lease: Lease, error: str) -> list[Damaged]:
        """Set aside a document that has no room for a lease, by a write that makes it smaller if necessary."""
        coll, unchanged = link.handles.coll, self._unchanged(found, lease)
        try:
            result = coll.update_one(unchanged, set_aside(error), **self._dialect.by_id)
        except OperationFailure as refusal:
            if not is_too_large(refusal):
                raise
            result = coll.update_one(unchanged, set_aside(None), **self._dialect.by_id)
        return [Damaged(found.id, error, None, None)] if result.modified_count else []

    def _unchanged(self, found: Found, lease: Lease) -> dict[str, Any]:
        return {"_id": self._dialect.one(found.id), **found.proof, **_still_due(lease)}


def _is_under(leased: Record | Damaged, lease: Lease) -> bool:
    held = leased.progress if isinstance(leased, Record) else leased
    return held.due == lease.until and held.token == lease.token


def _still_due(lease: Lease) -> dict[str, Any]:
    return {"due": {"$gte": EPOCH, "$lte": from_instant(lease.now)}}


def _first_batch(cursor: Any) -> list[Any]:
    """Return the documents that the server sends at once, at most 16 MiB, so that large messages do not fill the memory."""
    with cursor:
        documents = list(islice(cursor, 1))
        # The number is known with the first document. A replacement client does not tell it, and sends all at once.
        retrieved = getattr(cursor, "retrieved", None)
        documents += cursor if retrieved is None else islice(cursor, max(retrieved - 1, 0))
        return documents
