"""The contract of a configuration: it checks itself, names the key that is wrong, and shows no secret."""

from __future__ import annotations

import traceback

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import pytest

import pitstop

from pitstop.abc import Backend
from pitstop_conformance._kit import Kit


_SECRET = "hunt3rS3cret"
_URL = f"mongodb://app:{_SECRET}@db1/app"
#: Values that may hold a secret, as when two environment variables were mixed up.
_SECRETS: Mapping[str, object] = {
    "url": _URL,
    "user_and_password": f"app:{_SECRET}@db1",
    "named": f"password={_SECRET}",
    "bytes": _URL.encode(),
    "list": [_URL],
    "mapping": {"password": _SECRET},
}


class Configuration(Kit):
    """Each key of the backend's ``Config``, with values that do not belong there. Nothing is opened."""

    @pytest.mark.parametrize("kind", _SECRETS)
    def test_no_error_and_no_repr_shows_a_secret_that_a_key_was_given(self, backend: Backend, kind: str) -> None:
        """Quote a value with ``pitstop.abc.quoted``; give the field of a password ``repr=False``."""
        for key in _keys(backend):
            try:
                shown = repr(_configuration(backend, {key: _SECRETS[kind]}))
            except pitstop.ConfigError as error:
                shown = "".join(traceback.format_exception(error))
            # Text that is no URL may be a name: it is in the repr, and belongs there.
            assert _SECRET not in shown, f"the value of {key!r} is shown"

    def test_an_unknown_key_is_refused_and_its_value_not_shown(self, backend: Backend) -> None:
        with pytest.raises(pitstop.ConfigError) as caught:
            _configuration(backend, {"no_such_key": _SECRET})
        text = "".join(traceback.format_exception(caught.value))
        assert "no_such_key" in text
        assert _SECRET not in text

    @pytest.mark.parametrize("white", ["newline", "blank", "tab", "byte_order_mark"])
    def test_a_name_keeps_no_white_space_at_its_end(self, backend: Backend, white: str) -> None:
        """A file of secrets ends in a line break: with it a name would be another one, and nothing would show it."""
        end = {"newline": "\n", "blank": " ", "tab": "\t", "byte_order_mark": "\ufeff"}[white]
        for key, field in _keys(backend).items():
            if field.metadata.get("verbatim"):
                continue
            try:
                kept = getattr(_configuration(backend, {key: f"name{end}"}), field.name)
            except pitstop.ConfigError:
                continue
            assert not (isinstance(kept, str) and kept.endswith(end)), f"{key} keeps it"


def _keys(backend: Backend) -> dict[str, attrs.Attribute[Any]]:
    return dict(_named(type(backend)))


def _named(kind: type[Backend]) -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    for field in attrs.fields(kind.Config):
        if field.init:
            yield str(field.metadata.get("key", field.name)), field


def _configuration(backend: Backend, options: Mapping[str, object]) -> object:
    return type(backend).Config.from_options(options)
