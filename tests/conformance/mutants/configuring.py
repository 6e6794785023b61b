"""Mutants whose configuration shows what it should not, or takes what it should refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import attrs

from conformance.mutants.registry import mutant
from pitstop import ConfigError
from pitstop_memory import MemoryBackend, MemoryConfig


def _mode(value: object) -> str:
    if value not in ("on", "off"):
        raise ConfigError(f"mode={value!r} is unknown. Give 'on' or 'off'.")
    return str(value)


@attrs.frozen(kw_only=True)
class _QuotingConfig(MemoryConfig):
    mode: str = attrs.field(default="on", converter=_mode)


@mutant("test_no_error_and_no_repr_shows_a_secret_that_a_key_was_given[user_and_password]")
class ErrorsQuoteAnything(MemoryBackend):
    """Quotes in an error whatever a key was given: also a URL that belongs to another key."""

    Config: ClassVar[type[MemoryConfig]] = _QuotingConfig


@attrs.frozen(kw_only=True)
class _OpenConfig(MemoryConfig):
    #: Anything, so that nothing that is checked as text can tell that it is a secret.
    login: Any = attrs.field(default=None)


@mutant("test_no_error_and_no_repr_shows_a_secret_that_a_key_was_given[mapping]")
class PasswordInTheRepr(MemoryBackend):
    """Has a login in its configuration and forgot ``repr=False``."""

    Config: ClassVar[type[MemoryConfig]] = _OpenConfig


@attrs.frozen(kw_only=True)
class _LaxConfig(MemoryConfig):
    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        keys = {each.name for each in attrs.fields(cls)}
        return cls(**{key: value for key, value in options.items() if key in keys})


@mutant(
    "test_an_unknown_key_is_refused_and_its_value_not_shown",
    "test_a_name_keeps_no_white_space_at_its_end[newline]",
)
class ReadsItsOptionsByItself(MemoryBackend):
    """Reads its options by itself: passes over a key that it does not know, and keeps the line break of a name."""

    Config: ClassVar[type[MemoryConfig]] = _LaxConfig
