"""Codecs: how documents are decoded, as a whole or field by field."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import bson

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

from pitstop_mongo._bson.raw import decoded, elements


__all__ = ["BATCH_CODEC", "CODEC", "LENIENT", "RAW_CODEC", "UNREADABLE", "codec_for", "fields_of"]

#: For writing, and for reading documents one by one.
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    tzinfo=UTC,
    uuid_representation=bson.binary.UuidRepresentation.STANDARD,
    # A date that Python cannot represent must not make the other documents unreadable.
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
#: For reading documents in batches. The driver would give each date its zone by a call of Python code, which takes three
#: times as long as all other decoding. So the reader of documents adds the zone, only to the dates of users.
#: A UUID stays a binary. The driver raises for a UUID of a wrong length, also in a field that is not Pitstop's.
BATCH_CODEC = CODEC.with_options(
    tz_aware=False, tzinfo=None, uuid_representation=bson.binary.UuidRepresentation.UNSPECIFIED
)
#: For reading documents as bytes.
RAW_CODEC: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)
#: For decoding documents that were read as bytes.
_SINGLE = CODEC.with_options(uuid_representation=bson.binary.UuidRepresentation.UNSPECIFIED)
_SINGLE_RAW: CodecOptions[RawBSONDocument] = _SINGLE.with_options(document_class=RawBSONDocument)
#: For the id of a document that cannot be decoded as a whole. Bytes that are not UTF-8 become lone surrogates, so that the
#: text can be turned back into the same bytes.
LENIENT = _SINGLE.with_options(unicode_decode_error_handler="surrogateescape")

#: Stands for a value that no decoder can read.
UNREADABLE: Any = object()


def codec_for(raw: bytes) -> CodecOptions[Any]:
    # The decoder makes no DBRef of an inner document that stays bytes.
    return _SINGLE_RAW if b"$ref\0" in raw else _SINGLE


def fields_of(document: RawBSONDocument) -> dict[str, Any]:
    """Decode the fields of a document one by one. ``UNREADABLE`` stands for a value that cannot be decoded.

    Pitstop never writes a name twice. If a name occurs twice, the message counts as unreadable.
    """
    fields: dict[str, Any] = {}
    twice = False
    for name, element in elements(document.raw):
        field = name.decode("utf-8", "surrogateescape")
        if field in fields:
            twice = True
            continue
        try:
            fields[field] = decoded(element, LENIENT if name == b"_id" else codec_for(element.value))
        except bson.errors.BSONError:
            fields[field] = UNREADABLE
    return fields | {"msg": UNREADABLE} if twice else fields
