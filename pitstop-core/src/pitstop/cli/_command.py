"""A command per message: ``listen --exec``. POSIX only: it needs process groups and pipes that can be polled."""

from __future__ import annotations

import contextlib
import errno
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

#: Seconds between two polls of a running command.
_GLANCE = 0.05
#: The last bytes of a command's stderr that are kept with the message when the command fails.
_TAIL = 1000
#: Seconds between two tries to extend a lease while the store is away.
_PAUSE = 0.1
#: The most bytes of PITSTOP_LAST_ERROR. The kernel takes at most 128 KiB per variable, and all variables share its limit.
_LONGEST_ERROR = 16_384
#: The most bytes of a command's stderr that are read after its end: more than a pipe holds. A process that the command left
#: behind may write for ever.
_LEFT_IN_PIPE = 1 << 21


class CommandFailed(Exception):
    """The command did not exit with 0, or was not started.

    The text gives the exit code and the tail of the command's stderr, or the reason why the command was not started.
    """


def run_command(
    command: str, delivery: Delivery, *, pit: Pitstop, listener: Listener, urgency: Urgency, stdout: int | None
) -> None:
    """Run ``command`` in a shell, with the message as JSON on its stdin, and hold the lease while it runs.

    :param stdout: the descriptor that becomes the command's stdout; None: the same as ours.
    :raises CommandFailed: if the command could not be started, or did not exit with 0.
    """
    payload = (json_text(delivery.msg) + "\n").encode("utf-8", "backslashreplace")
    environment = {**os.environb, **_environment(delivery)}
    # Counted before it begins: a signal that comes while it begins must not take it for ended.
    running = object()
    urgency.commanding.add(running)
    try:
        try:
            # The command has its own process group. Ctrl-C in the terminal goes to the whole foreground group, and must not end
            # the command half-way: this program ends, after the command.
            child = subprocess.Popen(  # noqa: S602 - the command is the operator's; the message reaches it as data only
                command,
                shell=True,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.PIPE,
                bufsize=0,
                process_group=0,
                env=environment,
            )
        except OSError as error:
            raise CommandFailed(_not_started(error)) from error
        with child, _Pipes(child, payload) as pipes:
            lease = _Lease(pit, delivery)
            patience = _Patience(child, listener, urgency)
            while child.poll() is None:
                pipes.pump(_GLANCE)
                lease.hold()
                patience.look()
            pipes.drain()
    finally:
        urgency.commanding.discard(running)
    if child.returncode != 0:
        raise CommandFailed(_reason(child.returncode, pipes.tail))


def _environment(delivery: Delivery) -> dict[bytes, bytes]:
    """Return the variables that describe the delivery, in UTF-8 whatever the locale.

    :raises CommandFailed: if no variable can hold the id. Pitstop refuses such ids, so another program stored this one.
    """
    if "\0" in delivery.id:
        raise CommandFailed(_NO_PLACE.format("a NUL character"))
    try:
        # Python reads bytes that are not UTF-8 as surrogates. The command gets the original bytes.
        id, key = (text.encode("utf-8", "surrogateescape") for text in (delivery.id, delivery.key))
    except UnicodeEncodeError:
        raise CommandFailed(_NO_PLACE.format("a lone surrogate")) from None
    return {
        b"PITSTOP_ID": id,
        b"PITSTOP_KIND": _short(delivery.kind),
        b"PITSTOP_KEY": key,
        b"PITSTOP_SCHEDULED_FOR": (iso(delivery.scheduled_for) or "").encode(),
        b"PITSTOP_ATTEMPT": str(delivery.attempt).encode(),
        b"PITSTOP_MISSED": str(delivery.missed).encode(),
        b"PITSTOP_LAST_ERROR": _short(delivery.last_error or ""),
    }


_NO_PLACE = (
    "the command was not started: the id holds {}, which no environment variable can hold. "
    "Handle the message in Python, or store it under another id."
)


def _short(error: str) -> bytes:
    """Return a last error as the value of a variable. It is only information, so it is cut rather than refused."""
    # Each character becomes at least one byte.
    found = error[: _LONGEST_ERROR + 1].replace("\0", "\\x00").encode("utf-8", "backslashreplace")
    if len(found) <= _LONGEST_ERROR and len(error) <= _LONGEST_ERROR:
        return found
    ellipsis = "…".encode()
    return found[: _LONGEST_ERROR - len(ellipsis)].decode(errors="ignore").encode() + ellipsis


def _not_started(error: OSError) -> str:
    reason = f"the command could not be started: {error.strerror or type(error).__name__}"
    if error.errno == errno.E2BIG:
        return f"{reason}. Make the environment of 'pitstop listen', the command or the id shorter."
    return reason


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
    """A child's stdin and stderr, served in turns, so that neither side waits for the other for ever."""

    def __init__(self, child: subprocess.Popen[bytes], payload: bytes) -> None:
        assert child.stdin is not None
        assert child.stderr is not None
        self._child, self._stdin, self._stderr = child, child.stdin, child.stderr
        self._rest = memoryview(payload)
        # Unlike epoll, it needs no descriptor. So it does not fail if the command was started with the last descriptors.
        self._selector = selectors.PollSelector()
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
        """Move the data that can be moved. Return after ``seconds``, or when data was moved."""
        if not self._selector.get_map():
            # Both pipes are closed, usually because the child is about to exit. Wait for that.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)
            return
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._stdin:
                self._feed()
            else:
                self._listen()

    def drain(self) -> None:
        """Read the rest of the child's stderr, up to a limit: processes that the child left behind may hold it open."""
        taken = 0
        while taken < _LEFT_IN_PIPE and self._stderr in {key.fileobj for key in self._selector.get_map().values()}:
            said = self._listen()
            if not said:
                return
            taken += said

    def _feed(self) -> None:
        try:
            self._rest = self._rest[os.write(self._stdin.fileno(), self._rest) :]
        except BrokenPipeError:
            # The child does not read the message. Its exit code tells the outcome.
            self._rest = self._rest[:0]
        if not self._rest:
            self._selector.unregister(self._stdin)
            self._stdin.close()

    def _listen(self) -> int:
        """Copy some of the child's stderr to our own. Return the number of bytes: 0 if there are none now, or no more at all."""
        try:
            said = os.read(self._stderr.fileno(), 1 << 16)
        except BlockingIOError:
            return 0
        if not said:
            self._selector.unregister(self._stderr)
            return 0
        self.tail = (self.tail + said)[-_TAIL:]
        # If our own stderr fails, nothing is raised (see pitstop.cli._streams). The tail is kept with the message.
        self._ours.write(said)
        self._ours.flush()
        return len(said)


class _Lease:
    """Extends a delivery's lease whenever half of it has passed."""

    def __init__(self, pit: Pitstop, delivery: Delivery) -> None:
        self._pit, self._delivery = pit, delivery
        self._clock = SystemClock()
        self._warned = False
        self._next: float | None = self._clock.monotonic()
        # If the store is away now, the first hold() extends the lease, or prints why it cannot.
        with contextlib.suppress(BackendUnavailable):
            # A message that was claimed ahead has used up part of its lease while it waited for its turn.
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
            # Usually the message was stored anew or removed. The command has had its effect; its result has none.
            warn(f"Warning: {delivery.id!r} was replaced, removed or taken over while its command runs.")
            self._next = None
        except BackendUnavailable as error:
            if not self._warned:
                warn(f"Warning: the lease of {delivery.id!r} could not be extended yet: {' '.join(str(error).split())}")
            self._next, self._warned = now + _PAUSE, True

    def _half_of_what_is_left(self) -> float:
        return (self._delivery.leased_until - self._pit.now()) / timedelta(seconds=2)


class _Patience:
    """Passes the user's requests to end on to a running command."""

    def __init__(self, child: subprocess.Popen[bytes], listener: Listener, urgency: Urgency) -> None:
        self._child, self._listener, self._urgency = child, listener, urgency
        self._sent = 1

    def look(self) -> None:
        if self._listener.stopped and not self._urgency.told:
            self._urgency.told = True
            # A stopped listener hands nothing out. This call gives back the messages that it claimed ahead.
            self._listener.get(timeout=0)
            which, them = (
                ("commands that are", "them") if len(self._urgency.commanding) > 1 else ("command that is", "it")
            )
            say(f"Ending after the {which} running. Repeat to end {them}, too.")
        if self._urgency.asked > self._sent:
            self._sent = self._urgency.asked
            number = signal.SIGTERM if self._sent == 2 else signal.SIGKILL
            # The command may have ended at this moment.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, number)
