"""A backend with a server of its own, and mutants of it: their connections get lost, and the server has its own clock."""

from __future__ import annotations

import json
import os
import socket
import socketserver
import threading
import time
import uuid

from collections import defaultdict
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, ClassVar

import attrs

from conformance.mutants.registry import mutant, right
from pitstop import BackendUnavailable, ConfigError, OutcomeUnknown
from pitstop.abc import (
    Aside,
    Backend,
    BackendConfig,
    Calls,
    Capability,
    Outcome,
    Progress,
    Record,
    Settlement,
    SystemClock,
    Tally,
    dump_message,
    load_message,
    quoted,
)
from pitstop_conformance._shifting import real_time_us
from pitstop_memory import MemoryBackend


class _RequestsClock(SystemClock):
    """The server's own clock, unless the request brings a time along."""

    def __init__(self) -> None:
        self.given = threading.local()

    def time_us(self) -> int:
        given = getattr(self.given, "time_us", None)
        return real_time_us() if given is None else given


_clock = _RequestsClock()


class _Store:
    """A store of the server: its messages, and the replies to the last writes, by the numbers of their requests."""

    def __init__(self) -> None:
        self.messages = MemoryBackend.from_options({"clock": _clock})
        self.lock = threading.RLock()
        self.replies: dict[str, Any] = {}


_stores: dict[str, _Store] = defaultdict(_Store)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        with suppress(OSError):
            for line in self.rfile:
                self.wfile.write(json.dumps(_answer(json.loads(line))).encode() + b"\n")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that are reset."""


@cache
def address() -> tuple[str, int]:
    """Start the server of this process, and return its address."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address[:2]
    return str(host), int(port)


def _answer(request: dict[str, Any]) -> Any:
    store, number = _stores[request["store"]], request["number"]
    with store.lock:
        if request["op"] == "outcome":
            # A request that has not arrived so far is never carried out.
            return store.replies.setdefault(number, "cancelled")
        if number in store.replies:
            return "cancelled"
        _clock.given.time_us = request["now"]
        store.replies[number] = reply = {"value": _carry_out(store, request["op"], request["args"])}
        return reply


def _carry_out(store: _Store, op: str, args: list[Any]) -> Any:
    backend = store.messages
    if op == "put":
        return backend.put([_record(each) for each in args[0]])
    if op == "settle":
        return backend.settle([_settlement(each) for each in args[0]])
    if op == "scan":
        args[2] = None if args[2] is None else tuple(args[2])
    value = getattr(backend, op)(*args)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return _plain(value) if isinstance(value, Record) else attrs.asdict(value) if isinstance(value, Tally) else value


def _plain(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "message": dump_message(record.message),
        "series": record.series,
        "revision": record.revision,
        "progress": attrs.asdict(record.progress),
    }


def _record(row: dict[str, Any]) -> Record:
    return Record(**{**row, "message": load_message(row["message"]), "progress": Progress(**row["progress"])})


def _settlement(row: list[Any]) -> Settlement:
    id, token, outcome, progress = row
    kind = None if progress is None else (Aside if "due" not in progress else Progress)
    return Settlement(id, token, Outcome[outcome], None if kind is None else kind(**progress))


@attrs.frozen(kw_only=True)
class ServedConfig(BackendConfig):
    store: str = attrs.field(factory=lambda: uuid.uuid4().hex)
    host: str = attrs.field(factory=lambda: address()[0])
    port: int = attrs.field(factory=lambda: address()[1])
    password: str = attrs.field(default="", repr=False)

    @store.validator
    def _check_store(self, field: Any, value: object) -> None:
        if not isinstance(value, str):
            raise ConfigError(f"store={quoted(value)} cannot be used. Give a str.")


class _Lost(Exception):
    """A request was sent, and its reply did not come."""


@right
class ServedBackend(Backend):
    """Messages on a server. After a lost reply, the client asks the server whether it has carried the request out."""

    api_version = 1
    Config = ServedConfig
    timeout: ClassVar[float | None] = 5.0

    def __init__(self, config: ServedConfig) -> None:
        super().__init__(config)
        self._calls, self._budget = Calls(), threading.local()
        self._pid, self._idle = os.getpid(), list[socket.socket]()

    @property
    def location(self) -> str:
        return f"served://{self.config.host}:{self.config.port}/{self.config.store}"

    @contextmanager
    def bounded(self, seconds=None):
        before = getattr(self._budget, "end", None)
        self._budget.end = time.monotonic() + (5.0 if seconds is None else seconds)
        try:
            yield 5.0 if seconds is None else seconds
        finally:
            self._budget.end = before

    def ask(self, op: str, *args: Any, ids: tuple[str, ...] = ()) -> Any:
        with self._calls.enter():
            return self.call(op, args, ids)

    def call(self, op: str, args: tuple[Any, ...], ids: tuple[str, ...]) -> Any:
        for _ in range(3):
            number = os.urandom(8).hex()
            try:
                return self.send(op, args, number)["value"]
            except _Lost:
                try:
                    known = self.send("outcome", (), number)
                except (_Lost, BackendUnavailable):
                    raise OutcomeUnknown("The server lost the reply. Look at the store.", ids=ids) from None
                if known != "cancelled":
                    return known["value"]
        raise BackendUnavailable("The server loses each request. Try again.")

    def send(self, op: str, args: tuple[Any, ...], number: str) -> Any:
        line = json.dumps(
            {"store": self.config.store, "op": op, "args": args, "number": number, "now": self.time_of_request()}
        ).encode()
        connection = self.connected()
        try:
            connection.sendall(line + b"\n")
            reply = bytearray()
            while not reply.endswith(b"\n"):
                part = connection.recv(1 << 16)
                if not part:
                    connection.close()
                    raise _Lost  # noqa: TRY301 - the end of a connection is a loss as well
                reply += part
        except OSError as error:
            connection.close()
            raise _Lost from error
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return json.loads(reply)

    def connected(self) -> socket.socket:
        if self.is_childs():
            # Only forgotten in the child: closing a copy says no farewell here.
            self._pid, idle, self._idle = os.getpid(), self._idle, []
            for each in idle:
                each.close()
        end = getattr(self._budget, "end", None)
        seconds = self.timeout if end is None else max(end - time.monotonic(), 0.1)
        try:
            connection = self._idle.pop()
        except IndexError:
            try:
                connection = socket.create_connection((self.config.host, self.config.port), seconds)
            except OSError:
                raise BackendUnavailable(f"{self.location} does not answer. Try again.") from None
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(seconds)
        return connection

    def is_childs(self) -> bool:
        return os.getpid() != self._pid

    def time_of_request(self) -> int | None:
        return None if self.config.clock is None else self.clock.time_us()

    def now(self):
        return self.ask("now")

    def put(self, records):
        self.ask("put", [_plain(each) for each in records], ids=tuple(each.id for each in records))

    def delete(self, id):
        return self.ask("delete", id, ids=(id,))

    def get(self, id):
        row = self.ask("get", id)
        return None if row is None else _record(row)

    def scan(self, state, limit, after):
        return [_record(each) for each in self.ask("scan", state, limit, after)]

    def tally(self):
        return Tally(**self.ask("tally"))

    def lease(self, limit, duration):
        return [_record(each) for each in self.ask("lease", limit, duration)]

    def settle(self, settlements):
        rows = [
            (each.id, each.token, each.outcome.name, None if each.progress is None else attrs.asdict(each.progress))
            for each in settlements
        ]
        return self.ask("settle", rows, ids=tuple(each.id for each in settlements))

    def next_due(self):
        return self.ask("next_due")

    def close(self):
        idle, self._idle = self._idle, []
        for each in idle:
            each.close()


ServedBackend.capabilities = Capability.MULTI_PROCESS


_LOST = "test_a_write_whose_connection_is_lost_says_only_what_is_true"


@mutant(
    f"{_LOST}[put-request]", f"{_LOST}[put-reply]", "test_a_claim_whose_connection_is_lost_returns_leased_records_alone"
)
class DriversErrorsGetOut(ServedBackend):
    """Lets the errors of its driver out."""

    def call(self, op, args, ids):
        try:
            return self.send(op, args, os.urandom(8).hex())["value"]
        except _Lost as lost:
            raise lost.__cause__ or ConnectionResetError from None


@mutant(f"{_LOST}[put-reply]", f"{_LOST}[complete-reply]")
class NothingWasChanged(ServedBackend):
    """Says after each lost reply that nothing was changed."""

    def call(self, op, args, ids):
        try:
            return self.send(op, args, os.urandom(8).hex())["value"]
        except _Lost:
            raise BackendUnavailable("The server did not answer. Try again.") from None


@mutant(
    "test_a_store_whose_reply_is_lost_does_not_bring_back_what_was_acknowledged",
    "test_a_store_whose_reply_is_lost_is_not_repeated_over_a_newer_version",
    f"{_LOST}[complete-reply]",
)
class RepeatsBlindly(ServedBackend):
    """Sends each request again until a reply comes."""

    def call(self, op, args, ids):
        for _ in range(3):
            try:
                return self.send(op, args, os.urandom(8).hex())["value"]
            except _Lost:
                continue
        raise OutcomeUnknown("The server lost the reply. Look at the store.", ids=ids)


@mutant("test_a_server_that_hangs_is_given_up_within_the_budget[get]", slow=True)
class WaitsWithoutABound(ServedBackend):
    """Waits for its server without a bound in time."""

    timeout = None

    @contextmanager
    def bounded(self, seconds=None):
        yield 5.0 if seconds is None else seconds


@mutant(
    "test_now_is_the_time_of_the_server[ahead]",
    "test_a_message_is_due_by_the_clock_of_the_server[ahead]",
    "test_a_lease_lasts_as_long_as_it_should_by_the_clock_of_the_server[behind]",
)
class ClientsClock(ServedBackend):
    """Sends the time of its own clock along. On one machine, both clocks are the same."""

    def time_of_request(self):
        return self.clock.time_us()


@mutant("test_a_parent_and_its_child_use_a_handle_at_the_same_time")
class SharesItsSocketAfterAFork(ServedBackend):
    """Uses the parent's connection in the child, at the same time as the parent."""

    def is_childs(self):
        return False


@mutant("test_a_password_is_in_no_text")
class PasswordInItsLocation(ServedBackend):
    """Has the URL as it was given for its location, with the password."""

    @property
    def location(self):
        return f"served://ada:{self.config.password}@{self.config.host}:{self.config.port}/{self.config.store}"
