"""The plugin posts dead messages without keeping the listener waiting, and the command posts them again."""

from __future__ import annotations

import json
import logging
import threading

from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from click.testing import CliRunner

import pitstop

from pitstop.cli._app import app
from pitstop_webhook import Webhook
from pitstop_webhook._poster import Poster
from pitstop_webhook.command import webhook


class Hook(ThreadingHTTPServer):
    """A webhook that notes what it gets."""

    def __init__(self) -> None:
        self.got: list[dict] = []
        #: The statuses of the next answers. 200 after those.
        self.answers: list[int] = []
        #: Set: requests are answered.
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Semaphore(0)
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.got.append(document)
                hook.arrived.release()
                hook.open.wait(30)
                self.send_response(hook.answers.pop(0) if hook.answers else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Leave out the plugin that is installed: the tests give their own."""
    monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", "webhook")


@pytest.fixture
def hook(monkeypatch):
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("PITSTOP_WEBHOOK_URL", server.url)
        yield server
        server.open.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def poster():
    return Poster(pause=0.01)


def bury(poster, *ids, error="boom"):
    """Let messages of the kind ``mail`` die."""
    config = {"type": "memory", "retry": {"max_attempts": 1}}
    with pitstop.init(config, plugins=[Webhook(poster)], strict_plugins=True) as pit, pit.listen() as listener:
        for id in ids:
            pit.store({"id": id, "pin": "hunter2"}, timedelta(0), kind="mail")
            listener.get().nack(error)
        assert {each.state for each in pit.entries()} == {"dead"}


def test_a_dead_message_is_posted_without_its_content(hook, poster):
    bury(poster, "a")
    poster.finish()
    assert hook.got == [{"event": "dead", "id": "a", "kind": "mail", "error": "boom"}]


def test_the_listener_does_not_wait_for_the_webhook(hook, poster):
    hook.open.clear()
    bury(poster, "a", "b")
    # All is done, although the webhook has answered nothing so far.
    assert hook.arrived.acquire(timeout=30)
    assert [each["id"] for each in hook.got] == ["a"]
    hook.open.set()
    poster.finish(30)
    assert [each["id"] for each in hook.got] == ["a", "b"]


def test_without_a_url_nothing_is_posted(hook, poster, monkeypatch):
    monkeypatch.delenv("PITSTOP_WEBHOOK_URL")
    bury(poster, "a")
    poster.finish()
    assert hook.got == []


def test_a_post_is_tried_again(hook, poster):
    hook.answers = [503, 429]
    bury(poster, "a")
    for _ in range(3):
        assert hook.arrived.acquire(timeout=30)
    poster.finish()
    assert ([each["id"] for each in hook.got], poster.lost) == (["a"] * 3, 0)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/", "the webhook was not reached: URLError"),
        ("ftp://secret@x/", "The URL of the webhook does not begin with http:// or https://."),
    ],
)
def test_a_post_that_is_given_up_is_counted_and_logged_without_the_url(poster, monkeypatch, caplog, url, reason):
    monkeypatch.setenv("PITSTOP_WEBHOOK_URL", url)
    with caplog.at_level(logging.WARNING, "pitstop_webhook"):
        bury(poster, "a")
        poster.finish()
    assert poster.lost == 1
    assert f"{reason}; 1 dead message was not posted so far." in caplog.text
    assert url not in caplog.text


def test_a_refusal_is_not_tried_again(hook, poster):
    hook.answers = [404]
    bury(poster, "a")
    poster.finish()
    assert (len(hook.got), poster.lost) == (1, 1)


def test_too_many_posts_are_counted(hook, poster, monkeypatch):
    monkeypatch.setattr("pitstop_webhook._poster._MOST", 1)
    poster._begin()
    hook.open.clear()
    for n in range(4):
        poster.put(hook.url, {"n": n})
        if not n:
            assert hook.arrived.acquire(timeout=30)
    hook.open.set()
    poster.finish(30)
    assert ([each["n"] for each in hook.got], poster.lost) == ([0, 1], 2)


def test_the_command_posts_the_dead_messages_of_the_store(hook, tmp_path):
    url = f"sqlite:///{tmp_path}/test.db"
    with pitstop.init({"url": url, "retry": {"max_attempts": 1}}) as pit, pit.listen() as listener:
        for n in range(120):
            pit.store({"id": f"{n:03}"}, timedelta(0))
            listener.get().nack("boom")
    # The command as its distribution installs it, in the real group.
    app.add_command(webhook, "webhook")
    try:
        dry = CliRunner().invoke(app, ["--url", url, "webhook", "--dry-run"])
        done = CliRunner().invoke(app, ["--url", url, "webhook"])
        hook.answers = [200, 500]
        failed = CliRunner().invoke(app, ["--url", url, "webhook"])
        unset = CliRunner().invoke(app, ["--url", url, "webhook"], env={"PITSTOP_WEBHOOK_URL": None})
    finally:
        del app.commands["webhook"]
    assert (dry.exit_code, len(dry.stdout.splitlines())) == (0, 120)
    assert (done.exit_code, done.stdout) == (0, '{"posted":120}\n')
    assert sorted(each["id"] for each in hook.got[:120]) == [f"{n:03}" for n in range(120)]
    assert failed.exit_code == 1
    assert "after 1 others: HTTP Error 500" in failed.stderr
    assert (unset.exit_code, "Give --to URL" in unset.stderr) == (2, True)
