"""The example of a web application, without a server: its lifespan, its requests, its reminders."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from aio.kit import run, until


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
            # Its ack is written: what looks at the store sees that.
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


def test_what_is_being_sent_when_the_server_ends_is_due_again(app_module, config, outside):
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
