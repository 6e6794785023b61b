"""A short self-check of a live store: inspect it without a change, and try the promises of the contract in a scratch."""

from __future__ import annotations

import contextlib
import os

from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from traceback import extract_tb

import attrs

from pitstop._check._bench import Bench, Broken
from pitstop._check._finding import Finding, Status
from pitstop._check._promises import PROMISES
from pitstop._errors import BackendUnavailable, ConfigError, PitstopError
from pitstop._plugins._backends import suite_note
from pitstop._values._instant import from_instant
from pitstop.abc import Backend, Capability, Progress, SystemClock


__all__ = ["check"]

#: Milliseconds that count as long: this many answers of the store, with a lower and an upper bound.
_ANSWERS, _LEAST_TICK, _MOST_TICK = 5, 100, 5000
#: The most microseconds by which the clocks of store and machine may differ without a warning.
_MOST_OFFSET_US = 1_000_000


class _Odd(Exception):
    """Nothing is broken, but the user should know the finding."""


def check(backend: Backend) -> Generator[Finding, None, None]:
    """Inspect the store, then try the promises in a scratch of it. Yield one finding after the other, as they come.

    The check takes a second or two in real time. No message of the store is touched, leased, or seen by a listener. A backend
    without the capability SCRATCH is only inspected, and the last finding is a warning about that. If a scratch turns out to
    lease messages of the store, they are given back, and that is the last finding. Iterate to the end, or close the
    generator: that removes the scratch.

    :raises pitstop.BackendUnavailable: if the store cannot be used, or makes no scratch for this user.
    :raises pitstop.ConfigError: if the configuration gives the store a clock.
    """
    if backend.config.clock is not None:
        raise ConfigError(
            "The check waits in real time, and this store has a clock from its configuration. Leave out clock."
        )
    backend.ping()  # the first call connects
    answer = _found("it answers", "an answer to a small question", lambda: _answers(backend))
    yield answer
    yield _found("its clock", "within a second of this machine's", lambda: _clock(backend))
    yield _found("its messages", "their number by state", lambda: _messages(backend))
    yield _found("its next message", "when it is due", lambda: _next(backend))
    yield _found("its capabilities", "those that it declares", lambda: _capabilities(backend))
    yield _found("its suite", "passed by this release of the backend", lambda: _suite(backend))
    yield from _concerns(backend)
    if Capability.SCRATCH in backend.capabilities:
        tick = round(min(max(_ANSWERS * answer.milliseconds, _LEAST_TICK), _MOST_TICK))
        yield from _try_promises(backend, tick)
    else:
        seen = f"{type(backend).__name__} does not have the capability SCRATCH, so the store was only inspected"
        yield Finding("its promises", "warning", "tried in a scratch", seen, 0.0)


def _concerns(backend: Backend) -> Iterator[Finding]:
    """Yield one finding for each concern, or a single one if there is none."""
    concerns: list[str] = []

    def look() -> str:
        told: object = backend.concerns()
        if isinstance(told, str) or not isinstance(told, Sequence):
            raise Broken(f"concerns() returned a {type(told).__name__}, and not a list of texts")
        concerns.extend(map(str, told))
        return "none"

    found = _found("its concerns", "none, as its backend sees it", look)
    if not concerns:
        yield found
    for each in concerns:
        yield attrs.evolve(found, status="warning", seen=each)


def _try_promises(backend: Backend, tick: int) -> Iterator[Finding]:
    with contextlib.ExitStack() as stack:
        opened: list[Backend] = []
        prefix = f"check-{os.urandom(4).hex()}-"

        def open_() -> str:
            scratch = stack.enter_context(backend.scratch())
            _see_that_it_is_apart(scratch, Bench(scratch, tick, beside=backend, check=prefix), backend)
            opened.append(scratch)
            return scratch.location

        yield _found("a scratch to try the rest in", "an empty place apart from the store's messages", open_)
        for scratch in opened:
            for promise in PROMISES:
                bench = Bench(scratch, tick, beside=backend, check=prefix)
                yield _found(promise.name, promise.expected, partial(promise.keep, bench))
                # If the store no longer answers, the next promise reports that.
                with contextlib.suppress(Exception):
                    bench.clear()
                if bench.met_others:
                    return


def _found(name: str, expected: str, look: Callable[[], str]) -> Finding:
    clock = SystemClock()
    began = clock.monotonic()
    status: Status = "failed"
    try:
        status, seen = "ok", look()
    except BackendUnavailable:
        raise
    except _Odd as odd:
        status, seen = "warning", str(odd)
    except (Broken, PitstopError) as broken:
        status, seen = "failed", str(broken)
    except Exception as error:  # noqa: BLE001 - any exception of a backend is the finding
        # The text of the error is left out, because it may hold anything.
        where = extract_tb(error.__traceback__)[-1]
        status, seen = "failed", f"{type(error).__name__} was raised, at {Path(where.filename).name}:{where.lineno}"
    return Finding(name, status, expected, seen, round((clock.monotonic() - began) * 1000, 3))


def _see_that_it_is_apart(scratch: Backend, bench: Bench, backend: Backend) -> None:
    """Check that the scratch is not the store itself: the promises would then claim messages of others."""
    tally = scratch.tally()
    if any((tally.scheduled, tally.due, tally.leased, tally.dead)) or scratch.next_due() is not None:
        raise Broken("there are messages in it")
    # The mark is dead, so that it is never emitted, whatever store it lands in.
    mark = bench.record("mark")
    mark = attrs.evolve(mark, progress=Progress(None, mark.progress.scheduled_for, token=os.urandom(16).hex()))
    try:
        scratch.put([mark])
        seen = backend.get(mark.id)
        if seen is not None:
            backend.delete(mark.id)
            raise Broken("a message that is stored in it is visible in the store")
    finally:
        bench.clear()
    # The scratch is empty. A message that is leased here belongs to others, so the lease is short.
    bench.expect(not bench.claim(1, bench.tick), "a message was claimed where there is none")


def _answers(backend: Backend) -> str:
    backend.ping()
    return backend.location


def _clock(backend: Backend) -> str:
    clock = SystemClock()
    asked = clock.time_us()
    told = backend.now()
    answered = clock.time_us()
    offset = told - (asked + answered) // 2
    way = "ahead of" if offset > 0 else "behind"
    seen = f"{abs(offset) / 1000:,.1f} ms {way} this machine's; the store's counts"
    if abs(offset) > _MOST_OFFSET_US:
        raise _Odd(f"{seen}. Set both by NTP")
    return seen


def _messages(backend: Backend) -> str:
    tally = backend.tally()
    return f"{tally.scheduled:,} scheduled, {tally.due:,} due, {tally.leased:,} leased, {tally.dead:,} dead"


def _next(backend: Backend) -> str:
    due = backend.next_due()
    return (
        "there is none" if due is None else from_instant(due).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _capabilities(backend: Backend) -> str:
    by_declared: dict[bool, list[str]] = {True: [], False: []}
    for each in Capability:
        by_declared[each in backend.capabilities].append(str(each.name))
    return f"{', '.join(by_declared[True]) or 'none'} (not: {', '.join(by_declared[False]) or 'none'})"


def _suite(backend: Backend) -> str:
    note = suite_note(type(backend))
    if note is not None:
        raise _Odd(note)
    return f"version {backend.suite_version}, as it states"
