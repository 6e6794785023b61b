"""``pitstop demo``: show all promises of Pitstop live, explain each line, and check it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click

import pitstop

from pitstop import Delivery, Pitstop
from pitstop._pitstop import session_of
from pitstop._values._duration import format_duration
from pitstop.abc import Capability, SystemClock
from pitstop.cli._messages import json_text
from pitstop.cli._output import print_json
from pitstop.cli._plain import plain
from pitstop.cli._settings import URL_VARIABLE, Settings, common_options_but


__all__ = ["demo"]

#: How long the demo waits for a message that should come at once: far longer than it takes, so that a busy machine does no harm.
_PATIENCE = 5.0


@click.command()
@common_options_but("An empty store to use. Default: an SQLite file in a temporary folder.")
@click.pass_obj
def demo(settings: Settings) -> None:
    """Show in a few seconds what Pitstop does, and why.

    Uses an SQLite file in a temporary folder, or the store of --url (not that of the environment), which must be empty and
    is empty again afterwards. Each claim is checked. If a claim does not hold, the demo prints it and exits with 1.
    """
    with _some_url(settings) as url, pitstop.init(url) as pit:
        if any(pit.entries(limit=1)):
            raise click.ClickException(
                f"{pit.location} is not empty, and the demo would take messages that are meant for other consumers. "
                f"Give the demo a store of its own, or leave out --url."
            )
        stage = _Stage(pit, url, settings)
        try:
            stage.tell(f"On {pit.location}.", "Each claim below is checked, not just printed.")
            for scene in _SCENES:
                scene(stage)
        finally:
            stage.clean_up()


class _Stage:
    """The parts that all scenes share: the store, a listener on it, and the output."""

    def __init__(self, pit: Pitstop, url: str, settings: Settings) -> None:
        self.pit = pit
        self.url = url
        self._listener = pit.listen()
        self._json = settings.json
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self._mark = uuid.uuid4().hex[:6]
        self._ids: list[str] = []
        self._scene = ""

    def begin(self, title: str) -> None:
        """Begin a scene."""
        self._scene = title
        if not self._json:
            click.secho(f"\n{title}", bold=True)

    def tell(self, what: str, why: str) -> None:
        """Print what happened, and why."""
        elapsed = self._clock.monotonic() - self._began
        if self._json:
            print_json({"elapsed": round(elapsed, 3), "scene": self._scene, "what": what, "why": why})
        else:
            click.echo(
                f"{click.style(f'[{elapsed:6.2f} s]', fg='cyan')} {plain(what)}\n{' ' * 11}{click.style(plain(why), dim=True)}"
            )

    def expect(self, holds: bool, claim: str) -> None:
        """Check a claim of the scene.

        :raises click.ClickException: if it does not hold.
        """
        if not holds:
            raise click.ClickException(f"The demo failed in {self._scene!r}: {claim}")

    def store(self, name: str, text: str, *when: Any, **options: Any) -> str:
        """Store a message under a name that only this run uses. Return its id."""
        id = f"{name}-{self._mark}"
        self._ids.append(id)
        return self.pit.store({"id": id, "msg": text}, *when, **options)

    def wait(self, seconds: float) -> Delivery | None:
        """Return the delivery that becomes due within that many seconds; None if there is none."""
        # If the time has passed already, the message is due now, or never comes.
        delivery = self._listener.get(timeout=max(seconds, 0.0))
        if delivery is not None and delivery.id not in self._ids:
            delivery.nack("taken by 'pitstop demo', which it was not meant for", delay=timedelta(0))
            self.expect(False, f"another program stored {delivery.id!r} meanwhile. It was given back.")
        return delivery

    def receive(self, id: str, not_before: datetime) -> Delivery:
        """Return the delivery of ``id``, which must come next, and not before its time."""
        delivery = self.wait((not_before - self.pit.now()) / timedelta(seconds=1) + _PATIENCE)
        now = self.pit.now()
        if delivery is None:
            raise click.ClickException(f"The demo failed in {self._scene!r}: {id!r} did not come by {now:%T}.")
        self.expect(delivery.id == id, f"{delivery.id!r} came where {id!r} was expected.")
        self.expect(now >= not_before, f"{id!r} came {not_before - now} early.")
        return delivery

    def late(self, since: datetime) -> str:
        """Return how long ago that was, as text."""
        return f"{(self.pit.now() - since) / timedelta(milliseconds=1):.0f} ms"

    def clean_up(self) -> None:
        """Close the listener and remove all messages of the demo."""
        self._listener.close()
        for id in set(self._ids):
            self.pit.remove(id)


def _deferred(stage: _Stage) -> None:
    stage.begin("Deferred: a message that comes later")
    due = stage.pit.now() + timedelta(seconds=1)
    id = stage.store("tea", "The tea is ready", due)
    stage.tell(f"Stored {id!r}, due in 1s.", "From now on it waits in the store; this process is not needed for that.")
    delivery = stage.receive(id, due)
    stage.tell(f"Got {_body(delivery)} {stage.late(due)} after its time.", "It never comes early.")
    delivery.ack()
    stage.expect(stage.pit.get(id) is None, f"{id!r} is still there after its ack.")
    stage.tell(f"Acknowledged {id!r}.", "It is done, so it is deleted.")


def _updated(stage: _Stage) -> None:
    stage.begin("Update: the same id again, with new content and a new time")
    old, new = stage.pit.now() + timedelta(seconds=0.7), stage.pit.now() + timedelta(seconds=1.4)
    id = stage.store("invoice", "Pay 100", old)
    stage.tell(
        f"Stored {id!r}, 'Pay 100', due in 700ms.", "We chose the id ourselves, to be able to change the message."
    )
    stage.store("invoice", "Pay 80", new)
    stage.tell(f"Stored {id!r} anew, 'Pay 80', due in 1.4s.", "It takes the place of the first, schedule included.")
    delivery = stage.receive(id, new)
    stage.expect(delivery.msg["msg"] == "Pay 80", "the old content came.")
    stage.tell(f"Got {_body(delivery)}.", "Nothing came at the old time: there is one message per id.")
    delivery.ack()


def _removed(stage: _Stage) -> None:
    stage.begin("Removal: a message that is no longer wanted")
    id = stage.store("alarm", "Wake up", timedelta(seconds=0.5))
    stage.expect(stage.pit.remove(id), f"{id!r} was not there to be removed.")
    stage.tell(f"Stored {id!r}, due in 500ms, and removed it.", "remove() returned True: the message was there.")
    stage.expect(stage.wait(1.0) is None, f"{id!r} came although it was removed.")
    stage.tell("Waited a second: nothing came.", "A removed message is gone at once.")


def _failed(stage: _Stage) -> None:
    stage.begin("Failure: a nack, and the message comes back")
    id = stage.store("payment", "Charge 5 EUR", timedelta(0))
    first = stage.receive(id, stage.pit.now() - timedelta(seconds=1))
    back = stage.pit.now() + timedelta(seconds=1)
    first.nack("card terminal offline", delay=timedelta(seconds=1))
    stage.tell(f"Got {id!r}, attempt 1, and nacked it: 'card terminal offline'.", "It must come back in 1s.")
    second = stage.receive(id, back)
    stage.expect(second.attempt == 2, f"attempt {second.attempt} came, not 2.")
    stage.expect(second.last_error == "card terminal offline", "the error of attempt 1 was lost.")
    stage.expect(second.key == first.key, "the retry has another key.")
    stage.tell(
        f"Got {id!r} again: attempt {second.attempt}, last_error {second.last_error!r}.",
        "The handler can see the earlier error. delivery.key is the same, so the handler can recognise the repetition.",
    )
    second.ack()


def _recurring(stage: _Stage) -> None:
    stage.begin("Recurring: again and again, until its end")
    start, every, count = stage.pit.now() + timedelta(seconds=0.5), timedelta(seconds=0.6), 3
    # On a machine that stands still for a second, no occurrence is skipped either.
    id = stage.store("heartbeat", "Still alive?", start, start + count * every, every, catch_up="all")
    stage.tell(
        f"Stored {id!r} every {format_duration(every)}, beginning in 500ms, for {count} x {format_duration(every)}.",
        f"The end is exclusive, as in range(): {count} occurrences.",
    )
    for index in range(count):
        due = start + index * every
        delivery = stage.receive(id, due)
        stage.expect(delivery.scheduled_for == due, f"occurrence {index + 1} is for {delivery.scheduled_for}.")
        stage.tell(
            f"Got occurrence {index + 1}, {stage.late(due)} after its time.",
            f"Its time is start + {index} x {format_duration(every)}, counted from the start: no drift.",
        )
        delivery.ack()
    stage.expect(stage.pit.get(id) is None, f"{id!r} is still there after its last occurrence.")
    stage.expect(stage.wait(1.0) is None, "an occurrence came at the end, which is exclusive.")
    stage.tell("Waited a second: no more came.", "The ack of the last occurrence deleted the message.")


def _killed(stage: _Stage) -> None:
    stage.begin("Crash: a consumer is killed while it has a message")
    if Capability.MULTI_PROCESS not in session_of(stage.pit).capabilities:
        stage.tell("Left out.", f"{stage.pit.location} lives in one process: no other process could take a message.")
        return
    lock = timedelta(seconds=2)
    id = stage.store("export", "Export the books", timedelta(0))
    with _consumer(stage.url, lock) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        stage.expect(bool(line), f"the consumer ended with {child.poll()} before it had a message.")
        held = json.loads(line)
        stage.expect((held["id"], held["attempt"]) == (id, 1), f"the consumer got {held['id']!r}.")
        stage.tell(
            f"Process {child.pid} took {id!r}, attempt 1.",
            f"It holds a lease of {format_duration(lock)} (15m unless configured): no other consumer gets it meanwhile.",
        )
        child.kill()
        child.wait()
    stage.tell(f"Killed process {child.pid} with SIGKILL.", "It could not acknowledge, clean up or report anything.")
    until = datetime.fromisoformat(held["leased_until"])
    delivery = stage.receive(id, until)
    stage.expect(delivery.attempt == 2, f"attempt {delivery.attempt} came, not 2.")
    stage.tell(
        f"Got {id!r}, attempt {delivery.attempt}, {stage.late(until)} after the lease ran out.",
        "No message is lost with its consumer: at least once.",
    )
    delivery.ack()


def _empty(stage: _Stage) -> None:
    stage.begin("The end")
    left = stage.pit.stats()
    stage.expect(not any((left.scheduled, left.due, left.leased, left.dead)), "the store is not empty.")
    stage.tell("The store is empty.", "All acknowledged and removed messages are gone, and there were no others.")


_SCENES = (_deferred, _updated, _removed, _failed, _recurring, _killed, _empty)


@contextmanager
def _some_url(settings: Settings) -> Iterator[str]:
    if settings.url:
        yield settings.url
        return
    with tempfile.TemporaryDirectory(prefix="pitstop-demo-") as folder:
        yield f"sqlite:///{(Path(folder) / 'demo.db').as_posix()}"


@contextmanager
def _consumer(url: str, lock_time: timedelta) -> Iterator[subprocess.Popen[str]]:
    # The URL goes by the environment, because all users can read the arguments of a process.
    with subprocess.Popen(  # noqa: S603 - this very package
        [sys.executable, "-P", "-m", "pitstop.cli._demo_consumer", format_duration(lock_time)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, URL_VARIABLE: url},
    ) as child:
        try:
            yield child
        finally:
            child.kill()


def _body(delivery: Delivery) -> str:
    return json_text(delivery.msg)
