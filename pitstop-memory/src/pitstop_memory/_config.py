"""The configuration of the memory backend."""

from __future__ import annotations

from typing import Any

import attrs

from pitstop import ConfigError
from pitstop.abc import BackendConfig, query_options, quoted, split_url


__all__ = ["MemoryConfig"]


@attrs.frozen(kw_only=True)
class MemoryConfig(BackendConfig):
    """The options of the memory backend. All are optional."""

    #: Handles with one name, in one process, share their messages. None: this handle has its own messages.
    name: str | None = attrs.field(default=None)

    @name.validator
    def _check_name(self, field: attrs.Attribute[str | None], value: object) -> None:
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{field.name}={quoted(value)} cannot be used. Give a non-empty str, or leave it out.")

    @classmethod
    def options_of_url(cls, url: str) -> dict[str, Any]:
        """``memory://`` or ``memory://name``."""
        parts = split_url(url)
        if "@" in parts.netloc:
            raise ConfigError("A memory URL has no user and no password. Write it as 'memory://' or 'memory://name'.")
        if parts.path.strip("/"):
            raise ConfigError("A memory URL has no path. Write it as 'memory://' or 'memory://name'.")
        named = {"name": parts.netloc} if parts.netloc else {}
        return {**named, **query_options(parts.query)}
