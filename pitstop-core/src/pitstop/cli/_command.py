"""A command per message: ``listen --exec``. POSIX only: it needs process groups and pipes that can be polled."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys

from datetime import timedelta
from typing import Self

from pitstop import BackendUnavailable, Delivery, LeaseLost, Listener, Pitstop
from pitstop.abc import SystemClock
from pitstop.cli._messages import json_text
from pitstop.cli._output import say, warn
from pitstop.cli._signals import Urgency
from pitstop.cli._times import iso


__all__ = ["CommandFailed", "run_command"]

#: Seconds between two looks at a command that is running.
_GLANCE = 0.05
#: Bytes of a command's stderr that are kept with the message when it fails.
_TAIL = 1000
#: Seconds between two tries to extend a lease while the store is away.
_PAUSE = 0.1


class CommandFailed(Exception):
    """The command did not exit with 0; the text says with what, and ends with the tail of its stderr."""


def run_command(
    command: str, delivery: Delivery, *, pit: Pitstop, listener: Listener, urgency: Urgency, stdout: int | None
) -> None:
    """Run ``command`` in a shell, with the message as JSON on its stdin, and hold the lease while it runs.

    :param stdout: the descriptor that becomes its stdout; None: ours.
    :raises CommandFailed: when it could not be started, or did not exit with 0.
    """
    payload = (json_text(delivery.msg) + "\n").encode("utf-8", "backslashreplace")
    try:
        # In a process group of its own, so that Ctrl-C in our terminal, which goes to the whole foreground group, does
        # not end it in the middle: it is we who are to end, after it.
        child = subprocess.Popen(  # noqa: S602 - the command is the operator's; the message reaches it as data only
            command,
            shell=True,
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
            bufsize=0,
            process_group=0,
            env={**os.environ, **_environment(delivery)},
        )
    except OSError as error:
        raise CommandFailed(f"the command could not be started: {error.strerror}") from error
    urgency.commanding.add(child.pid)
    try:
        with child, _Pipes(child, payload) as pipes:
            lease = _Lease(pit, delivery)
            patience = _Patience(child, listener, urgency)
            while child.poll() is None:
                pipes.pump(_GLANCE)
                lease.hold()
                patience.look()
            pipes.drain()
    finally:
        urgency.commanding.discard(child.pid)
    if child.returncode != 0:
        raise CommandFailed(_reason(child.returncode, pipes.tail))


def _environment(delivery: Delivery) -> dict[str, str]:
    return {
        "PITSTOP_ID": delivery.id,
        "PITSTOP_KEY": delivery.key,
        "PITSTOP_SCHEDULED_FOR": iso(delivery.scheduled_for) or "",
        "PITSTOP_ATTEMPT": str(delivery.attempt),
        "PITSTOP_MISSED": str(delivery.missed),
        "PITSTOP_LAST_ERROR": delivery.last_error or "",
    }


def _reason(code: int, tail: bytes) -> str:
    if code > 0:
        how = f"exit code {code}"
    else:
        with contextlib.suppress(ValueError):  # a signal without a name, such as a real-time one
            code = signal.Signals(-code)
        how = f"ended by {code.name if isinstance(code, signal.Signals) else f'signal {-code}'}"
    said = tail.decode(errors="replace").strip()
    return f"{how}: {said}" if said else how


class _Pipes:
    """A child's stdin and stderr, served in turns: neither side waits for the other for ever."""

    def __init__(self, child: subprocess.Popen[bytes], payload: bytes) -> None:
        assert child.stdin is not None
        assert child.stderr is not None
        self._child, self._stdin, self._stderr = child, child.stdin, child.stderr
        self._rest = memoryview(payload)
        self._selector = selectors.DefaultSelector()
        self._ours = sys.stderr.buffer
        self.tail = b""
        for pipe, event in ((self._stdin, selectors.EVENT_WRITE), (self._stderr, selectors.EVENT_READ)):
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, event)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()

    def pump(self, seconds: float) -> None:
        """Move what can be moved; return after ``seconds``, or when something happened."""
        if not self._selector.get_map():
            # Both are closed, as a rule because it is about to exit: wait for that.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._stdin:
                self._feed()
            else:
                self._listen()

    def drain(self) -> None:
        """Take what the child has left in its stderr. Not to the end: its own children may hold that open."""
        while self._stderr in {key.fileobj for key in self._selector.get_map().values()} and self._listen():
            pass

    def _feed(self) -> None:
        try:
            self._rest = self._rest[os.write(self._stdin.fileno(), self._rest) :]
        except BrokenPipeError:
            # It does not want to know the message. Its exit code says how it went.
            self._rest = self._rest[:0]
        if not self._rest:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def _listen(self) -> bool:
        try:
            said = os.read(self._stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return False
        if not said:
            self._selector.unregister(self._stderr)
            return False
        self.tail = (self.tail + said)[-_TAIL:]
        # When our own stderr is gone, there is nobody to show it to; the tail is kept all the same.
        with contextlib.suppress(BrokenPipeError):
            self._ours.write(said)
            self._ours.flush()
        return True


class _Lease:
    """Extends a delivery's lease whenever half of it has passed."""

    def __init__(self, pit: Pitstop, delivery: Delivery) -> None:
        self._pit, self._delivery = pit, delivery
        self._clock = SystemClock()
        self._warned = False
        self._next: float | None = self._clock.monotonic()
        # A store that is away just now: then the first look extends the lease, or tells why it cannot.
        with contextlib.suppress(BackendUnavailable):
            # A message that was claimed ahead has used up part of its lease before its turn came.
            self._next += self._half_of_what_is_left()

    def hold(self) -> None:
        now = self._clock.monotonic()
        if self._next is None or now < self._next:
            return
        delivery = self._delivery
        try:
            delivery.extend()
            self._next, self._warned = now + self._half_of_what_is_left(), False
        except LeaseLost:
            # Stored anew or removed, as a rule. What the command did is done; its result will count for nothing.
            warn(f"Warning: {delivery.id!r} was replaced, removed or taken over while its command runs.")
            self._next = None
        except BackendUnavailable as error:
            if not self._warned:
                warn(f"Warning: the lease of {delivery.id!r} could not be extended yet: {' '.join(str(error).split())}")
            self._next, self._warned = now + _PAUSE, True

    def _half_of_what_is_left(self) -> float:
        return (self._delivery.leased_until - self._pit.now()) / timedelta(seconds=2)


class _Patience:
    """What the user's wish to end means while a command runs."""

    def __init__(self, child: subprocess.Popen[bytes], listener: Listener, urgency: Urgency) -> None:
        self._child, self._listener, self._urgency = child, listener, urgency
        self._sent = 1

    def look(self) -> None:
        if self._listener.stopped and not self._urgency.told:
            self._urgency.told = True
            # A listener that was stopped hands nothing out; this gives back what it has claimed ahead.
            self._listener.get(timeout=0)
            which, them = (
                ("commands that are", "them") if len(self._urgency.commanding) > 1 else ("command that is", "it")
            )
            say(f"Ending after the {which} running. Once more to end {them}, too.")
        if self._urgency.asked > self._sent:
            self._sent = self._urgency.asked
            number = signal.SIGTERM if self._sent == 2 else signal.SIGKILL
            # It may have ended in this moment.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
