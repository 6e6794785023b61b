"""The collection: looked at once by each process before it is used, and refused where messages would get lost in it.

::

    refused                           because
    a view, a time series             they cannot hold messages
    capped                            the oldest messages would be thrown out
    a default collation               ids that differ in case alone could be one
    a TTL index on a time of ours     the server would delete messages
    another kind of index on due      it cannot answer a claim, and none that can may stand beside it
    only documents of others          they would be taken for damaged messages
    none, with create=False           it is not to be made

What the user may not look at is not looked at. The index on ``due`` is made if it is missing.
"""

from __future__ import annotations

import json
import logging

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from pymongo.errors import ExecutionTimeout, NetworkTimeout, OperationFailure
from pymongo.read_preferences import ReadPreference

from pitstop import BackendUnavailable
from pitstop_mongo._bson.codecs import CODEC, fields_of
from pitstop_mongo._client.dialect import Handles
from pitstop_mongo._client.failures import Kind, kind_of


__all__ = ["Collection", "refused", "validation_rules"]

_log = logging.getLogger("pitstop.mongo")

#: Not allowed, also in the words of hosted servers; or not known to a server that only resembles MongoDB.
_MAY_NOT = frozenset({13, 8000})
_CANNOT_LOOK = _MAY_NOT | {59, 115, 238}
_IS_A_VIEW = 166
_CLASHES = frozenset({85, 86})

_INDEX = {"due": 1}
#: What an index with the right key must not be, by the option that makes it so.
_FLAWS = {
    "unique": "unique, so two messages could not be due at the same time",
    "sparse": "sparse, so it does not know the dead messages",
    "partialFilterExpression": "partial, so it does not know all messages",
    "hidden": "hidden, so nothing may use it (db.collection.unhideIndex() shows it)",
    "collation": "one with a collation, which claims cannot use",
}
#: Fields with times: a TTL index on one of them deletes messages.
_TIMES = frozenset({"due", "scheduled_for", "first_leased"})

#: Documents that are looked at: enough that a damaged one, or one of somebody else's, does not decide.
_SAMPLE = 10
#: Fields of Pitstop's. A document that has some of them is no document of others, whatever is in them.
_OURS = frozenset({"revision", "scheduled_for", "attempts", "etag", "token", "first_leased", "last_error"})
_ENOUGH = 3
_TELLTALES = (*sorted(_OURS), "ready", "locked")


def refused(text: str) -> BackendUnavailable:
    """The error for what will not work until somebody changes something."""
    return BackendUnavailable(text, permanent=True)


def validation_rules(coll: Any) -> Any:
    """Return the rules for which the server refuses updates of documents that break them.

    None: an administrator gave the collection no such rules, or this user may not read them.
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
        """Look at the collection, and make the index if it is missing: two to four commands.

        :param foreign: whether it may hold nothing but documents of others.
        :raises BackendUnavailable: when it cannot be used; the text says why, and what to do.
        """
        found = self.look(foreign=foreign)
        if found is None and not self.create and self._answers_by_index():
            # It may be that there is no collection: then to make the index would make both.
            return
        if not found:
            self._make_index(known_missing=found is False)

    def look(self, *, foreign: bool = False) -> bool | None:
        """The same without making anything. Whether the index is there; None: that may not be known.

        :raises BackendUnavailable: as above.
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
        """Refuse a collection that is not there, if it may not be made. Go on if this user may not know.

        :param info: the server's description of the collection, if it was asked.
        :raises BackendUnavailable: if there is no such collection.
        """
        if self.create:
            return
        if info is None:
            info = self._info()
        # A collection has an index from the beginning, so one without any is not there.
        if info == {} or (info is None and self._indexes() == []):
            raise refused(
                f"There is no collection at {self.location}, and none is made here (create=False). Look whether the names of "
                f"the database and the collection are right. 'pitstop store' makes a new one, and so does pitstop.init() "
                f"without create=False."
            )

    def _info(self) -> Mapping[str, Any] | None:
        """What the server knows about it; empty: it is not there yet; None: may not be known."""
        database = self.handles.coll.database.with_options(codec_options=CODEC, read_preference=ReadPreference.PRIMARY)
        try:
            found = list(database.list_collections(filter={"name": self.handles.coll.name}))
        except OperationFailure as error:
            self._not_looked("what kind of collection it is", error)
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
            raise refused(f"{self._it} is capped: the server would throw out the oldest messages. {_ANOTHER}")
        if locale != "simple":
            raise refused(
                f"{self._it} has a default collation (locale {locale!r}): ids that differ in case alone could be one. "
                f"{_ANOTHER}"
            )

    def _is_a_view(self) -> BackendUnavailable:
        return refused(f"{self._it} is a view, which cannot hold messages. {_ANOTHER}")

    def _check_documents(self) -> None:
        cursor = self.handles.raw.find({}, dict.fromkeys(_TELLTALES, 1), limit=_SAMPLE, batch_size=_SAMPLE)
        sample = [fields_of(document) for document in cursor]
        if not sample or any(_is_ours(each) for each in sample):
            return
        what = f"not one of the first {len(sample)} documents is a message of Pitstop's"
        if all("ready" in each and "locked" in each for each in sample):
            raise refused(
                f"{self._it} holds messages of the Clojure library ({what}). "
                f"Take them over with: pitstop adopt --url URL (this store's; it tells first what it would do)."
            )
        raise refused(f"{self._it} holds documents of others: {what}. {_ANOTHER}")

    def _indexes(self) -> list[Mapping[str, Any]] | None:
        """Its indexes; None: may not be known."""
        try:
            return list(self.handles.coll.list_indexes())
        except OperationFailure as error:
            if error.code == _IS_A_VIEW:
                raise self._is_a_view() from None
            self._not_looked("which indexes there are", error)
            return None

    def _check_indexes(self, indexes: Iterable[Mapping[str, Any]]) -> bool:
        """Whether the one that is needed is there."""
        found = False
        for index in indexes:
            key, name = dict(index["key"]), index["name"]
            drop = f"Drop it, in mongosh: {self._shell}.dropIndex({json.dumps(name)})"
            if "expireAfterSeconds" in index and len(key) == 1 and _TIMES & key.keys():
                raise refused(f"{self._it} has a TTL index {name!r}: the server would delete messages. {drop}")
            flaws = [flaw for option, flaw in _FLAWS.items() if index.get(option)]
            if key == _INDEX and flaws:
                raise refused(
                    f"{self._it} has an index {name!r} on due that is {flaws[0]}. {drop} "
                    f"(Pitstop then makes the plain one that it needs)."
                )
            found = found or key == _INDEX
        return found

    def _make_index(self, *, known_missing: bool) -> None:
        try:
            self.handles.coll.create_index(list(_INDEX.items()))
        except (ExecutionTimeout, NetworkTimeout):
            raise BackendUnavailable(
                f"{self._it} needs the index {{ due: 1 }}, and it was not made within operation_timeout. In a large "
                f"collection the server may be at it still: then try again later. Or: {self._make_it_by_hand}"
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

    def _answers_by_index(self) -> bool:
        """Whether the index is there, for one who may not ask what there is."""
        try:
            self.handles.raw.find_one({}, {"_id": 1}, hint=list(_INDEX.items()))
        except OperationFailure as error:
            if "hint" not in str(error):
                raise
            return False
        return True

    def _not_looked(self, at: str, error: OperationFailure) -> None:
        if error.code not in _CANNOT_LOOK:
            raise error
        _log.debug("not looked at in %s, this user may not: %s (code %s)", self.location, at, error.code)

    def _name_is_taken(self) -> BackendUnavailable:
        return refused(
            f"{self._it} has another index by the name 'due_1', so {{ due: 1 }} cannot have it. "
            f"Drop that one, or make the index under another name, in mongosh: "
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


_ANOTHER = "Give, as coll, the name of a collection that Pitstop has to itself; it is made if it is not there."


def _is_ours(fields: Mapping[str, Any]) -> bool:
    """Whether a document is a message, damaged or not: those that were set aside may be all that is left."""
    if isinstance(fields.get("revision"), str) and "scheduled_for" in fields:
        return True
    return len(_OURS & fields.keys()) >= _ENOUGH
