"""Faults of a replica set. Each function breaks the set, waits, and returns when it is healthy again."""

from __future__ import annotations

import time

from collections.abc import Callable

from servers.replica_set import ReplicaSet


#: A fault: a function of the set, and of the seconds for which the set stays broken.
Fault = Callable[[ReplicaSet, float], None]


def kill_primary(servers: ReplicaSet, seconds: float) -> None:
    """Kill the primary with ``kill -9``. Start it again ``seconds`` after the others have elected a new one."""
    primary = servers.primary
    servers.kill(primary)
    servers.wait_for_primary(other_than=primary)
    time.sleep(seconds)
    servers.heal()


def step_down(servers: ReplicaSet, seconds: float) -> None:
    """Let the primary hand over in order, as in a rolling upgrade."""
    servers.step_down(max(round(seconds), 1))
    time.sleep(seconds)
    servers.heal()


def freeze_primary(servers: ReplicaSet, seconds: float) -> None:
    """Pause the primary. It goes on later as if nothing had happened, and finishes its operations then."""
    primary = servers.primary
    servers.pause(primary)
    time.sleep(seconds)
    servers.resume(primary)
    servers.heal()


def roll_back(servers: ReplicaSet, seconds: float) -> None:
    """Let writes be rolled back: the primary accepts them while both secondaries are dead. Then it dies, and they go on.

    Pausing the secondaries would not be enough, because the writes would wait in their sockets.
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
    """Kill all servers, and start them again later."""
    servers.kill(*servers.members)
    time.sleep(seconds)
    servers.heal()


def rolled_back(servers: ReplicaSet) -> bool:
    """Whether any member has rolled back writes, which it keeps in files."""
    return any(list((each.folder / "rollback").rglob("*.bson")) for each in servers.members)
