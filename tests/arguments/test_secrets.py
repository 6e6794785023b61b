"""A secret under the wrong key, as when two environment variables are mixed up: no error, repr, log or warning shows it.

The tests try every key of every backend, with every kind of value that may hold a secret. ``tests/mongo/test_secrets.py`` has
the rest.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
import warnings

from pathlib import Path
from typing import Any

import attrs
import pytest

import pitstop

from pitstop import PitstopError, testing
from pitstop_filesystem import FilesystemBackend
from pitstop_memory import MemoryBackend
from pitstop_mongo import MongoBackend
from pitstop_sqlite import SqliteBackend


SECRET = "hunt3rS3cret"
URL = f"mongodb://app:{SECRET}@db1/app"
VALUES = {
    "url": URL,
    "url of several hosts": f"mongodb://app:{SECRET}@db1:27017,db2:27018/app?authSource=admin&replicaSet=rs",
    "url in capitals": URL.replace("mongodb", "MONGODB"),
    "url that no collection can be named by": f"{URL}$",
    "user and password": f"app:{SECRET}@db1/app",
    "percent-encoded": f"mongodb%3A%2F%2Fapp%3A{SECRET}%40db1",
    "dsn": f"host=db1 password={SECRET}",
    "token": f"AWS_SESSION_TOKEN:{SECRET}",
    "bytes": URL.encode(),
    "list": [URL],
    "nested": {"a": [{"url": URL}]},
    "named": {"password": SECRET},
    "path": Path(URL),
}
#: Options of PyMongo that stand beside the keys of the backend.
DRIVER = ("appName", "compressors", "maxPoolSize", "readPreference", "tlsCAFile", "authMechanism", "server_api", "w")
KEYS = [
    (backend, key)
    for backend in (MemoryBackend, SqliteBackend, FilesystemBackend, MongoBackend)
    for key in (
        *(str(each.metadata.get("key", each.name)) for each in attrs.fields(backend.Config) if each.init),
        *("url", "unknown", "retry.delay", "retry.factor", "retry.max_attempts", "retry.unknown"),
        *(DRIVER if backend is MongoBackend else ()),
    )
]
#: Keys for which a user and a password, or a text that is not a URL, is a valid value.
TAKEN = {("user", "user and password"), ("path", "user and password"), ("name", "user and password")}


def options_of(key: str, value: Any) -> dict[str, Any]:
    outer, dot, inner = key.partition(".")
    options: dict[str, Any] = {outer: {inner: value} if dot else value}
    # The password needs a user, and the user needs a password.
    return options | ({"pass": "x"} if key == "user" else {"user": "u"} if key == "pass" else {})


def printed(config: Any) -> str:
    """Return all texts that a program shows of a Pitstop, whether it can be made or not."""
    try:
        pit = pitstop.init(config)
    except PitstopError as error:
        return "".join(traceback.format_exception(error)) + repr(error)
    with pit:
        backend = pit._session.backend
        return " ".join(
            [repr(pit), pit.location, repr(backend), backend.location, repr(backend.config), repr(pit.listen())]
        )


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize(("backend", "key"), KEYS, ids=[f"{kind.__name__}-{key}" for kind, key in KEYS])
def test_no_key_shows_a_secret_that_was_given_to_it(backend, key, value, caplog, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.DEBUG)
    name = next(name for name, each in VALUES.items() if each is value)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        text = printed({"type": backend, **options_of(key, value)})
    if (key, name) not in TAKEN:
        assert SECRET not in text
    assert SECRET not in caplog.text
    assert SECRET not in "".join(capfd.readouterr())
    assert SECRET not in "".join(str(each.message) for each in warned)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("backend", [MemoryBackend, SqliteBackend, FilesystemBackend, MongoBackend])
def test_a_key_that_is_a_secret_is_not_shown(backend, value):
    key = value if isinstance(value, str | bytes | Path) else str(value)
    assert SECRET not in printed({"type": backend, key: 1})
    assert SECRET not in printed({"type": backend, "retry": {key: 1}})
    assert SECRET not in printed({"type": MemoryBackend(MemoryBackend.Config()), key: 1})


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_a_type_that_is_a_secret_is_not_shown(value):
    assert SECRET not in printed({"type": value})
    assert SECRET not in printed({"type": value, "url": "memory://"})
    assert SECRET not in printed(value)


@pytest.mark.parametrize(
    "url",
    [
        f"memory://?lock_time={URL}",
        f"memory://?lock_time=app%3A{SECRET}%40db1",
        f"memory://?{SECRET}=1&{SECRET}=2&password={SECRET}",
        f"sqlite:///x.db?synchronous=app:{SECRET}@db1",
        f"sqlite:///x.db?retry.delay={URL}",
        f"mongo://h/app?compressors=app:{SECRET}@db1",
        f"mongo://h/app?compressors={SECRET}",
        f"mongo://h/app?appName={URL}",
        f"mongo://h/app?coll={URL}",
        f"mongo://u:{SECRET}%0A@h/app",
        f"mongo://u:{SECRET} @h/app",
        f"mongo://u:{SECRET}@h /app",
        f"mongo://u:{SECRET}@h/app?coll=a b\n",
        f"u:{SECRET}@h://app",
    ],
)
def test_no_part_of_a_url_is_shown_that_may_be_a_secret(url, caplog, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        text = printed(url)
    # The name of an option is shown, wherever the name came from.
    assert SECRET not in text.replace(f"'{SECRET}'", "")
    assert SECRET not in caplog.text
    assert SECRET not in "".join(str(each.message) for each in warned)


@pytest.mark.parametrize("value", [URL, f"app:{SECRET}@db1", [URL], {"password": SECRET}])
def test_no_argument_shows_a_secret_that_was_given_to_it(value):
    with pitstop.init("memory://") as pit, pit.listen() as listener, testing.init() as test:
        calls = [
            lambda: pit.listen(lock_time=value),
            lambda: pit.listen(prefetch=value),
            lambda: pit.listen(heartbeat=value),
            lambda: pit.listen(max_lease=value),
            lambda: pit.consume(print, workers=value),
            lambda: pit.consume(print, drain=value),
            lambda: pit.consume(print, deliveries=value),
            lambda: pit.entries(limit=value),
            lambda: pit.entries(state=value),
            lambda: pit.entries(after=value),
            lambda: listener.get(timeout=value),
            lambda: pitstop.init("memory://", plugins=[value]),
            lambda: testing.init(seed=value),
            lambda: testing.init(ids=value),
            lambda: test.clock.advance(value),
            lambda: test.faults.latency(value, 1),
            lambda: test.faults.fail_next("lease", times=value),
        ]
        for call in calls:
            with pytest.raises(PitstopError) as caught:
                call()
            assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_absolute_path_may_look_like_a_user_and_a_password(tmp_path):
    """The folders of mounts and of releases do."""
    folder = tmp_path / "app:v1@site"
    folder.mkdir()
    with pitstop.init({"type": "sqlite", "path": folder / "x.db"}) as pit:
        assert pit.entries() == []


@attrs.frozen(kw_only=True)
class Careless(pitstop.abc.BackendConfig):
    """The configuration of a backend whose author forgot about secrets."""

    number: int = attrs.field(default=1, converter=int)
    where: str = attrs.field(default="here")
    mode: str = attrs.field(default="on", validator=attrs.validators.in_(["on", "off"]))
    hidden: str = attrs.field(default="", repr=False)
    starred: str = attrs.field(default="", repr=lambda _: "***")


@pytest.mark.parametrize("key", ["number", "where", "mode"])
def test_a_careless_backend_shows_no_url_either(key):
    """The errors of Python's own converters quote the value, and kept text stands in the repr."""
    with pytest.raises(pitstop.ConfigError) as caught:
        Careless.from_options({key: URL})
    text = "".join(traceback.format_exception(caught.value))
    assert SECRET not in text
    assert key in text


def test_a_key_whose_value_is_not_in_the_repr_may_hold_a_secret():
    assert Careless.from_options({"hidden": URL}).hidden == URL
    assert Careless.from_options({"where": "https://host/path"}).where == "https://host/path"


@pytest.mark.parametrize("white", [" ", "\n", "\t"])
@pytest.mark.parametrize("key", ["hidden", "starred"])
def test_white_space_at_the_end_of_a_secret_is_refused_without_the_secret(key, white):
    """The author forgot ``metadata={"verbatim": True}``. The repr does not show the field, and neither does the error."""
    with pytest.raises(pitstop.ConfigError, match=f"^{key} has ") as caught:
        Careless.from_options({key: SECRET + white})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        f"memory://?lock_time={URL}",
        f"app:{SECRET}@db1",
        f"sqlite:///x.db?synchronous={URL}",
        f"mongo://app:{SECRET}@db1/app?lock_time=app:{SECRET}@db1",
        f"mongo://app:{SECRET}@db1/app?coll=a\tb",
        f"mongo://db1/app?compressors={SECRET}",
    ],
)
@pytest.mark.parametrize("how", ["option", "environment"])
def test_the_command_does_not_print_a_secret(url, how, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PITSTOP_URL"}
    command = [sys.executable, "-W", "always", "-m", "pitstop", "ping"]
    command += ["--url", url] if how == "option" else []
    environment |= {"PITSTOP_URL": url} if how == "environment" else {}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert SECRET not in done.stderr + done.stdout
