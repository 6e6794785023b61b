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
#: Values with a secret, as they arrive under a wrong key when two environment variables are mixed up.
_SECRETS: Mapping[str, object] = {
    "url": _URL,
    "user_and_password": f"app:{_SECRET}@db1",
    "named": f"password={_SECRET}",
    "bytes": _URL.encode(),
    "list": [_URL],
    "mapping": {"password": _SECRET},
}


class Configuration(Kit):
    """Each key of the backend's ``Config``, with values that do not belong there. No store is opened."""

    rule = 'docs/writing-a-backend.md, "Errors"'

    @pytest.mark.parametrize("kind", _SECRETS)
    def test_no_error_and_no_repr_shows_a_secret_that_a_key_was_given(self, backend: Backend, kind: str) -> None:
        """Quote a value with ``pitstop.abc.quoted``. Give the field of a password ``repr=False``."""
        for key in _keys(backend):
            try:
                shown = repr(_configuration(backend, {key: _SECRETS[kind]}))
            except pitstop.ConfigError as error:
                shown = "".join(traceback.format_exception(error))
            # Text that is no URL may be a name, so the repr may show it.
            assert _SECRET not in shown, (
                f"the value of {key!r} may hold a secret, and a repr or an error shows it: quote it with pitstop.abc.quoted"
            )

    def test_an_unknown_key_is_refused_and_its_value_not_shown(self, backend: Backend) -> None:
        with pytest.raises(pitstop.ConfigError) as caught:
            _configuration(backend, {"no_such_key": _SECRET})
        text = "".join(traceback.format_exception(caught.value))
        assert "no_such_key" in text
        assert _SECRET not in text

    @pytest.mark.parametrize("white", ["newline", "blank", "tab", "byte_order_mark"])
    def test_a_name_keeps_no_white_space_at_its_end(self, backend: Backend, white: str) -> None:
        """A file of secrets ends in a line break. A name with that line break would be another name, and would look the same."""
        end = {"newline": "\n", "blank": " ", "tab": "\t", "byte_order_mark": "\ufeff"}[white]
        for key, field in _keys(backend).items():
            if field.metadata.get("verbatim"):
                continue
            try:
                kept = getattr(_configuration(backend, {key: f"name{end}"}), field.name)
            except pitstop.ConfigError:
                continue
            assert not (isinstance(kept, str) and kept.endswith(end)), (
                f"{key!r} keeps the white space at the end of its value: strip or refuse it"
            )


def _keys(backend: Backend) -> dict[str, attrs.Attribute[Any]]:
    return dict(_named(type(backend)))


def _named(kind: type[Backend]) -> Iterator[tuple[str, attrs.Attribute[Any]]]:
    for field in attrs.fields(kind.Config):
        if field.init:
            yield str(field.metadata.get("key", field.name)), field


def _configuration(backend: Backend, options: Mapping[str, object]) -> object:
    return type(backend).Config.from_options(options)
