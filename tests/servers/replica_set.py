"""A replica set of real servers on this machine, and its faults."""

from __future__ import annotations

import time

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymongo

from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from servers.mongod import Mongod, new_folder


#: The server's default. With it, the set has no primary for about 11 seconds after a kill.
DEFAULT_ELECTION_MS = 10_000
#: For tests that need a new primary soon.
QUICK_ELECTION_MS = 1500

_PRIMARY, _SECONDARY, _RECOVERING, _ROLLBACK = 1, 2, 3, 9
#: Seconds that a member may take to roll back. MongoDB 6.0.5 sometimes does not come to the end of it while clients ask it.
_ROLLBACK_PATIENCE = 30.0
#: How often such a member is started again.
_MOST_RESTARTS = 3
#: The longest wait of a test, in seconds.
_PATIENCE = 90.0


class ReplicaSet:
    """Members that elect a primary. A set of one member cannot fail over, and starts quickly."""

    def __init__(
        self, folder: Path, *, members: int = 3, election_ms: int = DEFAULT_ELECTION_MS, name: str = "pitstop"
    ) -> None:
        self.name = name
        self.election_ms = election_ms
        self.members = [Mongod(folder / f"member{n}", replica_set=name) for n in range(members)]

    @property
    def uri(self) -> str:
        """The URI of all members; a client finds the primary by itself."""
        return f"mongodb://{','.join(each.address for each in self.members)}/?replicaSet={self.name}"

    @property
    def primary(self) -> Mongod:
        """Wait for a member that reports to be the primary, and return it."""
        return self.wait_for_primary()

    @property
    def secondaries(self) -> list[Mongod]:
        """Return the running members that are not the primary."""
        primary = self.primary
        return [each for each in self.members if each is not primary and each.running]

    def start(self) -> None:
        """Start the members, make a set of them, and wait until it is healthy."""
        for each in self.members:
            each.start(wait=False)
        for each in self.members:
            each.wait_until_ready()
        # Heartbeats must be as quick: with the usual 2 s, a quick election waits for them.
        settings = {
            "electionTimeoutMillis": self.election_ms,
            "heartbeatIntervalMillis": min(2000, max(self.election_ms // 4, 200)),
        }
        members = [{"_id": n, "host": each.address} for n, each in enumerate(self.members)]
        self._ask(
            self.members[0],
            {"replSetInitiate": {"_id": self.name, "members": members, "settings": settings}},
        )
        # A set without a primary would wait for as long as an election takes to time out.
        self._until(lambda: self._ask(self.members[0], {"replSetStepUp": 1}), "elected its first primary")
        self.wait_until_healthy()

    def close(self) -> None:
        """End all members, in any state."""
        for each in self.members:
            each.kill()

    def kill(self, *members: Mongod) -> None:
        for each in members:
            each.kill()

    def pause(self, *members: Mongod) -> None:
        for each in members:
            each.pause()

    def resume(self, *members: Mongod) -> None:
        for each in members:
            each.resume()

    def restart(self, *members: Mongod) -> None:
        for each in members:
            each.restart(wait=False)
        for each in members:
            each.wait_until_ready()

    def step_down(self, seconds: int = 10, *, force: bool = False) -> None:
        """Make the primary step down, and not stand for election for this time."""
        catch_up = {} if force else {"secondaryCatchUpPeriodSecs": max(seconds - 1, 1)}
        self._ask(self.primary, {"replSetStepDown": seconds, "force": force, **catch_up})

    def hold_elections(self, seconds: int) -> None:
        """Let no secondary stand for election for this time."""
        for each in self.secondaries:
            self._ask(each, {"replSetFreeze": seconds})

    def wait_for_primary(self, *, other_than: Mongod | None = None) -> Mongod:
        """Wait for a member that reports to be the primary and is not ``other_than``, and return it."""

        def look() -> Mongod | None:
            for each in self.members:
                if each is not other_than and each.running and not each.paused and self._writable(each):
                    return each
            return None

        found: Mongod = self._until(look, "elected a primary")
        return found

    def wait_until_healthy(self, patience: float = _PATIENCE) -> None:
        """Wait until there is one primary, and all others follow it and have its data, for ``patience`` seconds at most."""

        def look() -> bool:
            states = {}
            for each in self.members:
                told = self._ask(each, {"replSetGetStatus": 1})
                (me,) = (member for member in told["members"] if member.get("self"))
                states[each.address] = (me["state"], me["optime"]["t"])
            roles = sorted(state for state, _ in states.values())
            if roles != [_PRIMARY, *[_SECONDARY] * (len(self.members) - 1)] or len(set(states.values())) > 2:
                return False
            if len({term for _, term in states.values()}) > 1:
                return False
            with pymongo.MongoClient(self.uri, serverSelectionTimeoutMS=1000) as client:
                everywhere = pymongo.WriteConcern(len(self.members), wtimeout=3000)
                coll = client["pitstop_health"].get_collection("checks", write_concern=everywhere)
                coll.replace_one({"_id": 1}, {"at": time.monotonic()}, upsert=True)
            return True

        self._until(look, "become healthy", patience, interval=0.2)

    def heal(self) -> None:
        """Undo the faults of a test, and wait until the set is healthy."""
        for each in self.members:
            each.resume()
        ended = [each for each in self.members if not each.running]
        self.restart(*ended)
        for each in self.members:
            # Otherwise a member that stepped down would not stand for election until its time is over.
            self._try(lambda each=each: self._ask(each, {"replSetFreeze": 0}))
        for _ in range(_MOST_RESTARTS):
            with suppress(TimeoutError):
                self.wait_until_healthy(_ROLLBACK_PATIENCE)
                return
            # A member that does not end its rollback is started again, as an operator would do. A member that still recovers has
            # been away for too long to follow the others: it copies all data.
            behind = self._in_state(_RECOVERING)
            stuck = [each for each in self.members if each.address in behind | self._in_state(_ROLLBACK)]
            self.kill(*stuck)
            for each in stuck:
                if each.address in behind and len(stuck) == 1:
                    each.clear()
            self.restart(*stuck)
        self.wait_until_healthy()

    def _in_state(self, state: int) -> set[str]:
        """Return the addresses of the members in a state, as any member sees it. The member itself may not answer."""
        told = [self._try(lambda each=each: self._ask(each, {"replSetGetStatus": 1})) for each in self.members]
        return {one["name"] for each in told if each for one in each["members"] if one["state"] == state}

    def _writable(self, member: Mongod) -> bool:
        try:
            return bool(self._ask(member, {"hello": 1}).get("isWritablePrimary"))
        except PyMongoError:
            return False

    def _ask(self, member: Mongod, command: dict[str, Any]) -> dict[str, Any]:
        with pymongo.MongoClient(member.uri, serverSelectionTimeoutMS=2000, socketTimeoutMS=20_000) as client:
            told: dict[str, Any] = client.admin.command(command)
            return told

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (ConnectionFailure, OperationFailure):
            return None

    def _report(self) -> str:
        """Return the state of each member, and the end of its log."""
        lines = []
        for each in self.members:
            state = "has ended" if not each.running else "is paused" if each.paused else "runs"
            told = self._try(lambda each=each: self._ask(each, {"replSetGetStatus": 1})) if state == "runs" else None
            members = [] if told is None else [f"{one['name']} {one['stateStr']}" for one in told["members"]]
            lines.append(f"\n{each.address} {state}, and sees {members}\n{each.last_lines()}")
        return "".join(lines)

    def _until(self, look: Callable[[], Any], what: str, patience: float = _PATIENCE, *, interval: float = 0.05) -> Any:
        deadline = time.monotonic() + patience
        while True:
            found = self._try(look)
            if found:
                return found
            if time.monotonic() > deadline:
                raise TimeoutError(f"the replica set has not {what} within {patience:.0f} s{self._report()}")
            time.sleep(interval)


@contextmanager
def replica_set(*, members: int = 3, election_ms: int = DEFAULT_ELECTION_MS) -> Iterator[ReplicaSet]:
    """Yield a healthy set, and remove it with all its members and data."""
    with new_folder() as folder:
        servers = ReplicaSet(folder, members=members, election_ms=election_ms)
        try:
            servers.start()
            yield servers
        finally:
            servers.close()


@contextmanager
def single() -> Iterator[ReplicaSet]:
    """Yield a set of one member: change streams, transactions and retryable writes, without a wait for others."""
    with replica_set(members=1, election_ms=QUICK_ELECTION_MS) as servers:
        yield servers
