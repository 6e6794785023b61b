"""Configuration: attrs classes that check themselves at construction and name the wrong key."""

from __future__ import annotations

import math
import os

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self, TypeVar

import attrs

from pitstop._errors import ConfigError
from pitstop._values._arguments import positive_duration
from pitstop._values._duration import parse_duration
from pitstop._values._quoting import has_credentials, quoted
from pitstop._values._suggestion import did_you_mean
from pitstop._values._white_space import checked_url, refuse_in_name
from pitstop.abc._clock import Clock


if TYPE_CHECKING:
    from urllib.parse import SplitResult

__all__ = [
    "BackendConfig",
    "Retry",
    "duration_field",
    "flag_field",
    "from_mapping",
    "number_field",
    "query_options",
    "split_url",
]

_T = TypeVar("_T")

_TEXT = (str, os.PathLike, bytes)
#: The most characters of a name for people.
_LONGEST_NAME = 200


def duration_field(default: timedelta | None, *, zero: bool = False) -> Any:
    """Return an attrs field for a duration. ``default=None`` makes it optional, ``zero=True`` lets it be zero."""

    def convert(value: object, _: Any, field: attrs.Attribute[Any]) -> timedelta | None:
        if value is None and default is None:
            return None
        return (parse_duration if zero else positive_duration)(value, field.name)

    return attrs.field(default=default, converter=attrs.Converter(convert, takes_self=True, takes_field=True))


def number_field(default: _T, convert: Callable[[Any], Any], least: float, need: str) -> Any:
    """Return an attrs field for a finite number, which a text may spell. None is allowed if it is the default."""

    def read(value: object, _: Any, field: attrs.Attribute[Any]) -> Any:
        if value is None and default is None:
            return None
        try:
            number = convert(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
            fine = number is not None and math.isfinite(number) and number >= least and number == float(value)  # type: ignore[arg-type]
        except (ValueError, OverflowError):
            fine = False
        if not fine:
            raise ConfigError(f"{field.name}={quoted(value)} cannot be used. Give {need}.")
        return number

    return attrs.field(default=default, converter=attrs.Converter(read, takes_self=True, takes_field=True))


def flag_field(*, default: bool) -> Any:
    """Return an attrs field for a yes or no, which a text may spell ``true`` or ``false``."""

    def read(value: object, _: Any, field: attrs.Attribute[Any]) -> bool:
        if isinstance(value, str) and value.lower() in {"true", "false"}:
            return value.lower() == "true"
        if not isinstance(value, bool):
            raise ConfigError(f"{field.name}={quoted(value)} cannot be used. Give true or false.")
        return value

    return attrs.field(default=default, converter=attrs.Converter(read, takes_self=True, takes_field=True))


@attrs.frozen(kw_only=True)
class Retry:
    """When a message comes back after a nack, and how often it may fail.

    The nack of the n-th attempt delays the message by ``delay * factor ** (n - 1)``, at most ``max_delay``, give or take the
    fraction ``jitter``. Without ``delay`` the message comes back when its lease runs out.
    """

    delay: timedelta | None = duration_field(None, zero=True)
    factor: float = number_field(2.0, float, 1, "a number of at least 1")
    #: The default is 15 minutes, or ``delay`` if that is longer.
    max_delay: timedelta = duration_field(None)
    jitter: float = number_field(0.0, float, 0, "a fraction from 0 to 1, such as 0.1")
    #: The number of attempts after which a one-shot message is dead, and a recurring one goes on with its next occurrence.
    max_attempts: int | None = number_field(None, int, 1, "a whole number of at least 1, or None for no limit")

    def __attrs_post_init__(self) -> None:
        least = self.delay or timedelta(0)
        if self.max_delay is None:
            object.__setattr__(self, "max_delay", max(timedelta(minutes=15), least))
        if self.max_delay < least:
            raise ConfigError(f"max_delay={self.max_delay!s} is shorter than delay={least!s}. Give a longer max_delay.")
        if self.jitter > 1:
            raise ConfigError(f"jitter={self.jitter!r} cannot be used. Give a fraction from 0 to 1, such as 0.1.")


def _retry(value: object) -> Retry:
    if isinstance(value, Retry):
        return value
    if value is None:
        return Retry()
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"retry={quoted(value)} is a {type(value).__name__}. Give a mapping, as in {{'delay': '5s', 'max_attempts': 20}}."
        )
    try:
        return from_mapping(Retry, value, "retry")
    except ConfigError as error:
        raise ConfigError(f"retry: {error}") from None


def _clock(_: Any, field: attrs.Attribute[Any], value: object) -> None:
    if value is None:
        return
    if isinstance(value, type):
        raise ConfigError(f"{field.name} is the class {value.__name__}. Give an instance, as in {value.__name__}().")
    if not all(callable(getattr(value, name, None)) for name in ("time_us", "monotonic", "wait")):
        raise ConfigError(
            f"{field.name} is a {type(value).__name__}, which is no clock. Give a pitstop.testing.ManualClock."
        )


def _short_name(_: Any, field: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()):
        raise ConfigError(
            f"{field.name}={quoted(value)} cannot be used. Give a short text that can be printed, such as 'worker-3'."
        )


@attrs.frozen(kw_only=True)
class BackendConfig:
    """The options of all backends. Subclass it with attrs for more, and set the subclass as the backend's ``Config``."""

    #: How long a claim holds. A message that is neither acknowledged nor extended in this time is emitted again.
    lock_time: timedelta = duration_field(timedelta(minutes=15))
    #: The longest time between two polls of the store: how late a message stored by another process may be noticed.
    loop_time: timedelta = duration_field(timedelta(seconds=1))
    retry: Retry = attrs.field(factory=Retry, converter=_retry)
    #: How often a process with a listener says in the store that it consumes, for operators: see ``pitstop consumers``. 0: never.
    announce: timedelta = duration_field(timedelta(minutes=1), zero=True)
    #: The name that it gives itself there. By default the name of the program.
    consumer_name: str | None = attrs.field(default=None, validator=_short_name)
    #: Whether a missing store may be made. If False, a missing store is a :class:`pitstop.ConfigError`. A backend that connects
    #: at the first use raises :class:`pitstop.BackendUnavailable` there. A backend whose store always exists ignores the option.
    create: bool = flag_field(default=True)
    #: A clock for tests. It replaces the clock that decides otherwise.
    clock: Clock | None = attrs.field(default=None, validator=_clock)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Return a configuration read from a mapping. If the mapping has a ``url``, read both; the mapping's keys come first.

        :raises ConfigError: if a key is unknown or a value is wrong.
        """
        options = dict(options)
        url = options.pop("url", None)
        if url is not None:
            if not isinstance(url, str):
                raise ConfigError(f"url is a {type(url).__name__}. Give a str such as 'sqlite:///pitstop.db'.")
            options = {**cls.options_of_url(checked_url(url)), **options}
        return from_mapping(cls, options, "configuration")

    @classmethod
    def options_of_url(cls, url: str) -> dict[str, Any]:
        """Return the options that a URL spells: here, the options behind its ``?``. A backend with more in its URL extends this.

        :raises ConfigError: if the URL is malformed. The text never quotes the URL, which may hold a password.
        """
        return query_options(split_url(url).query)


def split_url(url: str) -> SplitResult:
    """Return ``urllib.parse.urlsplit(url)``, with an error that does not quote the URL."""
    # Imported here and below: the module takes a twentieth of the time of `import pitstop`, and only URLs need it.
    from urllib.parse import urlsplit  # noqa: PLC0415 - see above

    try:
        return urlsplit(url)
    except ValueError as error:
        raise ConfigError(
            f"The URL is malformed ({type(error).__name__}). Percent-encode special characters."
        ) from None


def query_options(query: str) -> dict[str, Any]:
    """Return the options in the part of a URL behind ``?``: ``retry.delay=5s`` becomes ``{"retry": {"delay": "5s"}}``."""
    from urllib.parse import parse_qsl  # noqa: PLC0415 - see split_url

    options: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError:
        raise ConfigError(
            "The URL's part behind '?' is malformed. Write it as '?lock_time=15m&loop_time=1s'."
        ) from None
    for key, value in pairs:
        name, dot, inner = key.partition(".")
        place = options.setdefault(name, {}) if dot else options
        if not isinstance(place, dict) or (inner or name) in place:
            raise ConfigError(f"The URL gives {quoted(key)} twice. Give each option once.")
        place[inner or name] = value
    return options


def from_mapping(cls: type[_T], options: Mapping[str, Any], what: str) -> _T:
    """Return an attrs instance made of a user's mapping, with an error that teaches for an unknown key.

    A field whose name is a keyword of Python is spelled with ``metadata={"key": ...}``.
    """
    fields = {field.metadata.get("key", field.name): field for field in attrs.fields(cls) if field.init}  # type: ignore[arg-type]
    unknown = [key for key in options if key not in fields]
    if unknown:
        key: object = unknown[0]
        hint = did_you_mean(key, fields) if isinstance(key, str) else ""
        raise ConfigError(f"Unknown {what} key {quoted(key)}. {hint}Known: {', '.join(sorted(fields))}.")
    given = {fields[key].alias: value for key, value in options.items()}
    try:
        made = cls(**given)
    except (TypeError, ValueError, ArithmeticError) as error:
        # From an attrs validator: its arguments are a text, the attribute and more. Values are not quoted: one may be a secret.
        field = next((each.name for each in error.args[1:] if isinstance(each, attrs.Attribute)), None)
        raised = f"the configuration's class {cls.__name__} refuses"
        if field is None:
            # From a converter: its text may quote the value, and does not name the field.
            raise ConfigError(
                f"A value cannot be used: {raised} it with a {type(error).__name__}{_place(error)}. The keys are: "
                f"{', '.join(options) or 'none'}. See what each of them may be."
            ) from None
        raise ConfigError(
            f"{field}, a {type(given.get(field)).__name__}, cannot be used: {raised} "
            f"it with a {type(error).__name__}. See what {field} may be."
        ) from None
    _check_texts(made, {key: (fields[key], value) for key, value in options.items()})
    return made


def _check_texts(made: object, given: Mapping[str, tuple[attrs.Attribute[Any], object]]) -> None:
    """Check the texts that a configuration keeps as text: names and paths, as a rule.

    A text that stands for a number or a duration is converted, so its white space does no harm. Bytes keep their white space,
    and so do fields with ``metadata={"verbatim": True}``.

    :raises ConfigError: for white space at the ends, and for credentials in a field that the repr shows.
    """
    for key, (field, value) in given.items():
        kept = getattr(made, field.name, None)
        if not (isinstance(value, _TEXT) and isinstance(kept, _TEXT)) or field.metadata.get("verbatim"):
            continue
        text = os.fsdecode(value)
        if not isinstance(value, bytes):
            # A field that the repr leaves out, or shows in its own way, may hold a password.
            refuse_in_name(text, key, secret=field.repr is not True and field.repr is not quoted)
        if field.repr is True and has_credentials(text):
            raise ConfigError(
                f"{key} looks like a URL with a user, or like another text with a password in it. It is refused, because "
                f"logs show this value. Give a plain name or path; a URL is given as url, or in place of the mapping."
            )


def _place(error: BaseException) -> str:
    """Return the function that raised an error, for the author of the class."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f", raised by {trace.tb_frame.f_code.co_qualname}() in line {trace.tb_lineno}"
