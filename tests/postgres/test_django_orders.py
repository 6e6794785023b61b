"""The example of a Django project, on a database of its own: its commands and its tests in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from pathlib import Path

import psycopg
import pytest

from consume.kit import until
from servers import postgres


FOLDER = Path(__file__).parents[2] / "examples" / "django-orders"
ORDERS = 60
#: Requests of several threads, some of them refused, in a project that was loaded before a fork, as gunicorn --preload does.
REQUESTS = """
import os
from concurrent.futures import ThreadPoolExecutor
import django
django.setup()
from django.db import close_old_connections
from django.test import Client
from shop.store import pit
pit().ping()
pid = os.fork()

def place(number):
    close_old_connections()
    body = {"number": number, "amount": -1 if number % 5 == 0 else 1, "remind_after": 0}
    status = Client().post("/orders", body, content_type="application/json").status_code
    close_old_connections()
    return status

half = range(0, ORDERS, 2) if pid else range(1, ORDERS, 2)
with ThreadPoolExecutor(4) as pool:
    given = list(pool.map(place, half))
assert given == [422 if number % 5 == 0 else 201 for number in half], given
if pid:
    assert os.waitpid(pid, 0)[1] == 0
""".replace("ORDERS", str(ORDERS))


@pytest.fixture(scope="module")
def environment(postgres_uri):
    with postgres.database(postgres_uri) as uri:
        given = psycopg.conninfo.conninfo_to_dict(uri)
        yield {
            **os.environ,
            "PGHOST": given["host"],
            "PGPORT": given["port"],
            "PGUSER": given["user"],
            "PGPASSWORD": given.get("password", ""),
            "PGDATABASE": given["dbname"],
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def run(environment, *arguments, **more):
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        **more,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def migrated(environment):
    run(environment, "manage.py", "migrate")
    return environment


@pytest.fixture
def sql(migrated):
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}
    with psycopg.connect(autocommit=True, **{name: migrated[key] for name, key in names.items()}) as connection:
        yield connection
        connection.execute("DELETE FROM shop_order")
        connection.execute("DELETE FROM pitstop_messages")


def test_the_statements_of_the_migration_are_the_printed_ones(environment):
    printed = run(environment, "-m", "pitstop", "migrate", "--print", "--url", "postgresql:///shop")
    kept = FOLDER / "shop" / "migrations" / "messages.sql"
    assert kept.read_text() == printed, f"pitstop migrate --print --url postgresql:///shop > {kept}"


def test_the_migrations_fit_the_models(migrated):
    run(migrated, "manage.py", "makemigrations", "--check", "--dry-run")


def test_the_own_tests_of_the_project_succeed(environment):
    # Their database is one of the names that a server of tests may create and drop.
    run(environment, "manage.py", "test", "--noinput")


def test_orders_and_reminders_go_together_also_after_a_fork(migrated, sql):
    run(migrated, "-c", REQUESTS)
    kept = {n for n in range(ORDERS) if n % 5}
    assert {n for (n,) in sql.execute("SELECT number FROM shop_order")} == kept
    assert {id for (id,) in sql.execute("SELECT id FROM pitstop_messages")} == {f"order-{n}" for n in kept}
    run(migrated, "manage.py", "remind", "--until-idle")
    assert sql.execute("SELECT DISTINCT reminded FROM shop_order").fetchall() == [(1,)]
    assert sql.execute("SELECT count(*) FROM pitstop_messages").fetchone() == (0,)


def test_a_consumer_beside_the_requests_ends_at_sigterm(migrated, sql):
    command = [sys.executable, "-W", "error", "manage.py", "remind"]
    with subprocess.Popen(command, cwd=FOLDER, env=migrated, stdout=subprocess.PIPE, text=True) as consumer:
        run(migrated, "-c", REQUESTS)
        until(lambda: sql.execute("SELECT count(*) FROM pitstop_messages").fetchone() == (0,))
        consumer.send_signal(signal.SIGTERM)
        said, _ = consumer.communicate(timeout=60)
    assert consumer.returncode == 0
    assert f"{ORDERS * 4 // 5} acked, 0 nacked" in said
    assert sql.execute("SELECT DISTINCT reminded FROM shop_order").fetchall() == [(1,)]
