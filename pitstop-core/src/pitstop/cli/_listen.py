"""``pitstop listen``: print messages as they become due, as JSON lines, or give each to a command."""

from __future__ import annotations

import contextlib
import os
import sys

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from threading import Lock, Thread
from typing import Any

import attrs
import click

from pitstop import ConfigError, Delivery, Listener, Pitstop, PitstopError, Unsupported
from pitstop._consume._attended import attended
from pitstop._consume._course import Course
from pitstop._consume._lanes import Lane
from pitstop._consume._threads import Consuming
from pitstop._engine._delivery import lease_of
from pitstop._engine._handling import Handling
from pitstop._engine._listener import intake_of
from pitstop._engine._throttle import Throttle
from pitstop._health._place import Place, parse_place
from pitstop._listening import ask_in_time, open_intake
from pitstop._pitstop import session_of
from pitstop._values._arguments import ListenOptions
from pitstop._values._rate import Rate
from pitstop.cli._command import CommandFailed, run_command
from pitstop.cli._metrics import address, served
from pitstop.cli._output import needs_stdout, print_json, print_json_for_people, say, warn
from pitstop.cli._pipe import when_stdout_closes
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._signals import Urgency, draining
from pitstop.cli._streams import StdoutFailed
from pitstop.cli._times import duration, iso, rate_of


__all__ = ["listen"]

_STDERR = 2
#: How long to wait for running commands. An impatient user asks twice, and the commands are then ended.
_AS_LONG_AS_IT_TAKES = timedelta(days=3650)
#: Seconds between two checks whether the commands are done.
_GLANCE = 0.1


def _command(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():
        # A shell would do nothing, and succeed. Each message would be acknowledged.
        raise click.BadParameter("It is empty. Is a variable of the shell unset? Give CMD, or leave --exec out.")
    return value


def _place(_: click.Context, __: click.Parameter, value: str | None) -> Place | None:
    try:
        return parse_place(value)
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    callback=_command,
    help="Run CMD in a shell for each message, with the message on its stdin.",
)
@click.option("--workers", type=click.IntRange(min=1), help="With --exec: commands that run at once. Default: 1.")
@click.option("--kind", "kinds", multiple=True, help="Take messages of this kind only. It may be given several times.")
@click.option("--once", is_flag=True, help="Take the messages that are due now, and end.")
@click.option("--lock-time", type=duration, help="How long a message is leased. Default: from the URL, else 15m.")
@click.option(
    "--loop-time",
    type=duration,
    help="The longest time between two polls of the store. Default: from the URL, else 1s (MongoDB: 10s).",
)
@click.option(
    "--prefetch",
    type=click.IntRange(min=1),
    help="Messages claimed at once. Default: as many as are handled in a moment.",
)
@click.option("--rate", type=rate_of, help="Take at most so many messages, as in 50/s, 100/m or 1000/15m.")
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    callback=address,
    help="Serve metrics for Prometheus there, as in 127.0.0.1:9464.",
)
@click.option(
    "--health",
    metavar="PLACE",
    callback=_place,
    help="Answer probes there: 127.0.0.1:8080 with /livez and /readyz, unix:PATH, or a file that is touched.",
)
@common_options
@click.pass_obj
def listen(
    settings: Settings,
    command: str | None,
    workers: int | None,
    kinds: tuple[str, ...],
    once: bool,
    lock_time: timedelta | None,
    loop_time: timedelta | None,
    prefetch: int | None,
    rate: Rate | None,
    metrics: tuple[str, int] | None,
    health: Place | None,
) -> None:
    """Print messages as they become due, one JSON object per line.

    A message is acknowledged after its line was written. With --exec it is acknowledged if CMD exits with 0, and
    comes back later if not. Ctrl-C and SIGTERM let the running command finish, give back the other messages, and end.

    \b
    pitstop listen | jq .msg
    pitstop listen --exec 'curl --fail --json @- https://example.com/hook'
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    _refuse_useless(command, workers)
    options = ListenOptions.of(
        lock_time=lock_time,
        loop_time=loop_time,
        prefetch=prefetch,
        heartbeat=False,
        max_lease=None,
        kinds=kinds or None,
    )
    throttles = () if rate is None else (Throttle(rate),)
    # After the options, so that a wrong one leaves no store open. A listener that waits may be started before the first message is stored.
    opens = settings.open_existing if once else settings.open
    with (
        served(metrics) as plugins,
        opens(plugins) as pit,
        Listener(open_intake(pit, options, throttles=throttles)) as listener,
    ):
        course = Course(None, _AS_LONG_AS_IT_TAKES.total_seconds())
        with (
            draining(listener) as urgency,
            _output(command, settings, listener),
            _attended(health, course, pit, listener),
        ):
            session = _Session(settings, pit, listener, urgency)
            handle: Callable[[Delivery], None] = session.print
            if command is not None:
                handle = session.command(command)
            if sys.stderr.isatty():
                until = "no message is due" if once else "Ctrl-C"
                say(f"Listening on {pit.location} until {until}.")
            if workers is not None and workers > 1:
                _consume(pit, listener, session, handle, course, workers=workers, once=once)
            else:
                for delivery in _due(listener) if once else listener:
                    handling = Handling(session_of(pit).events, lease_of(delivery), delivery)
                    try:
                        handle(delivery)
                    finally:
                        handling.end(sys.exception())
                    # The message comes back when its lease is over, and its error is no longer needed.
                    session.unsettled.clear()
            if session.unprintable is not None:
                raise session.unprintable
        if sys.stderr.isatty():
            say(f"{session.done:,} done, {session.failed:,} failed.")


def _refuse_useless(command: str | None, workers: int | None) -> None:
    if command is not None and os.name != "posix":
        raise Unsupported("--exec needs process groups, which this system does not have. Pipe the JSON lines instead.")
    if workers is not None and command is None:
        raise click.UsageError("--workers sets how many commands run at once. Give --exec CMD too, or leave it out.")
    if command is None:
        # A message is acknowledged when its line was written. If stdout is closed, the message would be lost unseen.
        needs_stdout("listen")


def _consume(
    pit: Pitstop,
    listener: Listener,
    session: _Session,
    handle: Callable[[Delivery], None],
    course: Course,
    *,
    workers: int,
    once: bool,
) -> None:
    """Run several commands at once, until the listener is stopped; with ``once``, until no message is due."""

    def handle_all_of_it(delivery: Delivery) -> None:
        handle(delivery)
        # Without an exception the message would be acknowledged.
        if (error := session.unsettled.pop(delivery.id, None)) is not None:
            raise CommandFailed(error)

    consuming = Consuming(
        session_of(pit),
        [Lane(intake_of(listener), handle_all_of_it, True, workers)],
        course,
        until_idle=once,
        signals=False,
    )
    raised: list[BaseException] = []

    def run() -> None:
        try:
            consuming.run()
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    # In another thread: in the main thread, it would handle signals by itself. Here they are for the commands, too.
    thread = Thread(target=run, name="pitstop-listen", daemon=True)
    thread.start()
    while thread.is_alive():
        # With a timeout: a signal that comes just before the wait would be handled only when the wait is over.
        thread.join(_GLANCE)
    for error in raised:
        raise error


def _due(listener: Listener) -> Iterator[Delivery]:
    intake = intake_of(listener)
    while True:
        delivery = listener.get(timeout=0)
        if delivery is not None:
            yield delivery
        elif intake.stopped or (held := intake.claimer.held_back()) is None:
            return
        elif (delivery := listener.get(timeout=held)) is not None:
            # Its turn by the rate has come.
            yield delivery


def _output(command: str | None, settings: Settings, listener: Listener) -> contextlib.AbstractContextManager[None]:
    # If we print no JSON lines, stdout belongs to the command.
    ours = command is None or settings.json
    return when_stdout_closes(listener.stop) if ours else contextlib.nullcontext()


@contextlib.contextmanager
def _attended(health: Place | None, course: Course, pit: Pitstop, listener: Listener) -> Iterator[None]:
    with attended(health, course, lambda: [intake_of(listener)], partial(ask_in_time, pit)):
        if course.health is not None:
            # Not on a terminal alone: the port may have been chosen just now.
            say(f"The health is at {course.health}.")
        yield


@attrs.define
class _Session:
    """Prints and counts the deliveries of one ``listen``."""

    settings: Settings
    pit: Pitstop
    listener: Listener
    urgency: Urgency
    done: int = 0
    failed: int = 0
    #: The errors of deliveries whose command failed and which could not be nacked.
    unsettled: dict[str, str] = attrs.field(factory=dict)
    #: The failure to print the outcome of a command. It ends the listening.
    unprintable: StdoutFailed | None = None
    #: Held while an outcome is counted or printed, because several commands may run at once.
    counting: Lock = attrs.field(factory=Lock)

    def print(self, delivery: Delivery) -> None:
        """Write a line, then acknowledge. A message that could not be written comes back at once."""
        document = _document(delivery)
        try:
            (print_json if self.settings.json else print_json_for_people)(document)
        except BaseException as error:
            unwritten = f"'pitstop listen' could not print it ({type(error.__cause__ or error).__name__})."
            _settle(lambda: delivery.nack(unwritten, delay=timedelta(0)))
            raise
        self.done += _settle(delivery.ack)

    def command(self, command: str) -> Callable[[Delivery], None]:
        """Return a handler that runs ``command``, and acknowledges if it succeeds."""

        def handle(delivery: Delivery) -> None:
            error: str | None = None
            try:
                run_command(
                    command,
                    delivery,
                    pit=self.pit,
                    listener=self.listener,
                    urgency=self.urgency,
                    # With --json our stdout is for the outcomes. The output of the command goes to stderr.
                    stdout=_STDERR if self.settings.json else None,
                )
            except CommandFailed as failure:
                error = str(failure)
            if error is None:
                # A command costs far more than waiting for the result of the ack.
                settled = _settle(lambda: delivery.ack(wait=True))
            else:
                warn(f"Failed: {delivery.id!r} attempt {delivery.attempt}: {error.splitlines()[0]}")
                settled = _settle(lambda: delivery.nack(error))
                if not settled:
                    self.unsettled[delivery.id] = error
            with self.counting:
                self.done += settled and error is None
                self.failed += error is not None
                if self.settings.json:
                    outcome = "lost" if not settled else "acked" if error is None else "nacked"
                    self._print_outcome({**_envelope(delivery), "outcome": outcome, "error": error})

        return handle

    def _print_outcome(self, outcome: dict[str, Any]) -> None:
        # The command has run and the message is settled, so this failure is not the message's.
        try:
            print_json(outcome)
        except StdoutFailed as failure:
            self.unprintable = failure
            self.listener.stop()


def _settle(settle: Callable[[], None]) -> bool:
    """Ack or nack. Return whether that worked. If not, the message may come back, which is no reason to end."""
    try:
        settle()
    except PitstopError as error:
        warn(f"Warning: {' '.join(str(error).split())}")
        return False
    return True


def _document(delivery: Delivery) -> dict[str, Any]:
    envelope = _envelope(delivery)
    return {"id": envelope.pop("id"), "msg": delivery.msg, **envelope, "last_error": delivery.last_error}


def _envelope(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": delivery.id,
        "kind": delivery.kind,
        "scheduled_for": iso(delivery.scheduled_for),
        "attempt": delivery.attempt,
        "missed": delivery.missed,
        "key": delivery.key,
    }
