"""``pitstop migrate``."""

from __future__ import annotations


def test_it_makes_the_store_and_leaves_messages_alone(invoke, pit):
    pit.store({"id": "a"})
    result = invoke("migrate")
    assert result.exit_code == 0
    assert result.stdout == f"{pit.location} is ready.\n"
    assert pit.get("a") is not None


def test_a_store_without_statements_says_so(invoke, pit, lines):
    assert invoke("migrate", "--print").stdout == f"-- {pit.location} needs no statements.\n"
    assert lines(invoke("migrate", "--print", "--json").stdout) == [{"location": pit.location, "schema": None}]
