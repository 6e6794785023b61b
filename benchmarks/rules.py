"""Time per next occurrence beside cronsim, croniter and dateutil, in one run.

    pip install cronsim croniter python-dateutil
    python benchmarks/rules.py

Each library computes occurrence after occurrence from one start. A round takes all libraries in turn, so that the load of the
machine meets them alike. The table shows the best round.

A store asks for one occurrence at a time, after the one before, and keeps no iterator. Of dateutil there are two columns: its
iterator, which remembers its place, and ``after()``, which answers the question of a store and begins at the start each time.
"""

from __future__ import annotations

import time

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from croniter import croniter
from cronsim import CronSim
from dateutil.rrule import rrulestr

import pitstop


START = datetime(2026, 1, 1, tzinfo=UTC)
START_MS = round(START.timestamp() * 1000)
ROUNDS = 7

CRON = [
    ("* * * * *", "UTC", 2000),
    ("*/15 * * * *", "Europe/Berlin", 2000),
    ("0 9 * * MON-FRI", "UTC", 2000),
    ("0 9 * * MON-FRI", "America/New_York", 2000),
    ("30 2 * * *", "Europe/Berlin", 2000),
    ("0 0 1 * *", "UTC", 500),
    ("0 0 29 2 *", "UTC", 50),
]
RULES = [("FREQ=DAILY", 365), ("FREQ=WEEKLY;BYDAY=MO,WE", 104), ("FREQ=MONTHLY;BYDAY=-1FR", 24)]
OTHERS = [
    ("Every('1h')", pitstop.Every("1h"), 5000),
    ("Calendar(months=1, tz='Europe/Berlin')", pitstop.Calendar(months=1, tz="Europe/Berlin"), 500),
    ("Calendar(days=1, tz='Europe/Berlin')", pitstop.Calendar(days=1, tz="Europe/Berlin"), 2000),
]


def ours(rule, count):
    """As core asks: each time anew, with the occurrence before."""
    at = START_MS - 1
    for _ in range(count):
        at = rule.after(at, START_MS)


def asked_anew(rule, count):
    """As :func:`ours`, of a rule of dateutil."""
    at = START - timedelta(microseconds=1)
    for _ in range(count):
        at = rule.after(at)


def take(iterator, count):
    for _ in islice(iterator, count):
        pass


def best(candidates, count):
    """Return the microseconds per occurrence of each candidate, by the best round."""
    times = dict.fromkeys(candidates, float("inf"))
    for _ in range(ROUNDS):
        for name, run in candidates.items():
            began = time.perf_counter()
            run()
            times[name] = min(times[name], (time.perf_counter() - began) / count * 1e6)
    return times


def main():
    print(
        f"{'microseconds per next occurrence':44} {'pitstop':>8} {'cronsim':>8} {'croniter':>8} {'dateutil':>8} {'after()':>8}"
    )
    for expression, zone, count in CRON:
        rule = pitstop.Cron(expression, tz=zone)
        start = START.astimezone(ZoneInfo(zone))
        times = best(
            {
                "pitstop": lambda rule=rule, count=count: ours(rule, count),
                "cronsim": lambda e=expression, s=start, count=count: take(CronSim(e, s), count),
                "croniter": lambda e=expression, s=start, count=count: take(croniter(e, s, ret_type=datetime), count),
            },
            count,
        )
        print(
            f"{f'{expression}  {zone}':44} {times['pitstop']:8.1f} {times['cronsim']:8.1f} {times['croniter']:8.1f} {'':>8}"
        )
    for text, count in RULES:
        rule = pitstop.RRule(text)
        times = best(
            {
                "pitstop": lambda rule=rule, count=count: ours(rule, count),
                "dateutil": lambda t=text, count=count: take(rrulestr(t, dtstart=START), count),
                "after()": lambda t=text, count=count: asked_anew(rrulestr(t, dtstart=START), count),
            },
            count,
        )
        print(f"{text:44} {times['pitstop']:8.1f} {'':>8} {'':>8} {times['dateutil']:8.1f} {times['after()']:8.1f}")
    for name, rule, count in OTHERS:
        times = best({"pitstop": lambda rule=rule, count=count: ours(rule, count)}, count)
        print(f"{name:44} {times['pitstop']:8.1f}")


if __name__ == "__main__":
    main()
