"""A plugin of pytest that searches all logged, printed and raised text for the passwords of the suite, and fails the session.

It checks every log record of Pitstop, DEBUG included, and those records of other loggers that pass their levels; the texts of all errors
of Pitstop when they are made; the reprs of stores, backends and configurations; and the output of this process, of the processes that
tests start, and of the command.
"""

from __future__ import annotations

import logging
import os
import secrets
import subprocess

from collections.abc import Callable
from typing import Any

import pytest


#: The passwords to search for. Words that other tests use as passwords are here from the beginning.
_known = {"s3cr3t", "S3CRET"}
#: A further password, which tests of the command put into errors on purpose, to check that the command masks it.
_known_but_in_errors = {"geheim"}
#: The places where a password was found, with the tests.
_found: list[str] = []
_undo: list[Callable[[], None]] = []


def secret() -> str:
    """Return a new password with characters that must be escaped. No output may contain it."""
    word = secrets.token_hex(8)
    _known.add(word)
    return f"{word}@:/?#[]% é'\""


def look(text: object, where: str, *, error: bool = False) -> None:
    """Record the place if the text contains a password. The password itself is not recorded, because the record is printed."""
    said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    words = _known if error else _known | _known_but_in_errors
    if any(word in said for word in words):
        test = os.environ.get("PYTEST_CURRENT_TEST", "no test")
        for word in words:
            test = test.replace(word, "***")
        _found.append(f"{where}, in {test}")


class _Everything(logging.Logger):
    """A logger that checks each record, and then handles it as usual."""

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return _is_ours(self.name) or super().isEnabledFor(level)

    def handle(self, record: logging.LogRecord) -> None:
        if _is_ours(self.name):
            _look_at(record)
        if super().isEnabledFor(record.levelno):
            super().handle(record)


class _Handler(logging.Handler):
    """A handler that checks records of other loggers, such as PyMongo's if a test sets its level."""

    def emit(self, record: logging.LogRecord) -> None:
        _look_at(record)


def _is_ours(name: str) -> bool:
    return name == "pitstop" or name.startswith("pitstop.")


def _look_at(record: logging.LogRecord) -> None:
    where = f"a log record of {record.name}"
    look(record.getMessage(), where)
    look(record.args, where)
    if record.exc_info:
        look(logging.Formatter().formatException(record.exc_info), where)


def _after(owner: Any, name: str, seen: Callable[..., None]) -> None:
    """Call ``seen(result, *arguments)`` after each call of a method."""
    original = getattr(owner, name)
    own = owner.__dict__.get(name)

    def method(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        seen(result, *args)
        return result

    setattr(owner, name, method)
    _undo.append(lambda: delattr(owner, name) if own is None else setattr(owner, name, own))


def pytest_configure(config: pytest.Config) -> None:
    logging.setLoggerClass(_Everything)
    _undo.append(lambda: logging.setLoggerClass(logging.Logger))

    import pitstop

    for name, logger in logging.root.manager.loggerDict.items():
        if _is_ours(name) and isinstance(logger, logging.Logger):
            logger.__class__ = _Everything
    handler = _Handler()
    logging.root.addHandler(handler)
    _undo.append(lambda: logging.root.removeHandler(handler))

    _after(
        pitstop.PitstopError,
        "__init__",
        lambda _, error, *args: look(args, f"the text of {type(error).__name__}", error=True),
    )
    _after(pitstop.abc.Backend, "__init__", lambda _, backend, *args: look(args, "the repr of a configuration"))
    _after(
        pitstop.Pitstop,
        "__init__",
        lambda _, pit, backend, *args: look(f"{pit!r} {backend!r} {pit.location}", "the repr of a store"),
    )
    _after(pytest.CaptureFixture, "readouterr", lambda read, _: [look(each, "what is printed") for each in read])
    _after(
        subprocess.Popen,
        "communicate",
        lambda read, *args: [look(each, "what a process prints") for each in read if each],
    )
    try:
        from click.testing import CliRunner
    except ModuleNotFoundError:
        return
    _after(CliRunner, "invoke", lambda result, *args: look(result.output, "what the command prints"))


def pytest_unconfigure(config: pytest.Config) -> None:
    while _undo:
        _undo.pop()()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    for text in (report.capstdout, report.capstderr, report.caplog):
        look(text, "what is printed")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Pass the findings of a worker process to the main process (pytest-xdist)."""
    _found.extend(getattr(node, "workeroutput", {}).get("leaks", []))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["leaks"] = list(_found)
    if _found and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for each in dict.fromkeys(_found):
        terminalreporter.write_line(f"A PASSWORD IS SHOWN: {each}", red=True)
