"""Attendant: the one thread that answers the probes of a place, and samples the loops of the consumers that share it.

It waits for nothing but its sockets: a client that is slow or silent is one more connection, and a store that does not answer is
asked by another thread.

Threads: its own thread runs ``_run``; any thread calls ``join``, ``leave`` and ``close``; the thread that asked a store calls
``_wake``.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket

from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus
from threading import Thread
from typing import Any

import attrs

from pitstop._decisions._logs import Throttle
from pitstop._engine._bugs import traceback_of
from pitstop._errors import PitstopError
from pitstop._health._connection import Connection, Phase
from pitstop._health._door import Door, cannot
from pitstop._health._http import Request, answer
from pitstop._health._place import Place
from pitstop._health._pulse import Pulse
from pitstop._health._ready import PATIENCE, Readiness
from pitstop.abc import Clock, SystemClock, log_fields


__all__ = ["Attendant", "Member"]

_log = logging.getLogger("pitstop.consumer")

#: Seconds between two samples, at most, and at least.
_LONGEST_BEAT, _SHORTEST_BEAT = 1.0, 0.02
#: The most connections at a time. The oldest one gives way.
_MOST_CONNECTIONS = 64
#: Seconds for which :meth:`Attendant.close` waits for the thread.
_CLOSE_PATIENCE = 2.0


# Compared by identity.
@attrs.frozen(eq=False)
class Member:
    """A consumer that shows its health."""

    pulses: Sequence[Pulse]
    ping: Callable[[], object]
    #: Seconds in which its loops have to turn.
    within: float


class Attendant:
    """Attends to one place for the consumers of this process that share it."""

    def __init__(self, place: Place, clock: Clock | None = None) -> None:
        """Open the place. The thread begins with :meth:`start`.

        :raises ConfigError: if the place is taken, or cannot be used.
        """
        self._place = place
        self._clock = clock or SystemClock()
        self._door: Door | None = None
        # Whether the file was made here, so that it is removed at the end.
        self._made = False
        if place.kind == "file":
            self._touch()
        else:
            self._door = Door(place)
        #: The place, with the port that was chosen.
        self.text = place.text(0) if self._door is None else self._door.text
        try:
            self._selector = selectors.DefaultSelector()
            self._bell, self._rope = socket.socketpair()
        except OSError as error:
            if self._door is not None:
                self._door.close()
            raise cannot(place, f"{error.strerror or error}. Raise the limit of open files.") from None
        # The consumers with their stores. Replaced, never changed: the attendant's thread may be reading it.
        self.members: tuple[tuple[Member, Readiness], ...] = ()
        self._pid = os.getpid()
        # Written once, by the thread that closes.
        self._ended = False
        # Of the attendant's thread.
        self._connections: dict[Connection, None] = {}
        self._last_sample = self._clock.monotonic()
        self._next_sample = self._last_sample
        self._accepts = False
        self._faults = Throttle()
        for each in (self._bell, self._rope):
            each.setblocking(False)
        self._thread = Thread(target=self._run, name="pitstop-health", daemon=True)

    def start(self) -> None:
        """Begin to answer.

        :raises PitstopError: if the system gives no thread. All is closed then.
        """
        try:
            self._thread.start()
        except RuntimeError as error:
            self._close_all()
            raise PitstopError(
                f"No thread could be started for health='{self.text}': {error}. Raise the limit."
            ) from None

    # Any thread.

    def join(self, member: Member) -> None:
        """Show the health of one more consumer."""
        self.members = (*self.members, (member, Readiness(member.ping, self._wake)))
        self._wake()

    def leave(self, member: Member) -> bool:
        """Show the health of a consumer no more. Return whether there are others."""
        self.members = tuple(each for each in self.members if each[0] is not member)
        return bool(self.members)

    def close(self) -> None:
        """Close the place. The next program can use it when this returns."""
        if os.getpid() != self._pid:
            # The child of a fork: the place is the parent's.
            return
        self._ended = True
        self._wake()
        self._thread.join(_CLOSE_PATIENCE)

    def after_fork(self) -> None:
        """Close the copies of the sockets, which are the parent's. The selector of the parent is not touched."""
        self._ended, self.members = True, ()
        streams: list[Any] = [self._bell, self._rope, *[each.socket for each in self._connections]]
        if self._door is not None:
            streams.append(self._door.socket)
        for each in streams:
            each.close()
        self._selector.close()

    def _wake(self) -> None:
        # A full buffer rings as well, and a closed one means the end.
        with suppress(OSError):
            self._rope.send(b".")

    # The attendant's thread.

    def _run(self) -> None:
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear)
        self._accept_again()
        try:
            while not self._ended:
                try:
                    self._turn()
                except Exception as bug:  # noqa: BLE001 - a thread that died of it would have the program restarted
                    self._report(f"a probe was not answered: {type(bug).__name__}", traceback_of(bug))
        finally:
            self._close_all()

    def _turn(self) -> None:
        for key, events in self._selector.select(self._pause(self._clock.monotonic())):
            key.data(events)
        now = self._clock.monotonic()
        if now >= self._next_sample:
            # At most two beats: while the whole process was stopped, no loop could turn.
            beat = self._beat()
            seconds, self._last_sample = min(now - self._last_sample, 2 * beat), now
            self._next_sample = now + beat
            self._accept_again()
            self._sample(seconds)
        for each in list(self._connections):
            if each.phase is Phase.WAITS:
                self._answer_ready(each, now)
            if each.phase is Phase.OVER or now >= each.ends:
                self._drop(each)

    def _pause(self, now: float) -> float:
        """Return the seconds until there is something to do by the clock."""
        at = [self._next_sample, *[each.acts_at for each in self._connections]]
        return max(min(at) - now, 0.0)

    def _beat(self) -> float:
        shortest = min((each.within for each, _ in self.members), default=_LONGEST_BEAT)
        return max(min(shortest / 5, _LONGEST_BEAT), _SHORTEST_BEAT)

    def _sample(self, seconds: float) -> None:
        for member, _ in self.members:
            for pulse in member.pulses:
                pulse.sample(seconds)
        if self._door is None and self.members and not self._fault():
            try:
                self._touch()
            except PitstopError as error:
                self._report(f"{error} The time of the file stays as it is.")

    def _fault(self) -> str | None:
        """Return a line about a loop that does not turn; None if all turn."""
        found = (pulse.fault() for member, _ in self.members for pulse in member.pulses)
        return next((each for each in found if each is not None), None)

    def _touch(self) -> None:
        """Set the time of the file to now. A file that is missing is made.

        :raises ConfigError: if that is not possible.
        """
        flags = os.O_WRONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            try:
                file = os.open(self._place.path, flags)
            except FileNotFoundError:
                file = os.open(self._place.path, flags | os.O_CREAT | os.O_EXCL, 0o644)
                self._made = True
            try:
                os.utime(file if os.utime in os.supports_fd else self._place.path)
            finally:
                os.close(file)
        except OSError as error:
            raise cannot(
                self._place, f"{error.strerror or error}. Give a file, in a folder that this user may write to."
            ) from None

    def _report(self, text: str, trace: str = "") -> None:
        note = self._faults.passes(self._clock.monotonic())
        if note is not None:
            _log.error("%s%s%s", text, trace, note, extra=log_fields("health_failed"))

    # Connections.

    def _hear(self, _: int) -> None:
        with suppress(BlockingIOError):
            self._bell.recv(4096)

    def _accept_again(self) -> None:
        if self._door is not None and not self._accepts:
            self._selector.register(self._door.socket, selectors.EVENT_READ, self._accept)
            self._accepts = True

    def _accept(self, _: int) -> None:
        assert self._door is not None, "a client has come"
        try:
            stream, _address = self._door.socket.accept()
        except (BlockingIOError, ConnectionError):
            # It has gone.
            return
        except OSError as error:
            # No descriptor is left, perhaps. The next sample tries again.
            self._report(f"a probe was not accepted: {error.strerror or error}")
            self._selector.unregister(self._door.socket)
            self._accepts = False
            return
        stream.setblocking(False)
        connection = Connection(stream, self._clock.monotonic())
        if len(self._connections) >= _MOST_CONNECTIONS:
            self._drop(next(iter(self._connections)))
        self._connections[connection] = None
        self._selector.register(stream, selectors.EVENT_READ, lambda events: self._serve(connection, events))

    def _serve(self, connection: Connection, events: int) -> None:
        now = self._clock.monotonic()
        try:
            if events & selectors.EVENT_WRITE:
                connection.write(now)
            elif (request := connection.read()) is not None:
                self._answer(connection, request, now)
        except BaseException:
            connection.close()
            raise
        finally:
            self._follow(connection)

    def _follow(self, connection: Connection) -> None:
        """Wait for what the connection needs next."""
        if connection.phase is Phase.OVER:
            self._drop(connection)
            return
        events = selectors.EVENT_WRITE if connection.phase is Phase.WRITES else selectors.EVENT_READ
        key = self._selector.get_key(connection.socket)
        if key.events != events:
            self._selector.modify(connection.socket, events, key.data)

    def _answer(self, connection: Connection, request: Request, now: float) -> None:
        connection.content = request.wants_content
        if request.refused is not None:
            self._send(connection, request.refused, "this is no request that a probe sends", now)
        elif request.target == "/livez":
            fault = self._fault()
            self._send(
                connection, HTTPStatus.OK if fault is None else HTTPStatus.SERVICE_UNAVAILABLE, fault or "ok", now
            )
        elif request.target == "/readyz":
            connection.phase, connection.asked = Phase.WAITS, [each for _, each in self.members]
            connection.waits_until = now + PATIENCE
            self._answer_ready(connection, now)
        else:
            self._send(connection, HTTPStatus.NOT_FOUND, "there is GET and HEAD of /livez and /readyz", now)

    def _answer_ready(self, connection: Connection, now: float) -> None:
        """Answer a probe that asks for the store, if the answer is known, or if it has waited for long enough."""
        known = [each.look(now) for each in connection.asked]
        if None in known and False not in known and now < connection.waits_until:
            return
        if all(known):
            self._send(connection, HTTPStatus.OK, "ok", now)
        else:
            self._send(connection, HTTPStatus.SERVICE_UNAVAILABLE, "the store does not answer", now)

    def _send(self, connection: Connection, status: int, text: str, now: float) -> None:
        connection.answer(answer(status, text, content=connection.content), now)
        self._follow(connection)

    def _drop(self, connection: Connection) -> None:
        if self._connections.pop(connection, connection) is None:
            stream = connection.socket
            # A socket that is closed has no number any more, so that only its object finds it.
            with suppress(KeyError, ValueError):
                self._selector.unregister(stream)
            connection.close()

    def _close_all(self) -> None:
        for each in list(self._connections):
            self._drop(each)
        if self._door is not None:
            self._door.close()
        elif self._made:
            with suppress(OSError):
                os.unlink(self._place.path)  # noqa: PTH108 - the path as given
        self._selector.close()
        self._bell.close()
        self._rope.close()
