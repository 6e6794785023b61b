"""What happens to a replica set in a fault test. Each breaks it, waits, and returns when it is healthy again."""

from __future__ import annotations

import time

from collections.abc import Callable

from servers.replica_set import ReplicaSet


#: A fault: it is given the set, and the seconds for which what it breaks stays broken.
Fault = Callable[[ReplicaSet, float], None]


def kill_primary(servers: ReplicaSet, seconds: float) -> None:
    """``kill -9`` of the primary; back ``seconds`` after the others have a new one."""
    primary = servers.primary
    servers.kill(primary)
    servers.wait_for_primary(other_than=primary)
    time.sleep(seconds)
    servers.heal()


def step_down(servers: ReplicaSet, seconds: float) -> None:
    """The primary hands over in order, as in a rolling upgrade."""
    servers.step_down(max(round(seconds), 1))
    time.sleep(seconds)
    servers.heal()


def freeze_primary(servers: ReplicaSet, seconds: float) -> None:
    """The primary hangs, and goes on later as if nothing had been: what it was about to do, it does then."""
    primary = servers.primary
    servers.pause(primary)
    time.sleep(seconds)
    servers.resume(primary)
    servers.heal()


def roll_back(servers: ReplicaSet, seconds: float) -> None:
    """What the primary takes while both secondaries are dead is undone: it dies too, they go on without it.

    Pausing the secondaries does not do it: what was sent to them waits in their sockets.
    """
    primary, secondaries = servers.primary, servers.secondaries
    servers.kill(*secondaries)
    time.sleep(seconds)
    servers.kill(primary)
    servers.restart(*secondaries)
    servers.wait_for_primary()
    time.sleep(seconds)
    servers.heal()


def all_away(servers: ReplicaSet, seconds: float) -> None:
    """All servers are killed, and are back later."""
    servers.kill(*servers.members)
    time.sleep(seconds)
    servers.heal()


def rolled_back(servers: ReplicaSet) -> bool:
    """Whether any member has undone writes: it keeps them in files."""
    return any(list((each.folder / "rollback").rglob("*.bson")) for each in servers.members)
