"""The text by which a process says in the store that it consumes: written and read here, as a decision from values."""

from __future__ import annotations

import json

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

import attrs

from pitstop._values._instant import from_instant
from pitstop._values._seen import SeenConsumer
from pitstop.abc._kinds import AllBut


__all__ = ["LISTENS", "Listens", "announcement", "seen_consumers"]

#: The version of the text. A later release that adds a field keeps it.
_VERSION = 1
#: The beginning of the keys of these notes.
LISTENS = "consumer:"
#: The most characters of a text, and of a name in it; and how many ids of messages it has.
_LONGEST, _LONGEST_NAME, _MOST_IDS = 16_000, 200, 100


@attrs.frozen
class Listens:
    """The words of one listener about itself."""

    #: The kinds that it takes; None: all of them.
    kinds: Collection[str] | None
    #: The number of messages that are claimed and not handed out.
    in_hand: int
    healthy: bool


def announcement(
    told: Sequence[Listens],
    handling: Sequence[str],
    *,
    host: str,
    pid: int,
    name: str,
    since: int,
    now: int,
    skew: int,
) -> str:
    """Return the text of a process.

    :param told: its listeners.
    :param handling: the ids of the messages that its handlers have.
    :param since: when its Pitstop was made, by its own clock: an instant.
    :param now: the instant by the clock of the store.
    :param skew: how many milliseconds its clock is ahead.
    """
    plain: dict[str, Any] = {
        "version": _VERSION,
        "host": host[:_LONGEST_NAME],
        "pid": pid,
        "name": name[:_LONGEST_NAME],
        "since": since,
        "seen": now,
        "skew": skew,
        "kinds": [_plain_choice(each.kinds) for each in told],
        "in_hand": sum(each.in_hand for each in told),
        "in_handlers": len(handling),
        "healthy": all(each.healthy for each in told),
        "handling": list(handling[:_MOST_IDS]),
    }
    text = json.dumps(plain)
    if len(text) > _LONGEST:
        # Long ids are of less use than the kinds.
        text = json.dumps(plain | {"handling": []})
    if len(text) > _LONGEST:
        text = json.dumps(plain | {"handling": [], "kinds": plain["kinds"][:1]})
    return text if len(text) <= _LONGEST else json.dumps(plain | {"handling": [], "kinds": []})


def seen_consumers(notes: Mapping[str, str]) -> list[SeenConsumer]:
    """Return the consumers among the notes of a store, in the order of their begin."""
    found = [_seen(text) for key, text in notes.items() if key.startswith(LISTENS)]
    return sorted((each for each in found if each is not None), key=lambda each: (each.since, each.host, each.pid))


def _seen(text: str) -> SeenConsumer | None:
    """Return the consumer of a text; None if the text cannot be read: it is of another release, or of another program."""
    try:
        plain = json.loads(text)
        return SeenConsumer(
            host=_text(plain["host"]),
            pid=int(plain["pid"]),
            name=_text(plain["name"]),
            since=from_instant(int(plain["since"])),
            seen=from_instant(int(plain["seen"])),
            kinds=tuple(_choice(each) for each in plain["kinds"]),
            in_hand=int(plain["in_hand"]),
            in_handlers=int(plain["in_handlers"]),
            handling=frozenset(map(_text, plain["handling"])),
            healthy=plain["healthy"] is True,
            clock_skew=timedelta(milliseconds=int(plain["skew"])),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def _plain_choice(kinds: Collection[str] | None) -> Any:
    if kinds is None:
        return None
    return {"all_but": sorted(kinds)} if isinstance(kinds, AllBut) else sorted(kinds)


def _choice(plain: Any) -> frozenset[str] | AllBut | None:
    if plain is None:
        return None
    if isinstance(plain, Mapping):
        return AllBut(frozenset(map(_text, plain["all_but"])))
    return frozenset(map(_text, plain))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
