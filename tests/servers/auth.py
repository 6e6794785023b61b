"""A mongod with authentication: a replica set of one member, with users that tests create."""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pymongo

from pymongo.errors import ConnectionFailure

import leaks

from servers.mongod import NoServer, binary, free_port


@attrs.frozen
class User:
    name: str
    password: str = attrs.field(repr=False)


@attrs.frozen
class AuthServer:
    """A server with authentication, and its administrator."""

    port: int
    root: pymongo.MongoClient[dict[str, Any]] = attrs.field(repr=False)

    def add_user(self, dbname: str, *roles: str, actions: Mapping[str, Sequence[str]] | None = None) -> User:
        """Create a user with these roles on a database.

        :param actions: more actions of the user, by collection; "" for the whole database.
        """
        user = User(f"user-{uuid.uuid4().hex}", leaks.secret())
        given: list[Any] = [{"role": role, "db": dbname} for role in roles]
        if actions is not None:
            privileges = [
                {"resource": {"db": dbname, "collection": coll}, "actions": list(each)}
                for coll, each in actions.items()
            ]
            self.root.admin.command("createRole", f"role of {user.name}", privileges=privileges, roles=[])
            given.append({"role": f"role of {user.name}", "db": "admin"})
        self.root.admin.command("createUser", user.name, pwd=user.password, roles=given)
        return user

    def remove_user(self, user: User) -> None:
        self.root.admin.command("dropUser", user.name)


@contextmanager
def auth_server() -> Iterator[AuthServer]:
    """Start it on a free loopback port."""
    with tempfile.TemporaryDirectory(prefix="pitstop-mongod-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        key = Path(folder) / "key"
        key.write_text(uuid.uuid4().hex * 2)
        key.chmod(0o400)
        command = [
            *(str(binary()), "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", folder, "--nounixsocket"),
            *("--logpath", f"{folder}/mongod.log", "--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
            *("--auth", "--keyFile", str(key), "--replSet", "auth"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            root = _set_up(process, port)
            try:
                yield AuthServer(port, root)
            finally:
                root.close()
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _set_up(process: subprocess.Popen[bytes], port: int) -> pymongo.MongoClient[dict[str, Any]]:
    """Create the replica set and the administrator. While there is no user, a local client may do so."""
    deadline = time.monotonic() + 60
    with pymongo.MongoClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=500) as client:
        while True:
            if process.poll() is not None:
                raise NoServer(f"mongod ended with {process.returncode} (does it need libcurl4?)")
            try:
                client.admin.command("ping")
                break
            except ConnectionFailure:
                if time.monotonic() > deadline:
                    raise NoServer("mongod did not answer within a minute") from None
        members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
        client.admin.command("replSetInitiate", {"_id": "auth", "members": members})
        while not client.admin.command("hello")["isWritablePrimary"]:
            if time.monotonic() > deadline:
                raise NoServer("mongod did not become the primary within a minute")
            time.sleep(0.02)
        password = leaks.secret()
        client.admin.command("createUser", "root", pwd=password, roles=["root"])
    return pymongo.MongoClient("127.0.0.1", port, username="root", password=password, tz_aware=True)
