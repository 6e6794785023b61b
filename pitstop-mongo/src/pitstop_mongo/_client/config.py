"""The configuration of the MongoDB backend."""

from __future__ import annotations

import re

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Self

import attrs
import pymongo

from pitstop import ConfigError
from pitstop.abc import BackendConfig, checked_url, duration_field, may_hold_secret, quoted
from pitstop_mongo._client.driver_options import checked_options, sort_keys
from pitstop_mongo._client.uri import DEFAULT_PORT, FORBIDDEN, Target, address, options_of_url, read_uri


__all__ = ["MongoConfig"]

#: The least time of an operation, however short the leases are. A server that is busy for a moment is not away.
_LEAST_TIMEOUT = timedelta(seconds=2)
_MOST_TIMEOUT = timedelta(seconds=10)

#: Options with which PyMongo uses TLS also if `tls` is not given.
_IMPLY_TLS = frozenset({"tlscafile", "tlscrlfile", "tlscertificatekeyfile", "tlscertificatekeyfilepassword"})

#: Digits of the greatest port, and of the number of members that a replica set may have.
_PORT_DIGITS, _MEMBER_DIGITS = 5, 2

#: Options of a client that decide how it gives back documents, and when it connects.
_OF_READING = frozenset({"document_class", "tz_aware", "type_registry", "connect"})

_DATABASE = re.compile(r'[^\s/\\."$\0]+')


def _is_unset(value: object) -> bool:
    # An empty text counts as none: it may come from a variable of the environment that is not set.
    return value is None or (isinstance(value, str) and not value)


def _text(value: object, _: Any, field: attrs.Attribute[Any]) -> str | None:
    if _is_unset(value):
        return None
    if not isinstance(value, str):
        # Not quoted: it may be a password.
        raise ConfigError(f"{_key(field)} is a {type(value).__name__}. Give a str.")
    if FORBIDDEN.search(value):
        raise ConfigError(
            f"{_key(field)} has a line break, another control character, or a lone surrogate in it. Remove it. "
            f"Environment variables and files of secrets often end in a line break."
        )
    return value


def _name(value: object, self: Any, field: attrs.Attribute[Any]) -> str | None:
    """Check a text that appears in logs, or is sent to servers as a name. A URL in its place may hold a password."""
    text = _text(value, self, field)
    if text is not None and may_hold_secret(text):
        raise ConfigError(f"{_key(field)} looks like a URI. Give it as uri, or as the URL that you give to init().")
    return text


def _uri(value: object, self: Any, field: attrs.Attribute[Any]) -> str | None:
    # If the text is no URL, the error of read_uri says what to give.
    if isinstance(value, str) and "://" in value:
        value = checked_url(value, "uri")
    return _text(value, self, field)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _number(value: object, digits: int) -> object:
    """Return the number that a text of at most ``digits`` digits spells; any other value as it is.

    The number of digits is bounded, because Python refuses to read very long numbers.
    """
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= digits:
        return int(value)
    return value


def _port(value: object, _: Any, field: attrs.Attribute[Any]) -> int | None:
    if _is_unset(value):
        return None
    number = _number(value, _PORT_DIGITS)
    if type(number) is not int or not 1 <= number <= 65535:
        raise ConfigError(f"{field.name}={quoted(value)} cannot be used. Give a whole number from 1 to 65535.")
    return number


def _hosts(value: object) -> tuple[str, ...] | None:
    if _is_unset(value):
        return None
    several = value.split(",") if isinstance(value, str) else value
    if not isinstance(several, list | tuple) or not several or not all(isinstance(each, str) for each in several):
        raise ConfigError("hosts cannot be used. Give a list of str such as ['db1:27017', 'db2'], or 'db1:27017,db2'.")
    return tuple(each.strip() for each in several)


def _flag(value: object, _: Any, field: attrs.Attribute[Any]) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise ConfigError(f"{field.name}={quoted(value)} cannot be used. Give true or false.")


def _acks(value: object) -> int | str:
    if isinstance(value, str) and value == "majority":
        return "majority"
    number = _number(value, _MEMBER_DIGITS)
    # A replica set has at most 50 members.
    if type(number) is int and 1 <= number <= 50:
        return number
    raise ConfigError(
        f"ack_write_concern={quoted(value)} cannot be used. Give 'majority', or a number of members such as 1."
    )


def _option(convert: Any, *, key: str | None = None, secret: bool = False) -> Any:
    return attrs.field(
        default=None,
        converter=attrs.Converter(convert, takes_self=True, takes_field=True),
        repr=False if secret else quoted,
        metadata={"verbatim": secret} | ({} if key is None else {"key": key}),
    )


def _key(field: attrs.Attribute[Any]) -> str:
    return str(field.metadata.get("key", field.name))


def _check_client(_: Any, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    # By its methods, not by its class: tests may give a client of mongomock.
    if not callable(getattr(value, "get_database", None)):
        raise ConfigError(f"{field.name} is a {type(value).__name__}. Give a pymongo.MongoClient or AsyncMongoClient.")


def _check_collection(_: Any, field: attrs.Attribute[Any], value: object) -> None:
    if (
        not isinstance(value, str)
        or not value
        or not _is_utf8(value)
        or re.search(r"[$\0\n\r]", value)
        or value.startswith(("system.", "."))
        or value.endswith(".")
        or ".." in value
        or len(value.encode(errors="replace")) > 120
    ):
        raise ConfigError(
            f"{field.name}={quoted(value)} cannot be the name of a collection. "
            f"Give 1 to 120 bytes without '$', NUL and line breaks. The name must not begin with 'system.' or '.', end with "
            f"'.', or contain '..'."
        )


def _check_database(name: object, what: str) -> str:
    if (
        not isinstance(name, str)
        or not _DATABASE.fullmatch(name)
        or not _is_utf8(name)
        or len(name.encode(errors="replace")) > 63
    ):
        raise ConfigError(
            f'{what} cannot be the name of a database. Give 1 to 63 bytes without spaces and any of / \\ . " $'
        )
    return name


@attrs.frozen(kw_only=True)
class MongoConfig(BackendConfig):
    """The address of the MongoDB server, and how Pitstop uses it.

    Give the address in one of four ways: ``host`` and ``port``, ``hosts``, ``uri``, or ``client``. Without any of them it is
    ``localhost:27017``. The backend connects at its first use.
    """

    #: Longer than for other backends. Normally a watch reports the messages of other processes; this is for its failures.
    loop_time: timedelta = duration_field(timedelta(seconds=10))
    #: A host name, ``host:port`` or ``[ipv6]:port``.
    host: str | None = _option(_name)
    #: The port of each host that names none; 27017 if not given.
    port: int | None = _option(_port)
    #: Members of a replica set, as a list, or as a text with commas.
    hosts: tuple[str, ...] | None = attrs.field(default=None, converter=_hosts)
    #: The database. If not given, the database in the path of ``uri``, or else ``pitstop``.
    dbname: str = attrs.field(default=None)
    coll: str = attrs.field(default="messages", validator=_check_collection)
    user: str | None = _option(_text)
    #: The key is ``pass``. White space counts.
    password: str | None = _option(_text, key="pass", secret=True)
    #: A URI as PyMongo takes it, with any option of ``MongoClient``. The other keys take precedence over it.
    uri: str | None = _option(_uri, secret=True)
    #: A client of your own. Pitstop uses it as it is, and never closes it. Make it after a fork, not before. An AsyncMongoClient
    #: gets only the calls with its sessions. For all others Pitstop makes a client with the same options, or with the address that
    #: is given beside it.
    client: Any = attrs.field(default=None, validator=_check_client, repr=False)
    #: The database in which the user is defined: ``admin`` if not given. With a ``uri``, the URI decides.
    auth_source: str | None = _option(_name)
    #: The name that the servers' replica set must have.
    replica_set: str | None = _option(_name)
    tls: bool | None = _option(_flag)
    #: Any other options of ``MongoClient``, by PyMongo's names. In a mapping they stand beside the other keys, there also
    #: in snake case: ``maxPoolSize`` or ``max_pool_size``. They take precedence over ``uri``.
    driver_options: Mapping[str, Any] = attrs.field(
        factory=dict, converter=checked_options, repr=lambda options: f"<{', '.join(options)}>"
    )
    #: The longest time of one operation, the search for a server included. If not given, a third of ``lock_time``, but at
    #: least 2 and at most 10 seconds.
    operation_timeout: timedelta = duration_field(None)
    #: How many members must have an ack or a nack before it is confirmed: ``"majority"``, or a number. With 1 they are
    #: faster. If the primary is lost, the last ones may then be undone, and their messages come again.
    ack_write_concern: int | str = attrs.field(default="majority", converter=_acks)

    #: The parts of ``uri``.
    target: Target | None = attrs.field(init=False, default=None, repr=False)
    #: Each ``host:port``, or the DNS name of the servers. Empty if a ``client`` is given.
    addresses: tuple[str, ...] = attrs.field(init=False, default=(), repr=False)

    def __attrs_post_init__(self) -> None:
        self._check_together()
        if self.operation_timeout is None:
            timeout = max(min(self.lock_time / 3, _MOST_TIMEOUT), _LEAST_TIMEOUT)
            object.__setattr__(self, "operation_timeout", timeout)
        target = None if self.uri is None else read_uri(self.uri)
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "addresses", self._addresses(target))
        if self.dbname is not None:
            _check_database(self.dbname, f"dbname={quoted(self.dbname)}")
        elif target is not None and target.database is not None:
            object.__setattr__(self, "dbname", _check_database(target.database, "The path of the URI"))
        else:
            object.__setattr__(self, "dbname", "pitstop")

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """See :meth:`pitstop.abc.BackendConfig.from_options`. Options of the driver stand beside the other keys."""
        keys = {_key(field) for field in attrs.fields(cls) if field.init} - {"driver_options"}
        own, driver = sort_keys(options, keys | {"url"})
        return super().from_options({**own, "driver_options": driver})

    @classmethod
    def options_of_url(cls, url: str) -> dict[str, Any]:
        """``mongo://user:password@host,host2/dbname?coll=messages&lock_time=15m&replicaSet=rs``.

        ``mongodb://`` and ``mongodb+srv://`` likewise. Options that Pitstop does not know are given to PyMongo.
        """
        return options_of_url(url)

    @property
    def is_client_async(self) -> bool:
        """Whether the client is an AsyncMongoClient, which only the calls with its sessions use."""
        return isinstance(self.client, pymongo.AsyncMongoClient)

    @property
    def used_client(self) -> Any:
        """The client that Pitstop uses. None: Pitstop makes its own."""
        return None if self.is_client_async else self.client

    @property
    def copied_options(self) -> Mapping[str, Any] | None:
        """The options with which the user made the AsyncMongoClient. None: Pitstop's own client has options of its own."""
        if not self.is_client_async or self._addressed:
            return None
        options = getattr(self.client, "_init_kwargs", None)
        if not isinstance(options, dict):
            raise ConfigError(
                "client is an AsyncMongoClient of a version of PyMongo that does not show its options. Pitstop needs a client of "
                "its own beside it. Give the address as well, as uri, hosts or host."
            )
        return {name: value for name, value in options.items() if name not in _OF_READING}

    @property
    def _addressed(self) -> bool:
        """Whether an address is given."""
        return self.uri is not None or self.hosts is not None or self.host is not None or self.port is not None

    @property
    def in_the_open(self) -> bool:
        """Whether messages go over a network with a login but without TLS, and the configuration does not ask for that."""
        target = self.target
        given = {name.lower() for name in self.driver_options} | (target.options if target is not None else set())
        if (
            self.tls is not None
            or (target is not None and (target.srv or target.tls is not None))
            or given & _IMPLY_TLS
        ):
            return False
        has_user = self.user is not None or (target is not None and target.credentials)
        return has_user and not all(map(_is_here, self.addresses))

    def _addresses(self, target: Target | None) -> tuple[str, ...]:
        if self.client is not None and not (self.is_client_async and self._addressed):
            return ()
        if target is not None:
            return target.hosts
        port = self.port or DEFAULT_PORT
        if self.hosts is not None:
            return tuple(address(each, "hosts", port) for each in self.hosts)
        return (address(self.host or "localhost", "host", port),)

    def _check_together(self) -> None:
        connection = ("uri", "hosts", "host", "port", "user", "pass", "auth_source", "replica_set", "tls")
        given = [key for key in connection if getattr(self, "password" if key == "pass" else key) is not None]
        given += self.driver_options
        if self.client is not None and given and not (self.is_client_async and self._addressed):
            raise ConfigError(
                f"client is given together with {_listed(given)}. The client has its own connection. Give one of them."
            )
        if self.uri is not None:
            both = [key for key in ("hosts", "host", "port") if key in given]
            if both:
                raise ConfigError(f"uri (or a URL) is given together with {_listed(both)}. Give the address once.")
        if self.hosts is not None and self.host is not None:
            raise ConfigError("host and hosts are both given. Give one of them.")
        # With such a mechanism the user may need no password: a certificate or another service proves the identity.
        otherwise = "authMechanism" in self.driver_options
        if self.user is not None and self.password is None and not otherwise:
            raise ConfigError("user is given without pass. Give both, or neither.")
        if self.password is not None and self.user is None:
            raise ConfigError("pass is given without user. Give both, or neither.")
        if self.auth_source is not None and self.user is None and self.uri is None and not otherwise:
            raise ConfigError("auth_source is given without user. Give user and pass too, or leave it out.")


def _listed(keys: Sequence[str]) -> str:
    return ", ".join(keys)


def _is_here(address: str) -> bool:
    return address.startswith(("localhost:", "127.", "[::1]:", "/"))
