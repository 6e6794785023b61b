"""A wire: a TCP proxy between a backend and its server, which loses requests and replies, cuts connections and stands still.

The wire knows no protocol. A *request* is a piece of data that comes from the client at once, and the *reply* is the data that
the server sends next on this connection. So the wire works for any server that a backend reaches by TCP, also with TLS in
between. A big request counts as several.

Threads: one accepts connections for each server, and two forward for each connection. All threads of a test may call the wire.
"""

from __future__ import annotations

import socket
import struct
import threading

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs


__all__ = ["Wire"]

#: Bytes that are forwarded at a time.
_CHUNK = 1 << 16
#: Seconds that the end of a wire waits for each of its threads, and a new connection for the server.
_PATIENCE = 5.0


@attrs.define
class _Loss:
    """A planned loss, of the request with this number or of its reply."""

    request: int
    #: Whether the request is forwarded, and the reply to it is lost.
    reply: bool
    #: Called in between: after the server has answered, and before the client notices the loss.
    then: Callable[[], object]


class Wire:
    """Forward connections to servers. A test closes the wire at its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # By host and port of the server. Under the lock, as all below.
        self._listening: dict[tuple[str, int], socket.socket] = {}
        self._connections: set[_Connection] = set()
        self._threads: list[threading.Thread] = []
        self._requests = 0
        self._loss: _Loss | None = None
        self._failures: list[BaseException] = []
        self._refusing = False
        self._closed = False
        # Set while it forwards.
        self._flowing = threading.Event()
        self._flowing.set()

    def to(self, host: str, port: int) -> tuple[str, int]:
        """Return the host and the port at which a client reaches this server through the wire."""
        with self._lock:
            listening = self._listening.get((host, port))
            if listening is None:
                listening = self._listening[host, port] = socket.create_server(("127.0.0.1", 0), backlog=128)
                self._run(self._accept, listening, (host, port))
            address = listening.getsockname()
        return str(address[0]), int(address[1])

    @property
    def requests(self) -> int:
        """The number of requests so far, over all connections."""
        with self._lock:
            return self._requests

    @property
    def connections(self) -> frozenset[object]:
        """A value for each connection that is open."""
        with self._lock:
            return frozenset(self._connections)

    def lose_request(self, number: int = 1, then: Callable[[], object] = lambda: None) -> None:
        """Cut the connection of the request with this number, counted from now on. The server does not get the request.

        :param then: called before the client can notice the loss.
        """
        self._plan(number, reply=False, then=then)

    def lose_reply(self, number: int = 1, then: Callable[[], object] = lambda: None) -> None:
        """Cut the connection when the server has answered the request with this number, counted from now on.

        :param then: called before the client can notice the loss.
        """
        self._plan(number, reply=True, then=then)

    def lose_nothing(self) -> bool:
        """Forget a planned loss. Return whether it has happened before.

        :raises BaseException: the error of the ``then`` of a loss.
        """
        with self._lock:
            planned = self._loss is not None
            self._loss = None
            for each in self._connections:
                # A request that the server does not answer, or has not answered so far.
                planned = planned or each.loss is not None
                each.loss = None
            failures, self._failures = self._failures, []
        if failures:
            raise failures[0]
        return not planned

    def cut(self) -> None:
        """End all connections at once, like a firewall or a server that was killed: both ends get a reset."""
        with self._lock:
            connections = list(self._connections)
        for each in connections:
            each.reset()

    def refuse(self, refusing: bool = True) -> None:
        """End all connections, and refuse new ones, like a server that is away; or forward again."""
        with self._lock:
            self._refusing = refusing
        if refusing:
            self.cut()

    def stall(self) -> None:
        """Forward nothing from now on, and keep all connections, like a server or a network that hangs."""
        self._flowing.clear()

    def flow(self) -> None:
        """Forward again, and drop the connections whose client has given up meanwhile."""
        self._flowing.set()

    def close(self) -> None:
        """End everything."""
        with self._lock:
            self._closed = True
            listening, self._listening = list(self._listening.values()), {}
        for each in listening:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._flowing.set()
        self.cut()
        for thread in self._threads:
            thread.join(_PATIENCE)

    def _plan(self, number: int, *, reply: bool, then: Callable[[], object]) -> None:
        with self._lock:
            self._loss = _Loss(self._requests + number, reply, then)

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="pitstop-wire", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket, server: tuple[str, int]) -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with self._lock:
                away = self._refusing or self._closed
            try:
                if away:
                    raise ConnectionRefusedError
                target = socket.create_connection(server, _PATIENCE)
            except OSError:
                # To the client this is almost the same as a port on which no program listens.
                _reset(client)
                continue
            target.settimeout(None)
            for each in (client, target):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = _Connection(client, target)
            with self._lock:
                # A cut that came in between did not see this connection.
                away = self._refusing or self._closed
                if not away:
                    self._connections.add(connection)
                    self._run(self._forward, connection, client, target, self._on_request)
                    self._run(self._forward, connection, target, client, self._on_reply)
            if away:
                connection.reset()

    def _forward(
        self,
        connection: _Connection,
        source: socket.socket,
        target: socket.socket,
        passes: Callable[[_Connection], bool],
    ) -> None:
        try:
            while chunk := source.recv(_CHUNK):
                self._flowing.wait()
                if not passes(connection):
                    connection.reset()
                    break
                target.sendall(chunk)
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()

    def _on_request(self, connection: _Connection) -> bool:
        """Count a request. Return whether to forward it."""
        with self._lock:
            self._requests += 1
            loss = self._loss
            if loss is None or loss.request != self._requests:
                return True
            self._loss = None
            if loss.reply:
                connection.loss = loss
                return True
        self._lost(loss)
        return False

    def _on_reply(self, connection: _Connection) -> bool:
        with self._lock:
            loss, connection.loss = connection.loss, None
        if loss is None:
            return True
        self._lost(loss)
        return False

    def _lost(self, loss: _Loss) -> None:
        try:
            loss.then()
        except BaseException as error:  # noqa: BLE001 - lose_nothing() raises it in the thread of the test
            with self._lock:
                self._failures.append(error)


@attrs.define(eq=False)
class _Connection:
    """A client's connection, and the one to the server that belongs to it."""

    _client: socket.socket
    _server: socket.socket
    #: The loss of the reply to the present request.
    loss: _Loss | None = None

    def close(self) -> None:
        for each in (self._client, self._server):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def reset(self) -> None:
        _reset(self._client)
        _reset(self._server)
        self.close()


def _reset(one: socket.socket) -> None:
    with suppress(OSError):
        # Closed without lingering, a connection ends with a reset.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        one.shutdown(socket.SHUT_RD)
    one.close()
