"""Cron expressions: their meanings and their refusals."""

from __future__ import annotations

import json

from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from pitstop import Cron, ScheduleError


VECTORS = json.loads((Path(__file__).parent / "cron_vectors.json").read_text("utf-8"))


def times(rule, after, count):
    """Return the next times that are later than `after`, which a range that includes its start would not leave out."""
    later = (each for each in rule.occurrences(after) if each > after)
    return [each.isoformat() for each in islice(later, count)]


@pytest.mark.parametrize("vector", VECTORS, ids=[each["label"] for each in VECTORS])
def test_the_tricky_cases_on_which_libraries_disagree(vector):
    after = datetime.fromisoformat(vector["after"])
    if vector["error"] is None:
        assert times(Cron(vector["expr"], tz=vector["tz"]), after, len(vector["next"])) == vector["next"]
    elif vector["error"] == "StopIteration":
        assert times(Cron(vector["expr"], tz=vector["tz"]), after, 1) == []
    else:
        with pytest.raises(ScheduleError):
            Cron(vector["expr"], tz=vector["tz"])


def test_a_later_start_within_a_second_does_not_repeat_that_second():
    start = datetime(2031, 5, 4, 12, 0, 0, 1000, tzinfo=UTC)
    assert next(Cron("* * * * * *").occurrences(start)) == datetime(2031, 5, 4, 12, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        # On the first of a month that is a Saturday, the nearest weekday of the same month is the third.
        ("0 0 1W * *", "2025-02-03"),
        ("0 0 1W 3 *", "2025-03-03"),
        ("0 0 31W * *", "2025-01-31"),
        ("0 0 L 2 *", "2025-02-28"),
        ("0 0 * * SUN#5", "2025-03-30"),
        ("0 0 ? 6 MONL", "2025-06-30"),
        ("@weekly", "2025-01-05"),
    ],
)
def test_days_by_their_place_in_the_month(expression, wanted):
    assert times(Cron(expression), datetime(2025, 1, 2, tzinfo=UTC), 1)[0][:10] == wanted


def test_equal_rules_are_equal_however_they_are_written():
    assert Cron(" 0 9 *  * mon-fri") == Cron("0 9 * * MON-FRI", tz="UTC")
    assert Cron("0 9 * * *", tz=ZoneInfo("Europe/Berlin")) == Cron("0 9 * * *", tz="Europe/Berlin")
    assert Cron("0 9 * * *", tz="Europe/Berlin") != Cron("0 9 * * *", tz="Europe/Vienna")
    assert hash(Cron("@Daily")) == hash(Cron("@daily"))
    assert repr(Cron("0 9 * * mon", tz=UTC)) == "Cron('0 9 * * MON', tz='UTC')"


REFUSED = [
    ("0 0 31 2 *", "Cron('0 0 31 2 *') can never match: day 31 never occurs in month 2. Give other days or months."),
    (
        "0 0 31 2,4,6 *",
        "Cron('0 0 31 2,4,6 *') can never match: day 31 never occurs in month 2,4,6. Give other days or months.",
    ),
    (
        "0 0 */31 2 MON#5",
        "Cron('0 0 */31 2 MON#5') can never match: day */31 on MON#5 never occurs in month 2. Give other days or months.",
    ),
    (
        "0 22-2 * * *",
        "Cron('0 22-2 * * *'): hour field '22-2': the range 22-2 runs backwards. Write 22-23,0-2.",
    ),
    (
        "0 0 * * FRI-MON",
        "Cron('0 0 * * FRI-MON'): day-of-week field 'FRI-MON': the range 5-1 runs backwards. Write 5-7,0-1.",
    ),
    (
        "0 0 * * FRI-SUN",
        "Cron('0 0 * * FRI-SUN'): day-of-week field 'FRI-SUN': the range 5-0 runs backwards. Write 5-7.",
    ),
    ("61 * * * *", "Cron('61 * * * *'): minute field '61': '61' is not in 0-59. Give 0-59."),
    (
        "0 0 * * MOM",
        "Cron('0 0 * * MOM'): day-of-week field 'MOM': 'MOM' is not in 0-7 or SUN-SAT. Give 0-7 or SUN-SAT.",
    ),
    ("0 0 * FOO *", "Cron('0 0 * FOO *'): month field 'FOO': 'FOO' is not in 1-12 or JAN-DEC. Give 1-12 or JAN-DEC."),
    ("*/0 * * * *", "Cron('*/0 * * * *'): minute field '*/0': the step '0' is no number of at least 1. Give 0-59."),
    (
        "*/90 * * * *",
        (
            "Cron('*/90 * * * *'): minute field '*/90': a step of 90 leaves one value, because each minute begins "
            "anew at 0. Give a step of at most 60, or an interval, as in Every('90m')."
        ),
    ),
    (
        "* * * *",
        (
            "Cron('* * * *') has 4 fields. Give five: minute, hour, day of the month, month, day of the week. A sixth, in front, "
            "gives the seconds."
        ),
    ),
    (
        "0 0 12 * * ? 2031",
        (
            "Cron('0 0 12 * * ? 2031') has 7 fields. The year of Quartz is not known here: leave it out, and give an end to the "
            "series in place of it."
        ),
    ),
    ("@reboot", "Cron('@reboot') names no time. Store a message when the program starts, in place of it."),
    ("@every 1h", "Cron('@every 1h') is an interval. Give Every('1h') in place of it."),
    (
        "@fortnightly",
        (
            "Cron('@fortnightly') is unknown. Give five fields, or one of: @yearly, @annually, @monthly, @weekly, @daily, "
            "@midnight, @hourly."
        ),
    ),
    ("? * * * *", "Cron('? * * * *'): minute field '?': '?' is only for the two day fields. Give 0-59."),
    (
        "H * * * *",
        "Cron('H * * * *'): minute field 'H': 'H' of Jenkins is not known. Give a number, and jitter=... to store().",
    ),
    (
        "0 0 * * L",
        (
            "Cron('0 0 * * L'): day-of-week field 'L': 'L' alone means Saturday to some programs and the last day to others. "
            "Give a day before it, as in 5L for the last Friday."
        ),
    ),
    (
        "0 0 * * FRI#6",
        "Cron('0 0 * * FRI#6'): day-of-week field 'FRI#6': '#6' names no week of a month. Give #1 to #5.",
    ),
    ("0 0 ١ * *", "Cron('0 0 ١ * *'): day-of-month field '١': '١' is not in 1-31. Give 1-31."),
]


@pytest.mark.parametrize(("expression", "text"), REFUSED, ids=[each for each, _ in REFUSED])
def test_a_wrong_expression_is_refused_with_the_remedy(expression, text):
    with pytest.raises(ScheduleError) as caught:
        Cron(expression)
    assert str(caught.value) == text


@pytest.mark.parametrize("expression", ["", "   ", ",", "1,,2 * * * *", "1- * * * *", "-1 * * * *", "*5 * * * *", "1/ * * * *",
    "0 0 * * 8", "0 0 0 * *", "0 0 W * *", "0 0 32W * *", "0 0 LL * *", "0 0 * * #2", "0 0 *,? * *", "0 24 * * *",
    "60 * * * * *", "* " * 5000, "0 0 1 1 1 1 1 1"])  # fmt: skip
def test_nonsense_is_refused(expression):
    with pytest.raises(ScheduleError, match="Cron"):
        Cron(expression)


@pytest.mark.parametrize("expression", [None, 5, b"* * * * *", ["*"]])
def test_other_types_are_refused(expression):
    with pytest.raises(ScheduleError, match="is no text"):
        Cron(expression)


ZONES = [
    ("Europe/Berlim", "Did you mean 'Europe/Berlin'? "),
    ("berlin", "Did you mean 'Europe/Berlin'? "),
    ("New York", "Did you mean 'America/New_York'? "),
    ("utc", "Did you mean 'UTC'? "),
    ("../../etc/passwd", ""),
    ("/etc/localtime", ""),
    ("Europe", ""),
    ("", ""),
    ("x" * 5000, ""),
    ("Europe/Berlin\0", "Did you mean 'Europe/Berlin'? "),
]


@pytest.mark.parametrize(("zone", "suggestion"), ZONES, ids=range(len(ZONES)))
def test_an_unknown_zone_is_refused(zone, suggestion):
    with pytest.raises(ScheduleError, match="is no zone that this machine knows") as caught:
        Cron("* * * * *", tz=zone)
    assert suggestion in str(caught.value)


def test_the_zone_of_the_machine_and_offsets_are_refused():
    with pytest.raises(
        ScheduleError, match="is the zone of each machine, so the rule would mean other times elsewhere"
    ):
        Cron("* * * * *", tz="localtime")
    with pytest.raises(ScheduleError, match="is a zone without a name, perhaps a fixed offset"):
        Cron("* * * * *", tz=datetime.now().astimezone().tzinfo)
    with pytest.raises(ScheduleError, match="tz=5 is a int"):
        Cron("* * * * *", tz=5)


def test_from_the_second_pass_of_a_fold_the_first_time_after_it_is_found():
    """In Berlin the clock goes from 03:00 back to 02:00. At the second 02:30, the times of the fold have come, and 03:00 has not."""
    second_pass = datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    found = islice(Cron("0 2,3 * * *", tz="Europe/Berlin").occurrences(second_pass), 2)
    assert [each.isoformat() for each in found] == ["2026-10-25T02:00:00+00:00", "2026-10-26T01:00:00+00:00"]


def test_rare_times_are_found_and_the_end_of_all_dates_is_the_end():
    rule = Cron("0 0 29 2 *", tz="Pacific/Kiritimati")
    assert len(list(rule.occurrences(datetime(9000, 1, 1, tzinfo=UTC)))) == 242
    assert list(Cron("59 59 23 31 12 *").occurrences(datetime(9999, 12, 31, 23, tzinfo=UTC))) == [
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    ]
    assert (
        list(Cron("@hourly", tz="America/New_York").occurrences(datetime.max.replace(microsecond=0, tzinfo=UTC))) == []
    )


def test_bounds_of_occurrences_are_checked_before_the_first_is_taken():
    with pytest.raises(ScheduleError, match=r"start=.* is naive"):
        Cron("@daily").occurrences(datetime(2031, 1, 1))
    with pytest.raises(ScheduleError, match=r"end=1 is a int\. Give an aware datetime"):
        Cron("@daily").occurrences(datetime(2031, 1, 1, tzinfo=UTC), 1)


def test_a_year_of_half_past_two_in_berlin():
    """On 30 March the clock skips 02:30, and the message comes at 03:00. On 26 October 02:30 is shown twice, and it comes once."""
    zone = ZoneInfo("Europe/Berlin")
    begin, end = datetime(2025, 1, 1, tzinfo=zone), datetime(2026, 1, 1, tzinfo=zone)
    found = [each.astimezone(zone) for each in Cron("30 2 * * *", tz="Europe/Berlin").occurrences(begin, end)]
    assert len(found) == 365
    assert len({each.date() for each in found}) == 365
    odd = [each for each in found if (each.hour, each.minute) != (2, 30)]
    assert [str(each) for each in odd] == ["2025-03-30 03:00:00+02:00"]
    (autumn,) = [each for each in found if each.date() == datetime(2025, 10, 26).date()]
    assert autumn.utcoffset() == timedelta(hours=2)
