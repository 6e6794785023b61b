"""Failures: the errors of PyMongo and BSON, and how they are translated, in one table.

PyMongo's own texts are left out, because they quote documents, keys and parts of URIs. Only the text of a connection is kept.
"""

from __future__ import annotations

import re

from enum import Enum

import attrs
import bson.errors

from pymongo import errors

from pitstop import BackendUnavailable, MessageError, PitstopError


__all__ = [
    "CAUGHT",
    "FAILURES",
    "Kind",
    "codes_of",
    "in_dns",
    "is_before_sending",
    "is_invalid",
    "is_login_refused",
    "is_permanent",
    "is_refusal",
    "is_too_large",
    "is_wrong_in_dns",
    "kind_of",
    "names_no_index",
    "translate",
]


class Kind(Enum):
    """Whether the operation was done, and whether a retry makes sense."""

    #: Not done. A retry may succeed.
    TRANSIENT = "transient"
    #: Done, not done, or done in part. A retry is allowed only if it is harmless.
    UNKNOWN = "unknown"
    #: Not done, or of many documents only some. A retry fails until a person changes something.
    PERMANENT = "permanent"


@attrs.frozen
class _Rule:
    classes: tuple[type[Exception], ...]
    #: The rule applies only with one of these codes or labels. If both are empty, it always applies.
    codes: frozenset[int]
    labels: frozenset[str]
    kind: Kind
    raises: type[PitstopError]
    #: The problem and the advice. ``{why}`` stands for the reason that the driver gave.
    text: str


def _rule(
    classes: type[Exception] | tuple[type[Exception], ...],
    kind: Kind,
    text: str,
    *,
    codes: tuple[int, ...] = (),
    labels: tuple[str, ...] = (),
    raises: type[PitstopError] = BackendUnavailable,
) -> _Rule:
    classes = classes if isinstance(classes, tuple) else (classes,)
    return _Rule(classes, frozenset(codes), frozenset(labels), kind, raises, text)


_AWAY = "did not answer: {why}. Check that it is running, and reachable from here."
_CHANGING = "is changing its primary ({why})."
_UNCONFIRMED = "did not confirm that a majority of its members has the write ({why}). It may be done nevertheless."

#: Codes of a document that would be larger than MongoDB's 16 MiB.
_TOO_LARGE = (10334, 17419, 17420)
#: The code of a document that breaks the validation rules of its collection.
_INVALID = 121
_BAD_VALUE = 2

#: The first rule that fits an error applies.
FAILURES: tuple[_Rule, ...] = (
    # Messages that cannot be stored.
    _rule(
        errors.DocumentTooLarge,
        Kind.PERMANENT,
        "takes no documents above 16 MiB. Store the data elsewhere and a reference to it in the message.",
        raises=MessageError,
    ),
    _rule(
        errors.OperationFailure,
        Kind.PERMANENT,
        "takes no documents above 16 MiB. Store the data elsewhere and a reference to it in the message.",
        codes=_TOO_LARGE,
        raises=MessageError,
    ),
    _rule(
        (bson.errors.InvalidDocument, bson.errors.InvalidStringData, OverflowError, UnicodeEncodeError, RecursionError),
        Kind.PERMANENT,
        "cannot keep a value of this message ({why}).",
        raises=MessageError,
    ),
    _rule(bson.errors.BSONError, Kind.PERMANENT, "holds a document that cannot be read ({why})."),
    # The connection to the server.
    _rule(errors.ServerSelectionTimeoutError, Kind.TRANSIENT, _AWAY),
    _rule(errors.WaitQueueTimeoutError, Kind.TRANSIENT, "has no free connection in the pool. Raise maxPoolSize."),
    _rule(errors.ConfigurationError, Kind.PERMANENT, "cannot be reached with this configuration ({why}). Check it."),
    _rule(errors.NotPrimaryError, Kind.UNKNOWN, _CHANGING),
    _rule(errors.ConnectionFailure, Kind.UNKNOWN, _AWAY),
    _rule(errors.InvalidOperation, Kind.PERMANENT, "cannot be used: the client was closed."),
    # Answers of the server.
    _rule(
        errors.OperationFailure,
        Kind.PERMANENT,
        "refuses the user or the password ({why}). Check user, pass and auth_source.",
        codes=(18, 8000, 11),
    ),
    _rule(
        errors.OperationFailure,
        Kind.PERMANENT,
        "does not allow this user to do this ({why}). The user needs the role readWrite on the database.",
        codes=(13,),
    ),
    _rule(
        errors.OperationFailure,
        Kind.PERMANENT,
        "does not have as many members as must confirm a write ({why}). See ack_write_concern. By default a majority of the "
        "replica set must confirm it.",
        codes=(79, 100),
    ),
    _rule((errors.WTimeoutError, errors.WriteConcernError), Kind.UNKNOWN, _UNCONFIRMED),
    _rule(
        errors.OperationFailure, Kind.UNKNOWN, "took longer than operation_timeout ({why}).", codes=(50, 262, 202, 64)
    ),
    _rule(
        errors.OperationFailure,
        Kind.UNKNOWN,
        _CHANGING,
        codes=(6, 7, 89, 91, 112, 134, 189, 9001, 10058, 10107, 11600, 11601, 11602, 13435, 13436),
    ),
    _rule(
        errors.OperationFailure,
        Kind.UNKNOWN,
        "is in trouble ({why}).",
        # Of a router: a shard has no primary, or messages have moved to another shard.
        codes=(133, 249, 13388),
        labels=("RetryableWriteError", "SystemOverloadedError"),
    ),
    _rule(
        errors.OperationFailure,
        Kind.PERMANENT,
        "has an index that refuses this ({why}). Drop the unique index that is not Pitstop's.",
        codes=(11000, 11001),
    ),
    _rule(errors.OperationFailure, Kind.PERMANENT, "has no space left ({why}).", codes=(14031,)),
    # The server answered, so a single write is known not to be done. Of many, some may be done.
    _rule(errors.OperationFailure, Kind.TRANSIENT, "refused an operation ({why})."),
    _rule(errors.PyMongoError, Kind.UNKNOWN, "failed ({why})."),
)

#: For the names in a ``mongodb+srv://`` URI. PyMongo always raises a ConfigurationError, and its cause gives the reason.
_NO_NAME = _rule(
    errors.ConfigurationError,
    Kind.PERMANENT,
    "is not known to DNS: there is no SRV record for that name ({why}). Check the name. It must be the name of a "
    "deployment, not of a server. Give the names of servers with mongodb://host1,host2/.",
)
_NO_DNS = _rule(
    errors.ConfigurationError,
    Kind.TRANSIENT,
    "cannot be looked up, because DNS does not answer ({why}). Check this machine's network and resolver. Or give the names "
    "of the servers with mongodb://host1,host2/, which needs no SRV record.",
)

_NO_LOGIN = _rule(
    errors.PyMongoError, Kind.PERMANENT, "refuses the user or the password ({why}). Check user, pass and auth_source."
)

#: The classes of errors that are translated. Any other error is a bug, and must be visible as one.
CAUGHT: tuple[type[Exception], ...] = tuple({each for rule in FAILURES for each in rule.classes})


def _rule_of(error: Exception) -> _Rule | None:
    if in_dns(error):
        return _NO_NAME if _why(error) in ("NXDOMAIN", "NoAnswer") else _NO_DNS
    if is_login_refused(error):
        return _NO_LOGIN
    codes = _codes(error)
    for rule in FAILURES:
        if not isinstance(error, rule.classes):
            continue
        if not (rule.codes or rule.labels) or not rule.codes.isdisjoint(codes) or _has_label(error, rule.labels):
            return rule
    return None


def in_dns(error: Exception) -> bool:
    """Whether the driver could not look up the servers in DNS."""
    return isinstance(error, errors.ConfigurationError) and type(_reason(error)).__module__.startswith("dns.")


def is_wrong_in_dns(error: Exception) -> bool:
    """Whether DNS names servers outside the domain, which PyMongo does not trust. Its text quotes such a name, and no secret."""
    return isinstance(error, errors.ConfigurationError) and str(error).startswith("Invalid SRV host")


def is_login_refused(error: Exception) -> bool:
    """Whether the login failed: the user or the password is wrong, or the user of a connection was removed."""
    if isinstance(error, errors.ServerSelectionTimeoutError):
        # After a refused login PyMongo treats the server as away until its next check, and gives the reason.
        return str(error).startswith("Authentication failed")
    if isinstance(error, errors.OperationFailure) and error.code == 13:
        return "requires authentication" in str(error)
    return isinstance(error, errors.OperationFailure) and error.code == 18


def is_before_sending(error: Exception) -> bool:
    """Whether the driver got no connection to send a command on. If it repeats commands, an earlier try may have been sent.

    Not so a server that is not found: then the driver raises the error of the earlier try.
    """
    if isinstance(error, errors.ServerSelectionTimeoutError):
        return False
    return isinstance(error, errors.WaitQueueTimeoutError) or is_login_refused(error)


def kind_of(error: Exception) -> Kind:
    """Return whether an operation that failed with this error was done."""
    if _is_unconfirmed(error):
        return Kind.UNKNOWN
    rule = _rule_of(error)
    return Kind.UNKNOWN if rule is None else rule.kind


def is_permanent(error: Exception) -> bool:
    """Whether a retry fails until a person changes something. The operation may have been done nevertheless."""
    rule = _rule_of(error)
    return rule is not None and rule.kind is Kind.PERMANENT


def is_refusal(error: Exception) -> bool:
    """Whether the server refused an operation for a reason that may lie in one document of many."""
    if not isinstance(error, errors.OperationFailure) or _is_unconfirmed(error):
        return False
    # A hint that names no index is a fault of the collection, not of a document.
    return is_too_large(error) or (kind_of(error) is Kind.TRANSIENT and not _is_about_a_hint(error))


def _is_about_a_hint(error: errors.OperationFailure) -> bool:
    # Not by the text of the error, in which PyMongo quotes operations of a batch, with their hints, and values of documents.
    details = error.details if isinstance(error.details, dict) else {}
    parts = details.get("writeErrors", ()) if isinstance(error, errors.BulkWriteError) else (details,)
    return _BAD_VALUE in _codes(error) and any("hint" in str(part.get("errmsg")) for part in parts)


def names_no_index(error: errors.OperationFailure) -> bool:
    """Whether the hint of an operation names no index that the server uses. Not for a batch of writes."""
    return error.code == _BAD_VALUE and "hint" in str(error)


def is_too_large(error: Exception) -> bool:
    """Whether a document would be larger than MongoDB allows."""
    return isinstance(error, errors.DocumentTooLarge) or not _codes(error).isdisjoint(_TOO_LARGE)


def codes_of(error: Exception) -> str:
    """Return the codes of the server, as text for people."""
    return ", ".join(map(str, sorted(_codes(error)))) or "unknown"


def is_invalid(error: Exception) -> bool:
    """Whether a document breaks the validation rules of its collection."""
    return _INVALID in _codes(error)


def _is_unconfirmed(error: Exception) -> bool:
    """Whether something was written, but may be rolled back."""
    if isinstance(error, errors.BulkWriteError):
        return bool((error.details or {}).get("writeConcernErrors"))
    return isinstance(error, errors.WriteConcernError)


def translate(error: Exception, location: str) -> PitstopError:
    """Return Pitstop's error for an error of the driver. Its text contains no document, no id, and no secret."""
    rule = _rule_of(error)
    if rule is None:
        raise error
    text = f"MongoDB at {location} {rule.text.format(why=_why(error))}"
    if issubclass(rule.raises, BackendUnavailable):
        return rule.raises(text, permanent=rule.kind is Kind.PERMANENT)
    return rule.raises(text)


def _has_label(error: Exception, labels: frozenset[str]) -> bool:
    return isinstance(error, errors.PyMongoError) and any(map(error.has_error_label, labels))


def _codes(error: Exception) -> set[int]:
    if not isinstance(error, errors.OperationFailure):
        return set()
    codes = {error.code}
    if isinstance(error, errors.BulkWriteError):
        # The code of the batch itself is meaningless. The codes of its parts count.
        details = error.details or {}
        parts = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
        codes = {part.get("code") for part in parts}
    return {code for code in codes if isinstance(code, int)}


def _reason(error: Exception) -> BaseException | None:
    return error.__cause__ or error.__context__


def _why(error: Exception) -> str:
    name = type(error).__name__
    if in_dns(error):
        return type(_reason(error)).__name__
    if is_wrong_in_dns(error):
        return str(error)[:200]
    if isinstance(error, errors.ConnectionFailure) and not isinstance(error, errors.NotPrimaryError):
        # After the reason PyMongo adds the timeouts, and a description of all servers.
        reason = re.split(r" \(configured timeouts|, Timeout: |, full error", str(error), maxsplit=1)[0]
        return f"{name}: {reason[:200]}"
    if isinstance(error, errors.OperationFailure):
        codes = sorted(_codes(error))
        details = error.details if isinstance(error.details, dict) else {}
        label = details.get("codeName")
        return f"{name}, code {codes[0] if codes else '?'}" + (f" {label}" if isinstance(label, str) else "")
    return name
