"""Lists as values of statements."""

from __future__ import annotations

import psycopg
import pytest

from pitstop import Stored
from pitstop_postgres._arrays import adapt


TEXTS = [
    [],
    ["a"],
    ["", 'with, "comma" and {braces}', "\\", "NULL"],
    ["ä", "\N{GRINNING FACE}", None, "x" * 100_000],
    [None, None],
    [Stored("id", "created"), "other"],
]
INTEGERS = [[0], [-1, 2**63 - 1, -(2**63)], [None, 5, None], [*range(5000)]]


@pytest.fixture
def adapted(uri):
    with psycopg.connect(uri, autocommit=True) as connection:
        adapt(connection)
        yield connection


@pytest.mark.parametrize("texts", TEXTS, ids=range(len(TEXTS)))
def test_a_list_of_texts_arrives_as_it_was(adapted, texts):
    assert adapted.execute("SELECT %b::text[]", (texts,)).fetchone() == (texts,)


@pytest.mark.parametrize("integers", INTEGERS, ids=range(len(INTEGERS)))
def test_a_list_of_integers_arrives_as_it_was(adapted, integers):
    assert adapted.execute("SELECT %b::bigint[]", (integers,)).fetchone() == (integers,)


@pytest.mark.parametrize("empty", [[], [None], [None, None]])
def test_a_list_without_a_value_fits_each_type(adapted, empty):
    assert adapted.execute("SELECT %b::bigint[], %b::text[]", (empty, empty)).fetchone() == (empty, empty)


def test_integers_of_all_sizes_need_one_prepared_statement(adapted):
    adapted.prepare_threshold = 0
    for number in (1, 2**20, 2**40):
        assert adapted.execute("SELECT %s::bigint, %b::bigint[]", (number, [number])).fetchone() == (number, [number])
    found = adapted.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT $1::bigint%'")
    assert found.fetchone() == (1,)
