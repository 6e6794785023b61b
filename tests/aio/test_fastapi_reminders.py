"""The example of a web application, without a server: its lifespan, its requests, its reminders."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import textwrap

from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

import pitstop

from aio.kit import NOW, run, until


@pytest.fixture(scope="module")
def app_module():
    path = Path(__file__).parents[2] / "examples" / "fastapi-reminders" / "app.py"
    spec = importlib.util.spec_from_file_location("fastapi_reminders_app", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def serving(app):
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://app") as client,
    ):
        yield client


def test_a_reminder_that_comes_in_is_sent_when_it_is_time(app_module, config):
    sent = []

    async def send(reminder):
        sent.append((reminder["to"], reminder["text"]))

    async def main():
        async with serving(app_module.create_app(config, send)) as client:
            reply = await client.post("/reminders", json={"to": "ada", "text": "tea", "when": 0.05})
            assert reply.status_code == 201
            await until(lambda: sent)
            # Its ack is written: each later look at the store sees that.
            later = (
                await client.post("/reminders", json={"to": "bob", "text": "cake", "when": "2099-01-01T00:00Z"})
            ).json()
            assert later["due"] == "2099-01-01T00:00:00Z"
            assert (await client.get("/health")).json() == {"scheduled": 1, "due": 0, "dead": 0}
            assert (await client.get(f"/reminders/{later['id']}")).json() == later
            assert (await client.delete(f"/reminders/{later['id']}")).status_code == 204
            assert (await client.delete(f"/reminders/{later['id']}")).status_code == 404
            assert (await client.get(f"/reminders/{later['id']}")).status_code == 404
            assert (
                await client.post("/reminders", json={"to": "ada", "text": "tea", "when": "now"})
            ).status_code == 422
        assert sent == [("ada", "tea")]

    run(main())


def test_a_reminder_that_takes_too_long_to_send_when_the_server_ends_is_due_again(
    app_module, config, outside, monkeypatch
):
    monkeypatch.setattr(app_module, "DRAIN", 0.05)

    async def main():
        began = asyncio.Event()

        async def send(reminder):
            began.set()
            await asyncio.sleep(60)

        async with serving(app_module.create_app(config, send)) as client:
            await client.post("/reminders", json={"to": "ada", "text": "tea", "when": 0})
            await began.wait()
        assert outside.counts() == (1, 0, 0)

    run(main())


SERVED = """
    import asyncio, importlib.util, os, sys

    spec = importlib.util.spec_from_file_location("reminders", os.environ["APP"])
    module = sys.modules["reminders"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def send(reminder):
        print("sending", flush=True)
        while not os.path.exists(os.environ["MAY_GO"]):
            await asyncio.sleep(0.01)
        print("sent", flush=True)

    def served():
        return module.create_app(send=send)
"""


@pytest.mark.skipif(os.name != "posix", reason="the server listens on a socket in a folder")
def test_a_server_that_is_told_to_end_sends_the_reminder_that_it_is_sending_once(app_module, tmp_path):
    """A real server, and an ordinary SIGTERM in the middle of it."""
    url, may_go = f"sqlite:///{tmp_path / 'reminders.db'}", tmp_path / "may go"
    (tmp_path / "served.py").write_text(textwrap.dedent(SERVED))
    with pitstop.init(url) as pit:
        pit.store({"id": "tea", "to": "ada", "text": "tea"}, NOW)
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "served:served", "--uds", str(tmp_path / "socket")],
            cwd=tmp_path,
            env={**os.environ, "APP": app_module.__file__, "MAY_GO": str(may_go), "REMINDERS_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout.readline() == "sending\n"
            process.send_signal(signal.SIGTERM)
            log = iter(process.stderr.readline, "")
            assert any("Waiting for application shutdown" in line for line in log)
            may_go.touch()
            out, _ = process.communicate(timeout=100)
        finally:
            process.kill()
            process.communicate()
        assert out == "sent\n"
        assert pit.entries() == [], "another server would send it once more"
