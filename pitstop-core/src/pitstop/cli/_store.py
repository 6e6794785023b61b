"""``pitstop store``: one message from the command line, or many as JSON lines on stdin."""

from __future__ import annotations

import sys

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, BinaryIO, get_args

import attrs
import click

from pitstop import Conflict, MessageError, Pitstop, PitstopError, ScheduleError, Stored
from pitstop._pitstop import session_of
from pitstop._values._schedule import CatchUp, Interval
from pitstop._values._stored import Done, IfExists
from pitstop.abc import Capability, SystemClock
from pitstop.cli._lines import batches, size_of, without_mark
from pitstop.cli._messages import BYTE_ORDER_MARK, NoMessage, read_message
from pitstop.cli._output import print_json, print_line, progress, say, warn
from pitstop.cli._policies import Policies, policy_options
from pitstop.cli._rules import rule_of, rule_options
from pitstop.cli._settings import DEFAULT_URL, URL_VARIABLE, Settings, common_options
from pitstop.cli._streams import StdoutFailed, is_closed, though_unread
from pitstop.cli._times import duration, moment, moment_or_duration, spelled


__all__ = ["store"]

#: The notes on outcomes that a user may not expect.
_NOTES: dict[Done, str] = {
    "replaced": "It took the place of a message with another schedule.",
    "updated": "The message exists already. Its body was replaced, and its schedule stays.",
    "kept": "The message exists already, and was kept.",
}
#: The arguments in errors about a message that exists, and the options in their place.
_OPTIONS = {
    "store with if_exists='keep' or 'replace'": "store with --if-exists keep or replace",
    "needs if_exists='replace' without keep_schedule": "needs --if-exists replace without --keep-schedule",
    "Read it again with get(), and decide anew": "Look at it again with 'pitstop show', and decide anew",
    "tore it without if_revision": "tore it without --if-revision",
    "so if_revision names no message": "so --if-revision names no message",
    "stored with if_revision": "stored with --if-revision",
}


@attrs.frozen
class _Plan:
    """The options, which apply to each message."""

    when: datetime | timedelta
    end: datetime | timedelta | None
    every: Interval | None
    catch_up: CatchUp
    grace: timedelta | None
    jitter: timedelta | None
    if_exists: IfExists
    keep_schedule: bool
    kind: str
    policies: Policies
    if_revision: str | None = None

    @property
    def looks(self) -> bool:
        """Whether the message that exists matters, so that the outcome is worth reading."""
        return self.keep_schedule or self.if_revision is not None or self.if_exists != "replace"

    def store(self, pit: Pitstop, message: dict[str, Any]) -> Stored:
        with self._in_terms_of_options(pit):
            return pit.store(
                message,
                self.when,
                self.end,
                self.every,
                kind=self.kind,
                if_exists=self.if_exists,
                if_revision=self.if_revision,
                keep_schedule=self.keep_schedule,
                jitter=self.jitter,
                catch_up=self.catch_up,
                grace=self.grace,
                **self.policies.arguments(),
            )

    def store_all(self, pit: Pitstop, messages: list[dict[str, Any]]) -> list[Stored]:
        if self.catch_up == "latest" and self.jitter is None:
            with self._in_terms_of_options(pit):
                return pit.store_many(
                    [(message, self.when, self.end, self.every) for message in messages],
                    kind=self.kind,
                    if_exists=self.if_exists,
                    keep_schedule=self.keep_schedule,
                    **self.policies.arguments(),
                )
        # store_many has no place for a catch-up policy and jitter.
        return [self.store(pit, message) for message in messages]

    @contextmanager
    def _in_terms_of_options(self, pit: Pitstop) -> Iterator[None]:
        """Reword errors about the arguments of ``store`` so that they name the command's options."""
        try:
            yield
        except (Conflict, MessageError) as error:
            text = str(error)
            for argument, option in _OPTIONS.items():
                text = text.replace(argument, option)
            raise type(error)(text) from error
        except ScheduleError as error:
            now = pit.now()
            start = spelled("--at" if isinstance(self.when, datetime) else "--in", self.when)
            if self.end is not None and _resolved(self.end, now) <= _resolved(self.when, now):
                raise ScheduleError(
                    f"{spelled('--until', self.end)} is not after the start, {start if self.when else 'now'}. "
                    f"A duration counts from now. Give a later --until, or leave it out to go on for ever."
                ) from error
            text = self.policies.reworded(str(error)).replace(f"when={self.when!r}", start)
            if self.end is not None:
                text = text.replace(f"end={self.end!r}", spelled("--until", self.end))
            if isinstance(self.every, timedelta):
                text = text.replace(f"every={self.every!r}", spelled("--every", self.every))
            if self.jitter is not None:
                text = text.replace(f"jitter={self.jitter!r}", spelled("--jitter", self.jitter))
            raise ScheduleError(text) from error


def _resolved(value: datetime | timedelta, now: datetime) -> datetime:
    return value if isinstance(value, datetime) else now + value


@click.command()
@click.argument("message", required=False)
@click.option("--in", "delay", type=duration, help="Emit it after this time, as in 15m or 1h30m. Default: now.")
@click.option("--at", type=moment, metavar="TIME", help="Emit it at this time: ISO-8601 with its zone.")
@rule_options
@click.option(
    "--until",
    type=moment_or_duration,
    metavar="TIME|DURATION",
    help="The end of the series (exclusive): a time, or a duration from now.",
)
@click.option("--id", "id", help="The message's id. A stored message with the same id is replaced, schedule included.")
@click.option("--kind", default="", help="The message's kind, by which listeners choose, such as mail.")
@click.option(
    "--if-exists",
    type=click.Choice(get_args(IfExists)),
    default="replace",
    show_default=True,
    help="If the id is stored already: replace that message, keep it if it has the same schedule and kind, or fail.",
)
@click.option(
    "--if-revision", metavar="TEXT", help="Only if the message still has this revision, as 'pitstop show' prints it."
)
@click.option("--keep-schedule", is_flag=True, help="Of a message that exists, replace all but its times.")
@click.option(
    "--catch-up",
    type=click.Choice(get_args(CatchUp)),
    default="latest",
    show_default=True,
    help="If occurrences were missed: emit the latest, all, or skip those older than --grace.",
)
@click.option("--grace", type=duration, help="How late an occurrence may be with --catch-up skip or all.")
@click.option("--jitter", type=duration, help="Delay each occurrence by up to this time.")
@policy_options
@common_options
@click.pass_obj
def store(
    settings: Settings,
    message: str | None,
    delay: timedelta | None,
    at: datetime | None,
    every: str | None,
    cron: str | None,
    rrule: str | None,
    tz: str | None,
    until: datetime | timedelta | None,
    id: str | None,
    kind: str,
    if_exists: IfExists,
    if_revision: str | None,
    keep_schedule: bool,
    catch_up: CatchUp,
    grace: timedelta | None,
    jitter: timedelta | None,
    retry: tuple[str, ...],
    lock_time: timedelta | None,
    expires: timedelta | None,
) -> None:
    """Store MESSAGE, a JSON object; without it, each line of stdin, in UTF-8.

    One message: prints its id. JSON lines: prints how many were stored; with --json, an {"id": ...} for each.

    \b
    pitstop store '{"msg": "object"}' --in 15m
    pitstop store '{"report": "daily"}' --id daily --at 2031-05-04T06:00+02:00 --every 1d
    pitstop store '{"report": "weekly"}' --id weekly --cron '0 9 * * MON' --tz Europe/Berlin --if-exists keep
    pitstop store --in 1h < messages.jsonl
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    rule = rule_of(every, cron, rrule, tz)
    _check_options(delay, at, rule, until, catch_up, grace)
    if keep_schedule and if_exists == "error":
        raise click.UsageError(
            "--keep-schedule changes a message that exists, and --if-exists error refuses to. Give one."
        )
    if if_revision is not None:
        timed = keep_schedule or delay is not None or at is not None or rule is not None
        _check_edit(if_exists, timed=timed, one=message not in {None, "-"})
    policies = Policies.of(retry, lock_time, expires)
    when = at or delay or timedelta(0)
    plan = _Plan(when, until, rule, catch_up, grace, jitter, if_exists, keep_schedule, kind, policies, if_revision)
    if message is not None and message != "-":
        try:
            found = read_message(message.removeprefix(BYTE_ORDER_MARK), id)
        except MessageError as error:
            raise NoMessage(str(error)) from error
        with settings.open() as pit:
            _warn_unless_durable(pit)
            stored = plan.store(pit, found)
        with _told(stored):
            _print_id(settings, plan, stored)
        if not settings.json and stored.outcome in _NOTES:
            say(_NOTES[stored.outcome])
        return
    if is_closed("stdin"):
        raise click.UsageError(
            'stdin is closed, so there are no JSON lines to read. Give a message as JSON, as in \'{"msg": "object"}\', '
            "or open stdin, as in 'pitstop store < messages.jsonl'."
        )
    stdin = sys.stdin.buffer
    if message is None and stdin.isatty():
        raise click.UsageError('Give a message as JSON, as in \'{"msg": "object"}\', or JSON lines on stdin.')
    if id is not None:
        raise click.UsageError('--id names one message. In JSON lines, give each its own "id".')
    with settings.open() as pit:
        _warn_unless_durable(pit)
        _store_lines(settings, pit, plan, stdin)


def _check_options(
    delay: timedelta | None, at: datetime | None, every: object, until: object, catch_up: str, grace: object
) -> None:
    if delay is not None and at is not None:
        raise click.UsageError("--in and --at both give the time. Give one of them.")
    if every is None and (until is not None or catch_up != "latest" or grace is not None):
        raise click.UsageError(
            "--until, --catch-up and --grace are for recurring messages. Give --every, --cron or --rrule, too."
        )
    if grace is None if catch_up == "skip" else grace is not None and catch_up != "all":
        raise click.UsageError(
            "--catch-up skip and --grace go together: the grace is the most an occurrence may be late."
        )


def _check_edit(if_exists: IfExists, *, timed: bool, one: bool) -> None:
    """Check the options beside ``--if-revision``.

    :param timed: whether they say when the message comes.
    :param one: whether the message is an argument.
    """
    if if_exists != "replace":
        raise click.UsageError(
            f"--if-revision replaces the message that was read, and --if-exists {if_exists} leaves it. Give one."
        )
    if not one:
        raise click.UsageError("--if-revision is about one message. Give it as an argument, with its id.")
    if not timed:
        raise click.UsageError(
            "--if-revision changes a message that has a time. Give the time, too, as in --in 0s for now; or --keep-schedule."
        )


def _warn_unless_durable(pit: Pitstop) -> None:
    capabilities = session_of(pit).capabilities
    if Capability.DURABLE in capabilities:
        return
    if Capability.MULTI_PROCESS in capabilities:
        loss = "is not durable: its messages may be lost when it restarts"
    else:
        loss = "lives in this process: its messages are lost when this command ends"
    warn(f"Warning: {pit.location} {loss}. Name a durable store by --url or {URL_VARIABLE}, such as {DEFAULT_URL}.")


def _store_lines(settings: Settings, pit: Pitstop, plan: _Plan, stdin: BinaryIO) -> None:
    clock, stored, kept, line = SystemClock(), 0, 0, 0
    began = clock.monotonic()
    try:
        with progress() as bar:
            task = bar.add_task("storing", total=size_of(stdin), count=0)
            for lines, size in batches(stdin):
                messages = []
                bad: PitstopError | None = None
                for text in lines:
                    line += 1
                    try:
                        content = without_mark(text) if line == 1 else text
                        if content.strip():
                            messages.append(read_message(content))
                    except MessageError as error:
                        bad = error
                        break
                # All messages before a bad line are stored, so that the user can go on from that line.
                ids = plan.store_all(pit, messages) if messages else []
                kept += sum(id.outcome == "kept" for id in ids)
                stored += sum(id.outcome != "kept" for id in ids)
                if settings.json:
                    # The rest is stored even if the reader of the ids goes away.
                    with though_unread():
                        for id in ids:
                            _print_id(settings, plan, id)
                if bad is not None:
                    raise click.ClickException(
                        f"Line {line}: {bad} {_so_far(stored)} No message from this line on was stored."
                    )
                bar.update(task, advance=size, count=stored)
    except PitstopError as error:
        # At most one batch was being written. How many of its messages were stored is unknown.
        raise type(error)(f"{error} {_so_far(stored)}") from error
    except KeyboardInterrupt:
        say(_so_far(stored))
        raise
    others = f" {_counted(kept)} existed already, and {'was' if kept == 1 else 'were'} kept." if kept else ""
    say(f"Stored {_counted(stored)} in {clock.monotonic() - began:.2f} s.{others}")


def _print_id(settings: Settings, plan: _Plan, id: Stored) -> None:
    if settings.json:
        print_json({"id": id, "outcome": id.outcome} if plan.looks else {"id": id})
    else:
        print_line(id)


@contextmanager
def _told(stored: str) -> Iterator[None]:
    """Add the id to an error about stdout: a caller without the id would store the message again under another one."""
    try:
        yield
    except StdoutFailed as failure:
        if failure.unread:
            raise
        raise click.ClickException(f"{failure} The message was stored; its id is {stored!r}.") from failure


def _so_far(stored: int) -> str:
    return f"Before it, {_counted(stored)} {'was' if stored == 1 else 'were'} stored."


def _counted(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
