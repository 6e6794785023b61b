"""The options of the SQLite backend, and their form in a URL."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

import pitstop

from pitstop import ConfigError
from pitstop_sqlite import SqliteBackend, SqliteConfig


def test_needs_nothing():
    config = SqliteConfig()
    assert config.path == "pitstop.db"
    assert config.synchronous == "full"
    assert config.busy_timeout == timedelta(seconds=5)
    assert config.lock_time == timedelta(minutes=15)


@pytest.mark.parametrize("given", ["FULL", "Full", "full"])
def test_synchronous_in_any_case(given):
    assert SqliteConfig(synchronous=given).synchronous == "full"


@pytest.mark.parametrize(
    ("given", "kept"), [("0", 0), ("250ms", 0.25), (timedelta(minutes=1), 60), ("5000w", 3024000000)]
)
def test_busy_timeout_is_a_duration(given, kept, path):
    config = SqliteConfig(busy_timeout=given, path=path)
    assert config.busy_timeout.total_seconds() == kept
    SqliteBackend(config).close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"path": ":memory:"}, r"^path=':memory:' would be forgotten .* use type 'memory'\.$"),
        ({"path": ""}, "^path='' cannot name a file"),
        ({"path": "a\0b"}, "cannot name a file"),
        ({"path": "file:x.db?mode=ro"}, "is an SQLite URI. Give the path"),
        ({"path": "\ud800x"}, r"^path='.ud800x' holds a lone surrogate"),
        ({"path": "x\udfff\ud800"}, "holds a lone surrogate"),
        ({"mode": 600}, "^mode=600 cannot be used. Give permissions in octal"),
        ({"mode": 0o400}, "^mode=256 cannot be used"),
        ({"mode": "0700"}, "^mode='0700' cannot be used"),
        ({"mode": "1600"}, "^mode='1600' cannot be used"),
        ({"mode": "0200"}, "^mode='0200' cannot be used"),
        ({"mode": "rw"}, "^mode='rw' cannot be used"),
        ({"mode": "-0600"}, "^mode='-0600' cannot be used"),
        ({"mode": "0" * 9999}, "^mode='000"),
        ({"mode": True}, "^mode=True cannot be used"),
        ({"mode": -1}, "^mode=-1 cannot be used"),
        ({"create": "maybe"}, "^create='maybe' cannot be used. Give true or false"),
        ({"create": 0}, "^create=0 cannot be used"),
        ({"path": 7}, "^path=7 is a int. Give a str or a Path"),
        ({"path": None}, "^path=None is a NoneType"),
        ({"synchronous": "ful"}, "^synchronous='ful' is unknown. Did you mean 'full'[?] Give 'full' or 'normal'"),
        ({"synchronous": "off"}, "^synchronous='off' is unknown"),
        ({"synchronous": True}, "^synchronous=True is unknown"),
        ({"busy_timeout": "soon"}, "^busy_timeout='soon' is not a duration"),
        ({"busy_timeout": -1}, "^busy_timeout=-1 is negative"),
        ({"pth": "x.db"}, "Unknown configuration key 'pth'. Did you mean 'path'[?]"),
    ],
)
def test_refuses_and_names_the_key(options, said):
    with pytest.raises(ConfigError, match=said):
        SqliteConfig.from_options(options)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///folder/relative.db", "folder/relative.db"),
        ("sqlite:////absolute/path.db", "/absolute/path.db"),
        ("sqlite:///C:/x.db", "C:/x.db"),
        ("SQLite:///Case.db", "Case.db"),
        ("sqlite:///a%20b%23c%3Fd%25.db", "a b#c?d%.db"),
        ("sqlite:///%C3%BCber.db", "über.db"),
        ("sqlite:///bytes-%FF.db", "bytes-\udcff.db"),
    ],
)
def test_url_says_the_path(url, path):
    assert SqliteConfig.from_options({"url": url}).path == path


@pytest.mark.parametrize("given", ["0600", "600", "0o600", "0O600", 0o600])
def test_mode_is_octal(given):
    assert SqliteConfig(mode=given).mode == 0o600
    assert SqliteConfig().mode is None


@pytest.mark.parametrize(("given", "kept"), [("true", True), ("False", False), (False, False)])
def test_create_is_a_yes_or_no(given, kept):
    assert SqliteConfig(create=given).create is kept


def test_url_says_the_options():
    url = "sqlite:///x.db?lock_time=15m&synchronous=Normal&busy_timeout=250ms&retry.delay=5s&retry.max_attempts=3"
    config = SqliteConfig.from_options({"url": url, "loop_time": 2})
    assert config.lock_time == timedelta(minutes=15)
    assert config.synchronous == "normal"
    assert config.busy_timeout == timedelta(milliseconds=250)
    assert config.retry.delay == timedelta(seconds=5)
    assert config.retry.max_attempts == 3
    assert config.loop_time == timedelta(seconds=2)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "names no file. Write it as 'sqlite:///pitstop.db'"),
        ("sqlite:///", "names no file"),
        ("sqlite://relative.db", "has no host. Write it with three slashes"),
        ("sqlite://var/lib/x.db", "has no host"),
        ("sqlite:///:memory:", "use type 'memory'"),
        ("sqlite:///a#b.db", "Write it as '%23'"),
        ("sqlite:///a%00b.db", "cannot name a file"),
        ("sqlite:///x.db?path=y.db", "gives 'path' twice"),
        ("sqlite:///x.db?synchronous", "malformed"),
        ("sqlite:///x.db?synchronos=full", "Unknown configuration key 'synchronos'. Did you mean 'synchronous'"),
    ],
)
def test_refuses_a_url_that_says_something_else(url, said):
    with pytest.raises(ConfigError, match=said):
        pitstop.init(url)


def test_location_is_the_url_of_the_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pitstop.init("sqlite:///a%20b%23.db?lock_time=1m") as pit:
        location = pit._session.location
        pit.store({"id": "a"}, timedelta(0))
    assert location == f"sqlite:///{tmp_path}/a%20b%23.db"
    monkeypatch.chdir("/")
    with pitstop.init(location) as pit:
        assert pit.get("a") is not None


def test_relative_path_keeps_its_meaning_at_init(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pitstop.init({"type": "sqlite", "path": Path("here.db")}) as pit:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        pit.store({"id": "a"}, timedelta(0))
    assert (tmp_path / "here.db").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_synchronous_reaches_sqlite(open_backend):
    for given, number in (("full", 2), ("normal", 1)):
        database = open_backend(synchronous=given)._database
        with database.lock, database as connection:
            assert connection.execute("PRAGMA synchronous").fetchone() == (number,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)
