"""The contract of a backend with a server: connections get lost, servers go away, and no answer of a backend is untrue."""

from __future__ import annotations

import os
import threading
import time

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import count
from typing import Any

import attrs
import pytest

import pitstop

from pitstop.abc import Backend, Capability, Outcome, Progress, Record
from pitstop_conformance import _matrix
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import MINUTE, make_record, settlement
from pitstop_conformance._sockets import connections
from pitstop_conformance._wire import Wire


#: Opens a handle whose connections go through the wire, with options.
OpenWired = Callable[..., Backend]

#: Seconds within which a call ends, although its connection was cut, or its server hangs.
_BOUND = 45.0
#: Seconds that a call gets from `bounded`, and the seconds within which it then has to end.
_BUDGET, _BOUND_OF_BUDGET = 2.0, 15.0
#: The calls in which a handle must have found its way back to its server.
_TRIES = 12
#: The most requests of one call that are lost one after the other.
_MOST_REQUESTS = 8


@attrs.frozen
class _Trial:
    """A write, and the truth about it."""

    #: Store the records that the call needs, past the wire, with a prefix for their ids. The result is passed to the others.
    prepare: Callable[[Backend, str], Any]
    #: Make the call, and return its answer.
    call: Callable[[Backend, Any], Any]
    #: Return from the answer, for each record, whether the call has changed it; None if the answer does not tell.
    says: Callable[[Any, Any], Sequence[bool | None]]
    needs: Capability | None = None

    def done(self, direct: Backend, held: Any) -> list[bool]:
        """Return for each record whether it is as the call has to make it. Else it must be as it was before."""
        done = []
        for id, before, after in held["records"]:
            found = direct.get(id)
            assert found in (before, after), f"the record {id!r} is neither as before the call nor as after it"
            done.append(found == after)
        return done

    def judge(self, direct: Backend, held: Any, answer: _Answer) -> None:
        """Compare the answer with the truth."""
        done = self.done(direct, held)
        if answer.error is None:
            says = self.says(answer.value, held)
            assert [each for each, said in zip(done, says, strict=True) if said is not None] == [
                bool(said) for said in says if said is not None
            ], "the call has done what it says, for each record, and nothing else"
        elif not isinstance(answer.error, pitstop.OutcomeUnknown):
            assert not any(done), (
                f"{type(answer.error).__name__} says that nothing was changed, and it was: raise OutcomeUnknown"
            )


def _now_ms(backend: Backend) -> int:
    return backend.now() // 1000


def _later(backend: Backend, id: str, **more: Any) -> Record:
    return make_record(id, _now_ms(backend) + 60 * MINUTE, message={"n": 1}, **more)


def _due(backend: Backend, id: str) -> Record:
    return make_record(id, _now_ms(backend) - 1000, message={"n": 1})


def _new(count: int, make: Callable[[Backend, str], Record]) -> Callable[[Backend, str], Any]:
    def prepare(direct: Backend, prefix: str) -> Any:
        made = [make(direct, f"{prefix}{n}") for n in range(count)]
        return {"new": made, "records": [(each.id, None, each) for each in made]}

    return prepare


def _replacing(direct: Backend, prefix: str) -> Any:
    old = [_later(direct, f"{prefix}{n}") for n in range(2)]
    direct.put(old)
    new = [_later(direct, each.id) for each in old]
    return {"new": new, "old": old, "records": [(new_.id, old_, new_) for old_, new_ in zip(old, new, strict=True)]}


def _stored(direct: Backend, prefix: str) -> Any:
    old = _later(direct, f"{prefix}0")
    direct.put([old])
    return {"id": old.id, "records": [(old.id, old, None)]}


def _leased(outcomes: Sequence[Outcome]) -> Callable[[Backend, str], Any]:
    def prepare(direct: Backend, prefix: str) -> Any:
        direct.put([_due(direct, f"{prefix}{n}") for n in range(len(outcomes))])
        leased: list[Record] = []
        while len(leased) < len(outcomes):
            claim = direct.lease(len(outcomes), 10 * MINUTE)
            assert claim, "the records are due"
            leased += [each for each in claim if isinstance(each, Record)]
        settlements, records = [], []
        for each, outcome in zip(leased, outcomes, strict=True):
            progress: Progress | None = None
            if outcome is Outcome.RELEASE:
                later = _now_ms(direct) + 60 * MINUTE
                progress = attrs.evolve(each.progress, due=later, last_error="failed", token=None)
            elif outcome is Outcome.BURY:
                progress = attrs.evolve(each.progress, due=None, last_error="given up")
            settlements.append(settlement(each, outcome, progress))
            records.append((each.id, each, None if progress is None else attrs.evolve(each, progress=progress)))
        return {"settlements": settlements, "records": records}

    return prepare


def _put(backend: Backend, held: Any) -> None:
    backend.put(held["new"])


def _all_done(answer: Any, held: Any) -> Sequence[bool | None]:
    return [True] * len(held["records"])


def _single(answer: Any, held: Any) -> Sequence[bool | None]:
    return [answer]


def _each(answer: Any, held: Any) -> Sequence[bool | None]:
    return list(answer)


def _expecting(backend: Backend, held: Any) -> bool:
    return backend.put_if(held["new"][0], held["old"][0].revision)


def _one_replaced(direct: Backend, prefix: str) -> Any:
    held = _replacing(direct, prefix)
    return {**held, "records": held["records"][:1]}


def _settle(backend: Backend, held: Any) -> Sequence[bool | None]:
    return backend.settle(held["settlements"])


_TRIALS = {
    "put": _Trial(_new(1, _later), _put, _all_done),
    "put_due": _Trial(_new(1, _due), _put, _all_done),
    "put_again": _Trial(_replacing, _put, _all_done),
    "put_many": _Trial(_new(20, _later), _put, _all_done),
    "put_if_new": _Trial(
        _new(1, _later),
        lambda backend, held: backend.put_if(held["new"][0], None),
        _single,
        Capability.CONDITIONAL,
    ),
    "put_if": _Trial(_one_replaced, _expecting, _single, Capability.CONDITIONAL),
    "delete": _Trial(_stored, lambda backend, held: backend.delete(held["id"]), _single),
    "delete_many": _Trial(_stored, lambda backend, held: backend.delete_many([held["id"]]), _each),
    "complete": _Trial(_leased([Outcome.COMPLETE]), _settle, _each),
    "release": _Trial(_leased([Outcome.RELEASE]), _settle, _each),
    "bury": _Trial(_leased([Outcome.BURY]), _settle, _each),
    "settle_many": _Trial(_leased([Outcome.COMPLETE, Outcome.RELEASE, Outcome.COMPLETE, Outcome.BURY]), _settle, _each),
}

_READS: dict[str, Callable[[Backend], Any]] = {
    "get": lambda backend: backend.get("there"),
    "get_many": lambda backend: list(backend.get_many(["there"])),
    "scan": lambda backend: list(backend.scan(None, 10, None)),
    "tally": lambda backend: backend.tally(),
    "next_due": lambda backend: backend.next_due(),
    "ping": lambda backend: backend.ping(),
}


class Connections(Kit):
    """Lost connections, and servers that are away or hang."""

    rule = 'docs/writing-a-backend.md, "Errors" and "Crash checklist"'

    @pytest.fixture
    def open_wired(self, wire: Wire, backend: Backend) -> Iterator[OpenWired]:
        """A function that opens a handle through the wire. Its handles are closed before the wire is."""
        opened: list[Backend] = []

        def open_(**options: Any) -> Backend:
            handle = self.through(wire, **{"clock": None, **options})
            assert isinstance(handle, Backend), "through(wire, **options) returns a backend"
            opened.append(handle)
            return handle

        yield open_
        wire.refuse(False)
        wire.flow()
        for each in opened:
            each.close()

    @pytest.fixture
    def direct(self, open_backend: Handles, open_wired: OpenWired) -> Backend:
        """A handle on the same store with a clock of its own, whose connections no test cuts."""
        return open_backend(clock=None)

    @pytest.fixture
    def wired(self, direct: Backend, wire: Wire, open_wired: OpenWired) -> Backend:
        """A handle whose connections go through the wire."""
        handle = open_wired()
        direct.put([_later(direct, "there")])
        assert handle.get("there") == direct.get("there"), "through() opens a handle on the store of the test"
        assert wire.requests, "through() opens a handle whose connections go through the wire"
        return handle

    def test_a_backend_without_a_server_opens_no_connection(self, backend: Backend) -> None:
        if self.has_server is not False:
            _matrix.end("not declared: has_server = False")
        before = connections()
        backend.put([make_record("a")])
        backend.lease(1, MINUTE)
        backend.tally()

        assert connections() - before == set(), "has_server = False, and yet there are connections: remove it"

    @pytest.mark.parametrize("lost", ["request", "reply"])
    @pytest.mark.parametrize("operation", _TRIALS)
    def test_a_write_whose_connection_is_lost_says_only_what_is_true(
        self, wired: Backend, direct: Backend, wire: Wire, operation: str, lost: str
    ) -> None:
        """The connection is cut at each request of the call in turn, before the server gets the request or after its answer.

        A write that returns was done. One that raises ``BackendUnavailable`` was not done, and changed nothing. In doubt the
        backend raises ``OutcomeUnknown``, or finds out.
        """
        trial = _of(operation, wired)
        for number in range(1, _requests_of(trial, wired, direct, wire) + 1):
            held = trial.prepare(direct, f"{number}-")
            (wire.lose_request if lost == "request" else wire.lose_reply)(number)
            answer = _call(lambda held=held: trial.call(wired, held))  # type: ignore[misc]
            wire.lose_nothing()

            trial.judge(direct, held, answer)
            _works_again(wired)

    @pytest.mark.parametrize("operation", _TRIALS)
    def test_a_write_after_its_idle_connections_were_cut_says_only_what_is_true(
        self, wired: Backend, direct: Backend, wire: Wire, operation: str
    ) -> None:
        """A firewall forgets a connection that was not used for a while, and a server that is started again ends all of them."""
        trial = _of(operation, wired)
        held = trial.prepare(direct, "x")
        wire.cut()

        trial.judge(direct, held, _call(lambda: trial.call(wired, held)))
        _works_again(wired)

    @pytest.mark.parametrize("operation", _READS)
    def test_a_read_whose_connection_is_lost_is_right_or_unavailable(
        self, wired: Backend, direct: Backend, wire: Wire, operation: str
    ) -> None:
        read = _READS[operation]
        read(wired)
        before = wire.requests
        expected = read(wired)
        for number in range(1, min(wire.requests - before, _MOST_REQUESTS) + 1):
            for lose in (wire.lose_request, wire.lose_reply):
                lose(number)
                answer = _call(lambda: read(wired))
                wire.lose_nothing()
                assert answer.unavailable or answer.value == expected
                _works_again(wired)
        wire.cut()

        answer = _call(lambda: read(wired))

        assert answer.unavailable or answer.value == expected
        _works_again(wired)

    @pytest.mark.parametrize("lost", ["request", "reply"])
    def test_a_claim_whose_connection_is_lost_returns_leased_records_alone(
        self, wired: Backend, direct: Backend, wire: Wire, lost: str
    ) -> None:
        """The records of a claim whose reply is lost come back when the lease ends. None is lost, and none is made up."""
        for number in range(1, _MOST_REQUESTS + 1):
            id = f"{number}"
            direct.put([_due(direct, id)])
            before = wire.requests
            (wire.lose_request if lost == "request" else wire.lose_reply)(number)
            answer = _call(lambda: list(wired.lease(1, 10 * MINUTE)))
            happened = wire.lose_nothing()

            stored = direct.get(id)
            assert isinstance(stored, Record)
            if answer.unavailable or not answer.value:
                assert stored.progress.attempts <= 1
            else:
                assert answer.value == [stored], "the claim returns the record with its lease"
            assert direct.delete(id)
            _works_again(wired)
            if not happened or wire.requests - before < number:
                break

    def test_a_store_whose_reply_is_lost_is_not_repeated_over_a_newer_version(
        self, wired: Backend, direct: Backend, wire: Wire
    ) -> None:
        """The message is due. Between the loss and a second try, another program stores it again. Its version stays."""
        wired.put([_later(direct, "warm")])
        for number in range(1, _MOST_REQUESTS + 1):
            older, newer, stored = _due(direct, "a"), _due(direct, "a"), list[bool]()

            def store_newer(older: Record = older, newer: Record = newer, stored: list[bool] = stored) -> None:
                # If the lost reply is one before the commit, the older version may be stored later.
                stored.append(direct.get("a") == older)
                direct.put([newer])

            wire.lose_reply(number, then=store_newer)
            _call(lambda older=older: wired.put([older]))  # type: ignore[misc]
            if not wire.lose_nothing():
                break
            assert not any(stored) or direct.get("a") == newer, "the store was repeated over a newer version"
            _works_again(wired)
            direct.delete("a")

    def test_a_store_whose_reply_is_lost_does_not_bring_back_what_was_acknowledged(
        self, wired: Backend, direct: Backend, wire: Wire
    ) -> None:
        """Between the loss and a second try, another program claims the due message and acknowledges it."""
        wired.put([_later(direct, "warm")])
        for number in range(1, _MOST_REQUESTS + 1):
            record, settled = _due(direct, f"{number}"), list[bool | None]()

            def handle(settled: list[bool | None] = settled) -> None:
                for each in direct.lease(10, MINUTE):
                    settled.extend(direct.settle([settlement(each, Outcome.COMPLETE, None)]))

            wire.lose_reply(number, then=handle)
            _call(lambda record=record: wired.put([record]))  # type: ignore[misc]
            if not wire.lose_nothing():
                break
            assert not any(settled) or direct.get(record.id) is None, (
                "the store was repeated after the message was handled"
            )
            _works_again(wired)
            direct.delete(record.id)

    @pytest.mark.parametrize("operation", ["get", "lease", "put", "complete"])
    def test_a_server_that_is_away_is_unavailable_until_it_is_back(
        self, wired: Backend, direct: Backend, wire: Wire, operation: str
    ) -> None:
        trial = _of(operation, wired) if operation in _TRIALS else None
        held = trial.prepare(direct, "x") if trial else None
        wire.refuse()
        answer = _call(
            lambda: trial.call(wired, held) if trial else _CALLS[operation](wired), _BOUND_OF_BUDGET, within=wired
        )

        assert answer.unavailable, "nothing answers, so the call raises BackendUnavailable"
        if trial:
            trial.judge(direct, held, answer)
        wire.refuse(False)
        _works_again(wired)

    @pytest.mark.parametrize("operation", ["get", "lease", "put", "complete"])
    def test_a_server_that_hangs_is_given_up_within_the_budget(
        self, wired: Backend, direct: Backend, wire: Wire, operation: str
    ) -> None:
        trial = _of(operation, wired) if operation in _TRIALS else None
        held = trial.prepare(direct, "x") if trial else None
        wire.stall()
        answer = _call(
            lambda: trial.call(wired, held) if trial else _CALLS[operation](wired), _BOUND_OF_BUDGET, within=wired
        )

        assert answer.unavailable, "nothing answers, so the call raises BackendUnavailable"
        wire.flow()
        _works_again(wired)

    def test_a_server_that_hangs_is_given_up_also_without_a_budget(self, wired: Backend, wire: Wire) -> None:
        """The call of a user has no budget, and ends all the same."""
        wire.stall()

        answer = _call(lambda: wired.get("there"))

        assert answer.unavailable
        wire.flow()
        _works_again(wired)

    def test_a_handle_that_is_closed_leaves_no_connection_open(self, wired: Backend, wire: Wire) -> None:
        opened, by = wire.connections, dict[object, str]()
        for name, call in {**_READS, **_CALLS, "put": _put_later, "watch": _watch_once}.items():
            call(wired)
            by |= dict.fromkeys(wire.connections - opened - by.keys(), name)
        wired.close()

        deadline, pause = time.monotonic() + _BOUND_OF_BUDGET, threading.Event()
        while wire.connections and time.monotonic() < deadline:
            pause.wait(0.01)
        assert [by.get(each, "the first get") for each in wire.connections] == [], (
            "connections are open after close(), which these calls have opened"
        )

    def test_a_close_ends_while_the_server_hangs(self, wired: Backend, wire: Wire) -> None:
        wire.stall()

        answer = _call(wired.close)

        assert answer.error is None or answer.unavailable
        wire.flow()

    def test_a_watch_is_not_deaf_after_its_connection_was_lost(
        self, wired: Backend, direct: Backend, wire: Wire
    ) -> None:
        """A watch goes on by itself, or raises ``BackendUnavailable``. Then core asks the backend for a new one."""
        needs(wired, Capability.WATCH)
        watch = wired.watch()
        assert watch is not None
        try:
            wire.cut()
            deadline, pause = time.monotonic() + _BOUND, threading.Event()
            heard = False
            for number in count():
                # Again and again: a message that is stored before the new watch begins is found by core without a hint.
                due = _now_ms(direct) + 1000 + number
                direct.put([make_record(f"{number}", due)])
                try:
                    if watch is None:
                        watch = wired.watch()
                        assert watch is not None, "a backend that could watch can watch again"
                    told = watch.poll()
                    heard = told is not None and told <= due
                    pause.wait(watch.pause or 0.02)
                except pitstop.BackendUnavailable:
                    if watch is not None:
                        watch.close()
                    watch = None
                    pause.wait(0.1)
                if heard:
                    break
                assert time.monotonic() < deadline, "the watch is deaf since its connection was lost"
        finally:
            if watch is not None:
                watch.close()

    def test_a_password_is_in_no_text(self, backend: Backend) -> None:
        """The location, the repr, the configuration and the errors of a handle go into logs, and contain no password."""
        password = "s3cr3t-" + os.urandom(6).hex()
        handle = self.protected(password, clock=None)
        try:
            texts = {
                "location": handle.location,
                "the repr": repr(handle),
                "the configuration": repr(handle.config),
                "a log": f"{handle.config}",
            }
            answer = _call(handle.ping, within=handle)
            error: BaseException | None = answer.error
            while error is not None:
                texts[f"the text of {type(error).__name__}"] = f"{error} {error!r}"
                error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
            assert [where for where, text in texts.items() if password in text] == [], "the password is in these texts"
        finally:
            handle.close()


_CALLS: dict[str, Callable[[Backend], Any]] = {
    "get": lambda backend: backend.get("there"),
    "lease": lambda backend: backend.lease(1, MINUTE),
}


def _put_later(backend: Backend) -> None:
    backend.put([_later(backend, "later")])


def _watch_once(backend: Backend) -> None:
    watch = backend.watch()
    if watch is not None:
        try:
            watch.poll()
        finally:
            watch.close()


@attrs.frozen
class _Answer:
    """The value that a call returned, or the error that it raised."""

    value: Any = None
    error: Exception | None = None

    @property
    def unavailable(self) -> bool:
        return isinstance(self.error, pitstop.BackendUnavailable)


def _call(call: Callable[[], Any], bound: float = _BOUND, *, within: Backend | None = None) -> _Answer:
    """Make a call while connections get lost. It returns or raises ``BackendUnavailable`` in bounded time.

    :param within: the backend that gives the call a budget of time. None: it has none.
    """
    ended: list[_Answer] = []

    def run() -> None:
        try:
            with nullcontext() if within is None else within.bounded(_BUDGET):
                ended.append(_Answer(call()))
        except Exception as error:  # noqa: BLE001 - judged below
            ended.append(_Answer(error=error))

    # A daemon, so that the test ends even if the thread hangs.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(bound)
    if not ended:
        pytest.fail(
            f"The call has not ended after {bound:.0f} s, although nothing answers. Give each call a bound in time."
        )
    (answer,) = ended
    if answer.error is not None and not answer.unavailable:
        raise AssertionError(
            f"A {type(answer.error).__name__} got out. Raise BackendUnavailable or OutcomeUnknown in its place: any other "
            f"exception ends a listener."
        ) from answer.error
    return answer


def _of(operation: str, backend: Backend) -> _Trial:
    trial = _TRIALS[operation]
    if trial.needs is not None:
        needs(backend, trial.needs)
    return trial


def _requests_of(trial: _Trial, wired: Backend, direct: Backend, wire: Wire) -> int:
    """Return the number of requests that a call takes. The first call may take more, so the second one counts."""
    for prefix in ("first", "second"):
        held = trial.prepare(direct, prefix)
        before = wire.requests
        trial.call(wired, held)
        requests = wire.requests - before
        assert all(trial.done(direct, held))
    assert requests, "the call goes through the wire"
    return min(requests, _MOST_REQUESTS)


def _works_again(backend: Backend) -> None:
    """Check that a handle finds its way back to its server by itself."""
    for _ in range(_TRIES):
        answer = _call(lambda: backend.get("there"))
        if not answer.unavailable:
            assert answer.value is not None
            return
    raise AssertionError(
        f"The handle still raises {type(answer.error).__name__} after {_TRIES} calls, although the server is back."
    ) from answer.error
