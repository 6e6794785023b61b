"""The collection: checked once by each process before its first use, and refused if messages would get lost in it.

::

    refused                           because
    a view, a time series             they cannot hold messages
    capped                            the server would delete the oldest messages
    a default collation               ids that differ only in case could become equal
    a TTL index on a time of ours     the server would delete messages
    another kind of index on due      it cannot answer a claim, and the right index cannot stand beside it
    only documents of other programs  they would be taken for damaged messages
    no collection, with create=False  it may not be made

A check that the user has no rights for is left out. The index on ``due`` is made if it is missing. The index on ``kind`` and
``due`` is made when a listener first asks for some kinds: see :mod:`pitstop_mongo._client.kind_index`.
"""

from __future__ import annotations

import json
import logging

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs

from pymongo.errors import ExecutionTimeout, NetworkTimeout, OperationFailure
from pymongo.read_preferences import ReadPreference

from pitstop import BackendUnavailable
from pitstop.abc import log_fields
from pitstop_mongo._bson.codecs import CODEC, fields_of
from pitstop_mongo._client.dialect import Handles
from pitstop_mongo._client.failures import Kind, kind_of


__all__ = ["Collection", "refused", "validation_rules"]

_log = logging.getLogger("pitstop.mongo")

#: Codes of "not allowed", also of hosted servers; and of "unknown command", of a server that only resembles MongoDB.
_MAY_NOT = frozenset({13, 8000})
_CANNOT_LOOK = _MAY_NOT | {59, 115, 238}
_IS_A_VIEW = 166
_CLASHES = frozenset({85, 86})
#: Codes of a build that was killed.
_KILLED = frozenset({276, 11601})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INDEX = {"due": 1}
_INDEX_OF_KINDS = {"kind": 1, "due": 1}
#: The name that MongoDB gives the index of the kinds, and the name for an administrator if the first one is taken.
_NAME_OF_KINDS, _SPARE_NAME = "kind_1_due_1", "pitstop_kind_due"
#: Flaws of an index with the right key, by the option that causes them.
_FLAWS = {
    "unique": "unique, so two messages could not be due at the same time",
    "sparse": "sparse, so it does not know the dead messages",
    "partialFilterExpression": "partial, so it does not know all messages",
    "hidden": "hidden, so nothing may use it (db.collection.unhideIndex() shows it)",
    "collation": "one with a collation, which claims cannot use",
}
#: Fields with times. A TTL index on one of them deletes messages.
_TIMES = frozenset({"due", "scheduled_for", "first_leased"})

#: Documents that are read: enough that a single one that is damaged, or of another program, does not decide.
_SAMPLE = 10
#: Fields of Pitstop's. A document that has some of them is not of another program, whatever their values.
_OURS = frozenset({"revision", "scheduled_for", "attempts", "etag", "token", "first_leased", "last_error"})
_ENOUGH = 3
_TELLTALES = (*sorted(_OURS), "ready", "locked")


def refused(text: str) -> BackendUnavailable:
    """Return the error for a collection that cannot be used until a person changes something."""
    return BackendUnavailable(text, permanent=True)


def validation_rules(coll: Any) -> Any:
    """Return the rules for which the server refuses updates of documents that break them.

    Return None if an administrator gave the collection no such rules, or if this user may not read them.
    """
    database = coll.database.with_options(codec_options=CODEC, read_preference=ReadPreference.PRIMARY)
    try:
        found = list(database.list_collections(filter={"name": coll.name}))
    except OperationFailure as error:
        if kind_of(error) is Kind.UNKNOWN:
            raise
        return None
    options = found[0].get("options", {}) if found else {}
    # At the level "moderate" a document that breaks the rules already may be updated.
    strict = options.get("validationAction") != "warn" and options.get("validationLevel", "strict") == "strict"
    return options.get("validator") if strict else None


@attrs.frozen
class Collection:
    """The collection of one backend, in one process."""

    handles: Handles
    #: For errors.
    location: str
    #: Whether it may be made.
    create: bool = True

    def prepare(self, *, foreign: bool = False) -> None:
        """Check the collection, and make the index if it is missing. This takes two to four commands.

        :param foreign: whether a collection with documents of other programs alone is accepted.
        :raises BackendUnavailable: if the collection cannot be used. The text says why, and what to do.
        """
        found = self.look(foreign=foreign)
        if found is None and not self.create and self._answers_by_index():
            # There may be no collection. Making the index would make the collection, too.
            return
        if not found:
            self._make_index(known_missing=found is False)

    def look(self, *, foreign: bool = False) -> bool | None:
        """Check the collection without making anything. Return whether the index is there; None if the user may not know.

        :raises BackendUnavailable: as :meth:`prepare` does.
        """
        info = self._info()
        if info == {}:
            self.must_exist(info)
            return False
        self._check_kind(info or {})
        if not foreign:
            self._check_documents()
        indexes = self._indexes()
        return None if indexes is None else self._check_indexes(indexes)

    def must_exist(self, info: Mapping[str, Any] | None = None) -> None:
        """Refuse a collection that does not exist, if it may not be made. Accept it if this user may not know.

        :param info: the server's description of the collection, if it was asked.
        :raises BackendUnavailable: if there is no such collection.
        """
        if self.create:
            return
        if info is None:
            info = self._info()
        # Each collection has an index from the beginning. One without an index does not exist.
        if info == {} or (info is None and self._indexes() == []):
            raise refused(
                f"There is no collection at {self.location}, and none is made here (create=False). Check the names of the "
                f"database and the collection. 'pitstop store' makes a new collection, and so does pitstop.init() without "
                f"create=False."
            )

    def _info(self) -> Mapping[str, Any] | None:
        """Return the server's description of the collection: empty if it does not exist, None if this user may not know."""
        database = self.handles.coll.database.with_options(codec_options=CODEC, read_preference=ReadPreference.PRIMARY)
        try:
            found = list(database.list_collections(filter={"name": self.handles.coll.name}))
        except OperationFailure as error:
            self._unchecked("the kind of the collection", error)
            return None
        return found[0] if found else {}

    def _check_kind(self, info: Mapping[str, Any]) -> None:
        options = info.get("options", {})
        locale = options.get("collation", {}).get("locale", "simple")
        if info.get("type") == "view":
            raise self._is_a_view()
        if info.get("type") == "timeseries":
            raise refused(f"{self._it} is a time series, which cannot hold messages. {_ANOTHER}")
        if options.get("capped"):
            raise refused(f"{self._it} is capped: the server would delete the oldest messages. {_ANOTHER}")
        if locale != "simple":
            raise refused(
                f"{self._it} has a default collation (locale {locale!r}): ids that differ only in case could become equal. "
                f"{_ANOTHER}"
            )

    def _is_a_view(self) -> BackendUnavailable:
        return refused(f"{self._it} is a view, which cannot hold messages. {_ANOTHER}")

    def _check_documents(self) -> None:
        cursor = self.handles.raw.find({}, dict.fromkeys(_TELLTALES, 1), limit=_SAMPLE, batch_size=_SAMPLE)
        sample = [fields_of(document) for document in cursor]
        if not sample or any(_is_ours(each) for each in sample):
            return
        what = f"none of the first {len(sample)} documents is a message of Pitstop's"
        if all("ready" in each and "locked" in each for each in sample):
            raise refused(
                f"{self._it} holds messages of the Clojure library ({what}). "
                f"Take them over with: pitstop adopt --url URL (the URL of this store; the command first shows what it would do)."
            )
        raise refused(f"{self._it} holds documents of another program: {what}. {_ANOTHER}")

    def _indexes(self) -> list[Mapping[str, Any]] | None:
        """Return the indexes of the collection; None if this user may not know them."""
        try:
            return list(self.handles.coll.list_indexes())
        except OperationFailure as error:
            if error.code == _IS_A_VIEW:
                raise self._is_a_view() from None
            self._unchecked("the indexes", error)
            return None

    def _check_indexes(self, indexes: Iterable[Mapping[str, Any]]) -> bool:
        """Whether the index that claims need is there."""
        found = False
        for index in indexes:
            key, name = dict(index["key"]), index["name"]
            drop = f"Drop it, in mongosh: {self._shell}.dropIndex({json.dumps(name)})"
            if "expireAfterSeconds" in index and len(key) == 1 and _TIMES & key.keys():
                raise refused(f"{self._it} has a TTL index {name!r}: the server would delete messages. {drop}")
            flaw = _flaw_of(index)
            if key == _INDEX and flaw:
                raise refused(
                    f"{self._it} has an index {name!r} on due that is {flaw}. {drop} "
                    f"(Pitstop then makes the plain index that it needs)."
                )
            found = found or key == _INDEX
        return found

    def index_of_kinds(self) -> str | None:
        """Return the name of the index of the kinds; None if there is none that claims can use now.

        The server lists an index from the beginning of its build, and uses it from the end. So a query tries the index.
        """
        indexes = self._indexes()
        if indexes is None:
            # A user who may not list the indexes may still use them.
            return next((name for name in (_NAME_OF_KINDS, _SPARE_NAME) if self._is_planned(name)), None)
        fit = (index["name"] for index in indexes if _is_of_kinds(index) and not _flaw_of(index))
        return next((name for name in fit if self._answers_by_index(name)), None)

    def make_index_of_kinds(self) -> str:
        """Make the index of the kinds, or wait for its build. Return its name. In a large collection this may take minutes.

        :raises BackendUnavailable: if the server refuses it, or if claims cannot use it. The text says why, and what to do.
        """
        refusal: OperationFailure | None = None
        try:
            self.handles.coll.create_index(list(_INDEX_OF_KINDS.items()))
        except OperationFailure as error:
            # A server that is about to stop, or a new primary, is asked again. An administrator who killed the build is not.
            if kind_of(error) is Kind.UNKNOWN and error.code not in _KILLED:
                raise
            refusal = error
        name = self.index_of_kinds()
        if name is None:
            raise self._has_no_index_of_kinds(refusal) from None
        return name

    def _has_no_index_of_kinds(self, refusal: OperationFailure | None) -> BackendUnavailable:
        flawed = [(index["name"], _flaw_of(index)) for index in self._indexes() or () if _is_of_kinds(index)]
        why = "" if refusal is None else f", and the server refuses to make it (code {refusal.code})"
        beside = "".join(f" The index {name!r} on these fields is {flaw}." for name, flaw in flawed if flaw)
        name = f', {{ name: "{_SPARE_NAME}" }}' if beside or (refusal is not None and refusal.code in _CLASHES) else ""
        return refused(
            f"{self._it} has no index {{ kind: 1, due: 1 }} that claims can use{why}.{beside} Without it, listeners of some "
            f"kinds read all messages that are due. Pitstop looks again each minute. Let an administrator make it, in mongosh: "
            f"{self._shell}.createIndex({{ kind: 1, due: 1 }}{name})"
        )

    def _is_planned(self, name: str) -> bool:
        """Whether the server plans a claim of some kinds by this index, and it is the right one without flaws."""
        coll = self.handles.coll
        query = {"find": coll.name, "filter": {"kind": "", "due": {"$gte": _EPOCH}}, "hint": name, "limit": 1}
        try:
            explained = coll.database.command("explain", query, verbosity="queryPlanner")
        except OperationFailure as error:
            if kind_of(error) is Kind.UNKNOWN:
                raise
            return False
        scan = _scan_by(name, explained) or {}
        flawed = scan.get("isPartial") or scan.get("isSparse") or scan.get("isUnique") or scan.get("collation")
        return list(scan.get("keyPattern", {}).items()) == list(_INDEX_OF_KINDS.items()) and not flawed

    def _make_index(self, *, known_missing: bool) -> None:
        try:
            self.handles.coll.create_index(list(_INDEX.items()))
        except (ExecutionTimeout, NetworkTimeout):
            raise BackendUnavailable(
                f"{self._it} needs the index {{ due: 1 }}, which was not made within operation_timeout. In a large "
                f"collection the server may still be making it. Then try again later. Or: {self._make_it_by_hand}"
            ) from None
        except OperationFailure as error:
            if error.code == _IS_A_VIEW:
                raise self._is_a_view() from None
            if error.code in _CLASHES:
                raise self._name_is_taken() from None
            if error.code not in _MAY_NOT:
                raise
            if not known_missing and self._answers_by_index():
                return
            raise refused(
                f"{self._it} needs the index {{ due: 1 }}, which is missing, and this user may not create it. "
                f"{self._make_it_by_hand}"
            ) from None

    def _answers_by_index(self, name: str | None = None) -> bool:
        """Whether the index is there. A user who may not list the indexes may still use it.

        :param name: the name of the index; None: the index on ``due``, whatever its name is.
        """
        try:
            self.handles.raw.find_one({}, {"_id": 1}, hint=list(_INDEX.items()) if name is None else name)
        except OperationFailure as error:
            if "hint" not in str(error):
                raise
            return False
        return True

    def _unchecked(self, part: str, error: OperationFailure) -> None:
        if error.code not in _CANNOT_LOOK:
            raise error
        text, extra = (
            "not checked in %s, because this user may not: %s (code %s)",
            log_fields("not_checked", backend="mongodb"),
        )
        _log.debug(text, self.location, part, error.code, extra=extra)

    def _name_is_taken(self) -> BackendUnavailable:
        return refused(
            f"{self._it} has another index with the name 'due_1', so the index {{ due: 1 }} cannot have this name. "
            f"Drop the other index, or make the index under another name, in mongosh: "
            f'{self._shell}.createIndex({{ due: 1 }}, {{ name: "pitstop_due" }})'
        )

    @property
    def _it(self) -> str:
        return f"The collection at {self.location}"

    @property
    def _shell(self) -> str:
        coll = self.handles.coll
        return f"db.getSiblingDB({json.dumps(coll.database.name)}).getCollection({json.dumps(coll.name)})"

    @property
    def _make_it_by_hand(self) -> str:
        return f"Let an administrator do it once, in mongosh: {self._shell}.createIndex({{ due: 1 }})"


_ANOTHER = "Give as coll the name of a collection for Pitstop alone. It is made if it does not exist."


def _is_ours(fields: Mapping[str, Any]) -> bool:
    """Whether a document is a message, damaged or not. Messages that were set aside may be all that is left."""
    if isinstance(fields.get("revision"), str) and "scheduled_for" in fields:
        return True
    return len(_OURS & fields.keys()) >= _ENOUGH


def _flaw_of(index: Mapping[str, Any]) -> str | None:
    return next((flaw for option, flaw in _FLAWS.items() if index.get(option)), None)


def _is_of_kinds(index: Mapping[str, Any]) -> bool:
    return list(index["key"].items()) == list(_INDEX_OF_KINDS.items())


def _scan_by(name: str, plan: Any) -> Mapping[str, Any] | None:
    """Return the stage of an explained plan that scans this index."""
    if isinstance(plan, Mapping):
        if plan.get("indexName") == name:
            return plan
        plan = list(plan.values())
    if not isinstance(plan, list):
        return None
    return next((found for part in plan if (found := _scan_by(name, part)) is not None), None)
