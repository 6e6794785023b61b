"""Batches: removals of many messages, and changes of many, each on a condition.

A removal reads the messages, and then deletes those that match, in the versions in which they were read. The revision names a
version as a store has left it, the etag and the token name one as a settlement or a claim has left it. All three are random, so one
command with three lists finds just these versions. Messages that were changed in between are read again.

A change replaces each document that is still the expected one. The new revisions tell which were replaced.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import attrs

from pymongo import DeleteOne, ReplaceOne

from pitstop import Conflict, OutcomeUnknown
from pitstop.abc import Damaged, Progress, Query, Record
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.link import Link
from pitstop_mongo._client.run import Run
from pitstop_mongo._messages.document import Found, read, read_outline
from pitstop_mongo._messages.storer import Storer, Write, encoded, expectation, portions


__all__ = ["Batches"]

#: How often a removal reads messages again that were changed meanwhile.
_MOST_VERSIONS = 50


@attrs.define
class _Removal:
    """A removal, over all of its runs."""

    ids: Sequence[str]
    query: Query | None
    #: Ids that a command to delete was sent for, as long as it is not known whether it has deleted them.
    sent: set[str] = attrs.field(factory=set)
    #: Ids that this removal has deleted.
    gone: set[str] = attrs.field(factory=set)
    #: Ids that another program has deleted.
    lost: set[str] = attrs.field(factory=set)

    def note(self, sent: Sequence[str], count: int, there: set[str]) -> None:
        """Note the outcome of a command, and of earlier ones that had no reply.

        :param sent: the ids that the command was sent for; none: there was no command.
        :param count: how many of them it has deleted.
        :param there: the ids that were found after it, out of those that are not deleted.
        """
        absent = [id for id in sent if id not in there]
        # Which of them another program has deleted is not known, but how many. So two removals count no message twice.
        self.gone.update(absent[:count])
        self.lost.update(absent[count:])
        self.sent -= set(sent)
        # A message that was there, and that a command without a reply was sent for, is gone either way.
        self.gone |= self.sent - there


class Batches:
    """Removes and changes many messages for one backend."""

    def __init__(self, connection: Connection, storer: Storer) -> None:
        self._connection = connection
        self._storer = storer
        self._dialect = connection.dialect

    def delete(self, ids: Sequence[str], query: Query | None) -> list[bool]:
        """See :meth:`pitstop.abc.Many.delete_many`."""
        removal = _Removal(ids, query)
        if ids:
            try:
                self._connection.until_known(partial(self._delete, removal), single=False)
            except OutcomeUnknown as error:
                text = f"{error} Remove again: that does no harm."
                doubtful = tuple(id for id in ids if id in removal.sent and id not in removal.gone)
                raise OutcomeUnknown(text, ids=doubtful, permanent=error.permanent) from None
        return [id in removal.gone for id in ids]

    def put_if(self, items: Sequence[tuple[Record, str, Progress]]) -> list[bool]:
        """See :meth:`pitstop.abc.Many.put_many_if`."""
        expected = {record.id: (revision, progress) for record, revision, progress in items}
        stored: set[str] = set()
        for some in portions(encoded(self._connection, [record for record, *_ in items])):
            put = partial(self._put_if, some, expected, stored)
            try:
                self._connection.until_known(put, single=False)
            except OutcomeUnknown as error:
                ids = error.ids or tuple(each.record.id for each in some if each.record.id not in stored)
                raise OutcomeUnknown(f"{error} Check with get().", ids=ids, permanent=error.permanent) from None
        return [record.id in stored for record, *_ in items]

    def put_new(self, records: Sequence[Record]) -> list[bool]:
        """See :meth:`pitstop.abc.Many.put_new`."""
        created: set[str] = set()
        for some in portions(encoded(self._connection, records)):
            try:
                created |= self._connection.until_known(partial(self._storer.insert, some), single=False)
            except OutcomeUnknown as error:
                ids = tuple(each.id for each in records if each.id not in created)
                raise OutcomeUnknown(f"{error} Check with get().", ids=ids, permanent=error.permanent) from None
        return [record.id in created for record in records]

    def _delete(self, removal: _Removal, run: Run) -> None:
        left = [id for id in removal.ids if id not in removal.gone and id not in removal.lost]
        sent: Sequence[str] = ()
        count = 0
        for number in range(_MOST_VERSIONS + 1):
            found = self._read(run.link, left, whole=removal.query is not None and removal.query.failing is not None)
            removal.note(sent, count, {each.id for each in found})
            chosen = [each for each in found if self._is_chosen(each, removal.query)]
            if not chosen:
                return
            left = sent = [each.id for each in chosen]
            if number == _MOST_VERSIONS:
                break
            removal.sent |= set(sent)
            count = self._delete_versions(run, chosen, removal.query)
            if count == len(chosen):
                removal.gone |= set(sent)
                return
        if removal.query is not None:
            raise Conflict(
                f"The message {left[0]!r} was not removed, because other programs have changed it {_MOST_VERSIONS} times meanwhile. "
                f"Try again.",
                id=left[0],
            )
        run.send_many(run.link.handles.coll.delete_many, {"_id": self._dialect.any_of(left)}, **self._dialect.by_id)
        removal.gone |= set(left)

    def _delete_versions(self, run: Run, chosen: Sequence[Found], query: Query | None) -> int:
        """Delete documents that are as they were read. Return how many."""
        coll, count = run.link.handles.coll, 0
        # A router of a sharded cluster may count a document twice in a command that deletes many, so each is deleted by itself.
        plain = [] if self._connection.is_routed else [each for each in chosen if _is_plain(each)]
        if plain:
            versions = {
                "_id": {"$in": [each.id for each in plain]},
                "revision": {"$in": [_revision(each) for each in plain]},
            }
            if query is not None:
                # Neither claimed nor settled since: both may have changed whether the message matches.
                versions["etag"] = {"$in": list({each.etag for each in plain})}
                versions["token"] = {"$in": list({each.token for each in plain})}
            count += run.send_many(coll.delete_many, versions, **self._dialect.by_id).deleted_count
        pinned = {each.id for each in plain}
        single = [each for each in chosen if each.id not in pinned]
        if single:
            requests = [DeleteOne({"_id": self._dialect.one(each.id), **each.proof}) for each in single]
            count += run.send_many(coll.bulk_write, requests, ordered=False).deleted_count
        return count

    def _read(self, link: Link, ids: Collection[str], *, whole: bool = False) -> list[Found]:
        """Return documents without their messages.

        :param whole: whether the messages are read, too. Only sound messages fail.
        """
        if not ids:
            return []
        wanted = {"_id": self._dialect.any_of(ids)}
        options = {"limit": len(ids), "batch_size": len(ids), **self._dialect.by_id}
        if whole:
            return [read(each).bare for each in link.handles.raw.find(wanted, **options)]
        return [read_outline(each) for each in link.handles.raw.find(wanted, {"msg": 0}, **options)]

    def _is_chosen(self, found: Found, query: Query | None) -> bool:
        return query is None or query.matches(found.content, self._connection.now_us() // 1000)

    def _put_if(
        self, some: Sequence[Write], expected: dict[str, tuple[str, Progress]], stored: set[str], run: Run
    ) -> None:
        left = list(some)
        if run.again:
            stored |= self._stored(run.link, some)
            left = [each for each in some if each.record.id not in stored]
        if not left:
            return
        requests = [
            ReplaceOne(
                {"_id": self._dialect.one(each.record.id), **expectation(*expected[each.record.id])}, each.document
            )
            for each in left
        ]
        if run.send_many(run.link.handles.coll.bulk_write, requests, ordered=False).matched_count == len(left):
            stored |= {each.record.id for each in left}
            return
        stored |= self._stored(run.link, left)
        if run.again:
            self._raise_doubts([each for each in left if each.record.id not in stored], expected, run.link)

    def _stored(self, link: Link, some: Sequence[Write]) -> set[str]:
        """Return the ids of the records that are stored."""
        ids, revisions = [each.record.id for each in some], [each.record.revision for each in some]
        wanted = {"_id": {"$in": ids}, "revision": {"$in": revisions}}
        options = {"limit": len(ids), "batch_size": len(ids), **self._dialect.by_id}
        return {each["_id"] for each in link.handles.majority.find(wanted, {"_id": 1}, **options)}

    def _raise_doubts(self, missing: Sequence[Write], expected: dict[str, tuple[str, Progress]], link: Link) -> None:
        """Raise an error if an earlier run may have stored one of these records, and another program has changed it since.

        :raises OutcomeUnknown: with the ids. A message that still has the revision of before was not changed.
        """
        old = {each.id: _revision(each) for each in self._read(link, [write.record.id for write in missing])}
        doubtful = [each.record.id for each in missing if old.get(each.record.id) != expected[each.record.id][0]]
        if doubtful:
            raise OutcomeUnknown(
                f"MongoDB at {self._connection.location} lost the reply to a change of {len(doubtful)} messages, and other "
                f"programs have changed them since. Whether they were changed by this call is not known.",
                ids=tuple(doubtful),
            )


def _revision(found: Found) -> str | None:
    return None if isinstance(found.content, Damaged) else found.content.revision


def _is_plain(found: Found) -> bool:
    """Whether three texts name the version of a document."""
    return (
        isinstance(found.content, Record)
        and (found.etag is None or type(found.etag) is str)
        and (found.token is None or type(found.token) is str)
    )
