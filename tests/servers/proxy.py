"""A TCP proxy in front of one mongod that loses requests and replies on demand.

It reads enough of the wire protocol to know the command of a request and its reply. So a test can make the server do an operation whose
reply the client never gets. No failpoint of the server can do this.

A client is pointed at :attr:`Proxy.uri`, which says ``directConnection=true``. Without that, the driver asks the member
of a replica set for the addresses of the set, and goes there, past the proxy. With it the driver still sees what kind of
server it is: behind a proxy a member of a set (that of :func:`servers.replica_set.single`) has retryable writes, which
the driver repeats by itself after a lost reply, on a new connection through the proxy; a standalone has none, so there
each lost reply is an error. Many-document writes are repeated on neither.
"""

from __future__ import annotations

import random
import socket
import struct
import threading

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
import bson

from pymongo.uri_parser import parse_uri


_HEADER = struct.Struct("<iiii")
_OP_MSG = 2013
#: Seconds that the end of the proxy waits for its threads.
_PATIENCE = 5.0

#: A command as it was sent, with the documents of its batch.
Command = dict[str, Any]


@attrs.define
class _Plan:
    """A loss: the reply to a command, or the command itself."""

    command: str
    what: str
    when: Callable[[Command], bool]


class _Closed(Exception):
    """Raised to end a connection."""


class Proxy:
    """Forward and lose messages. :attr:`did` counts losses, as ``"lost reply of update"``."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._plans: deque[_Plan] = deque()
        self._odds: tuple[float, frozenset[str], random.Random] | None = None
        self._connections: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        # Set while it forwards.
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = False
        #: The number of times of each loss.
        self.did: Counter[str] = Counter()
        self._run(self._accept)

    @property
    def uri(self) -> str:
        return f"mongodb://127.0.0.1:{self._listening.getsockname()[1]}/?directConnection=true"

    def lose_reply(self, command: str, when: Callable[[Command], bool] = lambda _: True) -> None:
        """Close the connection instead of sending the reply to the next such command. The server has done the command."""
        with self._lock:
            self._plans.append(_Plan(command, "reply", when))

    def lose_request(self, command: str, when: Callable[[Command], bool] = lambda _: True) -> None:
        """Close the connection instead of sending the next such command. The server does not do it."""
        with self._lock:
            self._plans.append(_Plan(command, "request", when))

    def lose_replies(self, odds: float, *commands: str, seed: int = 0) -> None:
        """From now on lose replies to these commands at random; 0: no more."""
        with self._lock:
            # The order of events differs between runs, so a seed does not make this repeatable.
            self._odds = (odds, frozenset(commands), random.Random(seed))

    @property
    def pending(self) -> int:
        """Return the ordered losses that have not happened yet."""
        with self._lock:
            return len(self._plans)

    def stall(self, seconds: float) -> None:
        """Forward nothing for this time, and keep all connections. Return at once."""
        self._count("stall")
        self._flowing.clear()
        timer = threading.Timer(seconds, self._flowing.set)
        timer.daemon = True
        timer.start()

    def reset(self) -> None:
        """End all connections at once, like a firewall or a crashed router: the peers get a reset."""
        self._count("reset")
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            each.reset()

    def close(self) -> None:
        """End everything."""
        self._closed = True
        self._flowing.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            each.reset()
        for thread in self._threads:
            thread.join(_PATIENCE)

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                # The server is away: the client sees almost the same as without a proxy.
                _reset(client)
                continue
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, server)
            with self._lock:
                self._connections.add(connection)
            self._run(self._forward, connection, client, server, self._request)
            self._run(self._forward, connection, server, client, self._reply)

    def _forward(
        self,
        connection: _Connection,
        source: socket.socket,
        target: socket.socket,
        judge: Callable[[_Connection, bytes], bytes],
    ) -> None:
        try:
            while message := _read_message(source):
                judged = judge(connection, message)
                self._flowing.wait()
                target.sendall(judged)
        except (OSError, _Closed):
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _request(self, connection: _Connection, message: bytes) -> bytes:
        """Return the message to send to the server in place of this one; empty if there is none."""
        _, request, _, code = _HEADER.unpack_from(message)
        if code != _OP_MSG:
            return message
        name = _name_of(message)
        with self._lock:
            plan = next((each for each in self._plans if each.command == name), None)
            if plan is not None and plan.when(_command(message)):
                self._plans.remove(plan)
                what = plan.what
            elif self._odds is not None and name in self._odds[1] and self._odds[2].random() < self._odds[0]:
                what = "reply"
            else:
                return message
            if what == "reply":
                connection.losing[request] = name
        if what == "request":
            self._count(f"lost request of {name}")
            raise _Closed
        return message

    def _reply(self, connection: _Connection, message: bytes) -> bytes:
        """Return the message to send to the client in place of this one."""
        _, _, request, _ = _HEADER.unpack_from(message)
        with self._lock:
            name = connection.losing.pop(request, None)
        if name is not None:
            self._count(f"lost reply of {name}")
            raise _Closed
        return message

    def _count(self, what: str) -> None:
        with self._lock:
            self.did[what] += 1


class _Connection:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._client, self._server = client, server
        #: The commands whose replies will be lost, by the ids of their requests.
        self.losing: dict[int, str] = {}

    def answer(self, request: bytes, reply: dict[str, Any]) -> None:
        """Send a reply to the client, for a request that the server does not get."""
        self._client.sendall(_message(reply, _HEADER.unpack_from(request)[1]))

    def close(self) -> None:
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def reset(self) -> None:
        _reset(self._client)
        self.close()


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        # Closed without lingering, a connection ends with a reset.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        one.shutdown(socket.SHUT_RD)
    one.close()


def _read_message(source: socket.socket) -> bytes:
    """Return one message of the wire protocol; empty at the end of the connection."""
    header = _read(source, _HEADER.size)
    if not header:
        return b""
    length = _HEADER.unpack(header)[0]
    return header + _read(source, length - _HEADER.size)


def _read(source: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def _message(document: dict[str, Any], reply_to: int) -> bytes:
    body = struct.pack("<i", 0) + b"\0" + bson.encode(document)
    return _HEADER.pack(_HEADER.size + len(body), 0, reply_to, _OP_MSG) + body


def _name_of(message: bytes) -> str:
    """Return the name of a command: the first key of its document, which the driver sends first."""
    first = _HEADER.size + 4  # after the flags
    assert message[first] == 0, "the command's document comes first"
    start = first + 1 + 4 + 1  # after the kind, the document's length, and the value's type
    return message[start : message.index(0, start)].decode()


def _command(message: bytes) -> Command:
    """Return the whole command, with the documents that are sent beside it: ``updates``, ``deletes``, ``documents``."""
    (flags,) = struct.unpack_from("<i", message, _HEADER.size)
    position, end = _HEADER.size + 4, len(message) - (4 if flags & 1 else 0)
    command: Command = {}
    while position < end:
        kind = message[position]
        (length,) = struct.unpack_from("<i", message, position + 1)
        section = message[position + 1 : position + 1 + length]
        if kind == 0:
            command |= bson.decode(section)
        else:
            name_end = section.index(0, 4)
            command[section[4:name_end].decode()] = bson.decode_all(section[name_end + 1 :])
        position += 1 + length
    return command


@contextmanager
def in_front_of(uri: str) -> Iterator[Proxy]:
    """Yield a proxy to the first server of a URI, without credentials."""
    proxy = Proxy(*parse_uri(uri)["nodelist"][0])
    try:
        yield proxy
    finally:
        proxy.close()
