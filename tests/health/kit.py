"""Tools that these tests share: probes, and waits for what a probe sees."""

from __future__ import annotations

import socket
import threading
import time

from contextlib import contextmanager
from typing import NamedTuple


class Answer(NamedTuple):
    status: int
    head: str
    text: str


def connect(place: str, patience: float = 10.0) -> socket.socket:
    """Connect to a place, as ``Consumer.health`` shows it."""
    kind, _, path = place.partition(":")
    if kind == "unix":
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        stream.settimeout(patience)
        stream.connect(path)
        return stream
    host, _, port = place.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=patience)


def ask(place: str, request: bytes) -> Answer:
    """Send a request as it stands, and read the answer to its end."""
    with connect(place) as stream:
        stream.sendall(request)
        data = b""
        while part := stream.recv(65536):
            data += part
    head, _, text = data.decode().partition("\r\n\r\n")
    return Answer(int(head.split()[1]), head, text)


def probe(place: str, path: str = "/livez", method: str = "GET") -> Answer:
    return ask(place, f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode())


def until(condition, patience: float = 60.0):
    """Wait for what happens in another thread or process, and can only be looked for."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        threading.Event().wait(0.01)
    return found


def place_of(pit) -> str:
    """The place of the consumer that is about to begin."""
    return until(lambda: next((each.health for each in pit.consumers if each.health), None))


@contextmanager
def consuming(pit, handler=lambda message: None, **options):
    """A ``consume`` in a thread, until the end of the block; yields its place."""
    raised = []

    def run():
        try:
            pit.consume(handler, **options)
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)

    thread = threading.Thread(target=run)
    before = {each.since for each in pit.consumers}
    thread.start()
    try:
        yield until(
            lambda: raised or next((e.health for e in pit.consumers if e.health and e.since not in before), None)
        )
    finally:
        pit.close()
        thread.join(30)
    assert not thread.is_alive()
    for error in raised:
        raise error


__all__ = ["Answer", "ask", "connect", "consuming", "place_of", "probe", "until"]
