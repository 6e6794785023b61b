"""Rows that another program changed are set aside one by one, and the others go on."""

from __future__ import annotations

import pytest

import pitstop

from pitstop.abc import Aside, Damaged, Outcome, Record, Settlement


def change(backend, statement, *values):
    with backend._database.lock, backend._database as connection:
        assert connection.execute(f"UPDATE pitstop_messages SET {statement} WHERE id = 'bad'", values).rowcount == 1


@pytest.fixture
def backend(backend, record):
    """A backend with three due messages. The one in the middle will be damaged."""
    now = backend.now() // 1000
    backend.put([record("a", due=now - 3), record("bad", due=now - 2), record("c", due=now - 1)])
    return backend


DAMAGE = [
    ("msg = '{'", "msg"),
    ("msg = ''", "msg"),
    ("msg = 'null'", "msg"),
    ("msg = '[1, 2]'", "msg"),
    ("msg = '\"text\"'", "msg"),
    ('msg = \'{"a": {"$bytes": 7}}\'', "msg"),
    ('msg = \'{"a": {"$time": 1e99}}\'', "msg"),
    ("msg = CAST(x'7b22ff227d' AS TEXT)", "msg"),
    (f"msg = '{'[' * 100_000}'", "msg"),
    ("series = '{'", "series"),
    ("series = 'null'", "series"),
    ("series = '7'", "series"),
    ("series = CAST(x'ff' AS TEXT)", "series"),
    ("revision = CAST(x'ff' AS TEXT)", "revision"),
    ("scheduled_for = -1", "scheduled_for"),
    ("scheduled_for = 9223372036854775807", "scheduled_for"),
    ("attempts = -5", "attempts"),
    ("unsettled = -5", "unsettled"),
    ("ahead = -5", "ahead"),
    ("excused = -5", "excused"),
    ("first_leased = -1", "first_leased"),
    ("last_error = CAST(x'c328' AS TEXT)", "last_error"),
]


@pytest.mark.parametrize(
    ("statement", "field"), DAMAGE, ids=[f"{index}-{each[1]}" for index, each in enumerate(DAMAGE)]
)
def test_a_damaged_row_is_leased_as_such_and_can_be_buried(backend, statement, field):
    change(backend, statement)
    found = backend.get("bad")
    assert isinstance(found, Damaged)
    assert found.error == f"Damaged: {field} cannot be read. Store the message again, or remove it."
    assert found.due == backend.now() // 1000 - 2
    leased = backend.lease(10, 1000)
    assert [each.id for each in leased] == ["a", "bad", "c"]
    damaged = leased[1]
    assert isinstance(damaged, Damaged)
    assert damaged.due == backend.now() // 1000 + 1000
    assert damaged.token == leased[0].progress.token
    assert backend.settle([Settlement("bad", damaged.token, Outcome.BURY, Aside(damaged.error))]) == [True]
    assert backend.tally().dead == 1
    assert backend.delete("bad")


@pytest.mark.parametrize("due", [-1, -(2**63), 253402300800000, 2**63 - 1])
def test_a_due_that_cannot_be_counts_as_none(backend, due):
    change(backend, "due = ?, token = 't'", due)
    assert backend.get("bad").due is None
    assert [each.id for each in backend.scan("dead", 10, None)] == ["bad"]
    assert [each.id for each in backend.scan("due", 10, None)] == ["a", "c"]
    assert [each.id for each in backend.scan(None, 10, None)] == ["a", "c", "bad"]
    assert [each.id for each in backend.scan(None, 10, (None, "b"))] == ["bad"]
    assert backend.scan(None, 10, (None, "bad")) == []
    assert backend.tally().dead == 1
    assert backend.tally().due == 2
    assert [each.id for each in backend.lease(10, 1000)] == ["a", "c"]
    assert backend.next_due() == backend.now() // 1000 + 1000
    assert backend.settle([Settlement("bad", "t", Outcome.COMPLETE, None)]) == [True]


def test_attempts_at_the_end_of_the_numbers_do_not_stop_the_others(backend):
    change(backend, "attempts = 9223372036854775807")
    leased = backend.lease(10, 1000)
    assert [each.progress.attempts for each in leased] == [1, 2**63 - 1, 1]
    assert backend.get("bad").progress.attempts == 2**63 - 1


def test_an_id_that_is_no_text_any_more(backend):
    change(backend, "id = CAST(x'ff41' AS TEXT)")
    leased = backend.lease(10, 1000)
    damaged = leased[1]
    assert damaged.id == "\udcffA"
    stored = backend.scan("leased", 10, None)
    assert {each.id for each in stored} == {"a", "c", "\udcffA"}
    assert (
        backend.scan(None, 10, (damaged.due if isinstance(damaged, Damaged) else damaged.progress.due, "\udcffA")) == []
    )
    token = leased[0].progress.token
    assert backend.settle([Settlement("\udcffA", token, Outcome.COMPLETE, None)]) == [True]
    assert backend.tally().leased == 2


@pytest.mark.parametrize("prefetch", [1, 10])
def test_an_id_that_is_no_text_any_more_is_set_aside_and_the_others_go_on(backend, prefetch):
    change(backend, "id = CAST(x'6576ff' AS TEXT)")
    with pitstop.init({"type": backend}) as pit:
        handled = []
        pit.consume(lambda msg: handled.append(msg["id"]), until_idle=True, prefetch=prefetch)
        assert sorted(handled) == ["a", "c"]
        (entry,) = pit.entries()
        assert (entry.id, entry.state) == ("ev\udcff", "dead")
        assert entry.last_error == "Damaged: the id is no valid text. Remove it with the tools of the store itself."
        assert pit.entries(after=entry) == []
        with pytest.raises(pitstop.MessageError, match="lone surrogate"):
            pit.remove(entry.id)


def test_a_token_that_is_no_text_any_more_is_replaced_by_the_next_lease(backend):
    change(backend, "token = CAST(x'ff' AS TEXT)")
    assert isinstance(backend.get("bad"), Damaged)
    assert [type(each) for each in backend.lease(10, 1000)] == [Record] * 3


def test_a_listener_sets_it_aside_and_goes_on(backend, caplog):
    change(backend, "msg = '{'")
    with pitstop.init({"type": backend}) as pit, pit.listen(prefetch=10) as listener:
        seen = []
        while delivery := listener.get():
            seen.append(delivery.id)
            delivery.ack()
        assert seen == ["a", "c"]
        (entry,) = pit.entries()
        assert (entry.id, entry.state) == ("bad", "dead")
        assert entry.last_error == "Damaged: msg cannot be read. Store the message again, or remove it."
        assert not pit.stats().due
        assert pit.remove("bad")


def test_strict_tables_refuse_values_of_another_type(backend):
    for statement in ("due = 'soon'", "attempts = 'x'", "msg = x'00'", "msg = NULL", "id = NULL", "token = x'00'"):
        with pytest.raises(pitstop.BackendUnavailable, match="refused to work on"):
            change(backend, statement)
