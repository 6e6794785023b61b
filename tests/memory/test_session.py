"""``session=`` on a backend without transactions."""

from __future__ import annotations

import pytest

import pitstop


def test_the_error_names_all_backends_with_transactions():
    with pitstop.init("memory://") as pit, pytest.raises(pitstop.Unsupported, match="'sqlite', or 'mongo'"):
        pit.store({"id": "a"}, "1h", session=object())
