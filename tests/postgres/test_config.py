"""The configuration: URLs, mappings, and the errors of both."""

from __future__ import annotations

import pytest

import pitstop

from pitstop import ConfigError
from pitstop_postgres import PostgresBackend, PostgresConfig


@pytest.mark.parametrize(
    ("url", "expected", "location"),
    [
        (
            "postgresql://ada:s%40crt@db:6432/app?table=messages&lock_time=5m&sslmode=require",
            {"user": "ada", "password": "s@crt", "host": "db", "port": "6432", "dbname": "app", "sslmode": "require"},
            "postgresql://db:6432/app?table=messages",
        ),
        (
            "postgres://one:1,two:2/app?schema=jobs",
            {"host": "one,two", "port": "1,2", "dbname": "app"},
            "postgresql://one:1,two:2/app?table=jobs.pitstop_messages",
        ),
        (
            "postgresql:///app?host=/var/run/postgresql",
            {"host": "/var/run/postgresql", "dbname": "app"},
            "postgresql:///var/run/postgresql/app?table=pitstop_messages",
        ),
        ("postgresql://", {}, "postgresql:///?table=pitstop_messages"),
    ],
)
def test_a_url_is_read_as_libpq_reads_it(url, expected, location):
    config = PostgresConfig.from_options({"url": url})
    assert dict(config.parameters) == expected
    assert config.location == location


def test_a_mapping_takes_precedence_over_the_uri():
    config = PostgresConfig.from_options({"uri": "postgresql://a@b/c", "host": "d", "sslmode": "disable", "table": "t"})
    assert dict(config.parameters) == {"user": "a", "host": "d", "dbname": "c", "sslmode": "disable"}


def test_nothing_connects_before_the_first_use():
    with (
        pitstop.init("postgresql://nobody@127.0.0.1:1/none") as pit,
        pytest.raises(pitstop.BackendUnavailable, match="did not answer"),
    ):
        pit.ping()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tabel": "x"}, "Did you mean 'table'"),
        ({"table": ""}, "table=''"),
        ({"table": "x" * 51}, "1 to 50 bytes"),
        ({"pool_size": 0}, "pool_size=0"),
        ({"pgbouncer": "perhaps"}, "Give true or false"),
        ({"uri": "mysql://x"}, "another scheme"),
        ({"uri": "host='x"}, "cannot be read"),
        ({"password": 5.0}, "password is a float"),
        ({"host": "postgresql://u:p@h"}, "looks like a URL"),
        ({"url": "postgresql://h/d?password=x"}, "before it"),
        ({"sslmode": True}, "sslmode is a bool"),
    ],
)
def test_a_wrong_option_is_named(options, text):
    with pytest.raises(ConfigError, match=text):
        PostgresBackend.from_options(options)


def test_no_repr_holds_the_password():
    config = PostgresConfig.from_options({"url": "postgresql://ada:s3cret@db/app", "passfile": "/x"})
    assert "s3cret" not in repr(config)
    assert "s3cret" not in config.location
