"""The common part of the fuzzers: put damaged records among sound ones, handle all, and judge the outcome."""

from __future__ import annotations

import asyncio
import os

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import hypothesis
import pytest

from hypothesis import HealthCheck, Phase

import pitstop

from pitstop.abc import Backend
from pitstop.testing import ManualClock


#: If set to a number, this many examples are tried. If that is more than usual, they are other examples in each run.
_EXAMPLES = "PITSTOP_KIT_EXAMPLES"
_LARGE = 2000

NOW = timedelta(0)
#: The ways in which the messages are handled: three ways to claim them, in both worlds.
WAYS = ("get", "consume_one", "consume", "consume_async")
#: Options of each backend. An odd but readable message is handled three times, and is dead after that.
OPTIONS: dict[str, Any] = {"retry": {"delay": "1s", "max_attempts": 3}, "lock_time": "1m"}
#: Rounds of handling. After each round all leases and delays are over.
_ROUNDS = 6


def fuzzed(test: Callable[..., None], few: int) -> Callable[..., None]:
    """Run a test on this many examples, the same in each run; on more if the environment asks for it."""
    given = os.environ.get(_EXAMPLES)
    wanted = int(given) if given else _LARGE if os.environ.get("PITSTOP_TEST_LARGE") else few
    settings = hypothesis.settings(
        max_examples=wanted,
        derandomize=wanted <= few,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # Shrinking an example against a real server takes minutes, and examples are small.
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
    )
    return pytest.mark.timeout(60 + 2 * wanted)(settings(test))


def fill(open_backend: Callable[[], Backend], sound: set[str], odd: int) -> None:
    """Store the sound messages, and the messages ``evil0``, ``evil1``, …, which will be damaged."""
    with pitstop.init({"type": open_backend()}) as pit:
        evil = [f"evil{number}" for number in range(odd)]
        pit.store_many([({"id": id, "text": "text"}, NOW) for id in [*sorted(sound), *evil]])


class Handler:
    """Fails for each message but the sound ones, and counts its messages."""

    def __init__(self, sound: set[str]) -> None:
        self._sound = sound
        self.handled: Counter[str] = Counter()

    def __call__(self, msg: dict[str, Any]) -> None:
        self.handled[msg["id"]] += 1
        if msg["id"] not in self._sound:
            raise ValueError("odd")


def handle_all(pit: pitstop.Pitstop, open_backend: Callable[[], Backend], handler: Handler, way: str) -> None:
    """Handle all due messages. Nothing is raised, whatever is among them."""
    if way in {"consume", "consume_one"}:
        pit.consume(handler, until_idle=True, prefetch=7 if way == "consume" else 1)
    elif way == "consume_async":
        asyncio.run(_consume(open_backend(), handler))
    else:
        with pit.listen() as listener:
            for _ in range(1000):
                delivery = listener.get()
                if delivery is None:
                    return
                try:
                    handler(delivery.msg)
                except ValueError as error:
                    delivery.nack(error)
                else:
                    delivery.ack()
            pytest.fail("the same messages come again and again")


async def _consume(backend: Backend, handler: Handler) -> None:
    async def handle(msg: dict[str, Any]) -> None:
        handler(msg)

    async with asyncio.timeout(60), pitstop.init_async({"type": backend}) as pit:
        await pit.consume(handle, until_idle=True, prefetch=7)


def judge(
    open_backend: Callable[[], Backend], clock: ManualClock, way: str, sound: set[str], stored: Callable[[], set[str]]
) -> None:
    """Handle all messages, and judge the outcome.

    :param sound: the ids of the messages that were left as they were stored.
    :param stored: returns the ids of all stored messages, read without the backend.
    """
    pit, handler = pitstop.init({"type": open_backend()}), Handler(sound)
    _see_all(pit, stored())
    for _ in range(_ROUNDS):
        handle_all(pit, open_backend, handler, way)
        clock.advance(timedelta(minutes=2))
    assert {id: handler.handled[id] for id in sound} == dict.fromkeys(sound, 1)
    left = stored()
    assert not left & sound
    _see_all(pit, left)
    stats = pit.stats()
    assert (stats.due, stats.leased) == (0, 0), "an odd message is neither dead nor scheduled"
    for entry in pit.entries(limit=1000):
        assert entry.state in {"dead", "scheduled"}
        _use(pit, entry)
    pit.close()


def _see_all(pit: pitstop.Pitstop, ids: set[str]) -> None:
    """Page through all messages. Each is there once, whatever the pages, and the pages end."""
    stats = pit.stats()
    assert stats.scheduled + stats.due + stats.leased + stats.dead == len(ids)
    for limit in (1, 2, 1000):
        seen: list[str] = []
        last = None
        while page := pit.entries(None, limit, last):
            seen += [each.id for each in page]
            last = page[-1]
            assert len(seen) <= len(ids), f"more messages than there are: {Counter(seen).most_common(3)}"
        assert sorted(seen) == sorted(ids)
    by_state = [each.id for state in ("scheduled", "due", "leased", "dead") for each in pit.entries(state, 1000)]
    assert sorted(by_state) == sorted(ids)


def _use(pit: pitstop.Pitstop, entry: pitstop.Entry) -> None:
    """Read a message, redrive it, store over it and remove it. Each call works, or raises an error of Pitstop's."""
    try:
        entry.id.encode()
    except UnicodeEncodeError:
        nameable = False
    else:
        nameable = 0 < len(entry.id) <= 512 and "\0" not in entry.id
    if not nameable:
        for call in (pit.get, pit.redrive, pit.remove):
            with pytest.raises(pitstop.MessageError):
                call(entry.id)
        return
    found = pit.get(entry.id)
    assert found is not None
    assert (found.state, found.due) == (entry.state, entry.due)
    try:
        pit.redrive(entry.id)
    except pitstop.MessageError as error:
        assert "cannot be redriven" in str(error)
    pit.store({"id": entry.id, "fresh": True}, timedelta(days=1))
    fresh = pit.get(entry.id)
    assert fresh is not None
    assert fresh.message == {"id": entry.id, "fresh": True}
    assert pit.remove(entry.id)
    assert pit.get(entry.id) is None
