"""Errors quote any value in bounded length and without a secret."""

from __future__ import annotations

import pickle

from collections import OrderedDict
from pathlib import Path, PurePosixPath

import pytest

from pitstop import BackendUnavailable, ConfigError, OutcomeUnknown, PitstopError
from pitstop._values._quoting import masked
from pitstop.abc import may_hold_secret, quoted


SECRET = "hunt3rS3cret"
URL = f"mongodb://app:{SECRET}@db1/app"

SECRETS = [
    URL,
    f"mongodb://app:{SECRET}@db1,db2:27018/app?replicaSet=rs",
    f"mongodb+srv://app:{SECRET}@cluster.example.org",
    f"https://{SECRET}@example.org",
    f"  {URL}\n",
    f"app:{SECRET}@db1/app",
    f"app:a/{SECRET}@db1",
    f"app:a {SECRET}@db1",
    f"mongodb:/app:{SECRET}@db1/app",
    f"app%3A{SECRET}%40db1",
    f"mongodb%3A%2F%2Fapp%3A{SECRET}%40db1",
    f"mongodb%253A%252F%252Fapp%253A{SECRET}%2540db1",
    f"host=db1 user=app password={SECRET}",
    f"Server=db1;Uid=app;Pwd={SECRET};",
    f"AWS_SESSION_TOKEN:{SECRET}",
    f"api_key={SECRET}",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
    URL.encode(),
    bytearray(URL.encode()),
    [URL],
    (URL, 5),
    {"a": [{"b": URL}]},
    {URL: 1},
    {"password": SECRET},
    {"user": "app", "pass": SECRET},
    {"a": {"client_secret": SECRET}},
    {URL, 5},
    OrderedDict(password=SECRET),
    [("user", "app"), ("password", SECRET)],
    Path(URL),
    PurePosixPath(f"app:{SECRET}@db1"),
    ConfigError(f"secret={SECRET}"),
    type("Settings", (), {"__repr__": lambda _: f"Settings(url={URL!r})"})(),
    "x" * 150 + URL,
]


@pytest.mark.parametrize("value", SECRETS, ids=range(len(SECRETS)))
def test_a_value_that_may_hold_a_secret_is_described_and_not_shown(value):
    text = quoted(value)
    assert SECRET not in text
    assert SECRET[:6] not in text
    assert text


@pytest.mark.parametrize(
    "value",
    [
        *(
            "soon",
            "",
            "15 minutes",
            "it's",
            'a "b"',
            "ü",
            "\ud800",
            "a\nb",
            "C:/x.db",
            "C:\\x.db",
            "C:\\me@corp\\x.db",
            "a@b",
            "10:30",
            "50%",
        ),
        *(5, -1, True, None, 1.5, float("nan"), b"ab", [5], [], (), (5,), {}, {"a": 1}, {"delay": "5s"}, Path("/a/b")),
    ],
)
def test_any_other_value_is_shown_as_its_repr(value):
    assert quoted(value) == repr(value)


def test_a_long_value_is_cut():
    assert quoted("x" * 10_000) == f"'{'x' * 120}'… (text of 10000 characters)"
    assert quoted(list(range(10_000))) == "[0, 1, 2, 3, 4, 5, 6, 7, … (10000 in all)]"
    assert quoted(10**5000) == "<an int of 16610 bits>"
    nested: list[object] = []
    nested.append(nested)
    assert quoted(nested) == "[[[[…]]]]"
    assert len(quoted({"x" * 100: "y" * 100, "z" * 100: "w" * 100})) <= 300


def test_a_value_whose_repr_raises_is_described():
    class Broken:
        def __repr__(self):
            raise ValueError(SECRET)

    assert quoted(Broken()) == "<Broken whose repr() raised ValueError>"
    assert quoted([Broken()]) == "<list whose repr() raised ValueError>"


def test_text_of_a_subclass_is_shown_as_the_text_that_it_is():
    class Key(str):
        __slots__ = ()

        def __repr__(self):
            return SECRET

        def __str__(self):
            return SECRET

    assert quoted(Key("a")) == "'a'"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("part", [":", ":@", "pass ", "pass", "%3a", "%25", "eyJ", "eyJ-"])
def test_of_a_long_value_the_first_characters_are_searched(part):
    """A pattern that tried each character with all others would take hours."""
    assert len(quoted(part * 10_000_000)) <= 300


@pytest.mark.parametrize("text", [URL, "sqlite:///x", "mongodb:/app:x@db1", "file:/x", "//app:x@db1"])
def test_a_url_in_the_place_of_a_name_is_known(text):
    assert may_hold_secret(text)


@pytest.mark.parametrize("text", ["x.db", "C:/x.db", "C:\\me@corp\\x.db", "10:30/x", "db1:27017", "/a/b", "/a:1@b/c"])
def test_a_path_or_an_address_is_no_url(text):
    assert not may_hold_secret(text)


@pytest.mark.parametrize("kind", [PitstopError, ConfigError, BackendUnavailable, OutcomeUnknown])
def test_no_error_has_the_password_of_a_url_in_its_text_whoever_made_it(kind):
    """A third-party backend or its driver may quote a URL."""
    error = kind(f"cannot connect to {URL}?x=1, nor to {URL}; password={SECRET}")
    assert str(error) == "cannot connect to mongodb://***@db1/app?x=1, nor to mongodb://***@db1/app; password=***"
    assert SECRET not in repr(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lock_time='soon' is not a duration.",
        "Write it as mongodb://user:password@host:27017/database?option=value, with user and password",
        "The lease of 'order:5@eu' (attempt 1) is over",
        "MongoDB at mongodb://db1:27017,db2:27017/app.messages refuses the user or the password (code 18).",
    ],
)
def test_an_error_without_a_secret_stays_as_it_is(text):
    assert masked(text) == text
    assert str(PitstopError(text)) == text
