"""The configuration of the PostgreSQL backend."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Self
from urllib.parse import urlencode

import attrs
import psycopg

from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Conninfo

from pitstop import ConfigError
from pitstop.abc import BackendConfig, checked_url, duration_field, may_hold_secret, query_options, quoted, split_url


__all__ = ["PostgresConfig"]

#: The least time of an operation, however short the leases are. A server that is busy for a moment is not away.
_LEAST_TIMEOUT = timedelta(seconds=2)
_MOST_TIMEOUT = timedelta(seconds=10)

#: The most bytes of a table's name. PostgreSQL cuts names after 63 bytes, and the names of the indexes are longer.
_LONGEST_NAME = 50
#: The most connections of one handle that a configuration may ask for.
_MOST_CONNECTIONS = 1000

#: The parameters of libpq, such as ``sslmode``.
_OF_LIBPQ = frozenset(each.keyword.decode() for each in Conninfo.get_defaults())
#: Parameters that Pitstop sets by itself.
_OURS = frozenset({"client_encoding", "fallback_application_name", "replication"})
_SCHEMES = ("postgres://", "postgresql://")


def _text(value: object, _: Any, field: attrs.Attribute[Any]) -> str | None:
    # An empty text counts as none: it may come from a variable of the environment that is not set.
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        # Not quoted: it may be a password.
        raise ConfigError(f"{field.name} is a {type(value).__name__}. Give a str.")
    if not value.isprintable():
        raise ConfigError(
            f"{field.name} has a line break, another control character, or a lone surrogate in it. Remove it. "
            f"Environment variables and files of secrets often end in a line break."
        )
    return value


def _plain_text(value: object, self: Any, field: attrs.Attribute[Any]) -> str | None:
    """Check a text that appears in logs. A URL in its place may hold a password."""
    text = _text(value, self, field)
    if text is not None and may_hold_secret(text):
        raise ConfigError(f"{field.name} looks like a URL. Give it as uri, or as the URL that you give to init().")
    return text


def _uri(value: object, self: Any, field: attrs.Attribute[Any]) -> str | None:
    if isinstance(value, str) and "://" in value:
        value = checked_url(value, "uri")
        if not value.startswith(_SCHEMES):
            raise ConfigError(
                "uri has another scheme. Give 'postgresql://host:port/database', or libpq's 'host=… dbname=…'."
            )
    return _text(value, self, field)


def _name(value: object, _: Any, field: attrs.Attribute[Any]) -> str | None:
    if value is None and field.default is None:
        return None
    if (
        not isinstance(value, str)
        or not value
        or not value.isprintable()
        or len(value.encode(errors="replace")) > _LONGEST_NAME
    ):
        raise ConfigError(
            f"{field.name}={quoted(value)} cannot be used. Give a name of 1 to {_LONGEST_NAME} bytes without control characters, "
            f"such as 'messages'. Upper case and lower case differ, because the name is quoted."
        )
    return value


def _connections(value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 5 else value
    if type(number) is not int or not 1 <= number <= _MOST_CONNECTIONS:
        raise ConfigError(
            f"pool_size={quoted(value)} cannot be used. Give a whole number from 1 to {_MOST_CONNECTIONS}."
        )
    return number


def _flag(value: object, _: Any, field: attrs.Attribute[Any]) -> bool:
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ConfigError(f"{field.name}={quoted(value)} cannot be used. Give true or false.")
    return value


def _option(convert: Any, *, secret: bool = False) -> Any:
    return attrs.field(
        default=None,
        converter=attrs.Converter(convert, takes_self=True, takes_field=True),
        repr=False if secret else quoted,
        metadata={"verbatim": secret},
    )


def _named(default: str | None) -> Any:
    return attrs.field(
        default=default, converter=attrs.Converter(_name, takes_self=True, takes_field=True), repr=quoted
    )


def _flagged(*, default: bool) -> Any:
    return attrs.field(default=default, converter=attrs.Converter(_flag, takes_self=True, takes_field=True))


def _checked_options(value: object) -> Mapping[str, str]:
    assert isinstance(value, Mapping), "from_options collects them"
    for key, each in value.items():
        if not isinstance(each, str | int) or isinstance(each, bool):
            raise ConfigError(f"{key} is a {type(each).__name__}. Give a str, as in 'require'.")
    return {key: str(each) for key, each in value.items()}


@attrs.frozen(kw_only=True)
class PostgresConfig(BackendConfig):
    """The address of the PostgreSQL server, and how Pitstop uses it.

    Give the address as ``uri``, or as ``host``, ``port``, ``dbname``, ``user`` and ``password``. Values that are not given are
    those of libpq: the variables of the environment ``PGHOST``, ``PGDATABASE`` and so on, a service file, and ``~/.pgpass``. The
    backend connects at its first use.
    """

    #: Longer than for other backends. Normally a watch reports the messages of other processes; this is for its failures.
    loop_time: timedelta = duration_field(timedelta(seconds=10))
    #: ``postgresql://…`` or ``host=… dbname=…``, as libpq takes it. The other keys take precedence over it.
    uri: str | None = _option(_uri, secret=True)
    #: A host, or a folder with the server's socket. Several hosts stand with commas between them.
    host: str | None = _option(_plain_text)
    port: str | None = _option(_plain_text)
    dbname: str | None = _option(_plain_text)
    user: str | None = _option(_plain_text)
    #: White space counts.
    password: str | None = _option(_text, secret=True)
    #: The table of the messages. A second table, with ``_meta`` behind the name, holds the version and the paused kinds.
    table: str = _named("pitstop_messages")
    #: The schema of the tables. None: the first schema of the user's ``search_path``.
    schema: str | None = _named(None)
    #: Any other parameters of libpq. In a mapping or a URL they stand beside the other keys, as ``sslmode`` does.
    driver_options: Mapping[str, str] = attrs.field(
        factory=dict, converter=_checked_options, repr=lambda options: f"<{', '.join(options)}>"
    )
    #: The longest time of one operation. If not given, a third of ``lock_time``, but at least 2 and at most 10 seconds.
    operation_timeout: timedelta = duration_field(None)
    #: The most connections of one handle. A call that finds all of them in use waits for one. The watch has one more.
    pool_size: int = attrs.field(default=10, converter=_connections)
    #: Whether a pooler in transaction mode, such as PgBouncer, is between here and the server. Then no prepared statement, no
    #: setting of a session, and no LISTEN is used.
    pgbouncer: bool = _flagged(default=False)

    #: The parameters of libpq, all of them together.
    parameters: Mapping[str, str] = attrs.field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.operation_timeout is None:
            timeout = max(min(self.lock_time / 3, _MOST_TIMEOUT), _LEAST_TIMEOUT)
            object.__setattr__(self, "operation_timeout", timeout)
        object.__setattr__(self, "parameters", self._read())

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """See :meth:`pitstop.abc.BackendConfig.from_options`. Parameters of libpq stand beside the other keys."""
        options = dict(options)
        url = options.pop("url", None)
        if url is not None:
            if not isinstance(url, str):
                raise ConfigError(f"url is a {type(url).__name__}. Give a str such as 'postgresql://host/database'.")
            options = {**cls.options_of_url(checked_url(url)), **options}
        own = {field.name for field in attrs.fields(cls) if field.init} - {"driver_options"}
        driver = {key: options.pop(key) for key in list(options) if key in _OF_LIBPQ - own - _OURS}
        return super().from_options({**options, "driver_options": driver})

    @classmethod
    def options_of_url(cls, url: str) -> dict[str, Any]:
        """Return the options of ``postgresql://user:password@host,host2:5432/dbname?table=messages&lock_time=15m&sslmode=require``."""
        parts = split_url(url)
        options = query_options(parts.query)
        for key in ("uri", "url", "user", "password", "dbname"):
            if key in options:
                raise ConfigError(f"The URL gives {key} behind its '?'. Write user, password and database before it.")
        # libpq reads the rest: it knows several hosts, and hosts that are folders.
        of_libpq: dict[str, Any] = {key: options.pop(key) for key in ("host", "port") if key in options}
        if not all(isinstance(value, str) for value in of_libpq.values()):
            raise ConfigError("The URL gives host or port with a '.' behind it. Write '?host=/folder'.")
        rest = f"postgresql://{parts.netloc}{parts.path}" + (f"?{urlencode(of_libpq)}" if of_libpq else "")
        return {"uri": rest, **options}

    @property
    def location(self) -> str:
        """``postgresql://host:port/database?table=name``, without user and password."""
        given = self.parameters
        hosts = (given.get("host") or given.get("hostaddr") or given.get("service") or "").split(",")
        ports = (given.get("port") or "").split(",")
        ports = ports * len(hosts) if len(ports) == 1 else ports
        where = ",".join(f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=False))
        table = self.table if self.schema is None else f"{self.schema}.{self.table}"
        return f"postgresql://{where}/{given.get('dbname', '')}?table={table}"

    def _read(self) -> Mapping[str, str]:
        try:
            found = {} if self.uri is None else conninfo_to_dict(self.uri)
            named = {key: getattr(self, key) for key in ("host", "port", "dbname", "user", "password")}
            given = {
                **found,
                **self.driver_options,
                **{key: value for key, value in named.items() if value is not None},
            }
            # libpq checks the names of all parameters.
            return {key: str(value) for key, value in conninfo_to_dict(make_conninfo("", **given)).items()}
        except (psycopg.Error, UnicodeError):
            # The text of libpq quotes parts of the address, and perhaps of the password.
            raise ConfigError(
                "The address of the PostgreSQL server cannot be read. Write it as 'postgresql://user@host:5432/database?table=messages', "
                "and percent-encode special characters, in a password, too."
            ) from None
