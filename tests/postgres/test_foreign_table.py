"""A table that an administrator has changed: triggers, constraints and policies that refuse rows, and values that Pitstop never writes.

One odd row never stops the collection.
"""

from __future__ import annotations

import logging
import uuid

import attrs
import psycopg
import pytest

import pitstop

from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop.abc import AllBut, Aside, Damaged, Outcome, Progress, Query, Settlement
from postgres.kit import LATER, done, record


MINUTE = 60_000
LAST = 2**63 - 1

TRIGGER = """
CREATE FUNCTION {table}_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(NEW.id, OLD.id) LIKE 'odd%' THEN {action}; END IF;
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER refuse BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_refuse();
"""


def trigger(action, event="UPDATE"):
    return TRIGGER.replace("{action}", action).replace("{event}", event)


REFUSALS = {
    "raises": trigger("RAISE EXCEPTION 'secret %', NEW.msg"),
    "raises a state of its own": trigger("RAISE EXCEPTION 'no' USING ERRCODE = 'ZZ001'"),
    "has a mistake": trigger("PERFORM no_such_function(NEW.id)"),
    "casts": trigger("PERFORM NEW.msg::int"),
    "divides": trigger("PERFORM 1 / 0"),
    "suppresses": trigger("RETURN NULL"),
    "constraint": "ALTER TABLE {table} ADD CHECK (id NOT LIKE 'odd%' OR token IS NULL)",
    "generated column": "ALTER TABLE {table} ADD small smallint GENERATED ALWAYS AS (CASE WHEN id LIKE 'odd%' THEN 32767 + attempts ELSE 0 END) STORED",
    "foreign key": "CREATE TABLE {table}_tokens (token text PRIMARY KEY); "
    "ALTER TABLE {table} ADD odd_token text GENERATED ALWAYS AS (CASE WHEN id LIKE 'odd%' THEN token END) STORED "
    "REFERENCES {table}_tokens",
    "deferred": trigger("RAISE EXCEPTION 'late'")
    .replace("CREATE TRIGGER", "CREATE CONSTRAINT TRIGGER")
    .replace("BEFORE", "AFTER")
    .replace("FOR EACH ROW", "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"),
}


@pytest.fixture
def refuse(sql, table):
    """A function that changes the table of the backend, and drops what belongs to it at the end."""

    def refuse(statements):
        sql.execute(statements.replace("{table}", table))

    yield refuse
    sql.execute(
        f"DROP TABLE IF EXISTS {table}, {table}_meta, {table}_tokens CASCADE; DROP FUNCTION IF EXISTS {table}_refuse"
    )


def claim_all(backend, limit, kinds=None):
    """Claim until a claim returns nothing. Return the ids in order."""
    found = []
    while leased := backend.lease(limit, MINUTE, kinds):
        found += [each.id for each in leased]
        assert len(found) < 100
    return found


@pytest.mark.parametrize("kinds", [None, ["mail"], AllBut([])], ids=["all", "some", "others"])
@pytest.mark.parametrize("limit", [1, 2, 10])
@pytest.mark.parametrize("how", REFUSALS)
def test_a_row_that_the_server_refuses_to_lease_does_not_stop_the_others(backend, refuse, caplog, how, limit, kinds):
    ids = ["odd1", "a", "odd2", "odd3", "b", "c"]
    backend.put([record(id, number, kind="mail") for number, id in enumerate(ids)])
    refuse(REFUSALS[how])
    with caplog.at_level(logging.WARNING):
        assert claim_all(backend, limit, kinds) == ["a", "b", "c"]
        assert claim_all(backend, limit, kinds) == []
    logged = [each.getMessage() for each in caplog.records]
    assert [id for id in ids if any(repr(id) in text for text in logged)] == ["odd1", "odd2", "odd3"]
    assert len(logged) == 3
    assert not any("secret" in text for text in logged)
    assert backend.next_due(kinds) > 10, "no listener waits for these rows"
    assert any("odd1" in each for each in backend.concerns())
    odd = backend.get("odd1")
    assert odd.progress == Progress(0, 0), "the row is as it was"


def test_a_claim_that_finds_only_refused_rows_goes_on_to_the_next_ones(backend, refuse):
    backend.put([record(f"odd{n:03}", n) for n in range(300)])
    backend.put([record("a", 1000)])
    refuse(REFUSALS["raises"])
    assert [each.id for each in backend.lease(1, MINUTE)] == ["a"]


def test_too_many_refused_rows_are_an_error(backend, refuse):
    backend.put([record(f"odd{n:04}", n) for n in range(1100)])
    refuse(REFUSALS["constraint"])
    with pytest.raises(BackendUnavailable, match="refuses every write to more than 1000"):
        backend.lease(100, MINUTE)


def test_a_refused_row_is_claimed_once_it_was_stored_again(backend, refuse, sql, table):
    backend.put([record("odd"), record("a")])
    refuse(REFUSALS["constraint"])
    assert claim_all(backend, 10) == ["a"]
    sql.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_check")
    assert claim_all(backend, 10) == []
    backend.put([record("odd")])
    assert claim_all(backend, 10) == ["odd"]


@pytest.mark.parametrize("how", ["raises", "suppresses"])
def test_a_refused_row_is_tried_again_after_a_minute(backend, refuse, sql, table, how, monkeypatch):
    monkeypatch.setattr("pitstop_postgres._refusals._AGAIN", 0.0)
    backend.put([record("odd"), record("a", 2)])
    refuse(REFUSALS[how])
    assert [each.id for each in backend.lease(1, MINUTE)] == ["a"]
    sql.execute(f"DROP TRIGGER refuse ON {table}")
    assert claim_all(backend, 1) == ["odd"]


@pytest.mark.parametrize("way", ["ack", "retry", "aside"])
@pytest.mark.parametrize("how", ["raises", "casts"])
def test_a_settlement_that_the_server_refuses_does_not_stop_the_others(backend, refuse, caplog, way, how):
    backend.put([record(id) for id in ("a", "odd", "b", "c")])
    leased = backend.lease(10, MINUTE)
    refuse(REFUSALS[how].replace("BEFORE UPDATE", "BEFORE UPDATE OR DELETE").replace("NEW.msg", "OLD.msg"))
    progress = {"ack": None, "retry": Progress(LATER, LATER), "aside": Aside("bad")}[way]
    settlements = [Settlement(each.id, each.progress.token, Outcome.RELEASE, progress) for each in leased]
    with caplog.at_level(logging.WARNING):
        applied = dict(zip([each.id for each in leased], backend.settle(settlements), strict=True))
    assert applied == {"a": True, "b": True, "c": True, "odd": False}
    assert ["odd" in each.getMessage() for each in caplog.records] == [True]
    with pytest.raises(BackendUnavailable, match="SQLSTATE") as caught:
        backend.settle([each for each in settlements if each.id == "odd"])
    assert not isinstance(caught.value, pitstop.MessageError)
    assert "secret" not in str(caught.value)
    assert backend.get("odd").progress.token == settlements[0].token, "nothing was changed"


def test_settlements_of_one_id_under_two_tokens_are_told_apart(backend):
    backend.put([record("a")])
    (leased,) = backend.lease(1, MINUTE)
    stale = Settlement("a", "0" * 32, Outcome.COMPLETE, None)
    assert list(backend.settle([stale, done(leased)])) == [False, True]


@pytest.mark.parametrize("query", [None, Query(prefix="")])
def test_a_row_that_cannot_be_removed_does_not_keep_the_others(backend, refuse, query):
    ids = ["a", "odd", "b"]
    backend.put([record(id) for id in ids])
    refuse(trigger("RAISE EXCEPTION 'no'", "DELETE"))
    assert list(backend.delete_many(ids, query)) == [True, False, True]
    with pytest.raises(BackendUnavailable, match="trigger"):
        backend.delete_many(["odd"], query)
    with pytest.raises(BackendUnavailable, match="trigger"):
        backend.delete("odd")
    assert backend.get("odd") is not None


def test_a_row_that_cannot_be_changed_does_not_keep_the_others(backend, refuse):
    records = [record(id) for id in ("a", "odd", "b")]
    backend.put(records)
    refuse(REFUSALS["raises"])
    items = [(record(each.id, LATER), each.revision, each.progress) for each in records]
    assert list(backend.put_many_if(items)) == [True, False, True]
    assert backend.get("odd") == records[1]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("event", ["INSERT", "UPDATE"])
def test_a_store_that_a_trigger_suppresses_is_an_error(backend, refuse, event, count):
    ids = ["odd", "a", "b"][:count]
    if event == "UPDATE":
        backend.put([record(id) for id in ids])
    else:
        backend.ping()
    refuse(trigger("RETURN NULL", event))
    newer = [record(id, LATER) for id in ids]
    with pytest.raises(BackendUnavailable if count == 1 else OutcomeUnknown, match="suppresses") as caught:
        backend.put(newer)
    assert caught.value.permanent
    assert backend.get("odd") != newer[0]
    assert all(backend.get(each.id) == each for each in newer[1:])


def test_a_store_in_a_transaction_that_a_trigger_suppresses_is_an_error(backend, refuse, uri):
    backend.ping()
    refuse(trigger("RETURN NULL", "INSERT"))
    with psycopg.connect(uri) as connection, pytest.raises(BackendUnavailable, match="suppresses"):
        backend.within(connection).put([record("odd")])


def test_a_consumer_handles_all_but_the_refused_row(backend, refuse):
    ids = [f"{n:02}" for n in range(20)]
    backend.put([record("odd"), *[record(id) for id in ids]])
    refuse(REFUSALS["raises"])
    handled = []
    with pitstop.init({"type": backend}) as pit:
        pit.consume(lambda msg: handled.append(msg["id"]), workers=4, until_idle=True)
    assert sorted(handled) == ids


@pytest.fixture
def owned(make, sql, uri, table):
    """A handle of a user who does not own the table, so that policies hold, and a function that makes some."""
    role = f"r_{uuid.uuid4().hex}"
    make().migrate()
    sql.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD 'pw'; GRANT SELECT, INSERT, UPDATE, DELETE ON {table}, {table}_meta TO {role};"
        f"GRANT USAGE ON SEQUENCE {table}_seq_seq TO {role}"
    )

    def owned(policies):
        sql.execute(policies.replace("{table}", table))
        sql.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        return make(user=role, password="pw", create=False)

    yield owned
    for each in sql.execute("SELECT pid FROM pg_stat_activity WHERE usename = %s", (role,)).fetchall():
        sql.execute("SELECT pg_terminate_backend(%s, 5000)", each)
    sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


ALL = "CREATE POLICY everything ON {table} USING (true)"


@pytest.mark.parametrize("limit", [1, 10])
def test_a_policy_that_refuses_a_row_does_not_stop_the_others(make, owned, limit):
    make().put([record("odd"), record("a", 2)])
    backend = owned(f"{ALL} WITH CHECK (id <> 'odd' OR token IS NULL)")
    assert claim_all(backend, limit) == ["a"]
    assert any("odd" in each for each in backend.concerns())
    assert any("row level security" in each for each in backend.concerns())


@pytest.mark.parametrize("limit", [1, 10])
def test_a_policy_that_hides_a_row_from_writes_does_not_stop_the_others(make, owned, limit):
    make().put([record("odd"), record("a", 2)])
    backend = owned(
        "CREATE POLICY reads ON {table} FOR SELECT USING (true); CREATE POLICY writes ON {table} FOR UPDATE USING (id <> 'odd')"
    )
    assert claim_all(backend, limit) == ["a"]


def test_lacking_rights_are_an_error_and_no_reason_to_skip_a_message(make, owned, sql, table):
    make().put([record("a")])
    backend = owned(ALL)
    sql.execute(f"REVOKE UPDATE ON {table} FROM {backend.config.user}")
    with pytest.raises(BackendUnavailable, match="Least rights") as caught:
        backend.lease(1, MINUTE)
    assert caught.value.permanent
    sql.execute(f"GRANT UPDATE ON {table} TO {backend.config.user}")
    assert claim_all(backend, 1) == ["a"]


DAMAGES = [
    "attempts = -1",
    "attempts = -9223372036854775808",
    "scheduled_for = -1",
    "scheduled_for = 9223372036854775807",
    "first_leased = -5",
    "first_leased = 9223372036854775807",
    "unsettled = -1",
    "ahead = -7",
    "excused = -1",
    "msg = 'no json'",
    "msg = ''",
    "msg = '[1]'",
    "msg = 'null'",
    "series = 'null'",
    "series = '7'",
    "policy = '{'",
    "msg = repeat('[', 100000)",
    "attempts = NULL",
    "scheduled_for = NULL",
    "revision = NULL",
    "msg = NULL",
]


@pytest.mark.parametrize("limit", [1, 10])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_leased_as_such_and_does_not_stop_the_others(backend, sql, table, damage, limit):
    backend.put([record("odd"), record("a", 2)])
    column = damage.split(" ")[0]
    sql.execute(f"ALTER TABLE {table} ALTER {column} DROP NOT NULL; UPDATE {table} SET {damage} WHERE id = 'odd'")
    leased = [each for _ in range(2) for each in backend.lease(limit, MINUTE)]
    assert [each.id for each in leased] == ["odd", "a"]
    assert isinstance(leased[0], Damaged)
    assert leased[0].token
    assert column in leased[0].error
    assert list(backend.settle([Settlement("odd", leased[0].token, Outcome.BURY, Aside("odd"))])) == [True]
    assert backend.tally().dead == 1
    assert [each.id for each in backend.find(Query(state="dead"), 10, None)] == ["odd"]


@pytest.mark.parametrize("odd", [-1, -(2**63), LAST, 253402300800000])
def test_an_impossible_due_counts_as_none(backend, sql, table, odd):
    backend.put([record("odd", 5), record("a", 2), attrs.evolve(record("z"), progress=Progress(None, 1))])
    sql.execute(
        f"ALTER TABLE {table} DROP CONSTRAINT {table}_due_check; UPDATE {table} SET due = {odd} WHERE id = 'odd'"
    )
    assert backend.next_due() == 2
    assert claim_all(backend, 1) == ["a"]
    assert backend.next_due() > MINUTE
    sql.execute(f"DELETE FROM {table} WHERE id = 'a'")
    assert backend.next_due() is None
    tally = backend.tally()
    assert (tally.due, tally.dead, tally.scheduled, tally.oldest_due) == (0, 2, 0, None)
    assert [each.id for each in backend.scan(None, 10, None)] == ["odd", "z"]
    assert [each.id for each in backend.scan("dead", 1, None)] == ["odd"]
    assert [each.id for each in backend.scan(None, 10, (None, "odd"))] == ["z"]
    assert [each.id for each in backend.find(Query(failing=True), 10, None)] == ["odd", "z"]
    assert [each.id for each in backend.find(Query(prefix="o"), 10, None)] == ["odd"]


@pytest.mark.parametrize("token", ["", "paused", "x' OR true --", "🔒" * 1000])
def test_any_text_may_be_a_lock(backend, sql, table, token):
    backend.put([record("odd"), record("a", 2)])
    sql.execute(f"UPDATE {table} SET token = %s WHERE id = 'odd'", (token,))
    assert claim_all(backend, 1) == ["odd", "a"]


def test_rows_without_a_number_come_last_and_do_not_fail_a_claim(backend, sql, table):
    backend.put([record("a"), record("b"), record("c")])
    sql.execute(
        f"ALTER TABLE {table} ALTER seq DROP IDENTITY, ALTER seq DROP NOT NULL; UPDATE {table} SET seq = NULL WHERE id <> 'c'"
    )
    assert sorted(claim_all(backend, 10)) == ["a", "b", "c"]


def use(backend):
    """Store, claim, list, change and remove, as an application does."""
    records = [record("a"), record("b", 2), record("c", LATER)]
    backend.put(records[:1])
    backend.put(records[1:])
    assert list(backend.scan(None, 10, None)) == records
    leased = backend.lease(10, MINUTE)
    assert [each.id for each in leased] == ["a", "b"]
    assert list(backend.settle([done(each) for each in leased])) == [True, True]
    assert backend.put_if(record("c", LATER - 1), records[2].revision)
    assert list(backend.delete_many(["c"], Query())) == [True]
    assert backend.tally().scheduled == 0


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {table} ADD note text",
        "ALTER TABLE {table} ADD noted timestamptz NOT NULL DEFAULT now()",
        "ALTER TABLE {table} ADD size int GENERATED ALWAYS AS (length(msg)) STORED",
        "ALTER TABLE {table} SET UNLOGGED",
        "ALTER TABLE {table} CLUSTER ON {table}_page",
        "CREATE INDEX ON {table} (kind)",
        "CREATE TABLE {table}_child () INHERITS ({table})",
        "ALTER TABLE {table} SET (parallel_workers = 4, fillfactor = 50)",
    ],
)
def test_a_changed_table_is_used_as_before(make, refuse, sql, table, change):
    make().migrate()
    refuse(change)
    use(make())
    sql.execute(f"DROP TABLE {table} CASCADE")


def test_a_column_that_needs_a_value_is_named_in_an_error(backend, refuse):
    backend.ping()
    refuse("ALTER TABLE {table} ADD owner text NOT NULL")
    with pytest.raises(BackendUnavailable, match="constraint that is not Pitstop's") as caught:
        backend.put([record("a")])
    assert caught.value.permanent


def test_a_table_that_is_partitioned_by_id_is_used_as_any_other(make, sql, table):
    make().migrate()
    sql.execute(
        f"ALTER TABLE {table} RENAME TO {table}_0; CREATE SEQUENCE {table}_numbers;"
        f"CREATE TABLE {table} (LIKE {table}_0 INCLUDING DEFAULTS INCLUDING CONSTRAINTS, PRIMARY KEY (id)) PARTITION BY HASH (id);"
        f"DROP TABLE {table}_0;"
        f"ALTER TABLE {table} ALTER seq SET DEFAULT nextval('{table}_numbers');"
        f"ALTER SEQUENCE {table}_numbers OWNED BY {table}.seq;"
        f"CREATE TABLE {table}_p0 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        f"CREATE TABLE {table}_p1 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        f"CREATE INDEX ON {table} (due, seq) WHERE due IS NOT NULL; CREATE INDEX ON {table} (due, id);"
        f"CREATE INDEX ON {table} (kind, due, seq) WHERE due IS NOT NULL"
    )
    use(make())


def test_a_view_is_no_table(make, sql, table):
    make().migrate()
    sql.execute(f"ALTER TABLE {table} RENAME TO {table}_base; CREATE VIEW {table} AS SELECT * FROM {table}_base")
    with pytest.raises(BackendUnavailable, match="a view") as caught:
        make().ping()
    assert caught.value.permanent
    sql.execute(f"DROP TABLE {table}_base CASCADE")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("RENAME COLUMN msg TO message", "it has no column msg"),
        ("ALTER msg TYPE bytea USING msg::bytea", "its column msg is bytea, and not text"),
        ("DROP due", "it has no column due"),
    ],
)
def test_a_table_with_other_columns_is_refused_when_it_is_opened(make, sql, table, change, text):
    make().migrate()
    sql.execute(f"ALTER TABLE {table} {change}")
    with pytest.raises(BackendUnavailable, match=text) as caught:
        make().ping()
    assert caught.value.permanent


def test_a_column_that_is_renamed_while_the_table_is_in_use_is_an_error_until_it_has_its_name_again(
    backend, sql, table
):
    backend.put([record("a")])
    assert len(backend.lease(1, 0)) == 1
    sql.execute(f"ALTER TABLE {table} RENAME COLUMN msg TO message")
    with pytest.raises(BackendUnavailable, match="another version"):
        backend.lease(1, MINUTE)
    sql.execute(f"ALTER TABLE {table} RENAME COLUMN message TO msg")
    assert claim_all(backend, 1) == ["a"]


def test_a_table_with_rules_is_refused_at_once(backend, sql, table, monkeypatch):
    backend.ping()
    sql.execute(f"CREATE RULE r AS ON UPDATE TO {table} DO ALSO NOTHING")
    with pytest.raises(BackendUnavailable, match="0A000"):
        backend.put([record("a")])
    assert any("rules" in each for each in backend.concerns())


def test_tables_of_two_schemas_are_two_stores(make, sql, uri, table):
    for schema in ("s1", "s2"):
        sql.execute(f"CREATE SCHEMA {schema}_{table[:20]}")
    first, second = (make(schema=f"{each}_{table[:20]}") for each in ("s1", "s2"))
    by_path = make(options=f"-c search_path=s2_{table[:20]}")
    first.put([record("a")])
    second.put([record("b", LATER)])
    assert [each.id for each in by_path.scan(None, 10, None)] == ["b"]
    assert claim_all(by_path, 10) == []
    assert claim_all(first, 10) == ["a"]
    for schema in ("s1", "s2"):
        sql.execute(f"DROP SCHEMA {schema}_{table[:20]} CASCADE")


def test_changes_of_the_table_are_concerns(make, sql, table, refuse):
    backend = make()
    backend.ping()
    assert backend.concerns() == []
    refuse(REFUSALS["suppresses"])
    sql.execute(
        f"ALTER TABLE {table} SET UNLOGGED, ALTER attempts DROP NOT NULL, ADD CONSTRAINT few CHECK (attempts < 9)"
    )
    unlogged, foreign, loose = backend.concerns()
    assert "UNLOGGED" in unlogged
    assert "the triggers refuse and the constraints few" in foreign
    assert "allows NULL in attempts" in loose
