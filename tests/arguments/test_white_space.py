"""White space in URLs and names that come from a file of secrets or an .env file.

At the ends of a whole URL it is dropped. Anywhere else it is refused, because it would name another store: a process
would talk to a store of its own, and no error would show it.
"""

from __future__ import annotations

import os
import subprocess
import sys

from pathlib import Path

import pytest

import pitstop

from pitstop import ConfigError
from pitstop_filesystem import FilesystemConfig
from pitstop_memory import MemoryConfig
from pitstop_mongo import MongoConfig
from pitstop_sqlite import SqliteConfig


WHITE = [" ", "\t", "\n", "\r\n", "\v", "\xa0", "\u3000", "\ufeff", "\u200b", " \n\t "]
IDS = [ascii(each) for each in WHITE]

URLS = [
    "memory://name",
    "sqlite:///q.db",
    "sqlite:///q.db?lock_time=15m",
    "mongo://localhost/app?coll=later",
    "mongodb://u:p@localhost/app",
    "mongodb+srv://cluster.example.org/app",
]

CONFIGS = {"memory": MemoryConfig, "sqlite": SqliteConfig, "mongo": MongoConfig, "filesystem": FilesystemConfig}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("white", WHITE, ids=IDS)
@pytest.mark.parametrize("url", URLS)
def test_is_dropped_at_the_ends_of_a_url(url, white):
    with pitstop.init(url) as pit:
        location = pit.location
    for config in (white + url, url + white, {"url": white + url + white}, {"url": url + white, "lock_time": "1m"}):
        with pitstop.init(config) as pit:
            assert pit.location == location


@pytest.mark.parametrize("white", WHITE, ids=IDS)
@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("memory:// name", "host and the user"),
        ("memory://na me", "host and the user"),
        ("memory://name ?lock_time=1m", "host and the user"),
        ("memory://name?lock_time =1m", "lock_time behind"),
        ("memory://name?lock_time= 1m", "lock_time behind"),
        ("memory://name?lock_time=1m &loop_time=1s", "lock_time behind"),
        ("memory://name?retry.delay=1s &loop_time=1s", "retry.delay behind"),
        ("mem ory://name", "scheme"),
        ("memory ://name", "scheme"),
        ("sqlite:/// q.db", "path"),
        ("sqlite:///q.db ?lock_time=1m", "path"),
        ("sqlite:// /q.db", "host and the user"),
        ("mongo://localhost /app", "host and the user"),
        ("mongo://a, b/app", "host and the user"),
        ("mongo://u :p@localhost/app", "host and the user"),
        ("mongo://u: p@localhost/app", "host and the user"),
        ("mongo://localhost/app ?coll=x", "path"),
        ("mongo://localhost/ app", "path"),
        ("mongo://localhost/app?coll=x &lock_time=1m", "coll behind"),
        ("mongo://localhost/app?replicaSet= rs", "replicaSet behind"),
    ],
)
def test_is_refused_within_a_url_by_the_name_of_the_part(url, where, white):
    with pytest.raises(ConfigError) as caught:
        pitstop.init(url.replace(" ", white))
    assert str(caught.value).startswith("The URL has white space or a control character in")
    assert where in str(caught.value)
    assert "p@" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///a\nb.db", "in its path"),
        ("sqlite:///a\tb.db", "in its path"),
        ("sqlite:///a\rb.db", "in its path"),
        ("sqlite:///a%0Ab.db", "line break"),
        ("sqlite:///q.db%0A", "line break"),
        ("mongo://localhost/app?coll=a\nb", "coll behind"),
        ("mongo://localhost/app?coll=later%0A", "line breaks"),
        ("mongo://localhost/app?coll=later%20", "coll='later ' has white space at its end"),
        ("mongo://localhost/app?coll=%09later", "control character"),
        ("mongo://localhost/app%20", "database"),
        ("mongo://u:p%0A@localhost/app", "line break"),
        ("filesystem:///srv/messages%20", "path='/srv/messages ' has white space at its end"),
        (" ", "no scheme"),
        ("\ufeff", "no scheme"),
    ],
)
def test_a_line_break_is_refused_anywhere_and_a_blank_at_the_end_of_a_name(url, said):
    with pytest.raises(ConfigError) as caught:
        pitstop.init(url)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:///my%20file.db", "my%20file.db"),
        ("sqlite:///my file.db", "my%20file.db"),
        ("sqlite:///q.db%20", "q.db%20"),
        ("sqlite:///%20q.db", "%20q.db"),
    ],
)
def test_a_blank_in_a_file_name_is_kept_if_it_is_meant(url, name):
    """Within a name a blank belongs to it. At the ends it is written ``%20``, which is never written by mistake."""
    with pitstop.init(url) as pit:
        assert pit.location.rpartition("/")[2] == name
        location = pit.location
    with pitstop.init(location) as again:
        assert again.location == location


@pytest.mark.parametrize("white", WHITE, ids=IDS)
@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("memory", "name", "queue"),
        ("sqlite", "path", "queue.db"),
        ("filesystem", "path", "/srv/queue"),
        ("mongo", "coll", "queue"),
        ("mongo", "dbname", "queue"),
        ("mongo", "host", "db1"),
        ("mongo", "replica_set", "rs"),
    ],
)
def test_is_refused_at_the_ends_of_a_name_in_a_mapping(kind, key, value, white):
    config = CONFIGS[kind]
    assert getattr(config.from_options({key: value}), key) == value
    for given in (value + white, white + value):
        with pytest.raises(ConfigError, match=rf"^{key}(=| has)"):
            config.from_options({key: given})
    if key == "path":
        # For example from Path(os.environ["STORE"]).
        with pytest.raises(ConfigError, match=rf"^{key}(=| has)"):
            config.from_options({key: Path(value + white)})


def test_within_a_name_a_blank_is_a_part_of_it():
    assert SqliteConfig.from_options({"path": "my file.db"}).path == "my file.db"
    assert MemoryConfig.from_options({"name": "my queue"}).name == "my queue"
    assert MongoConfig.from_options({"coll": "my queue"}).coll == "my queue"


def test_does_no_harm_where_text_stands_for_a_number_or_a_duration():
    config = MemoryConfig.from_options({"lock_time": " 15m\n", "retry": {"max_attempts": "3\n", "delay": " 5s"}})
    assert (config.lock_time.total_seconds(), config.retry.max_attempts) == (900, 3)


def test_of_a_password_is_a_part_of_it_but_a_line_break_is_not():
    assert MongoConfig.from_options({"user": "u", "pass": " p "}).password == " p "
    with pytest.raises(ConfigError, match=r"^pass has a line break, .*files of secrets often end in a line break"):
        MongoConfig.from_options({"user": "u", "pass": "hunter2\n"})


@pytest.mark.parametrize("white", WHITE, ids=IDS)
def test_of_a_mongodb_uri_in_a_mapping_is_treated_like_that_of_a_url(white):
    assert MongoConfig.from_options({"uri": f"{white}mongodb://db1/app{white}"}).addresses == ("db1:27017",)
    with pytest.raises(ConfigError, match=r"^uri has white space or a control character in its path"):
        MongoConfig.from_options({"uri": f"mongodb://db1/app{white}?tls=true"})


@pytest.mark.parametrize("how", ["option", "environment"])
def test_is_dropped_from_the_url_that_the_command_is_given(how):
    pitstop.init("sqlite:///q.db").close()
    url = "sqlite:///q.db \r\n"
    environment = {key: value for key, value in os.environ.items() if key != "PITSTOP_URL"}
    environment |= {"PITSTOP_URL": url} if how == "environment" else {}
    command = [sys.executable, "-m", "pitstop", "stats", *(["--url", url] if how == "option" else [])]
    subprocess.run(command, env=environment, capture_output=True, check=True)
    assert {each.name.partition(".db")[0] for each in Path.cwd().iterdir()} == {"q"}
