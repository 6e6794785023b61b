"""Options of PyMongo's MongoClient as keys of the configuration. PyMongo's own validators check them."""

from __future__ import annotations

import difflib

from collections.abc import Iterable, Mapping
from typing import Any

import pymongo.common

from pymongo.errors import PyMongoError

from pitstop import ConfigError
from pitstop.abc import quoted


__all__ = ["OPTIONS", "SRV_OPTIONS", "check_compressors", "checked_options", "is_known", "normal", "sort_keys"]

#: Options that are valid only if the hosts come from DNS, so they cannot be checked in a URI that names hosts.
SRV_OPTIONS = ("srvServiceName", "srvMaxHosts", "srvAllowedHostsSuffix")
#: Options in their usual spelling, for suggestions. PyMongo's own list, in lower case, decides which ones exist.
OPTIONS = (
    *("appName", "authMechanism", "authMechanismProperties", "authSource", "compressors", "connectTimeoutMS"),
    *("directConnection", "heartbeatFrequencyMS", "journal", "loadBalanced", "localThresholdMS", "maxConnecting"),
    *("maxIdleTimeMS", "maxPoolSize", "maxStalenessSeconds", "minPoolSize", "readConcernLevel", "readPreference"),
    *("readPreferenceTags", "replicaSet", "retryReads", "retryWrites", "serverMonitoringMode", "socketTimeoutMS"),
    *("serverSelectionTimeoutMS", "ssl", "timeoutMS", "tls", "tlsAllowInvalidCertificates", "tlsCAFile", "tlsCRLFile"),
    *("tlsAllowInvalidHostnames", "tlsCertificateKeyFile", "tlsCertificateKeyFilePassword", "tlsInsecure", "w"),
    *("tlsDisableOCSPEndpointCheck", "uuidRepresentation", "waitQueueTimeoutMS", "wTimeoutMS", "zlibCompressionLevel"),
    *SRV_OPTIONS,
)
_COMPRESSORS = frozenset({"snappy", "zlib", "zstd"})
#: Characters of a key that are compared with the known ones.
_LONGEST_KEY = 100
_KNOWN = frozenset(pymongo.common.URI_OPTIONS_VALIDATOR_MAP) | {name.lower() for name in OPTIONS}

#: Keys of Pitstop's by PyMongo's names for them. Both names are accepted.
_ALIASES = {"authsource": "auth_source", "replicaset": "replica_set", "ssl": "tls"}
#: PyMongo's names that Pitstop does not accept, and the keys that are suggested instead.
_RENAMED = {"username": "user", "password": "pass"}

_CONCERN = (
    "every write is confirmed by a majority and its journal, because a stored message could otherwise be lost. "
    "operation_timeout limits the wait. With ack_write_concern, acks may wait for fewer members"
)
_READS = "a claim needs the current state, so Pitstop reads from the primary"
_CODEC = "Pitstop decides how its documents are read, so that values come back as they were stored"
#: Options that Pitstop decides, by their normal names, and the reasons.
_OWNED = {
    **dict.fromkeys(("w", "wtimeoutms", "wtimeout", "journal", "j", "fsync"), _CONCERN),
    **dict.fromkeys(("readpreference", "readpreferencetags", "maxstalenessseconds", "readconcernlevel"), _READS),
    **dict.fromkeys(("tzaware", "tzinfo", "documentclass", "typeregistry", "uuidrepresentation"), _CODEC),
    **dict.fromkeys(("unicodedecodeerrorhandler", "datetimeconversion"), _CODEC),
    "timeoutms": "operation_timeout limits the time of an operation",
    "connect": "Pitstop connects at the first operation. Call pit.now() to connect at once",
    "driver": "Pitstop tells the server its own name and version. Give your own as appName",
}

#: The values that a validator of PyMongo's accepts, by its name. The validator's own text may quote the value.
_WANTED = {
    "validate_boolean_or_string": "true or false",
    "validate_compressors": "some of snappy, zlib and zstd",
    "validate_integer": "a whole number",
    "validate_positive_integer": "a whole number of at least 1",
    "validate_non_negative_integer": "a whole number of at least 0",
    "validate_non_negative_integer_or_none": "a whole number of at least 0",
    "validate_readable": "the path of a file that can be read",
    "validate_string": "a str",
    "validate_string_or_none": "a str",
    "validate_appname_or_none": "a str of up to 128 bytes",
    "validate_timeout_or_none": "a number of milliseconds above 0",
    "validate_timeout_or_zero": "a number of milliseconds, at least 0",
    "validate_timeout_or_none_or_zero": "a number of milliseconds, at least 0",
    "validate_positive_float_or_zero": "a number of at least 0",
    "validate_is_callable_or_none": "a function",
    "validate_server_api_or_none": "a pymongo.server_api.ServerApi",
    "validate_zlib_compression_level": "a whole number from -1 to 9",
}


def normal(name: str) -> str:
    """Return the same text for ``maxPoolSize``, ``maxpoolsize`` and ``max_pool_size``."""
    return name.replace("_", "").lower()


#: From the normal name to PyMongo's name.
_NAMES = {normal(name): name for name in (*pymongo.common.VALIDATORS, *_KNOWN, *OPTIONS)}


def is_known(name: str) -> bool:
    """Whether PyMongo knows an option of a URI by that name, in upper or lower case."""
    return name.lower() in _KNOWN


def sort_keys(options: Mapping[Any, Any], keys: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split a configuration into Pitstop's own keys, by their names, and options of the driver.

    The options of the driver are returned as they were given: see :func:`checked_options`.

    :raises ConfigError: if a key is neither, or if a key is given in two spellings. No text quotes a value.
    """
    known = frozenset(keys)
    own: dict[str, Any] = {}
    driver: dict[str, Any] = {}
    for key, value in options.items():
        name = _ALIASES.get(normal(key), key) if isinstance(key, str) and key not in known else key
        if name in known:
            if name in own:
                raise ConfigError(f"{name} is given twice, once under another name. Give it once.")
            own[name] = value
        elif isinstance(key, str) and _known_option(key):
            driver[key] = value
        else:
            raise _unknown(key, known)
    return own, driver


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of the driver by PyMongo's names. Each is checked by itself, without a connection.

    :raises ConfigError: if PyMongo does not accept a value, or if Pitstop decides an option. The text names the key as it was
        given. It never quotes the value, which may be a secret.
    """
    checked: dict[str, Any] = {}
    given_as: dict[str, str] = {}
    for key, value in options.items():
        if not _known_option(key):
            raise _unknown(key, frozenset())
        if normal(key) in _OWNED:
            raise ConfigError(f"{key} cannot be given: {_OWNED[normal(key)]}.")
        name = _NAMES[normal(key)]
        if name in given_as:
            raise ConfigError(f"{given_as[name]} and {key} are the same option. Give it once.")
        given_as[name] = key
        # An empty text counts as none: it may come from a variable of the environment that is not set.
        if not (isinstance(value, str) and not value):
            checked[name] = _checked(key, name, value)
    return checked


def _known_option(key: str) -> bool:
    name = normal(key)
    return name in _OWNED or (name in _NAMES and name not in _RENAMED and name not in _ALIASES)


def _checked(key: str, name: str, value: object) -> Any:
    validator = pymongo.common.VALIDATORS.get(name.lower())
    if validator is None:
        return value  # of the URIs of a newer PyMongo, whose client will check it
    try:
        if name.lower() == "compressors":
            check_compressors(value)
        # Its result may be in seconds. The client needs the value as it was given.
        pymongo.common.validate(name, value)
        # A bool is an int in Python, and PyMongo accepts it. Here it is a mistake.
        fine = not isinstance(value, bool) or validator is pymongo.common.validate_boolean_or_string
    except (PyMongoError, ValueError, TypeError, OSError, AttributeError):
        fine = False
    if not fine:
        wanted = _WANTED.get(validator.__name__)
        advice = f"Give {wanted}." if wanted else f"See {name} in PyMongo's documentation of MongoClient."
        raise ConfigError(f"{key} has a value (a {type(value).__name__}) that PyMongo does not accept. {advice}")
    return value


def check_compressors(value: object) -> None:
    """Refuse a compressor that PyMongo does not know. PyMongo itself would only log a warning that quotes the value.

    :raises ValueError: if a compressor is unknown.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not _COMPRESSORS.issuperset(names):
        raise ValueError("an unknown compressor")


def _unknown(given: object, known: Iterable[str]) -> ConfigError:
    key = given[:_LONGEST_KEY] if isinstance(given, str) else ""
    own = sorted(known)
    # Compared without case and '_', and suggested in the usual spelling. Pitstop's keys come before PyMongo's.
    names = {normal(name): name for name in OPTIONS if normal(name) not in _OWNED} | {
        normal(name): name for name in own
    }
    close = difflib.get_close_matches(normal(key), names, n=1)
    meant = _RENAMED.get(normal(key)) or (names[close[0]] if close else None)
    hint = f"Did you mean {meant!r}? " if meant else ""
    listed = f"Known: {', '.join(own)}; and the options of pymongo.MongoClient."
    return ConfigError(f"Unknown configuration key {quoted(given)}. {hint}{listed}")
