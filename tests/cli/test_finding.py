"""``pitstop list`` with the options of a search, and ``pitstop stats --by kind``."""

from __future__ import annotations

from datetime import timedelta

import pytest


@pytest.fixture
def shop(pit):
    for n in range(3):
        pit.store({"id": f"order-7:{n}"}, timedelta(hours=3 - n), kind="mail")
        pit.store({"id": f"order-8:{n}"}, timedelta(hours=n, minutes=1))
    pit.store({"id": "failed"}, timedelta(0), kind="mail")
    with pit.listen() as listener:
        listener.get().nack("boom", timedelta(hours=9))
    return pit


@pytest.fixture
def listed(invoke, lines, shop):
    """Returns the ids that ``list`` shows."""
    return lambda *options: [line["id"] for line in lines(invoke("list", "--json", *options).stdout)]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--prefix", "order-7:"], ["order-7:0", "order-7:1", "order-7:2"]),
        (["--kind", "mail"], ["order-7:2", "order-7:1", "order-7:0", "failed"]),
        (["--kind", ""], ["order-8:0", "order-8:1", "order-8:2"]),
        (["--due-before", "90m"], ["order-8:0", "order-7:2", "order-8:1"]),
        (["--due-after", "90m", "--due-before", "2h30m"], ["order-7:1", "order-8:2"]),
        (["--failing"], ["failed"]),
        (["--failing", "--state", "dead"], []),
        (["--kind", "mail", "--prefix", "order", "--due-before", "2h"], ["order-7:1", "order-7:2"]),
        (["--due-before", "-1h"], []),
        (["--due-before=-1h"], []),
        (["--due-after", "-1h", "--limit", "1"], ["order-8:0"]),
        (["--due-before", "2000-01-01T00:00:00Z"], []),
        (["--all", "--prefix", "order-8"], ["order-8:0", "order-8:1", "order-8:2"]),
    ],
    ids=" ".join,
)
def test_list_shows_the_messages_that_match_all_options(listed, options, ids):
    assert listed(*options) == ids


def test_list_says_that_there_are_more(invoke, shop):
    result = invoke("list", "--prefix", "order", "--limit", "2")
    assert "There are more than 2." in result.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--due-before", "soon"], "soon"),
        (["--due-after", "2031-05-04T12:00:00"], "zone"),
        (["--kind", "*"], "kind='*'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_an_error(invoke, shop, options, text):
    result = invoke("list", *options)
    assert result.exit_code != 0
    assert text in result.stderr


def test_stats_by_kind(invoke, lines, shop):
    first, second = lines(invoke("stats", "--by", "kind", "--json").stdout)
    assert (first["kind"], first["scheduled"], first["due"]) == ("", 3, 0)
    assert second == {"kind": "mail", "scheduled": 4, "due": 0, "leased": 0, "dead": 0, "paused": 0, "oldest_due": None}

    head, _, none, mail = invoke("stats", "--by", "kind").stdout.splitlines()
    assert head.split() == ["kind", "scheduled", "due", "leased", "dead", "paused", "oldest", "due"]
    assert none.split()[:4] == ["3", "0", "0", "0"] or none.split()[1:5] == ["3", "0", "0", "0"]
    assert mail.split()[:5] == ["mail", "4", "0", "0", "0"]
