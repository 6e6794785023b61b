"""Connections that are cut: idle, in the middle of a write, and after its commit."""

from __future__ import annotations

import threading

import psycopg
import pytest

import pitstop

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import Outcome
from pitstop_postgres._session import Session
from postgres.kit import LATER, done, record


MINUTE = 60_000


@pytest.fixture
def cut(monkeypatch, sql):
    """A function that lets the next statement that begins with a text lose its answer: it is executed or not, as asked."""

    def cut(beginning, *, executed):
        real, once = Session.fetch, []

        def fetch(self, statement, values=()):
            if once or beginning not in statement:
                return real(self, statement, values)
            once.append(statement)
            if executed:
                real(self, statement, values)
            sql.execute("SELECT pg_terminate_backend(%s)", (self.identity.pid,))
            # The server has closed the connection. The answer is an error of the driver, without an SQLSTATE or with 57P01.
            return real(self, statement, values)

        monkeypatch.setattr(Session, "fetch", fetch)
        return once

    return cut


def end_all(sql):
    sql.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pitstop' AND datname = current_database()"
    )


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("executed", [True, False])
def test_a_store_for_later_is_known_in_the_end(backend, cut, executed, count):
    backend.tally()
    records = [record(str(n), LATER) for n in range(count)]
    once = cut("INSERT INTO", executed=executed)
    backend.put(records)
    assert once
    assert list(backend.scan(None, 10, None)) == records


def test_a_store_that_is_due_and_may_have_been_emitted_is_not_repeated(backend, cut, sql):
    backend.tally()
    cut("INSERT INTO", executed=False)
    with pytest.raises(OutcomeUnknown) as caught:
        backend.put([record("a", 1)])
    assert caught.value.ids == ("a",)
    assert backend.get("a") is None


@pytest.mark.parametrize("executed", [True, False])
def test_a_conditional_store_is_known_in_the_end(backend, cut, executed):
    first, second = record("a", LATER), record("a", LATER)
    backend.put([first])
    cut("UPDATE", executed=executed)
    assert backend.put_if(second, first.revision) is True
    assert backend.get("a") == second


@pytest.mark.parametrize("executed", [True, False])
def test_a_claim_whose_answer_is_lost_is_found_again(backend, cut, executed):
    backend.put([record("a"), record("b")])
    cut("SKIP LOCKED", executed=executed)
    leased = backend.lease(10, MINUTE)
    assert [each.id for each in leased] == ["a", "b"]
    assert {each.progress.attempts for each in leased} == {1}


@pytest.mark.parametrize("executed", [True, False])
def test_a_settlement_whose_answer_is_lost_is_asked_for(backend, cut, executed):
    backend.put([record("a"), record("b")])
    leased = backend.lease(10, MINUTE)
    cut("DELETE", executed=executed)
    assert list(backend.settle([done(each) for each in leased])) == [True, True]
    assert backend.tally().leased == 0


@pytest.mark.parametrize("executed", [True, False])
def test_a_single_ack_whose_answer_is_lost_is_told_exactly(backend, cut, executed):
    backend.put([record("a")])
    (leased,) = backend.lease(1, MINUTE)
    cut("DELETE", executed=executed)
    # Gone: by this call, or by a user who removed it meanwhile. Core compares the stored record then.
    assert list(backend.settle([done(leased)])) == [None if executed else True]


def test_connections_that_were_ended_while_idle_are_replaced_without_an_error(backend, sql):
    backend.put([record("a", LATER)])
    for _ in range(3):
        end_all(sql)
        backend.put([record("b", 1)])
        assert backend.lease(1, MINUTE)
        assert backend.counters["outcome_unknown"] == 0


def test_a_statement_that_still_runs_is_ended_before_it_is_repeated(make, uri, sql, table):
    """A lock keeps the first store waiting beyond the budget of its caller. It must not be done when the lock is gone."""
    backend = make(operation_timeout="10s")
    backend.put([record("a", LATER)])
    newer = record("a", LATER)
    with psycopg.connect(uri) as locker:
        locker.execute(f"SELECT FROM {table} WHERE id = 'a' FOR UPDATE")
        with backend.bounded(1), pytest.raises(BackendUnavailable):
            backend.put([record("a", LATER)])
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        locker.rollback()
    backend.put([newer])
    assert sql.execute(waiting, (f"%{table}%",)).fetchone() == (0,)
    assert backend.get("a") == newer


def test_a_watch_hears_again_after_its_connection_was_ended(make, sql):
    backend, peer = make(), make()
    watch = backend.watch()
    end_all(sql)
    with pytest.raises(BackendUnavailable):
        watch.poll()
    watch.close()
    watch = backend.watch()
    peer.put([record("a", 5000), record("b", 1000), record("c", 9000)])
    assert watch.poll() == 1000
    (leased,) = peer.lease(1, MINUTE)
    released = pitstop.abc.Settlement("b", leased.progress.token, Outcome.RELEASE, pitstop.abc.Progress(7, 7))
    peer.settle([released])
    assert watch.poll() == 7
    watch.close()


def test_a_watch_that_hears_nothing_returns_in_time_and_does_not_hear_itself(make, monkeypatch):
    monkeypatch.setattr("pitstop_postgres._watch._WAIT", 0.2)
    monkeypatch.setattr("pitstop_postgres._watch._IDLE", 0.0)
    backend = make()
    watch = backend.watch()
    backend.put([record("own", 3)])
    assert [watch.poll() for _ in range(3)] == [None] * 3
    make().put([record("other", 5)])
    assert watch.poll() == 5
    watch.close()


def test_batches_in_opposite_order_do_not_hinder_each_other(make):
    ids = [f"{n:03}" for n in range(300)]
    raised = []

    def work(backend, order):
        try:
            for _ in range(10):
                backend.put([record(id) for id in order])
        except Exception as error:  # noqa: BLE001 - it is asserted that there is none
            raised.append(error)

    orders = (ids, ids[::-1], ids[150:] + ids[:150])
    make().tally()
    threads = [threading.Thread(target=work, args=(make(), order)) for order in orders]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not raised


def test_no_text_and_no_repr_holds_the_password(make, uri):
    given = psycopg.conninfo.conninfo_to_dict(uri)
    host, port = given["host"], given["port"]
    wrong = make(uri=f"postgresql://{given['user']}:s3cret-word@{host}:{port}/missing_database")
    with pytest.raises(BackendUnavailable) as caught:
        wrong.ping()
    for text in (str(caught.value), repr(wrong), wrong.location, repr(wrong.config)):
        assert "s3cret-word" not in text
    with pytest.raises(pitstop.ConfigError) as refused:
        make(uri="postgresql://u:s3cret-word@host:notaport/x?y=%zz")
    assert "s3cret-word" not in str(refused.value)
