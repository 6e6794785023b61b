"""Poster: JSON documents that a thread of its own posts to a URL. The caller never waits.

Threads: any thread calls ``put``; the poster's thread sends; the main thread calls ``finish`` at the end of the program.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import threading
import time

from collections.abc import Mapping
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen


__all__ = ["Poster", "post"]

_log = logging.getLogger("pitstop_webhook")

#: Documents that wait. A webhook that is away must not fill the memory.
_MOST = 1000
#: Seconds for each step of a request, and between two tries.
_TIMEOUT, _PAUSE = 5.0, 1.0
_TRIES = 3
#: Seconds that the end of the program waits for the rest.
_LAST_PATIENCE = 5.0
#: Answers after which another try may succeed.
_TRY_AGAIN = frozenset({408, 425, 429})


def post(url: str, document: Mapping[str, Any], timeout: float = _TIMEOUT) -> None:
    """Post a document as JSON.

    :raises OSError: if the server was not reached, or did not answer with a status below 400.
    :raises ValueError: if the URL cannot be used.
    """
    if not url.startswith(("http://", "https://")):
        raise ValueError("The URL of the webhook does not begin with http:// or https://.")
    body = json.dumps(document).encode()
    request = Request(url, body, {"Content-Type": "application/json"}, method="POST")  # noqa: S310 - checked above
    try:
        with urlopen(request, timeout=timeout):  # noqa: S310 - checked above
            pass
    except HTTPError as error:
        # It holds the connection open.
        error.close()
        raise


class Poster:
    """Posts documents one after the other."""

    def __init__(self, timeout: float = _TIMEOUT, pause: float = _PAUSE) -> None:
        self._timeout, self._pause = timeout, pause
        self._begin()
        # Before any listener registers its own end: that one comes first then, and may bury messages.
        atexit.register(self.finish)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        """Begin with nothing. In the child of a fork the thread and the documents are the parent's."""
        self._lock = threading.Lock()
        self._queue: Queue[tuple[str, Mapping[str, Any]] | None] = Queue(_MOST)
        self._ending = threading.Event()
        # Written under the lock.
        self._thread: threading.Thread | None = None
        #: Documents that were not posted.
        self.lost = 0

    def put(self, url: str, document: Mapping[str, Any]) -> None:
        """Post a document soon. If too many wait already, it is counted as lost."""
        try:
            self._queue.put_nowait((url, document))
        except Full:
            self._lose("too many posts are waiting")
            return
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="pitstop-webhook", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    # The interpreter is ending: finish() posts it.
                    self._thread = None

    def finish(self, seconds: float = _LAST_PATIENCE) -> None:
        """Post what is left, for at most ``seconds`` and one more request. Called at the end of the program."""
        ends = time.monotonic() + seconds
        self._ending.set()
        if self._thread is not None:
            # A thread that waits for a document has room for this.
            with suppress(Full):
                self._queue.put_nowait(None)
            self._thread.join(seconds)
        with suppress(Empty):
            while time.monotonic() < ends:
                each = self._queue.get_nowait()
                if each is not None:
                    self._send(*each, timeout=max(0.1, min(self._timeout, ends - time.monotonic())))

    def _run(self) -> None:
        while not (self._ending.is_set() and self._queue.empty()):
            each = self._queue.get()
            if each is not None:
                self._send(*each, timeout=self._timeout)

    def _send(self, url: str, document: Mapping[str, Any], timeout: float) -> None:
        for left in reversed(range(_TRIES)):
            try:
                post(url, document, timeout)
            except HTTPError as error:
                hopeless = error.code < 500 and error.code not in _TRY_AGAIN
                reason = f"the webhook answered with status {error.code}"
            except (OSError, ValueError) as error:
                hopeless = isinstance(error, ValueError)
                reason = str(error) if hopeless else f"the webhook was not reached: {type(error).__name__}"
            except Exception as error:  # noqa: BLE001 - such as a malformed answer: the thread must go on
                hopeless, reason = True, f"the post failed: {type(error).__name__}"
            else:
                return
            if hopeless or not left or self._ending.wait(self._pause):
                break
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        self.lost += 1
        # 1, 2, 4, 8, ...: a webhook that is away must not fill the log. The URL is left out, because it may hold a secret.
        if self.lost & (self.lost - 1) == 0:
            _log.warning("%s; %s so far. 'pitstop webhook' posts all dead messages again.", reason, self._count())

    def _count(self) -> str:
        return "1 dead message was not posted" if self.lost == 1 else f"{self.lost} dead messages were not posted"
