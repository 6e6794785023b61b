"""A real PostgreSQL for the tests: a cluster of the machine's own packages in a temporary folder, or a server that is already running.

PostgreSQL refuses to run as root. If the tests do, the server runs as the user of Debian's package, or as ``nobody``. The cluster's
collation is not C where the system has another one, so that code which forgets to name its collation fails.
"""

from __future__ import annotations

import atexit
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


#: The superuser of the clusters. It needs no password. All other roles do.
USER = "pitstop"
#: Seconds that a server may take to start, also if it recovers from a crash.
_PATIENCE = 60.0
#: Locales for initdb, the best first. ICU is part of the server, the others are files of the system.
_LOCALES = (
    ("--locale-provider=icu", "--icu-locale=en-US", "--locale=C.UTF-8"),
    ("--locale=en_US.UTF-8",),
    ("--locale=C.UTF-8",),
    ("--locale=C",),
)
_HBA = f"""\
local all,replication {USER} trust
host all,replication {USER} 127.0.0.1/32 trust
local all all scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
"""
#: Servers that report one of these in their pid file take connections.
_READY = ("ready", "standby")


class NoServer(Exception):
    """No PostgreSQL is available; the text says why and what to do."""


def binaries() -> Path:
    """Return the folder with ``initdb`` and ``postgres``: the one on PATH, or the newest of Debian's packages."""
    found = shutil.which("initdb")
    # The programs lie beside initdb itself, which PATH may name by a link.
    folders = [Path(found).resolve().parent] if found else []
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    folders += sorted(
        debian, key=lambda path: [int(each) for each in re.findall(r"\d+", path.parent.name)], reverse=True
    )
    for each in folders:
        if all(os.access(each / name, os.X_OK) for name in ("initdb", "postgres")):
            return each
    raise NoServer("no PostgreSQL (initdb, postgres): apt-get install postgresql, or set PITSTOP_TEST_POSTGRES_URI")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """One PostgreSQL server with its own port and folder, which it keeps over restarts.

    Signals simulate faults of servers: :meth:`kill` is a crash of the machine whose disk loses nothing, :meth:`kill_postmaster` and
    :meth:`kill_backend` are crashes of one process, and :meth:`pause` is a machine that hangs.
    """

    def __init__(self, folder: Path, *, fsync: bool = True, wal_segment_mb: int = 16, **settings: object) -> None:
        """Prepare a server in a folder, which need not exist.

        :param fsync: whether the server waits for the disk. Without it, tests that prove no durability are faster on a slow disk.
        :param wal_segment_mb: the size of a file of its log. Small files fit on a small disk.
        :param settings: of the server, as in ``postgresql.conf``.
        """
        self.folder = folder
        self.port = free_port()
        self.fsync = fsync
        self._wal_segment_mb = wal_segment_mb
        self.settings: dict[str, object] = {
            "listen_addresses": "127.0.0.1",
            "max_connections": 200,
            "log_line_prefix": "%m [%p] %q%a ",
        } | settings
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def uri(self) -> str:
        """The URI of the server by TCP, with the database ``postgres``."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/postgres"

    @property
    def socket_uri(self) -> str:
        """The URI of the server by its Unix socket, with the database ``postgres``."""
        return f"postgresql://{USER}@/postgres?host={self.folder}&port={self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        return self.running and bool(self._paused)

    def start(self, *, wait: bool = True) -> None:
        """Start, or restart with the content of the folder. The first start makes the cluster.

        :raises NoServer: if there is no PostgreSQL, or if it does not start.
        """
        assert not self.running
        self._end()
        if not (self.data / "PG_VERSION").exists():
            self._make_cluster()
        settings = self.settings | {
            "fsync": "on" if self.fsync else "off",
            "port": self.port,
            "unix_socket_directories": self.folder,
        }
        command = [str(binaries() / "postgres"), "-D", str(self.data)]
        command += [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,  # Ctrl-C is for the tests, which end the server then
                **_unprivileged(),
            )
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(self._process.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it takes connections, as a primary or a standby.

        :raises NoServer: if it ends instead, or takes longer than a minute.
        """
        assert self._process is not None
        deadline = time.monotonic() + _PATIENCE
        while self._status() not in _READY:
            if self._process.poll() is not None:
                raise NoServer(f"postgres ended with {self._process.returncode}: {self.last_lines()}")
            if time.monotonic() > deadline:
                raise NoServer(f"postgres did not become ready within a minute: {self.last_lines()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in order, even if it is paused: a "fast" shutdown, which aborts transactions and ends connections."""
        if self.running:
            assert self._process is not None
            self.resume()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self._end()

    def kill(self) -> None:
        """End all its processes at once, also if they are paused: ``kill -9``."""
        if self.running:
            assert self._process is not None
            _kill_all(self._process.pid)
        self._end()

    def kill_postmaster(self) -> None:
        """End the postmaster alone with ``kill -9``, and wait until the other processes have noticed it and ended.

        A backend notices it when it waits for its client, so it finishes its statement.
        """
        assert self._process is not None
        children = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + 10
        while any(map(_alive, children)):
            if time.monotonic() > deadline:
                for each in children:
                    _signal(each, signal.SIGKILL)
            time.sleep(0.01)
        self._end()

    def kill_backend(self, pid: int) -> None:
        """End one process of the server with ``kill -9``. The postmaster then ends all others, and recovers."""
        assert self._process is not None
        assert pid in _children(self._process.pid), f"{pid} is no process of this server"
        os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        """Make all its processes hang with ``SIGSTOP``: they keep their connections and do nothing."""
        assert self.running
        assert self._process is not None
        # The postmaster comes first. After that, no further process begins.
        os.kill(self._process.pid, signal.SIGSTOP)
        self._paused = [self._process.pid, *_children(self._process.pid)]
        for each in self._paused[1:]:
            _signal(each, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue after a pause, with ``SIGCONT``."""
        paused, self._paused = self._paused, []
        if self.running:
            for each in reversed(paused):
                _signal(each, signal.SIGCONT)

    def restart(self, *, wait: bool = True) -> None:
        """End it in order if it runs, and start it again."""
        self.stop()
        self.start(wait=wait)

    def backends(self) -> list[int]:
        """Return the processes that serve clients, in no order. The server is not asked, so it may be paused."""
        assert self._process is not None
        return [each for each in _children(self._process.pid) if _serves_a_client(each)]

    def copy(self, folder: Path, **settings: object) -> Postgres:
        """Return a standby of this server, which is not started yet: a copy that follows the changes of this server.

        :param settings: of the standby, besides those of this server.
        """
        standby = Postgres(folder, fsync=self.fsync, **(self.settings | settings))
        standby._make_folder()
        self._run("pg_basebackup", "-d", self.uri, "-D", str(standby.data), "-X", "stream", "-c", "fast", "-R")
        return standby

    def promote(self) -> None:
        """Make a standby a primary, and wait until it is."""
        self._run("pg_ctl", "promote", "-D", str(self.data), "-w", "-t", str(round(_PATIENCE)))

    def reload(self) -> None:
        """Let it read its files of settings again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def last_lines(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self.folder / "server.log"

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        _give_away(self.folder)

    def _make_cluster(self) -> None:
        self._make_folder()
        arguments = ["-D", str(self.data), "-U", USER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        arguments += [f"--wal-segsize={self._wal_segment_mb}"]
        for number, locale in enumerate(_LOCALES, 1):
            try:
                self._run("initdb", *arguments, *locale)
            except NoServer:
                # An old version knows no ICU, and a small system has few locales. The last one exists everywhere.
                if number == len(_LOCALES):
                    raise
                shutil.rmtree(self.data, ignore_errors=True)
            else:
                break
        (self.data / "pg_hba.conf").write_text(_HBA)

    def _run(self, name: str, *arguments: str) -> None:
        command = [str(binaries() / name), *arguments]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=120,
            cwd=self.folder.parent if not self.folder.exists() else self.folder,
            **_unprivileged(),
        )
        if done.returncode:
            raise NoServer(f"{name} ended with {done.returncode}: {done.stdout[-2000:]}")

    def _status(self) -> str:
        """Return the last line of the pid file, if the running process wrote the file: see ``pidfile.h`` of PostgreSQL."""
        assert self._process is not None
        with suppress(OSError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            if len(lines) >= 8 and lines[0] == str(self._process.pid):
                return lines[7].strip()
        return ""

    def _end(self) -> None:
        self._paused = []
        guard, self._guard = self._guard, None
        if guard is not None:
            # Before the process is waited for. Until then, its number belongs to no other process.
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            guard.stdin.close()
        process, self._process = self._process, None
        if process is not None:
            process.wait()


@cache
def _account() -> pwd.struct_passwd | None:
    """Return the account of the servers; None: that of the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoServer(
        "PostgreSQL does not run as root, and this system lacks the users that could run it: create a user postgres"
    )


def _unprivileged() -> dict[str, Any]:
    """Return the arguments with which subprocess starts a program as the account of the servers."""
    account = _account()
    return {} if account is None else {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _give_away(folder: Path) -> None:
    account = _account()
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)


def _children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The name, in parentheses, may contain anything.
            _, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid:
                found.append(int(path.parent.name))
    return found


def _alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _serves_a_client(pid: int) -> bool:
    """Whether the title of a process names a client: ``postgres: user database 127.0.0.1(41234) idle``, or ``[local]``."""
    with suppress(OSError):
        title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
        return "walsender" not in title and re.search(r"^postgres: .* (\[local\]|[0-9.]+\(\d+\)) ", title) is not None
    return False


def _signal(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _kill_all(postmaster: int) -> None:
    # A stopped postmaster starts no further process, and does not react to the end of its children.
    _signal(postmaster, signal.SIGSTOP)
    children = _children(postmaster)
    for each in (postmaster, *children):
        _signal(each, signal.SIGKILL)
    deadline = time.monotonic() + 10
    # The shared memory of a server is free after the end of its last process. Before that, the server does not start again.
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.005)


@contextmanager
def new_folder() -> Iterator[Path]:
    """Yield a folder for the data of servers, which is removed with its content at the end."""
    folder = _new_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _new_folder() -> Path:
    # No TemporaryDirectory: in a forked child, the end of that object would remove the folder of the parent.
    folder = Path(tempfile.mkdtemp(prefix="pitstop-postgres-"))
    _give_away(folder)
    return folder


@contextmanager
def server(*, fsync: bool = True, **settings: object) -> Iterator[Postgres]:
    """Yield a running server of its own, which a test may break. It is removed with its data."""
    with new_folder() as folder:
        made = Postgres(folder / "server", fsync=fsync, **settings)
        try:
            made.start()
            yield made
        finally:
            made.kill()


def given_uri() -> str | None:
    """Return the server that the environment names instead."""
    return os.environ.get("PITSTOP_TEST_POSTGRES_URI") or None


def available() -> bool:
    """Whether the environment names a server, or this machine has the programs of one."""
    if given_uri() is not None:
        return True
    try:
        binaries()
    except NoServer:
        return False
    return True


_shared: dict[int, str] = {}


def uri() -> str:
    """Return the URI of a running server, on which databases named ``pitstop_test_*`` may be created and dropped.

    It is the one that PITSTOP_TEST_POSTGRES_URI names. Without that, the first call of a process starts one for all of its tests.

    :raises NoServer: if there is none.
    """
    given = given_uri()
    if given is not None:
        return given
    mine = os.getpid()
    if mine not in _shared:
        made = Postgres(_new_folder() / "server")
        # Before the start, which may fail in the middle.
        atexit.register(_end_of, mine, made)
        made.start()
        _shared[mine] = made.uri
    return _shared[mine]


def _end_of(tests: int, shared: Postgres) -> None:
    """End the shared server of the process ``tests``. A child that was forked from it calls this, too, and must not end the server."""
    if os.getpid() == tests:
        shared.kill()
        shutil.rmtree(shared.folder.parent, ignore_errors=True)


@contextmanager
def database(server_uri: str) -> Iterator[str]:
    """Yield the URI of a new database of a server, which is dropped at the end, with all connections to it."""
    import psycopg

    name = f"pitstop_test_{uuid.uuid4().hex}"
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield database_uri(server_uri, name)
    with psycopg.connect(server_uri, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def database_uri(server_uri: str, name: str) -> str:
    """Return the URI of another database of the same server."""
    parts = urlsplit(server_uri)
    return f"{parts.scheme}://{parts.netloc}/{name}{f'?{parts.query}' if parts.query else ''}"


def _guard(arguments: Sequence[str]) -> None:
    """Wait for the end of the tests. If they did not end their server, because they were killed, end and remove it."""
    sys.stdin.buffer.read()
    pid, folder = int(arguments[0]), Path(arguments[1])
    _kill_all(pid)
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):
        folder.parent.rmdir()


if __name__ == "__main__":
    _guard(sys.argv[1:])
