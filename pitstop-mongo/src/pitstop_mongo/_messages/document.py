"""Documents: how a record is stored in MongoDB, and how it is read back without trusting its values.

::

    _id            the message's id
    msg            the message, and nothing else: the only field with a user's data
    due            when it may next be claimed: the field that decides; absent if dead, null if set aside
    scheduled_for  the nominal time of the current occurrence
    series         the recurrence, in a form that only core reads; absent for a one-shot
    kind           the kind by which listeners choose; absent if none was given
    policy         the policies of this message alone, in a form that only core reads; absent if it has none
    revision       new at each store
    attempts       claims of the current occurrence
    first_leased   when the current occurrence was claimed first; absent until then
    last_error     the error of the last failure; absent if nothing failed
    token          of the last claim; absent before the first one
    unsettled      claims since the last settlement; absent if there was none
    ahead          how many of these claimed several messages at once; absent if none did
    excused        attempts that do not count against max_attempts; absent if there is none
    etag           new at each store and each settlement
    adopting       only while an adoption holds the document: see _adopt
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import bson

from bson import DatetimeMS, Int64
from bson.dbref import DBRef
from bson.raw_bson import RawBSONDocument

from pitstop.abc import Damaged, Progress, Record, floor_instant, from_instant, read_record
from pitstop_mongo._bson.codecs import UNREADABLE, codec_for, fields_of
from pitstop_mongo._bson.raw import Element, elements, equal_to


__all__ = [
    "EPOCH",
    "LARGEST",
    "LAST",
    "LAST_INSTANT",
    "MOST_ATTEMPTS",
    "TOO_LARGE",
    "Ambiguous",
    "Found",
    "document_of",
    "documents_of",
    "has_progress",
    "progress_fields",
    "read",
    "read_outline",
]

#: The bounds of a valid ``due``. Any other value in that field counts as none.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
LAST_INSTANT = floor_instant(LAST)

#: Bytes of the largest document that Pitstop writes. A store leaves 64 KiB of MongoDB's 16 MiB free, and a lease and a
#: settlement need less than 16 KiB of these. A larger document comes from another program.
LARGEST = 16 * 1024 * 1024 - 16 * 1024
#: The largest number of attempts. The server refuses to count beyond it.
MOST_ATTEMPTS = 2**63 - 1
#: The error of a document that can be read, but has no room for a lease, and so is set aside.
TOO_LARGE = (
    "Damaged: the document is larger than any document that Pitstop stores, so it has no room for a lease. "
    "Store a smaller message under this id, or remove it."
)

_OF_THE_CLOJURE_LIBRARY = "A message of the Clojure library, not taken over yet: run 'pitstop adopt'."

_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
_MILLISECOND = timedelta(milliseconds=1)

#: Fields that are absent if they are 0.
_COUNTS = frozenset({"unsettled", "ahead", "excused"})

#: The fields by which :attr:`Found.proof` finds a document.
_PROVING = frozenset({b"etag", b"token"})
#: The element of an empty message.
_NO_MESSAGE = b"\x03msg\x00" + bson.encode({})

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class Ambiguous(Exception):
    """The decoder made a DBRef of a mapping that a user stored. The bytes must be read instead."""


class _Foreign(Exception):
    """A value that Pitstop never stores."""


@attrs.frozen
class Found:
    """A document that was read."""

    content: Record | Damaged
    #: As they are in the document. At a claim they prove that the document is unchanged since it was read.
    etag: Any
    token: Any

    #: The bytes of the document's fields, by name. None if the values above are exact.
    exact: Mapping[bytes, Element] | None = attrs.field(default=None, repr=False)

    @property
    def id(self) -> str:
        return self.content.id

    @property
    def bare(self) -> Found:
        """The same without the message, for readers that keep many."""
        content = self.content
        if isinstance(content, Record):
            content = attrs.evolve(content, message={})
        exact = self.exact
        if exact is not None:
            exact = {name: element for name, element in exact.items() if name in _PROVING}
        return attrs.evolve(self, content=content, exact=exact)

    @property
    def sound(self) -> bool:
        """Whether a claim may lease it together with other documents."""
        content = self.content
        return (
            type(content) is Record
            and content.progress.attempts < MOST_ATTEMPTS
            and content.progress.unsettled < MOST_ATTEMPTS
            and content.progress.ahead < MOST_ATTEMPTS
            and (self.etag is None or type(self.etag) is str)
        )

    @property
    def proof(self) -> dict[str, Any]:
        """The conditions with which a write finds the document only while it is unchanged."""
        if self.exact is None:
            return {"etag": {"$eq": self.etag}, "token": {"$eq": self.token}}
        return {"etag": equal_to(self.exact.get(b"etag")), "token": equal_to(self.exact.get(b"token"))}


def progress_fields(progress: Progress) -> dict[str, Any]:
    """Return the fields of a document with this progress. A value of None has no field."""
    fields: dict[str, Any] = {"scheduled_for": from_instant(progress.scheduled_for), "attempts": progress.attempts}
    if progress.due is not None:
        fields["due"] = from_instant(progress.due)
    if progress.first_leased is not None:
        fields["first_leased"] = from_instant(progress.first_leased)
    if progress.last_error is not None:
        fields["last_error"] = progress.last_error
    if progress.token is not None:
        fields["token"] = progress.token
    if progress.unsettled:
        fields["unsettled"] = progress.unsettled
    if progress.ahead:
        fields["ahead"] = progress.ahead
    if progress.excused:
        fields["excused"] = progress.excused
    return fields


def has_progress(progress: Progress) -> dict[str, Any]:
    """Return the condition that a document has this progress. A field that is absent equals None."""
    fields = dict.fromkeys(attrs.fields_dict(Progress)) | progress_fields(progress)
    condition: dict[str, Any] = {
        name: {"$in": [None, 0]} if value is None and name in _COUNTS else {"$eq": value}
        for name, value in fields.items()
    }
    if progress.last_error == TOO_LARGE:
        # A document without room for the error is read as if it had it.
        condition["last_error"] = {"$in": [None, TOO_LARGE]}
    return condition


def document_of(record: Record, etag: str) -> dict[str, Any]:
    """Return the whole document of a record."""
    (document,) = documents_of((record,), (etag,))
    return document


def documents_of(records: Iterable[Record], etags: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the whole document of each record. Records of one batch often share their progress, whose fields are made once."""
    progress, fields = None, {}
    for record, etag in zip(records, etags, strict=False):
        if record.progress is not progress:
            progress = record.progress
            fields = progress_fields(progress)
        document = {"_id": record.id, "msg": record.message, "revision": record.revision, "etag": etag}
        if record.series is not None:
            document["series"] = dict(record.series)
        if record.kind:
            document["kind"] = record.kind
        if record.policy is not None:
            document["policy"] = dict(record.policy)
        yield document | fields


def read(document: Mapping[str, Any]) -> Found:
    """Read a document as PyMongo or mongomock returned it.

    :raises Ambiguous: if it must be read from its bytes.
    """
    # Not isinstance(), which is slow for an abstract class.
    return _read_bytes(document) if type(document) is RawBSONDocument else _read_fields(document)


def read_outline(document: RawBSONDocument) -> Found:
    """Read a document that was read without its message, as if the message were empty."""
    fields = bytes(document.raw)[4:-1] + _NO_MESSAGE
    return read(RawBSONDocument((len(fields) + 5).to_bytes(4, "little") + fields + b"\0"))


def _read_bytes(document: RawBSONDocument) -> Found:
    raw = bytes(document.raw)
    exact: dict[bytes, Element] = {}
    twice = False
    for name, element in elements(raw):
        twice = twice or name in exact
        exact.setdefault(name, element)
    # If a name occurs twice, a decoder takes the last value, and the filters and updates of the server take the first one.
    if not twice:
        try:
            found = _read_fields(bson.decode(raw, codec_for(raw)), _content_of_bytes)
        except bson.errors.BSONError:
            pass
        else:
            content = found.content
            if len(raw) > LARGEST and isinstance(content, Record):
                content = _with_reason(content)
            return attrs.evolve(found, content=content, exact=exact)
    return attrs.evolve(_read_fields(fields_of(document), _content_of_bytes), exact=exact)


def _with_reason(record: Record) -> Record:
    """Return the record, with the reason if it is dead. Its document has no room for the reason."""
    progress = record.progress
    if progress.due is not None or progress.last_error is not None:
        return record
    return attrs.evolve(record, progress=attrs.evolve(progress, last_error=TOO_LARGE))


def _read_fields(fields: Mapping[str, Any], content_of: Callable[[object], object] | None = None) -> Found:
    content_of = content_of or _content
    get = fields.get
    attempts, series, first_leased, token = get("attempts"), get("series"), get("first_leased"), get("token")
    revision, last_error = get("revision"), get("last_error")
    unsettled, ahead, excused = get("unsettled"), get("ahead"), get("excused")
    kind, policy = get("kind"), get("policy")
    if unsettled is None and "unsettled" in fields:
        # A null: the server refuses to add to it.
        unsettled = UNREADABLE
    if ahead is None and "ahead" in fields:
        ahead = UNREADABLE
    content = read_record(
        id=fields["_id"],
        message=content_of(get("msg")),
        series=None if series is None else content_of(series),
        # The driver's type for JavaScript code is a subclass of str.
        revision=revision if type(revision) is str else UNREADABLE,
        due=_instant(get("due")),
        scheduled_for=_instant(get("scheduled_for")),
        attempts=int(attempts) if type(attempts) is Int64 else attempts,
        first_leased=None if first_leased is None else _instant(first_leased),
        last_error=last_error if last_error is None or type(last_error) is str else UNREADABLE,
        token=token if token is None or type(token) is str else UNREADABLE,
        unsettled=int(unsettled) if type(unsettled) is Int64 else unsettled,
        ahead=int(ahead) if type(ahead) is Int64 else ahead,
        excused=int(excused) if type(excused) is Int64 else excused,
        kind=kind if kind is None or type(kind) is str else UNREADABLE,
        policy=None if policy is None else content_of(policy),
    )
    if isinstance(content, Damaged) and "ready" in fields and "locked" in fields and "revision" not in fields:
        content = attrs.evolve(content, error=_OF_THE_CLOJURE_LIBRARY)
    return Found(content, get("etag"), token)


def _content(value: object) -> object:
    try:
        return _plain(value)
    except (_Foreign, bson.errors.BSONError, UnicodeDecodeError):
        return UNREADABLE


def _content_of_bytes(value: object) -> object:
    try:
        return _content(value)
    except Ambiguous:
        # Mappings stayed bytes, so this is a real DBRef, which Pitstop never stores.
        return UNREADABLE


def _instant(value: object) -> object:
    if type(value) is datetime:
        return (value - _NAIVE_EPOCH) // _MILLISECOND if value.tzinfo is None else floor_instant(value)
    if isinstance(value, DatetimeMS):
        return int(value)
    # A number is no date, and a claim would never find it as due.
    return value if value is None else UNREADABLE


def _plain(value: Any) -> Any:  # noqa: C901 - one case for each type of BSON that may be there
    """Return the value as it was given to ``store``. Mappings and lists are changed in place if possible."""
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is dict:
        for key, item in value.items():
            if type(item) not in _SCALARS:
                value[key] = _plain(item)
        return value
    if kind is list:
        for index, item in enumerate(value):
            if type(item) not in _SCALARS:
                value[index] = _plain(item)
        return value
    if kind is Int64:
        return int(value)
    if kind is datetime:
        return value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if kind is DBRef:
        raise Ambiguous
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    raise _Foreign
