"""MongoDB URIs and addresses. They are read without a connection, and never quoted, because they may hold a password."""

from __future__ import annotations

import re

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import attrs

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from pitstop import ConfigError
from pitstop.abc import did_you_mean, may_hold_secret, query_options, quoted
from pitstop_mongo._client.driver_options import OPTIONS, SRV_OPTIONS, check_compressors, is_known


__all__ = ["FORBIDDEN", "Target", "address", "options_of_url", "read_uri"]

DEFAULT_PORT = 27017

_PLAIN = "mongodb://"
_SRV = "mongodb+srv://"
#: Schemes of Pitstop's URLs, and of the URIs that PyMongo gets for them.
_SCHEMES = {"mongo": _PLAIN, "mongodb": _PLAIN, "mongodb+srv": _SRV}
#: Options of Pitstop's in a URL, after its ``?``. PyMongo gets all others. ``retry`` is written ``retry.delay``.
_OWN = ("ack_write_concern", "coll", "dbname", "lock_time", "loop_time", "operation_timeout", "retry")
#: Characters that no user and no password may have. RFC 4013 forbids control characters, and UTF-8 forbids surrogates.
FORBIDDEN = re.compile(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]")
_NAME = re.compile(r"[A-Za-z_.]{1,40}")


@attrs.frozen
class Target:
    """The parts of a URI that Pitstop needs."""

    #: Each ``host:port``, or the DNS name, for logs and errors.
    hosts: tuple[str, ...]
    database: str | None
    #: Names of its options, in lower case.
    options: frozenset[str]
    #: Whether it contains a user.
    credentials: bool
    #: Its option for TLS; None if it has none.
    tls: bool | None
    #: Whether the hosts come from DNS. Then a client for it cannot be made without the network.
    srv: bool


def options_of_url(url: str) -> dict[str, Any]:
    """Split a Pitstop URL into Pitstop's own keys and a ``uri`` of all other parts.

    :raises ConfigError: if it is no such URL. The text never quotes it.
    """
    scheme, separator, rest = url.partition("://")
    prefix = _SCHEMES.get(scheme.lower())
    if prefix is None or not separator:
        raise ConfigError("A MongoDB URL begins with mongo://, mongodb:// or mongodb+srv://. Percent-encode the rest.")
    main, _, query = rest.partition("?")
    if prefix == _PLAIN and (not main or main.startswith("/")):
        main = "localhost" + main
    own: list[str] = []
    other: list[str] = []
    for pair in filter(None, query.split("&")):
        (own if _name_of(pair).partition(".")[0] in _OWN else other).append(pair)
    path = "" if "/" in main else "/"
    uri = f"{prefix}{main}{path}" + (f"?{'&'.join(other)}" if other else "")
    return {"uri": uri, **query_options("&".join(own))}


def read_uri(uri: object) -> Target:
    """Read a ``mongodb://`` or ``mongodb+srv://`` URI.

    :raises ConfigError: if PyMongo would refuse it, or would ignore a part of it. The text quotes only names of options.
    """
    if not isinstance(uri, str):
        raise ConfigError(f"uri is a {type(uri).__name__}. Give a str such as 'mongodb://localhost:27017/app'.")
    srv = uri.startswith(_SRV)
    if not srv and not uri.startswith(_PLAIN):
        raise ConfigError("uri does not begin with mongodb:// or mongodb+srv://. Give host= for a plain host name.")
    main, _, query = uri[len(_SRV if srv else _PLAIN) :].partition("?")
    credentials, at, place = main.rpartition("@")
    hosts, _, path = place.partition("/")
    # If a password contains an unescaped '/' or '?', the '@' appears in the path or in the options.
    if "@" in query or "/" in credentials or not hosts:
        raise _malformed()
    pairs = [pair for pair in query.split("&") if pair]
    _check_options(pairs)
    if srv:
        # PyMongo's parser would ask the DNS. The parts that both schemes share can be checked without it.
        pairs = [pair for pair in pairs if _name_of(pair).lower() not in map(str.lower, SRV_OPTIONS)]
        if "," in hosts or ":" in hosts:
            raise ConfigError(
                "A mongodb+srv:// URI names one host, without a port. The hosts and ports of the servers come from DNS."
            )
    try:
        parsed = parse_uri(f"{_PLAIN}{credentials}{at}{hosts}/{path}" + (f"?{'&'.join(pairs)}" if pairs else ""))
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        raise _malformed(type(error).__name__) from None
    if parsed["collection"]:
        raise ConfigError(
            "The path of the URI names a collection. Give only the database there, and the collection as coll."
        )
    if parsed["username"] and not parsed["password"] and "authmechanism" not in map(str.lower, parsed["options"]):
        raise ConfigError("The URI has a user without a password. Write it as mongodb://user:password@host/.")
    if any(FORBIDDEN.search(parsed[each] or "") for each in ("username", "password")):
        raise ConfigError(
            "The user or the password in the URI contains a line break, another control character, or invalid UTF-8. No server "
            "accepts that. Remove it."
        )
    named = (hosts,) if srv else tuple(_place(host, port) for host, port in parsed["nodelist"])
    options = frozenset(_name_of(pair).lower() for pair in query.split("&") if pair)
    return Target(named, parsed["database"], options, bool(parsed["username"]), parsed["options"].get("tls"), srv)


def address(text: str, field: str, port: int = DEFAULT_PORT) -> str:
    """Return ``host:port`` of a host with or without a port: ``db1``, ``db1:27018``, ``::1``, ``[::1]:27018``.

    :raises ConfigError: if it is something else. The text quotes it only if it cannot hold a password.
    """
    if "@" in text or may_hold_secret(text):
        raise ConfigError(f"{field} looks like a URI. Give it as uri, or as the URL that you give to init().")
    host, given = text, str(port)
    if text.startswith("["):
        host, closing, behind = text[1:].partition("]")
        given = behind[1:] if behind.startswith(":") else given if closing and not behind else ""
    elif text.count(":") == 1:
        host, _, given = text.partition(":")
    fine = bool(host) and not re.search(r"[\s\0/,\[\]\ud800-\udfff]", host) and _port(given) is not None
    if not fine:
        # Without a number after the ':' it may be a user and a password.
        shown = f"{field}={quoted(text)}" if not given or given.isdigit() else field
        raise ConfigError(
            f"{shown} is no address. Give a host name, 'host:port' or '[ipv6]:port', with a port from 1 to 65535."
        )
    return f"{_bracketed(host)}:{given}"


def _port(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if 1 <= number <= 65535 else None


def _place(host: str, port: int | None) -> str:
    # A Unix socket has no port.
    return host if port is None else f"{_bracketed(host)}:{port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _name_of(pair: str) -> str:
    return unquote(pair.partition("=")[0])


def _check_options(pairs: Sequence[str]) -> None:
    seen: set[str] = set()
    for pair in pairs:
        name = _name_of(pair)
        if not _NAME.fullmatch(name) or not pair.partition("=")[2]:
            raise ConfigError("The part of the URI after '?' is malformed. Write it as '?name=value&name=value'.")
        if name in _OWN or name.partition(".")[0] == "retry":
            raise ConfigError(
                f"uri sets {name}, which is no option of MongoDB. Give it as a key beside uri, or in a url."
            )
        if not is_known(name):
            hint = did_you_mean(name, [*OPTIONS, *_OWN])
            raise ConfigError(
                f"Unknown option {quoted(name)} in the URI. {hint}See PyMongo's MongoClient for all options."
            )
        if name.lower() in seen and name.lower() != "readpreferencetags":
            raise ConfigError(f"The URI sets {name} twice. Set each option once.")
        seen.add(name.lower())
        _check_value(name, pair)


def _check_value(name: str, pair: str) -> None:
    if name.lower() in map(str.lower, SRV_OPTIONS):
        return
    try:
        if name.lower() == "compressors":
            check_compressors(unquote(pair.partition("=")[2]))
        parse_uri(f"{_PLAIN}localhost/?{pair}")
    except (PyMongoError, ValueError, TypeError, OSError):
        # PyMongo's text quotes the value, which may be the password of a key.
        raise ConfigError(
            f"The option {name} of the URI has a value that PyMongo does not accept, or names a file that does not exist."
        ) from None


def _malformed(why: str | None = None) -> ConfigError:
    reason = f" ({why})" if why else ""
    return ConfigError(
        f"The MongoDB URI is malformed{reason}. Write it as mongodb://user:password@host:27017/database?option=value, "
        f"with user and password percent-encoded (urllib.parse.quote_plus). It is not shown, because it may contain a password."
    )
