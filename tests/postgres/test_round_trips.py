"""The statements that an operation sends. Each is one round trip."""

from __future__ import annotations

import attrs
import pytest

import pitstop

from pitstop.abc import Outcome, Progress
from pitstop_postgres._session import Session
from postgres.kit import LATER, done, record


MANY = 1000


@pytest.fixture
def sent(monkeypatch, backend):
    """The statements that the sessions of the backend execute from now on."""
    backend.tally()
    # The difference of the clocks is measured once a minute.
    backend.now()
    statements = []

    def noted(real):
        def execute(self, statement, values=()):
            statements.append(statement)
            return real(self, statement, values)

        return execute

    for name in ("fetch", "change"):
        monkeypatch.setattr(Session, name, noted(getattr(Session, name)))
    return statements


def ids(count):
    return [f"{number:05}" for number in range(count)]


@pytest.mark.parametrize("due", [1, LATER], ids=["with a notification", "without"])
def test_a_store_is_one_plain_insert(backend, sent, due):
    backend.put([record("a", due)])
    (statement,) = sent
    assert statement.startswith("INSERT INTO")
    assert ("pg_notify" in statement) == (due != LATER)


@pytest.mark.parametrize("due", [1, LATER], ids=["with a notification", "without"])
def test_many_stores_are_one_plain_insert(backend, sent, due):
    records = [record(id, due) for id in ids(MANY)]
    backend.put(records)
    (statement,) = sent
    assert statement.startswith("INSERT INTO")
    assert "RETURNING" not in statement
    assert ("pg_notify" in statement) == (due != LATER)
    assert list(backend.scan(None, MANY, None)) == records


def differing():
    """Return records that have no column in common, some of them claimed before, in no order of their ids."""
    made = [
        record("d"),
        record("b", 1, kind="mail"),
        record("c", 1, policy={"expires": 5}),
        attrs.evolve(record("a"), series={"every": 5}),
    ]
    claimed = attrs.evolve(record("e"), progress=Progress(1, 1, 2, 1, "error text", "token", 1, 1, 1))
    return made, [*made, claimed]


@pytest.mark.parametrize("number", [0, 1], ids=["fresh", "claimed"])
def test_stores_that_differ_are_one_statement_too(backend, sent, number):
    records = differing()[number]
    backend.put(records)
    assert len(sent) == 1
    found = {each.id: each for each in backend.get_many([each.id for each in records])}
    assert found == {each.id: each for each in records}


@pytest.mark.parametrize("order", [ids(9), ids(9)[::-1], ["3", "1", "2"]], ids=["ascending", "descending", "mixed"])
def test_stores_of_one_call_are_claimed_in_the_order_in_which_they_were_given(backend, order):
    backend.put([record(id) for id in order])
    # The second store of an id keeps its place.
    backend.put([record(id) for id in sorted(order)])
    assert [each.id for each in backend.lease(20, 1000)] == order


def test_a_claim_is_one_statement_and_so_is_each_shape_of_its_settlements(backend, sent):
    backend.put([record(id) for id in ids(MANY)])
    sent.clear()
    leased = backend.lease(MANY, 60_000)
    assert len(leased) == MANY
    assert len(sent) == 1
    sent.clear()
    later = [
        attrs.evolve(done(each), outcome=Outcome.RELEASE, progress=Progress(LATER, 1)) for each in leased[: MANY // 2]
    ]
    assert backend.settle([*later, *map(done, leased[MANY // 2 :])]) == [True] * MANY
    assert len(sent) == 2


def test_a_drain_sends_few_statements(make, uri, table, sent):
    with pitstop.init({"type": "postgres", "uri": uri, "table": table}) as pit:
        pit.store_many([({"n": n}, "0s") for n in range(MANY)])
        sent.clear()
        count = 0
        with pit.listen() as listener:
            for delivery in listener:
                delivery.ack()
                count += 1
                if count == MANY:
                    break
    claims = [each for each in sent if "SKIP LOCKED" in each]
    acks = [each for each in sent if "DELETE FROM" in each]
    # Claims grow from 1 to 500.
    assert len(claims) <= 20
    assert len(acks) <= 20
    assert len(sent) <= len(claims) + len(acks) + 10, sent
