"""Records of Pitstop's loggers have the same fields everywhere, and never the content of a message."""

from __future__ import annotations

import ast
import json
import logging
import re

from datetime import timedelta
from pathlib import Path

import pytest

import pitstop

from pitstop import ConfigError, testing
from pitstop.abc import log_fields
from pitstop.logs import MessageLog


ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for folder in ("core", "memory", "mongo", "sqlite", "postgres")
    for path in sorted((ROOT / f"pitstop-{folder}" / "src").rglob("*.py"))
] + sorted((ROOT / "examples" / "pitstop-filesystem" / "src").rglob("*.py"))
FIELDS = set(log_fields("x"))
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
PAGE = (ROOT / "docs" / "logging.md").read_text()


def is_logged(node: ast.AST) -> bool:
    function = getattr(node, "func", None)
    return (
        isinstance(function, ast.Attribute)
        and function.attr in LEVELS
        and isinstance(function.value, ast.Name)
        and function.value.id == "_log"
    )


def calls() -> list[tuple[str, ast.Call]]:
    return [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and is_logged(node)
    ]


def test_each_line_of_code_that_logs_gives_the_fields():
    found = calls()
    assert len(found) > 50
    assert [where for where, node in found if "extra" not in {each.arg for each in node.keywords}] == []


def names() -> set[str]:
    """Return the names of the events in the code."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {
                "log_fields", "fields", "of", "_fields",
            }:  # fmt: skip
                found |= {
                    each.value
                    for each in node.args[:1]
                    if isinstance(each, ast.Constant) and isinstance(each.value, str)
                }
    return found | {f"{what}_{how}" for what in ("store", "watch") for how in ("away", "back")}


def test_the_page_names_each_event_and_each_field():
    documented = set(re.findall(r"`((?:[a-z]+_)*[a-z]+)`", PAGE))
    outcomes = {f"message_{outcome}" for outcome in ("acked", "nacked", "dead", "expired", "lost")}
    assert names() - {"file_unreadable"} <= documented
    assert outcomes | FIELDS <= documented
    rows = re.findall(r"^\| ((?:`[a-z_]+`(?:, )?)+) \| [A-Z]", PAGE, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} <= names()


@pytest.fixture
def logged(caplog):
    """The records of all levels."""
    caplog.set_level(logging.DEBUG, "pitstop")
    return caplog


def fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: getattr(record, name) for name in FIELDS}


class TestRecords:
    def test_of_a_dead_message(self, logged):
        with pitstop.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit, pit.listen() as listener:
            pit.store({"id": "a", "pin": "hunter2"}, kind="mail")
            listener.get().nack("boom")
        (record,) = [each for each in logged.records if each.event == "message_dead"]
        assert fields(record) == log_fields("message_dead", backend="memory", message_id="a", kind="mail")

    def test_of_a_handler_that_fails(self, logged):
        with pitstop.init("memory://") as pit:
            pit.store({"id": "a", "pin": "hunter2"}, kind="mail")
            pit.consume(lambda msg: {}[msg["pin"]], until_idle=True)
        (record,) = [each for each in logged.records if each.event == "handler_failed"]
        assert fields(record) == log_fields("handler_failed", backend="memory", message_id="a", kind="mail", attempt=1)
        assert "hunter2" not in logged.text

    def test_of_a_lease_that_ran_out(self, logged, clock):
        with pitstop.init({"type": "memory", "clock": clock}) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, kind="mail")
            delivery = listener.get()
            clock.advance(3600)
            with pytest.raises(pitstop.LeaseLost):
                delivery.ack()
        (record,) = [each for each in logged.records if each.event == "lease_lost"]
        assert fields(record) == log_fields("lease_lost", backend="memory", message_id="a", kind="mail", attempt=1)

    def test_of_a_store_that_is_away_and_back(self, logged):
        with testing.init() as pit:
            pit.store({})
            pit.faults.fail_next("lease")
            pit.run_until_idle(lambda msg: None)
        # A driven listener raises no outage. The lines of one are those of its Outages.
        outages = pit._session.log.outages
        assert outages.fields(away=True) == log_fields("store_away", backend="memory")
        assert outages.fields(away=False) == log_fields("store_back", backend="memory")

    def test_all_have_all_fields(self, logged, tmp_path):
        for url in ("memory://", f"sqlite:///{tmp_path}/a.db", f"filesystem:///{tmp_path}/b"):
            with pitstop.init({"url": url, "retry": {"max_attempts": 1}}, plugins=[MessageLog()]) as pit:
                pit.store({"id": "a", "pin": "hunter2"}, kind="mail")
                pit.store({"id": "s", "pin": "hunter2"}, None, None, timedelta(hours=1))
                pit.consume(lambda msg: {}[msg["pin"]], max_messages=2)
        assert {each.backend for each in logged.records} == {"memory", "sqlite", "filesystem"}
        for record in logged.records:
            assert vars(record).keys() >= FIELDS
            assert "hunter2" not in record.getMessage()


class TestMessageLog:
    def test_logs_each_event_with_the_lateness(self, logged, clock):
        config = {"type": "memory", "clock": clock, "retry": {"max_attempts": 2}}
        with pitstop.init(config, plugins=[MessageLog()]) as pit, pit.listen(prefetch=1) as listener:
            pit.store({"id": "a", "pin": "hunter2"}, timedelta(seconds=1), kind="mail")
            clock.advance(3.5)
            listener.get().nack("boom", delay=timedelta(0))
            listener.get().ack()
            pit.store({"id": "s"}, timedelta(0), None, timedelta(hours=1))
            listener.get().ack()
        told = [each for each in logged.records if each.name == "pitstop.messages"]
        mail = {"backend": "memory", "message_id": "a", "kind": "mail"}
        series = {"backend": "memory", "message_id": "s", "kind": ""}
        assert [fields(each) for each in told] == [
            log_fields("message_stored", **mail),
            log_fields("message_delivered", **mail, attempt=1, lateness_s=2.5),
            log_fields("message_nacked", **mail),
            log_fields("message_delivered", **mail, attempt=2),
            log_fields("message_acked", **mail),
            log_fields("message_stored", **series),
            log_fields("message_delivered", **series, attempt=1, lateness_s=0.0),
            log_fields("message_acked", **series),
            log_fields("series_advanced", **series),
        ]
        assert [each.getMessage() for each in told][1:5] == [
            "delivered 'a' (attempt 1), 2.500 s late",
            "nacked 'a'",
            "delivered 'a' (attempt 2)",
            "acked 'a'",
        ]
        assert {each.levelno for each in told} == {logging.INFO}

    def test_has_a_level(self, caplog):
        caplog.set_level(logging.INFO, "pitstop")
        with pitstop.init("memory://", plugins=[MessageLog(logging.DEBUG)]) as pit:
            pit.store({})
        assert caplog.records == []

    def test_refuses_a_level_that_is_no_number(self):
        with pytest.raises(ConfigError, match=r"^level='INFO' cannot be used\. Give a number such as logging\.INFO\.$"):
            MessageLog("INFO")


def test_the_formatter_of_the_page_writes_json_with_the_fields(capsys):
    (source,) = re.findall(r"```python\n(import json\n.*?)```", PAGE, re.DOTALL)
    scope: dict = {}
    exec(source, scope)
    try:
        with pitstop.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, kind="mail")
            listener.get().nack("boom")
    finally:
        logging.getLogger("pitstop").removeHandler(scope["handler"])
    line = json.loads(capsys.readouterr().err)
    del line["time"]
    assert line == {
        "level": "WARNING",
        "logger": "pitstop.delivery",
        "text": "message 'a' is dead; its last_error says why",
        "event": "message_dead",
        "backend": "memory",
        "message_id": "a",
        "kind": "mail",
    }


def test_the_configuration_of_structlog_on_the_page_writes_json_with_the_fields(capsys):
    pytest.importorskip("structlog", reason="NO STRUCTLOG, its how-to is not checked: pip install structlog")
    (source,) = re.findall(r"```\n(import logging\nimport structlog\n.*?)```", PAGE, re.DOTALL)
    scope: dict = {}
    exec(source, scope)
    try:
        with pitstop.init({"type": "memory", "retry": {"max_attempts": 1}}) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, kind="mail")
            listener.get().nack("boom")
    finally:
        logging.getLogger("pitstop").removeHandler(scope["handler"])
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["event_name"]) == ("message 'a' is dead; its last_error says why", "message_dead")
    assert (line["backend"], line["message_id"], line["kind"]) == ("memory", "a", "mail")
