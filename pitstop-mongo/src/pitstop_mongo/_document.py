"""Documents: how a record is written down in MongoDB, and read back without trusting what is found.

::

    _id            the message's id
    msg            the message, and nothing else: the only field that holds a user's data
    due            when it may next be claimed: the one field that decides; absent when dead
    scheduled_for  the nominal time of the current occurrence
    series         the recurrence, opaque; absent for a one-shot
    revision       new at each store
    attempts       claims of the current occurrence
    first_leased   when the current occurrence was claimed first; absent until then
    last_error     what the last failure said; absent if nothing failed
    token          the last claim's; absent until then
    etag           new at each store and each settlement
    adopting       only while it is held by an adoption: see _adopting.py
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import bson

from bson import DatetimeMS, Int64
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.dbref import DBRef
from bson.raw_bson import RawBSONDocument

from pitstop.abc import Damaged, Progress, Record, floor_instant, from_instant, read_record


__all__ = [
    "BATCH_CODEC",
    "CODEC",
    "EPOCH",
    "LAST",
    "LAST_INSTANT",
    "LENIENT",
    "RAW_CODEC",
    "Ambiguous",
    "Found",
    "document_of",
    "progress_fields",
    "read",
]

#: For what is written, and for what is read one by one.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    tzinfo=UTC,
    uuid_representation=bson.binary.UuidRepresentation.STANDARD,
    # A date that Python cannot name must not make the documents around it unreadable.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
#: For what is read in batches. A zone would be put to each date by a call of Python code, for three times the time of
#: all else; :func:`read` puts it to those that are a user's.
BATCH_CODEC = CODEC.with_options(tz_aware=False, tzinfo=None)
#: Documents as bytes, to be read one by one.
RAW_CODEC: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)
LENIENT = RAW_CODEC.with_options(unicode_decode_error_handler="replace")

#: What a sound ``due`` lies between. Anything else in that field counts as none.
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
LAST_INSTANT = floor_instant(LAST)

_OF_THE_CLOJURE_LIBRARY = "A message of the Clojure library, not taken over yet: run 'pitstop adopt'."

_NAIVE_EPOCH = EPOCH.replace(tzinfo=None)
_MILLISECOND = timedelta(milliseconds=1)

_SCALARS = frozenset({type(None), bool, int, float, str, bytes})


class Ambiguous(Exception):
    """BSON's reader made a DBRef of what a user stored as a mapping; only the bytes tell what it was."""


class _Foreign(Exception):
    """A value that Pitstop never stores."""


@attrs.frozen
class Found:
    """A document that was read."""

    content: Record | Damaged
    #: As they are in the document: they prove, at a claim, that it is still the one that was read.
    etag: Any
    token: Any

    @property
    def id(self) -> str:
        return self.content.id

    @property
    def sound(self) -> bool:
        """Whether a claim may take it together with others."""
        return isinstance(self.content, Record) and (self.etag is None or isinstance(self.etag, str))


def progress_fields(progress: Progress) -> dict[str, Any]:
    """The fields of a document that say this; what is None is absent."""
    fields: dict[str, Any] = {"scheduled_for": from_instant(progress.scheduled_for), "attempts": progress.attempts}
    if progress.due is not None:
        fields["due"] = from_instant(progress.due)
    if progress.first_leased is not None:
        fields["first_leased"] = from_instant(progress.first_leased)
    if progress.last_error is not None:
        fields["last_error"] = progress.last_error
    if progress.token is not None:
        fields["token"] = progress.token
    return fields


def document_of(record: Record, etag: str) -> dict[str, Any]:
    """The whole document of a record."""
    fields = {"_id": record.id, "msg": record.message, "revision": record.revision, "etag": etag}
    if record.series is not None:
        fields["series"] = dict(record.series)
    return fields | progress_fields(record.progress)


def read(document: Mapping[str, Any]) -> Found:
    """Read a document as PyMongo (or mongomock) gave it.

    :raises Ambiguous: when it must be read from its bytes.
    """
    # Not isinstance(), which is dear for what is an abstract class.
    return _read_bytes(document) if type(document) is RawBSONDocument else _read_fields(document)


def _read_bytes(document: RawBSONDocument) -> Found:
    # An inner document that is left as bytes is never taken for a DBRef.
    codec: CodecOptions[Any] = RAW_CODEC if b"$ref\0" in document.raw else CODEC
    try:
        return _read_fields(bson.decode(document.raw, codec))
    except bson.errors.BSONError:
        fields = bson.decode(document.raw, LENIENT)
        damaged = _damaged(fields)
        return Found(damaged, fields.get("etag"), fields.get("token"))


def _read_fields(fields: Mapping[str, Any]) -> Found:
    get = fields.get
    attempts, series, first_leased, token = get("attempts"), get("series"), get("first_leased"), get("token")
    content = read_record(
        id=fields["_id"],
        message=_content(get("msg")),
        series=None if series is None else _content(series),
        revision=get("revision"),
        due=_instant(get("due")),
        scheduled_for=_instant(get("scheduled_for")),
        attempts=int(attempts) if type(attempts) is Int64 else attempts,
        first_leased=None if first_leased is None else _instant(first_leased),
        last_error=get("last_error"),
        token=token,
    )
    if isinstance(content, Damaged) and "ready" in fields and "locked" in fields and "revision" not in fields:
        content = attrs.evolve(content, error=_OF_THE_CLOJURE_LIBRARY)
    return Found(content, get("etag"), token)


def _damaged(fields: Mapping[str, Any]) -> Damaged:
    content = read_record(
        id=fields["_id"],
        message=_UNREADABLE,
        series=None,
        revision="",
        due=_instant(fields.get("due")),
        scheduled_for=0,
        attempts=0,
        first_leased=None,
        last_error=None,
        token=fields.get("token"),
    )
    assert isinstance(content, Damaged), "a message that cannot be read is damaged"
    return content


_UNREADABLE = object()


def _content(value: object) -> object:
    try:
        return _plain(value)
    except (_Foreign, bson.errors.BSONError, UnicodeDecodeError):
        return _UNREADABLE


def _instant(value: object) -> object:
    if type(value) is datetime:
        return (value - _NAIVE_EPOCH) // _MILLISECOND if value.tzinfo is None else floor_instant(value)
    if isinstance(value, DatetimeMS):
        return int(value)
    # A number is no date: it would never be found as due.
    return value if value is None else _UNREADABLE


def _plain(value: Any) -> Any:  # noqa: C901 - one case for each type of BSON that may be there
    """Values as they were given to ``store``. Changes mappings and lists in place where that is possible."""
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
