"""The consumer that ``pitstop demo`` kills: it takes one message, prints that, and holds the message until it dies."""

from __future__ import annotations

import os
import sys

import pitstop

from pitstop.cli._messages import json_text
from pitstop.cli._settings import URL_VARIABLE
from pitstop.cli._times import iso


__all__: list[str] = []


def _hold(url: str, lock_time: str) -> None:
    with pitstop.init(url) as pit, pit.listen(lock_time=lock_time) as listener:
        delivery = listener.get(timeout=10)
        if delivery is None:
            return
        document = {"id": delivery.id, "attempt": delivery.attempt, "leased_until": iso(delivery.leased_until)}
        sys.stdout.write(json_text(document) + "\n")
        sys.stdout.flush()
        # The end of the parent process closes stdin, so that this process ends too.
        sys.stdin.read()


if __name__ == "__main__":
    _hold(os.environ[URL_VARIABLE], sys.argv[1])
