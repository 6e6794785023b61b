"""Settlements: each is conditional on its token, many are sent in few commands, and the outcome of each is exact.

If the reply to a settlement gets lost, the settlement is sent again. Since it is conditional on its token, nothing is done
twice. The second run also finds out what the first one did: a message that was deleted is gone, and a message that was updated
has the mark of the settlement. If the message still has the token, the first run did nothing. If none of this is the case, another
program has changed the message meanwhile, and the outcome of the settlement cannot be known.
"""

from __future__ import annotations

import os

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import attrs

from pymongo import DeleteOne, UpdateOne
from pymongo.errors import OperationFailure

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Aside, Outcome, Progress, Settlement, from_instant
from pitstop_mongo._bson.raw import any_of, is_text
from pitstop_mongo._client.connection import Connection
from pitstop_mongo._client.failures import codes_of, is_invalid, is_refusal, is_too_large, translate
from pitstop_mongo._client.link import Link
from pitstop_mongo._client.run import Run
from pitstop_mongo._messages.document import EPOCH, progress_fields
from pitstop_mongo._messages.lease import set_aside
from pitstop_mongo._messages.unleasable import Unleasable


__all__ = ["Settler"]

#: Settlements of one command. An update finds the values of each document in a list, so a long list makes it slow.
_MOST_DELETES = 1000
_MOST_UPDATES = 100
#: Tokens of one command. Each document is compared with one token after the other.
_MOST_TOKENS = 16

#: If the server refuses this many settlements of a command, and accepts none, the command fails: the reason lies with the
#: server.
_MOST_REFUSED = 10

#: Every field that a settlement writes or removes.
_FIELDS = ("due", "scheduled_for", "attempts", "first_leased", "last_error", "token", "unsettled", "ahead", "excused")


#: The condition that no field of a document occurs twice. MongoDB 6.0.5 crashes if a pipeline updates such a field.
_FIELDS_OF_ROOT = {"$objectToArray": "$$ROOT"}
_NO_NAME_TWICE: dict[str, Any] = {
    "$expr": {
        "$eq": [
            {"$size": _FIELDS_OF_ROOT},
            {"$size": {"$setUnion": [{"$map": {"input": _FIELDS_OF_ROOT, "in": "$$this.k"}}]}},
        ]
    }
}


@attrs.frozen
class _Write:
    """One settlement that is being written."""

    id: str
    settlement: Settlement
    #: The mark that an update leaves in the document, by which it is recognised afterwards. It is unique.
    etag: str


_T = TypeVar("_T")
_Apply = Callable[[Sequence[_Write], int, Run], set[str]]


class _Refused(Exception):
    """The server refused all settlements of a command, for a reason that may lie in the documents."""

    def __init__(self, error: OperationFailure) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Settler:
    """Applies settlements for one backend."""

    def __init__(self, connection: Connection, unleasable: Unleasable) -> None:
        self._connection = connection
        self._unleasable = unleasable
        self._dialect = connection.dialect

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        """See :meth:`pitstop.abc.Backend.settle`."""
        nonce = os.urandom(16).hex()
        writes = [_Write(each.id, each, f"{nonce}:{index}") for index, each in enumerate(settlements)]
        # By their marks: two may be about one document, which two listeners had one after the other.
        applied: set[str] = set()
        unknown: set[str] = set()
        refused: list[tuple[_Refused, Sequence[_Write]]] = []
        for apply, some in chain.from_iterable(map(self._portions, _distinct(writes))):
            # The time of the first run: an ack that was first sent in time is still in time when it is sent again.
            try:
                now = self._connection.now_us() // 1000
                single = apply in (self._apply_one, self._apply_single)
                done, unclear = self._connection.until_known(partial(self._apply, apply, some, now), single=single)
                applied |= {each.etag for each in some if each.id in done}
                unknown |= {each.etag for each in some if each.id in unclear}
            except _Refused as refusal:
                # The settlements of other commands are written all the same.
                refused.append((refusal, some))
            except BackendUnavailable as error:
                if not (applied or unknown or isinstance(error, OutcomeUnknown)):
                    raise
                raise OutcomeUnknown(
                    f"{error} {_if_not(some)}",
                    ids=tuple(each.id for each in writes if each.etag not in applied),
                    permanent=error.permanent,
                ) from None
        if refused and not applied:
            translated = translate(refused[0][0].error, self._connection.location)
            if unknown:
                raise OutcomeUnknown(f"{translated} {_if_not(writes)}", ids=tuple(each.id for each in writes))
            # The refused document is no message that the caller gave, so the error is no MessageError.
            if isinstance(translated, BackendUnavailable):
                raise translated
            raise BackendUnavailable(str(translated))
        for each_refusal, unwritten in refused:
            self._log_refusal(unwritten, each_refusal.error)
        return [None if each.etag in unknown else each.etag in applied for each in writes]

    def _apply(self, apply: _Apply, some: Sequence[_Write], now: int, run: Run) -> tuple[set[str], set[str]]:
        """Send a command. If the server refuses a part of it, send its settlements one by one, so that one document that cannot
        be written does not block the others.

        :return: the ids of the messages whose settlements were applied, and of those for which that cannot be known.
        :raises _Refused: if the server refuses all of them, and none of them may have been written before.
        """
        try:
            return apply(some, now, run), run.unknown
        except OperationFailure as error:
            if not is_refusal(error):
                raise
            first = error
        doubted = run.again
        if len(some) > 1:
            # The command that was refused may have written some of them.
            run.again = True
        done, refused, tried_all = self._apply_each(some, now, run)
        left = [each for each in some if each.id not in done and each.id not in run.unknown] if refused else []
        if left and run.again:
            # An earlier command may have written some of those that the server refuses now.
            for look, deletes in ((self._deleted, True), (self._updated, False)):
                done |= look(run, [each for each in left if (each.settlement.progress is None) == deletes], 0)
            refused = [(each, why) for each, why in refused if each.id not in done and each.id not in run.unknown]
        if not tried_all or (refused and not done):
            if doubted or done or run.unknown:
                raise first
            raise _Refused(first)
        for each, why in refused:
            self._log_refusal([each], why)
        return done, run.unknown

    def _apply_each(
        self, some: Sequence[_Write], now: int, run: Run
    ) -> tuple[set[str], list[tuple[_Write, OperationFailure]], bool]:
        """Send settlements one by one, but not the rest if the server seems to refuse all.

        :return: the ids of those that were applied, those that the server refused, and whether all were sent.
        """
        done: set[str] = set()
        refused: list[tuple[_Write, OperationFailure]] = []
        # Deletes first: those that the command has done already show that the reason does not lie with the server.
        for each in sorted(some, key=lambda write: write.settlement.progress is not None):
            try:
                count = self._send_in_any_size(each, now, run)
            except OperationFailure as error:
                if not is_refusal(error):
                    raise
                refused.append((each, error))
                if len(refused) >= _MOST_REFUSED and not done and not is_invalid(error):
                    return done, refused, len(refused) == len(some)
            else:
                # Outside of the `try`: a read that is refused says nothing about the write before it.
                done |= self._applied(run, each, count)
        return done, refused, True

    def _send_in_any_size(self, write: _Write, now: int, run: Run) -> int:
        try:
            return self._send(write, now, run)
        except OperationFailure as error:
            if write.settlement.progress is None or not is_too_large(error):
                raise
        # The document has no room for the error. The rest of the settlement counts more.
        return self._send(write, now, run, with_error=False)

    def _send(self, write: _Write, now: int, run: Run, *, with_error: bool = True) -> int:
        """Send one settlement. Return to how many documents it was applied."""
        coll, filter, hint = _coll(run.link, [write]), self._fenced(write, now), self._dialect.by_id
        if write.settlement.progress is None:
            return int(run.send(coll.delete_one, filter, **hint).deleted_count)
        return int(run.send(coll.update_one, filter, self._update(write, with_error=with_error), **hint).matched_count)

    def _log_refusal(self, some: Sequence[_Write], error: OperationFailure) -> None:
        for each in some:
            self._unleasable.log(
                each.id,
                f"it cannot be settled, because the server refuses to write it (code {codes_of(error)}). It comes back when "
                f"its lease ends.",
            )

    def _portions(self, writes: Sequence[_Write]) -> Iterator[tuple[_Apply, list[_Write]]]:
        """Yield the settlements of each command, with the method that sends it: deletes of few tokens, updates of one token, or
        single writes of any kind. Behind a router of a sharded cluster all of them are single writes: it may count a document
        twice in a write of many documents.

        The command is given the writes, the time, and the run. It returns the ids of the settlements that were applied, by
        this run or by an earlier one.
        """
        if not self._dialect.batches:
            yield from ((self._apply_one, [each]) for each in writes)
            return
        groups: dict[tuple[str, bool], list[_Write]] = defaultdict(list)
        single: list[_Write] = []
        routed = self._connection.is_routed
        deleted: list[list[_Write]] = []
        for each in writes:
            aside = isinstance(each.settlement.progress, Aside)
            if aside and not is_text(each.id):
                # A record with such an id is damaged, so it can only be set aside.
                yield self._apply_one, [each]
            elif aside or routed:
                single.append(each)
            else:
                groups[each.settlement.token, each.settlement.progress is None].append(each)
        for (_, deletes), group in groups.items():
            if len(group) == 1:
                single += group
            elif deletes:
                deleted.append(group)
            else:
                yield from ((self._update_many, chunk) for chunk in _chunks(group, _MOST_UPDATES))
        # A batch of acks may belong to two claims, if the second claim was made meanwhile. It takes one command nevertheless.
        for few in _chunks(deleted, _MOST_TOKENS):
            merged = [each for group in few for each in group]
            yield from ((self._delete_many, chunk) for chunk in _chunks(merged, _MOST_DELETES))
        for chunk in _chunks(single, _MOST_DELETES):
            yield (self._apply_one if len(chunk) == 1 else self._apply_single), chunk

    def _applied(self, run: Run, write: _Write, count: int) -> set[str]:
        look = self._deleted if write.settlement.progress is None else self._updated
        return look(run, [write], count)

    def _apply_one(self, some: Sequence[_Write], now: int, run: Run) -> set[str]:
        (write,) = some
        return self._applied(run, write, self._send(write, now, run))

    def _apply_single(self, some: Sequence[_Write], now: int, run: Run) -> set[str]:
        """Send writes of several tokens or kinds, in one command that the driver repeats by itself where it can."""
        hint = self._dialect.by_id
        deletes = [each for each in some if each.settlement.progress is None]
        updates = [each for each in some if each.settlement.progress is not None]
        requests: list[DeleteOne | UpdateOne] = [
            *(DeleteOne(self._fenced(each, now), **hint) for each in deletes),
            *(UpdateOne(self._fenced(each, now), self._update(each), **hint) for each in updates),
        ]
        # The deletes and the updates are a command each.
        send = run.send_many if deletes and updates else run.send
        result = send(_coll(run.link, some).bulk_write, requests, ordered=False)
        deleted = self._deleted(run, deletes, result.deleted_count)
        return deleted | self._updated(run, updates, result.matched_count)

    def _delete_many(self, some: Sequence[_Write], now: int, run: Run) -> set[str]:
        by_token: dict[str, list[str]] = defaultdict(list)
        for each in some:
            by_token[each.settlement.token].append(each.id)
        filter: dict[str, Any] = {"_id": {"$in": [each.id for each in some]}, "due": _unexpired(now)}
        if len(by_token) == 1:
            filter["token"] = {"$eq": some[0].settlement.token}
        else:
            filter["$or"] = [{"token": {"$eq": token}, "_id": {"$in": ids}} for token, ids in by_token.items()]
        count = run.send_many(run.link.handles.settling.delete_many, filter, **self._dialect.by_id).deleted_count
        return self._deleted(run, some, count)

    def _update_many(self, some: Sequence[_Write], now: int, run: Run) -> set[str]:
        ids = [each.id for each in some]
        # All values that differ between the documents are inside a $literal, so the server evaluates none of them.
        values = [progress_fields(_progress(each)) | {"etag": each.etag} for each in some]
        place = {"$indexOfArray": [{"$literal": ids}, "$_id"]}
        pipeline = [
            {"$set": {"_settled": {"$arrayElemAt": [{"$literal": values}, place]}}},
            # This removes a field that is not among the values.
            {"$set": {name: f"$_settled.{name}" for name in (*_FIELDS, "etag")}},
            {"$unset": "_settled"},
        ]
        filter = {"_id": {"$in": ids}, **_fence(some[0].settlement.token, now), **_NO_NAME_TWICE}
        count = run.send_many(_coll(run.link, some).update_many, filter, pipeline, **self._dialect.by_id).matched_count
        done = self._updated(run, some, count)
        # These are stale, or a name occurs twice in their documents. The latter can be written one by one.
        left = [each for each in some if each.id not in done]
        return done | self._apply_single(left, now, run) if left else done

    def _deleted(self, run: Run, some: Sequence[_Write], count: int) -> set[str]:
        """Return the ids of the messages that were deleted: those that do not exist any more.

        If several messages were to be deleted, and another program removed one of them, that one counts as deleted here. A
        read before each delete could tell them apart nearly always, but made a drain a quarter slower.

        The read comes after a write. The write has waited until a majority has the changes of the run before.

        :param count: how many messages this command deleted.
        """
        ids = {each.id for each in some}
        if count == len(ids) or (count == 0 and not run.again):
            return ids if count else set()
        if not all(map(is_text, ids)):
            # Such a message is alone in its command.
            found = run.link.handles.raw.find_one({"_id": any_of(ids)}, {"_id": 1}, **self._dialect.by_id)
            return ids if found is None else set()
        tokens = self._tokens(run, ids)
        if run.again or len(ids) - len(tokens) < count:
            # One of them may have been deleted and stored again. One that still has its token was not deleted.
            run.unknown |= {each.id for each in some if each.id in tokens and tokens[each.id] != each.settlement.token}
        return ids - tokens.keys()

    def _updated(self, run: Run, some: Sequence[_Write], count: int) -> set[str]:
        """Return the ids of the messages that were updated: those with the mark of their settlement. A claim keeps the mark.

        :param count: how many messages this command found.
        """
        ids = {each.id for each in some}
        if count == len(ids) or (count == 0 and not run.again):
            return ids if count else set()
        of = {each.etag: each.id for each in some}
        wanted = {
            "_id": {"$in": list(ids)} if all(map(is_text, ids)) else any_of(ids),
            "etag": {"$in": list(of)},
        }
        found = run.link.handles.settled.find(wanted, {"_id": 0, "etag": 1}, **self._at_once(len(ids)))
        done = {of[each["etag"]] for each in found}
        # Of an extension it does not matter: the lease is over in either case.
        left = [each for each in some if each.id not in done and each.settlement.outcome is not Outcome.EXTEND]
        left = [each for each in left if is_text(each.id)]
        if left and (run.again or len(done) < count):
            tokens = self._tokens(run, {each.id for each in left})
            run.unknown |= {each.id for each in left if tokens.get(each.id) != each.settlement.token}
        return done

    def _tokens(self, run: Run, ids: Collection[str]) -> dict[str, object]:
        """Return the tokens of those messages that exist."""
        found = run.link.handles.settled.find(
            {"_id": {"$in": list(ids)}}, {"_id": 1, "token": 1}, **self._at_once(len(ids))
        )
        return {each["_id"]: each.get("token") for each in found}

    def _at_once(self, count: int) -> dict[str, Any]:
        """Return the options of a read of ``count`` ids in one reply. By default the server would begin with 101."""
        return {"limit": count, "batch_size": count, **self._dialect.by_id}

    @staticmethod
    def _update(write: _Write, *, with_error: bool = True) -> dict[str, Any]:
        """Return the update that writes a settlement.

        :param with_error: whether with the error, which may be too long for a document of another program.
        """
        progress = write.settlement.progress
        if isinstance(progress, Aside):
            return set_aside(progress.last_error, write.etag) if with_error else set_aside(None)
        fields = progress_fields(_progress(write)) | {"etag": write.etag}
        absent = [name for name in _FIELDS if name not in fields]
        if not with_error:
            fields.pop("last_error", None)
        return {"$set": fields} | ({"$unset": dict.fromkeys(absent, "")} if absent else {})

    def _fenced(self, write: _Write, now: int) -> dict[str, Any]:
        return {"_id": self._dialect.one(write.id), **_fence(write.settlement.token, now)}


def _if_not(some: Sequence[_Write]) -> str:
    """Return the sentence that says what happens if these settlements were not written."""
    outcomes = {each.settlement.outcome for each in some}
    if Outcome.EXTEND in outcomes:
        return "If it was not, the lease ends as before."
    if any(each.settlement.outcome is Outcome.RELEASE and each.settlement.progress is not None for each in some):
        return "Call get() to see the message. If it is still leased, it comes back when its lease ends."
    return "If it was not, the message comes back when its lease ends."


def _coll(link: Link, some: Sequence[_Write]) -> Any:
    """Return the collection with the right write concern. An extended lease must last, while an ack may be undone."""
    lasting = any(each.settlement.outcome is Outcome.EXTEND for each in some)
    return link.handles.coll if lasting else link.handles.settling


def _fence(token: str, now: int) -> dict[str, Any]:
    return {"token": {"$eq": token}, "due": _unexpired(now)}


def _unexpired(now: int) -> dict[str, Any]:
    # A leased message has a `due` in the future. A dead one has none, or one that does not count.
    return {"$not": {"$gte": EPOCH, "$lte": from_instant(now)}}


def _progress(write: _Write) -> Progress:
    progress = write.settlement.progress
    assert isinstance(progress, Progress), "a settlement without a progress is a delete"
    return progress


def _distinct(writes: list[_Write]) -> list[list[_Write]]:
    """Return portions in which each document occurs once, because the outcome of a command is given by ids."""
    if len({each.id for each in writes}) == len(writes):
        return [writes]
    portions: dict[int, list[_Write]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for each in writes:
        portions[seen[each.id]].append(each)
        seen[each.id] += 1
    return list(portions.values())


def _chunks(items: list[_T], size: int) -> Iterator[list[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
