"""The tables: how they are made, printed and recognised."""

from __future__ import annotations

import os
import threading

import psycopg
import pytest

from pitstop import BackendUnavailable
from postgres.kit import LATER, record


def test_the_printed_statements_make_the_tables(make, sql):
    backend = make(create="false")
    with pytest.raises(BackendUnavailable, match="create is false") as caught:
        backend.put([record("a", LATER)])
    assert caught.value.permanent
    assert backend.schema() in str(caught.value)
    sql.execute(backend.schema())
    backend.put([record("a", LATER)])
    assert backend.get("a") is not None


def test_migrate_makes_the_tables_also_if_the_first_use_may_not(make):
    backend = make(create="false")
    backend.migrate()
    backend.migrate()
    assert backend.next_due() is None


def test_a_newer_version_is_refused(make, sql, table):
    make().migrate()
    sql.execute(f"UPDATE {table}_meta SET value = '2' WHERE key = 'schema_version'")
    with pytest.raises(BackendUnavailable, match="version 2; this pitstop-postgres knows version 1"):
        make().next_due()


def test_a_table_of_another_program_is_left_alone(make, sql, table):
    sql.execute(f"CREATE TABLE {table} (id int)")
    with pytest.raises(BackendUnavailable, match="not Pitstop's: it has no column"):
        make().put([record()])
    assert sql.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_handles_that_make_the_tables_at_once_do_not_hinder_each_other(make):
    raised = []

    def use(backend):
        try:
            backend.put([record(str(id(backend)))])
        except BackendUnavailable as error:
            raised.append(error)

    threads = [threading.Thread(target=use, args=(make(),)) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not raised
    assert make().tally().due == 4


def test_tables_that_were_dropped_are_made_again(make, sql, table):
    backend = make()
    backend.put([record("a")])
    sql.execute(f"DROP TABLE {table}, {table}_meta")
    backend.put([record("b", LATER)])
    assert backend.next_due() == LATER


def test_read_committed_is_forced(make, uri, sql, table):
    name = sql.info.dbname
    sql.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    try:
        backend = make()
        backend.put([record("a")])
        with psycopg.connect(uri) as other, psycopg.connect(uri) as reader:
            assert reader.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
            other.execute(f"SELECT FROM {table} WHERE id = 'a' FOR UPDATE")
            assert backend.lease(1, 1000) == [], "a locked row is skipped"
        assert len(backend.lease(1, 1000)) == 1
    finally:
        sql.execute(f"ALTER DATABASE {name} RESET default_transaction_isolation")


def test_a_server_that_does_not_wait_for_its_disk_is_a_concern(make):
    assert make().concerns() == []
    (concern,) = make(options="-c synchronous_commit=off").concerns()
    assert "synchronous_commit=off" in concern


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_parent_and_child_use_a_handle_at_the_same_time(make):
    backend = make()
    backend.put([record("parent")])
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        fine = b"0"
        try:
            for n in range(100):
                backend.put([record("child", n)])
                assert backend.get("child").progress.due == n
            fine = b"1"
        finally:
            os.write(write, fine)
            os._exit(0)
    for n in range(100):
        backend.put([record("parent", n)])
        assert backend.get("parent").progress.due == n
    assert os.read(read, 1) == b"1"
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
