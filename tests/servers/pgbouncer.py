"""A real PgBouncer for the tests, in front of a PostgreSQL: each transaction gets any session of the server.

It is the one of Debian's package, and listens on a Unix socket in a temporary folder. It refuses to run as root, as PostgreSQL does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from servers import postgres


#: The number in the name of the socket. It is no port of the machine.
_PORT = 6432
#: Seconds until it answers.
_PATIENCE = 30.0


class NoServer(Exception):
    """No PgBouncer is available; the text says why and what to do."""


def binary() -> Path:
    """Return the program ``pgbouncer``."""
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if found is None:
        raise NoServer("no PgBouncer: apt-get install pgbouncer")
    return Path(found)


def available() -> bool:
    """Whether this machine has the program."""
    with suppress(NoServer):
        return bool(binary())
    return False


class Bouncer:
    """One PgBouncer in front of one server."""

    def __init__(self, folder: Path, server_uri: str, **settings: object) -> None:
        """Prepare it in a folder that exists and belongs to the account of the servers.

        :param server_uri: the server behind it, with any database.
        :param settings: of ``pgbouncer.ini``.
        """
        self.folder = folder
        self._server = urlsplit(server_uri)
        self.settings = {
            "pool_mode": "transaction",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "listen_addr": "",
            "listen_port": _PORT,
            "unix_socket_dir": folder,
            "unix_socket_mode": "0777",
            "max_client_conn": 200,
            "default_pool_size": 10,
            "admin_users": postgres.USER,
        } | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def uri(self, dbname: str) -> str:
        """Return the URI of a database through the pooler."""
        return f"postgresql://{postgres.USER}@/{dbname}?host={self.folder}&port={_PORT}"

    def start(self) -> None:
        """Start it, and wait until it answers.

        :raises NoServer: if it is missing, or does not start.
        """
        lines = ["[databases]", f"* = host={self._server.hostname} port={self._server.port or 5432}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in self.settings.items()]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        password = self._server.password or ""
        (self.folder / "users").write_text(f'"{self._server.username}" "{password}"\n"{postgres.USER}" "{password}"\n')
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(binary()), "-q", str(self.folder / "pgbouncer.ini")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **postgres.unprivileged(),
            )
        self._guard = postgres.start_guard(self._process.pid, self.folder)
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise NoServer(f"PgBouncer does not answer: {(self.folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)

    def execute(self, command: str) -> list[tuple[object, ...]]:
        """Execute a command of its console, such as ``SHOW POOLS``, and return its rows."""
        with psycopg.connect(self.uri("pgbouncer"), autocommit=True, cursor_factory=psycopg.ClientCursor) as connection:
            cursor = connection.execute(command)
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """End it at once, with all connections."""
        guard, self._guard = self._guard, None
        if guard is not None:
            # Before the process is waited for. Until then, its number belongs to no other process.
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
        (self.folder / f".s.PGSQL.{_PORT}").unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            self.execute("SHOW VERSION")
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def in_front_of(server_uri: str, **settings: object) -> Iterator[Bouncer]:
    """Yield a running PgBouncer in front of a server. It is removed at the end.

    :raises NoServer: if there is none.
    """
    binary()
    with postgres.new_folder() as folder:
        # The account of the servers reads the files.
        os.chmod(folder, 0o755)  # noqa: PTH101 - the folder holds the socket of a test
        made = Bouncer(folder, server_uri, **settings)
        try:
            made.start()
            yield made
        finally:
            made.stop()
