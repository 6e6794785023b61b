"""The HTTP of a probe: one request, one short answer of plain text, and the end of the connection.

Threads: the attendant's thread.
"""

from __future__ import annotations

from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO


__all__ = ["LONGEST_HEAD", "Request", "answer", "is_whole"]

#: The most bytes of a request that are read. Probes send about a hundred.
LONGEST_HEAD = 8192


def is_whole(head: bytes) -> bool:
    """Whether all headers of a request have come."""
    return b"\r\n\r\n" in head or b"\n\n" in head


class Request(BaseHTTPRequestHandler):
    """The head of a request, read by the standard library from bytes that have come."""

    def __init__(self, head: bytes) -> None:
        # Without the constructor of the base class, which reads from a connection and may wait for it.
        self.rfile = BytesIO(head)
        self.raw_requestline = self.rfile.readline(LONGEST_HEAD)
        #: The status of a request that cannot be read. None: it can.
        self.refused: int | None = None
        if not self.parse_request() and self.refused is None:
            self.refused = HTTPStatus.BAD_REQUEST

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Keep the status."""
        self.refused = code

    def handle_expect_100(self) -> bool:
        """Do nothing: the content of a request is not read."""
        return True

    @property
    def target(self) -> str | None:
        """The path that is asked for, without its query. None: it is no request that is answered."""
        if self.refused is not None or self.command not in {"GET", "HEAD"}:
            return None
        return self.path.partition("?")[0]

    @property
    def wants_content(self) -> bool:
        """Whether the answer has content."""
        return self.refused is not None or self.command != "HEAD"


def answer(status: int, text: str, *, content: bool) -> bytes:
    """Return the bytes of an answer.

    :param content: whether the text is sent, and not its length alone.
    """
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"Cache-Control: no-store\r\n"
        f"Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if content else b"")
