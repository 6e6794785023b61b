"""Decide the form in which a record goes to another store, and read that form back.

All fields go as they are, the revision included: it names the version of the message, so an ``if_revision`` and a second copy
recognise it. Only a lease stays behind. Its token means nothing in another store, and the record is due there at the end of the
lease: until then its consumer may still be at work. The claim counts as one whose lease ran out.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import attrs

from pitstop._errors import MessageError
from pitstop._values._id import valid_id
from pitstop._values._kind import valid_kind
from pitstop._values._left_behind import LEFT_BEHIND
from pitstop._values._message import measured_copy
from pitstop._values._text_codec import dump_sorted
from pitstop.abc import MAX_ERROR_LENGTH, PAUSED, Damaged, Progress, Record, read_record


__all__ = ["at_rest", "check_movable", "fingerprint", "from_plain", "is_left_behind", "to_plain"]

_PROGRESS = tuple(each.name for each in attrs.fields(Progress))
_FIELDS = frozenset({"id", "kind", "revision", *_PROGRESS, "series", "policy", "message"})
#: Bytes of the revision of a record that stands for a damaged document, and of a fingerprint.
_SIZE = 16


def at_rest(stored: Record | Damaged) -> Record:
    """Return a record as another store gets it: without its lease.

    In the place of a document that cannot be read, return a dead record that no listener ever emits. It has the id, the kind and
    the reason. Equal documents give equal records.
    """
    if isinstance(stored, Damaged):
        return _left_behind(stored)
    progress = stored.progress
    if progress.due is None or progress.token is None or progress.token == PAUSED:
        return stored
    return attrs.evolve(stored, progress=attrs.evolve(progress, token=None))


def is_left_behind(record: Record) -> bool:
    """Whether a record stands for a document that could not be read when its store was copied."""
    return record.series is not None and record.series.keys() == {LEFT_BEHIND}


def to_plain(record: Record) -> dict[str, Any]:
    """Return a record as plain values."""
    progress = record.progress
    return {
        "id": record.id,
        "kind": record.kind,
        "revision": record.revision,
        **{name: getattr(progress, name) for name in _PROGRESS},
        "series": record.series,
        "policy": record.policy,
        "message": record.message,
    }


def from_plain(plain: Mapping[str, Any]) -> Record:
    """Return the record of plain values.

    :raises MessageError: if a field is missing, unknown or malformed. The text holds no value.
    """
    if plain.keys() != _FIELDS:
        unknown, missing = sorted(plain.keys() - _FIELDS), sorted(_FIELDS - plain.keys())
        which = f"has the unknown field {unknown[0]!r:.80}" if unknown else f"lacks the field {missing[0]!r}"
        raise MessageError(f"The message {which}. Only a line that 'pitstop export' has written can be imported.")
    if type(plain["id"]) is not str:
        raise MessageError("The id of the message is no text.")
    read = read_record(**plain)
    if isinstance(read, Damaged):
        raise MessageError(
            read.error.removeprefix("Damaged: ").replace("Store the message again, or remove it.", "").strip()
        )
    return read


def check_movable(record: Record) -> None:
    """Check that every backend can store a record.

    :raises MessageError: if another program has stored something that Pitstop would not have stored. The text holds no value.
    """
    valid_id(record.id)
    valid_kind(record.kind)
    own, _, _ = measured_copy(record.message)
    if own is not None:
        raise MessageError("The stored message has an 'id' beside its own.")
    progress = record.progress
    # The other fields have the rules of a message: no lone surrogate, no int beyond 64 bits.
    measured_copy(
        {
            "revision": record.revision,
            "series": record.series,
            "policy": record.policy,
            **{name: getattr(progress, name) for name in _PROGRESS},
        }
    )
    if progress.last_error is not None and len(progress.last_error) > MAX_ERROR_LENGTH:
        raise MessageError(f"The last error is longer than {MAX_ERROR_LENGTH} characters.")
    if "\0" in record.revision or "\0" in (progress.token or ""):
        raise MessageError("The revision or the token holds NUL.")


def fingerprint(record: Record) -> bytes:
    """Return a digest of all fields of a record. Records that differ in any value have different ones.

    Unlike ``==`` it tells ``1`` from ``1.0`` and ``True``, and ``0.0`` from ``-0.0``; ``NaN`` is equal to itself. The order of keys
    does not count. NUL in a last error is its replacement character, which some stores write in its place.
    """
    plain = to_plain(record)
    if record.progress.last_error is not None:
        plain["last_error"] = record.progress.last_error.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return blake2b(dump_sorted(plain).encode(), digest_size=_SIZE).digest()


def _left_behind(damaged: Damaged) -> Record:
    text = (
        f"{damaged.error[: MAX_ERROR_LENGTH // 2]} This was found when the store was copied. The document stayed in the store that "
        f"the copy was made from."
    )
    seed = f"{damaged.id}\n{damaged.kind}\n{damaged.due}\n{text}".encode("utf-8", "surrogatepass")
    revision = blake2b(seed, digest_size=_SIZE).hexdigest()
    progress = Progress(None, damaged.due or 0, last_error=text, token=revision)
    return Record(damaged.id, {}, {LEFT_BEHIND: text}, revision, progress, damaged.kind or "")
