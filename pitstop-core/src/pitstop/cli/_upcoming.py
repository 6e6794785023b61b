"""``pitstop upcoming``: how many messages are to come, by the hour or by the day."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import attrs
import click

from pitstop import Entry, Pitstop, ScheduleError
from pitstop._decisions._describe import describe
from pitstop._decisions._search import query_of
from pitstop._finding import check_query
from pitstop._pitstop import session_of
from pitstop._recurrence._wall import wall_of, zone_name
from pitstop._values._instant import floor_instant, from_instant
from pitstop.abc import Damaged, Record
from pitstop.cli._output import needs_stdout, print_json, print_table, progress, warn
from pitstop.cli._policies import paused_kinds
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import duration, iso


__all__ = ["upcoming"]

#: How many records are read at once.
_PAGE = 1000
#: How many occurrences of one series are asked for: as a rule, and at most.
_SOME, _MOST = 100, 10_000
#: How far the counts reach, unless a user says otherwise.
_REACH = {"hour": timedelta(days=1), "day": timedelta(days=14)}
#: Milliseconds of a quarter of an hour.
_QUARTER = 900_000
#: The most characters of a bar.
_BAR = 40

#: The begin of a bucket in UTC, and a kind. None: the messages that are due already, and all kinds.
_Bucket = tuple[datetime | None, str | None]


def _zone(_: click.Context, __: click.Parameter, value: str | None) -> tzinfo:
    if value is None:
        return UTC
    try:
        return wall_of(zone_name(value)).zone
    except ScheduleError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--by",
    multiple=True,
    type=click.Choice(["hour", "day", "kind"]),
    help="The length of a row; with kind in addition, the messages of each kind. Default: hour.",
)
@click.option(
    "--for", "reach", type=duration, metavar="DURATION", help="How far to look. Default: 1d by hour, 14d by day."
)
@click.option(
    "--tz", "zone", metavar="ZONE", callback=_zone, help="Whose hours and days, as in Europe/Berlin. Default: UTC."
)
@click.option("--kind", help="Count messages of this kind only.")
@common_options
@click.pass_obj
def upcoming(settings: Settings, by: tuple[str, ...], reach: timedelta | None, zone: tzinfo, kind: str | None) -> None:
    """Count the messages that are to come, by the hour or by the day.

    The occurrences of series are counted as well. Messages that a listener has, dead ones and paused ones are not to come.

    \b
    pitstop upcoming --by day --tz Europe/Berlin
    pitstop upcoming --by hour --by kind --for 6h
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    if "hour" in by and "day" in by:
        raise click.UsageError("--by hour and --by day are two lengths of a row. Give one of them.")
    needs_stdout("upcoming")
    daily = "day" in by
    with settings.open_existing() as pit:
        now = pit.now()
        counting = _Counting(
            now=now,
            until=now + (reach or _REACH["day" if daily else "hour"]),
            zone=zone,
            daily=daily,
            by_kind="kind" in by,
            paused=frozenset(paused_kinds(pit)),
        )
        with progress() as bar:
            task = bar.add_task("Counting", total=None, count=0)
            for record in _records(pit, counting.until, kind):
                counting.add(record)
                if not counting.read % _PAGE:
                    bar.update(task, count=counting.read)
    _print(settings, counting)
    if counting.cut:
        warn(
            f"{counting.cut:,} series come more than {_MOST:,} times in that time. The others of their occurrences are not counted."
        )


def _records(pit: Pitstop, until: datetime, kind: str | None) -> Iterator[Record]:
    """Yield the sound records that are due before a time. Entries of all of them would take twice as long."""
    backend = session_of(pit).backend
    query = query_of(backend.now(), state=None, kind=kind, prefix=None, due_before=until, due_after=None, failing=None)
    check_query(query, backend)
    after: tuple[int | None, str] | None = None
    while True:
        page = backend.find(query, _PAGE, after)
        for each in page:
            if isinstance(each, Record):
                yield each
        if len(page) < _PAGE:
            return
        last = page[-1]
        after = (last.due if isinstance(last, Damaged) else last.progress.due), last.id


@attrs.define(kw_only=True)
class _Counting:
    """Counts the occurrences of entries."""

    now: datetime
    now_ms: int = attrs.field(init=False)
    #: The (exclusive) end of the count.
    until: datetime
    zone: tzinfo
    daily: bool
    by_kind: bool
    #: The paused kinds, whose messages do not come.
    paused: frozenset[str]
    counts: Counter[_Bucket] = attrs.field(factory=Counter)
    #: The counts of plain messages, by the quarter of an hour in which they are due. Hours and days of all zones are made of these.
    quarters: Counter[tuple[int, str | None]] = attrs.field(factory=Counter)
    #: How many records were read.
    read: int = 0
    #: How many series come too often for a count.
    cut: int = 0

    def __attrs_post_init__(self) -> None:
        self.now_ms = floor_instant(self.now)

    def add(self, record: Record) -> None:
        """Count the occurrences of a message."""
        self.read += 1
        if record.kind in self.paused:
            return
        due = record.progress.due
        if record.series is None and record.policy is None and record.progress.token is None and due is not None:
            # As a rule, and for a million messages.
            key = -1 if due <= self.now_ms else due // _QUARTER
            self.quarters[key, record.kind if self.by_kind else None] += 1
        else:
            self.add_entry(describe(record, self.now_ms))

    def add_entry(self, entry: Entry) -> None:
        """Count the occurrences of an entry."""
        if entry.scheduled_for is None:
            return
        kind = entry.kind if self.by_kind else None
        if entry.state in {"due", "scheduled"} and entry.due is not None:
            self.counts[self._bucket(entry.due), kind] += 1
        elif entry.state != "leased":
            return
        if entry.every is not None:
            for at in self._later(entry, entry.scheduled_for):
                self.counts[self._bucket(at), kind] += 1

    def _later(self, entry: Entry, current: datetime) -> Iterator[datetime]:
        """Yield the occurrences after the current one. Those that have passed come only if all of them are to be caught up."""
        for count in (_SOME, _MOST):
            try:
                found = entry.upcoming(count)
            except ScheduleError:
                # The rule is broken. 'pitstop show' says how.
                return
            if len(found) < count or found[-1].at >= self.until:
                break
        else:
            self.cut += 1
        for each in found:
            if current < each.at < self.until and (each.at > self.now or entry.catch_up == "all"):
                yield each.at

    def _bucket(self, at: datetime) -> datetime | None:
        """Return the begin of the hour or the day in which a time is, in UTC. None: it has come."""
        return None if at <= self.now else self._hour_or_day(at)

    def _hour_or_day(self, at: datetime) -> datetime:
        local = at.astimezone(self.zone)
        if self.daily:
            return local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0).astimezone(UTC)
        # By their instants: two hours of one reading, when the clock is set back, would be equal in their zone.
        return local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)

    def rows(self) -> list[tuple[datetime | None, str | None, int]]:
        """Return the buckets that are not empty, the earliest first, with their begins in the zone."""
        for (quarter, kind), count in self.quarters.items():
            begin = None if quarter < 0 else self._hour_or_day(from_instant(quarter * _QUARTER))
            self.counts[begin, kind] += count
        self.quarters.clear()

        def order(item: tuple[_Bucket, int]) -> tuple[datetime, str]:
            (begin, kind), _ = item
            return begin or from_instant(0), kind or ""

        return [
            (begin and begin.astimezone(self.zone), kind, count)
            for (begin, kind), count in sorted(self.counts.items(), key=order)
        ]


def _print(settings: Settings, counting: _Counting) -> None:
    rows = counting.rows()
    if settings.json:
        for begin, kind, count in rows:
            kinds = {"kind": kind} if counting.by_kind else {}
            start = None if begin is None else begin.astimezone(UTC)
            print_json(
                {"start": iso(start), "local": None if begin is None else begin.isoformat(), **kinds, "count": count}
            )
        return
    most = max((count for *_, count in rows), default=1)
    length = "day" if counting.daily else "hour"
    print_table(
        [length, *(["kind"] if counting.by_kind else []), "messages", ""],
        [
            (
                _text(begin, daily=counting.daily),
                *([kind] if counting.by_kind else []),
                f"{count:,}",
                "▇" * max(1, round(_BAR * count / most)),
            )
            for begin, kind, count in rows
        ],
    )


def _text(begin: datetime | None, *, daily: bool) -> str:
    if begin is None:
        return "due now"
    return f"{begin:%a %Y-%m-%d}" if daily else f"{begin:%a %Y-%m-%d %H:%M %z}"
