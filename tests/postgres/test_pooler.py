"""The option pgbouncer: nothing of a session is used, and the backend says what it does without."""

from __future__ import annotations

import logging

import psycopg
import pytest

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop_postgres._session import Session
from postgres.kit import LATER, done, record


@pytest.fixture
def pooled(make):
    return make(pgbouncer="true", operation_timeout="3s")


def test_messages_pass_through_without_prepared_statements_and_settings(pooled, make, sql):
    pooled.put([record(str(n)) for n in range(20)])
    for _ in range(3):
        leased = pooled.lease(5, 60_000)
        assert list(pooled.settle([done(each) for each in leased])) == [True] * 5
    assert pooled.tally().due == 5
    with pooled._database.pool.session(float("inf")) as session:
        assert session.fetch("SELECT count(*) FROM pg_prepared_statements") == [(0,)]
        assert session.fetch("SELECT setting FROM pg_settings WHERE name = 'enable_seqscan'") == [("off",)]
        assert session._connection.execute("SHOW enable_seqscan").fetchone() == ("on",)


def test_it_says_once_that_it_does_not_listen(pooled, caplog):
    with caplog.at_level(logging.WARNING):
        assert pooled.watch() is None
        assert pooled.watch() is None
    assert [each.message.count("LISTEN") for each in caplog.records] == [1]


def test_the_server_ends_a_statement_that_waits_for_too_long(pooled, uri, table):
    pooled.put([record("a", LATER)])
    with psycopg.connect(uri) as locker:
        locker.execute(f"SELECT FROM {table} WHERE id = 'a' FOR UPDATE")
        with pytest.raises(BackendUnavailable, match="operation_timeout"):
            pooled.put([record("a", LATER)])
    assert pooled.get("a") is not None


def test_a_write_whose_answer_is_lost_is_not_repeated(pooled, monkeypatch):
    pooled.tally()
    real, sent = Session.fetch, []

    def fetch(self, statement, values=()):
        if "INSERT INTO" in statement:
            sent.append(statement)
            self._connection.close()
        return real(self, statement, values)

    monkeypatch.setattr(Session, "fetch", fetch)
    with pytest.raises(OutcomeUnknown):
        pooled.put([record("a", LATER)])
    assert len(sent) == 1
