"""Codecs: how documents are decoded, as a whole or field by field."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import bson

from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument

from pitstop_mongo._bson.raw import decoded, elements


__all__ = ["BATCH_CODEC", "CODEC", "LENIENT", "RAW_CODEC", "UNREADABLE", "codec_for", "fields_of"]

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
#: A UUID stays a binary: the driver raises for a binary that claims to be one and has another length, also in a field that
#: is not Pitstop's.
BATCH_CODEC = CODEC.with_options(
    tz_aware=False, tzinfo=None, uuid_representation=bson.binary.UuidRepresentation.UNSPECIFIED
)
#: Documents as bytes, to be read one by one.
RAW_CODEC: CodecOptions[RawBSONDocument] = CODEC.with_options(document_class=RawBSONDocument)
#: For documents that were read as bytes.
_SINGLE = CODEC.with_options(uuid_representation=bson.binary.UuidRepresentation.UNSPECIFIED)
_SINGLE_RAW: CodecOptions[RawBSONDocument] = _SINGLE.with_options(document_class=RawBSONDocument)
#: For the id of a document that cannot be read as a whole. Bytes that are not UTF-8 become lone surrogates, so that the text
#: can be turned back into the same bytes.
LENIENT = _SINGLE.with_options(unicode_decode_error_handler="surrogateescape")

#: In the place of a value that no decoder reads.
UNREADABLE: Any = object()


def codec_for(raw: bytes) -> CodecOptions[Any]:
    # An inner document that is left as bytes is never taken for a DBRef.
    return _SINGLE_RAW if b"$ref\0" in raw else _SINGLE


def fields_of(document: RawBSONDocument) -> dict[str, Any]:
    """Decode the fields of a document one by one. A value that cannot be read is an object of no known type.

    A name that occurs twice is nothing that Pitstop writes: then the message counts as one that cannot be read.
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
