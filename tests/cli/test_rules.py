"""Rules on the command line: ``pitstop preview``, and the options of ``pitstop store``."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pitstop import Calendar, Cron, RRule


def test_preview_shows_the_clock_of_the_zone_and_marks_what_daylight_saving_time_moves(invoke):
    result = invoke("preview", "30 2 * * *", "--tz", "Europe/Berlin", "--at", "2026-03-28T00:00+01:00", "-n", "3")
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines()[2:]]
    assert rows == [
        ["Sat", "2026-03-28", "02:30:00", "+01:00", "Europe/Berlin", "-"],
        [
            "Sun",
            "2026-03-29",
            "03:00:00",
            "+02:00",
            "Europe/Berlin",
            *["moved:", "the", "clock", "skips", "its", "time"],
        ],
        ["Mon", "2026-03-30", "02:30:00", "+02:00", "Europe/Berlin", "-"],
    ]


def test_preview_prints_json(invoke, lines):
    arguments = ("preview", "1d", "--tz", "America/New_York", "--at", "2026-10-31T01:30-04:00", "-n", "2", "--json")
    assert lines(invoke(*arguments).stdout) == [
        {
            "at": "2026-10-31T05:30:00.000Z",
            "local": "2026-10-31T01:30:00-04:00",
            "zone": "America/New_York",
            "note": None,
        },
        {
            "at": "2026-11-01T05:30:00.000Z",
            "local": "2026-11-01T01:30:00-04:00",
            "zone": "America/New_York",
            "note": "the clock shows this time twice: first pass",
        },
    ]


@pytest.mark.parametrize(
    "rule", ["90m", "1mo", "@daily", "0 0 9 * * MON", "FREQ=MONTHLY;BYDAY=-1FR", "rrule:freq=daily"]
)
def test_preview_reads_any_kind_and_ends_at_until(invoke, rule):
    result = invoke("preview", rule, "-n", "100", "--until", "100d")
    assert result.exit_code == 0, result.stderr
    assert 3 <= len(result.stdout.splitlines()) <= 102


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("0 0 31 2 *",), "Cron('0 0 31 2 *') can never match: day 31 never occurs in month 2."),
        (("soon",), "'soon' is no interval. Write it as in '90s', '1h30m', '1d' or '1mo'."),
        (("1h", "--tz", "Europe/Berlin"), "'1h' is elapsed time, which has no zone. Leave --tz out"),
        (("@daily", "--tz", "Europe/Berlim"), "Did you mean 'Europe/Berlin'?"),
        (("@yearly", "--until", "1s"), "has no occurrence from"),
        (("FREQ=DAILY;COUNT=3",), "COUNT is not taken here."),
    ],
)
def test_preview_refuses_in_the_words_of_the_library(invoke, arguments, text):
    result = invoke("preview", *arguments)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (("--every", "1h"), timedelta(hours=1)),
        (("--every", "1d"), timedelta(days=1)),
        (("--every", "1d", "--tz", "Europe/Berlin"), Calendar(days=1, tz="Europe/Berlin")),
        (("--every", "2mo"), Calendar(months=2)),
        (("--every", "1y", "--tz", "Europe/Berlin"), Calendar(years=1, tz="Europe/Berlin")),
        (("--cron", "0 9 * * MON-FRI", "--tz", "Europe/Berlin"), Cron("0 9 * * MON-FRI", tz="Europe/Berlin")),
        (("--rrule", "FREQ=MONTHLY;BYDAY=-1FR"), RRule("FREQ=MONTHLY;BYDAY=-1FR")),
    ],
)
def test_store_takes_each_kind(invoke, pit, options, rule):
    result = invoke("store", "{}", "--id", "a", *options, "--jitter", "5m")
    assert result.exit_code == 0, result.stderr
    entry = pit.get("a")
    assert entry.every == rule
    assert entry.jitter == timedelta(minutes=5)
    shown = invoke("show", "a").stdout
    (first,) = [index for index, line in enumerate(shown.splitlines()) if line.startswith("next")]
    for line, each in zip(shown.splitlines()[first : first + 3], entry.upcoming(4)[1:], strict=True):
        assert line.rstrip().endswith(str(each))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--every", "1h", "--cron", "@daily"), "--every, --cron and --rrule each give the rule. Give one of them."),
        (("--tz", "Europe/Berlin"), "--tz is the zone of a rule. Give --cron, --rrule or --every, too."),
        (("--cron", "* * * *"), "has 4 fields"),
        (("--cron", "@daily", "--tz", ""), "tz='' is no zone"),
        (("--rrule", "FREQ=DAILY", "--tz", ""), "tz='' is no zone"),
        (("--every", "1mo", "--tz", ""), "tz='' is no zone"),
        (("--until", "1h"), "Give --every, --cron or --rrule, too."),
    ],
)
def test_store_refuses_options_that_make_no_rule(invoke, pit, options, text):
    result = invoke("store", "{}", *options)
    assert result.exit_code == 2
    assert text in " ".join(result.stderr.split())
    assert pit.entries() == []


def test_an_expression_may_have_tabs_between_its_fields(invoke):
    assert invoke("preview", "0\t9 * * *", "-n", "1").exit_code == 0
    assert invoke("preview", "0\t9\t*\t*\t*", "-n", "1").exit_code == 0
