"""``pitstop ping``."""

from __future__ import annotations

import re

import pytest

from pitstop import BackendUnavailable


def test_it_says_where_the_store_is_and_how_long_it_took(invoke, pit):
    result = invoke("ping")
    assert result.exit_code == 0
    assert re.fullmatch(re.escape(pit.location) + r" answers in [\d,]+\.\d{1,3} ms\n", result.stdout)
    assert result.stderr == ""


def test_as_json_it_is_one_object(invoke, pit, lines):
    result = invoke("ping", "--json")
    (answer,) = lines(result.stdout)
    assert result.exit_code == 0
    assert answer == {"location": pit.location, "ms": answer["ms"]}
    assert 0 < answer["ms"] < 10_000


@pytest.mark.usefixtures("pit")
@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_store_that_cannot_be_used_is_a_failure_with_the_reason(invoke, monkeypatch, form):
    def unavailable(self):
        raise BackendUnavailable("The store\nis on fire. Put it out.")

    monkeypatch.setattr("pitstop_sqlite.SqliteBackend.ping", unavailable)
    result = invoke("ping", *form)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: The store is on fire. Put it out.\n"


def test_a_file_that_is_no_store_is_a_failure_with_the_reason(invoke, tmp_path):
    (tmp_path / "test.db").write_text("this is no database, " * 1000)
    result = invoke("ping")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
