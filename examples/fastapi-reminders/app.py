"""Reminders in a web application: they come in over HTTP, are kept by Pitstop, and go out when it is time for them.

One process does both here. To have more of them, start more: each message goes to one of them.
"""

from __future__ import annotations

import asyncio
import logging
import os

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import AwareDatetime, BaseModel

import pitstop


__all__ = ["create_app"]

_log = logging.getLogger("reminders")

#: Seconds that reminders which are being sent have to be sent when the server ends. Give less than the server's own limit,
#: such as 10 seconds in Docker and 30 in Kubernetes. After that they are due again at once.
DRAIN = 8

Send = Callable[[dict[str, Any]], Awaitable[object]]


class Reminder(BaseModel):
    """The request for a reminder."""

    to: str
    text: str
    #: A time with its zone, or a number of seconds from now.
    when: AwareDatetime | float


class Stored(BaseModel):
    """The stored reminder."""

    id: str
    #: When it is to be sent, or tried again. None: it was sent, or given up.
    due: datetime | None


async def log_only(reminder: dict[str, Any]) -> None:
    """Send a reminder: here, no more than a line in the log. Sending that fails is tried again, as ``retry`` says."""
    _log.info("reminding %s", reminder["to"])


def create_app(config: Mapping[str, Any] | str | None = None, send: Send = log_only) -> FastAPI:
    """The application.

    :param config: where the reminders are kept, as for ``pitstop.init_async``.
    :param send: sends one. It may be called twice for the same reminder: if the process is killed, or if ``send`` takes longer
        than ``DRAIN`` when the server ends.
    """
    if config is None:
        config = {
            "url": os.environ.get("REMINDERS_URL", "sqlite:///reminders.db"),
            "lock_time": "1m",
            "retry": {"delay": "5s", "factor": 2, "max_delay": "10m", "max_attempts": 20},
        }
    pit = pitstop.init_async(config)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with pit:
            consuming = asyncio.create_task(pit.consume(send, concurrency=50, drain=DRAIN))
            yield
        # To close the store has ended it: reminders that were being sent are sent. Raises its error, if there was one.
        await consuming

    app = FastAPI(lifespan=lifespan)
    app.state.pit = pit
    app.post("/reminders", status_code=201)(remind)
    app.get("/reminders/{id}")(look)
    app.delete("/reminders/{id}", status_code=204)(forget)
    app.get("/health")(health)
    return app


def the_pit(request: Request) -> pitstop.AsyncPitstop:
    """The store of the application that is asked."""
    pit: pitstop.AsyncPitstop = request.app.state.pit
    return pit


Pit = Annotated[pitstop.AsyncPitstop, Depends(the_pit)]


async def remind(reminder: Reminder, pit: Pit) -> Stored:
    """Keep a reminder until it is time."""
    when = reminder.when if isinstance(reminder.when, datetime) else timedelta(seconds=reminder.when)
    id = await pit.store({"to": reminder.to, "text": reminder.text}, when)
    entry = await pit.get(id)
    # It may have been sent already.
    return Stored(id=id, due=None if entry is None else entry.due)


async def look(id: str, pit: Pit) -> Stored:
    """Say when a reminder is due. Once it was sent there is none."""
    entry = await pit.get(id)
    if entry is None:
        raise HTTPException(404, "There is no such reminder. It may have been sent.")
    return Stored(id=entry.id, due=entry.due)


async def forget(id: str, pit: Pit) -> None:
    """Take a reminder back."""
    if not await pit.remove(id):
        raise HTTPException(404, "There is no such reminder. It may have been sent.")


async def health(pit: Pit) -> dict[str, int]:
    """Say how many reminders wait for their time, and how many should be out already; fails when the store is away."""
    stats = await pit.stats()
    return {"scheduled": stats.scheduled, "due": stats.due, "dead": stats.dead}
