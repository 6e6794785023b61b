"""Peers: similar libraries, each installed in its own folder and measured by its own script.

A script in ``peers/`` has one argument, a JSON object: ``store`` and ``drain`` (numbers of messages), ``gaps`` (seconds between awaited
messages), ``body``, and the place, ``uri`` or ``folder``. It prints one line of JSON: ``version``, ``config`` (in words), and, as far as
it can, ``store``, ``store_many``, ``drain`` and ``drain4``, a drain by four processes (messages per second, a drain from the first message
to the last), and ``late`` (milliseconds, one for each gap).

A peer that cannot be installed or started is named with the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from places import Place, free_port, own_database
from subjects import BODY


_SCRIPTS = Path(__file__).with_name("peers")
#: Seconds for one round of one peer, and for its installation.
_LONGEST, _LONGEST_INSTALL = 120, 600


class LeftOut(Exception):
    """A peer that cannot be measured here; the text says why."""


@attrs.frozen
class Peer:
    name: str
    script: str
    #: Its packages with exact versions, for pip, or for npm if the script is JavaScript.
    needs: tuple[str, ...]
    #: The place of this run with which its messages per second are compared.
    beside: str
    #: Starts its server, and yields the arguments of its script. None: the server of the place.
    server: Callable[[], Any] | None = None
    store: int = 1000
    drain: int = 3000
    waits: int = 40
    #: The least version of Python, if it needs a newer one than Pitstop.
    python: tuple[int, int] = (3, 11)


@contextmanager
def _folder() -> Iterator[dict[str, str]]:
    with tempfile.TemporaryDirectory(prefix="pitstop-bench-") as folder:
        yield {"folder": folder}


@contextmanager
def _redis() -> Iterator[dict[str, str]]:
    """Run a new Redis that writes each command to disk."""
    server = shutil.which("redis-server")
    if server is None:
        raise LeftOut("no redis-server on this machine")
    with tempfile.TemporaryDirectory(prefix="pitstop-bench-") as folder:
        port = str(free_port())
        durable = ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--dir", folder]
        command = [server, "--port", port, "--bind", "127.0.0.1", *durable]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            _until_ready([str(Path(server).with_name("redis-cli")), "-p", port, "ping"], process)
            yield {"uri": f"redis://127.0.0.1:{port}/0"}
        finally:
            _end(process)


def _until_ready(command: Sequence[str], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise LeftOut(f"{command[0]} did not become ready")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_PYMONGO = "pymongo==4.20.1"
PEERS = (
    Peer("huey", "huey_sqlite.py", ("huey==3.5.4",), "sqlite", _folder, drain=5000),
    Peer("huey, fsync=True", "huey_sqlite.py", ("huey==3.5.4",), "sqlite", _folder, waits=0),
    Peer("Agenda", "agenda.mjs", ("agenda@6.2.6", "@agendajs/mongo-backend@4.0.3"), "mongo"),
    Peer("APScheduler 3", "apscheduler3.py", ("apscheduler==3.11.3", _PYMONGO), "mongo"),
    Peer("APScheduler 3, w=1", "apscheduler3.py", ("apscheduler==3.11.3", _PYMONGO), "mongo", waits=0),
    Peer("APScheduler 4", "apscheduler4.py", ("apscheduler==4.0.0a6", _PYMONGO), "mongo", store=300, drain=500),
    Peer("Procrastinate", "procrastinate_pg.py", ("procrastinate==3.10.0",), "postgres", drain=1000, waits=100),
    Peer("PgQueuer", "pgqueuer_pg.py", ("pgqueuer[asyncpg]==1.6.0",), "postgres", drain=10000, waits=100),
    Peer("Oban", "oban_pg.py", ("oban==0.7.0",), "postgres", drain=3000, waits=100, python=(3, 12)),
    Peer("Celery, Redis", "celery_redis.py", ("celery[redis]==5.7.0",), "mongo", _redis, drain=2000),
)


@attrs.frozen
class Installed:
    """A peer that can be measured."""

    peer: Peer
    _command: tuple[str, ...]
    _folder: Path

    def measure(self, place: Place, share: float, gaps: Sequence[float]) -> dict[str, Any]:
        """Run one round.

        :raises LeftOut: if it fails.
        """
        peer = self.peer
        with peer.server() if peer.server else own_database(place) as where:
            counts = {"store": max(int(peer.store * share), 50), "drain": max(int(peer.drain * share), 100)}
            task = counts | {"gaps": list(gaps[: peer.waits]), "body": BODY, "name": peer.name} | where
            command = [*self._command, json.dumps(task)]
            try:
                done = subprocess.run(
                    command, cwd=self._folder, capture_output=True, text=True, timeout=_LONGEST, check=False
                )
            except subprocess.TimeoutExpired:
                raise LeftOut(f"was not done after {_LONGEST} s") from None
        lines = done.stdout.strip().splitlines()
        if done.returncode or not lines:
            raise LeftOut(f"failed: {_last_line(done.stderr)}")
        told: dict[str, Any] = json.loads(lines[-1])
        return told


def install(peer: Peer, cache: Path) -> Installed:
    """Install into a folder that is used again for the same packages.

    :raises LeftOut: if it cannot be installed here.
    """
    script = _SCRIPTS / peer.script
    folder = cache / peer.script.partition(".")[0]
    note = folder / "installed.json"
    wanted = json.dumps([*peer.needs, sys.version])
    fresh = not note.exists() or note.read_text() != wanted
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    if script.suffix == ".mjs":
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise LeftOut("no Node.js on this machine (no node, or no npm)")
        if fresh:
            _install([npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), *peer.needs])
        # A module of Node.js searches its own folder for others.
        command = (node, str(shutil.copy(script, folder)))
    else:
        python = str(folder / "bin" / "python")
        if fresh:
            _install([_interpreter(peer.python), "-m", "venv", str(folder)])
            _install([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.needs])
        command = (python, str(script))
    note.write_text(wanted)
    return Installed(peer, command, folder)


def _interpreter(least: tuple[int, int]) -> str:
    """Return this Python, or a newer one of this machine if this one is too old for a peer."""
    if sys.version_info[:2] >= least:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    for minor in range(least[1], least[1] + 4):
        names = [f"python{least[0]}.{minor}", *map(str, (pyenv / "versions").glob(f"{least[0]}.{minor}.*/bin/python"))]
        for name in names:
            found = shutil.which(name)
            # A shim on PATH may stand for a Python that is not installed.
            if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
                return found
    raise LeftOut(f"needs Python {least[0]}.{least[1]}, which is not on this machine")


def _install(command: Sequence[str]) -> None:
    # Without the variables that point Python at the environment of this process.
    clean: Mapping[str, str] = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LONGEST_INSTALL, check=False, env=dict(clean)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LeftOut(f"cannot be installed: {type(error).__name__}") from None
    if done.returncode:
        raise LeftOut(f"cannot be installed: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    with contextlib.suppress(IndexError):
        return text.strip().splitlines()[-1][:200]
    return "it said nothing"
