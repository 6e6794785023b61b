"""Database: runs statements within a time, again where that is safe, and finds out what became of a lost one.

::

    the server refuses a statement        it is undone, and the error is translated
    a conflict with other transactions    it is undone, and executed again
    a read whose connection is lost       it is executed again on another connection
    a write whose connection is lost      its session is ended at the server first; then the write finds out whether it was done
"""

from __future__ import annotations

import random

from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import local
from typing import TypeVar

import attrs
import psycopg

from pitstop import BackendUnavailable, OutcomeUnknown, PitstopError
from pitstop.abc import Calls, Clock, Doorbell, SystemClock
from pitstop_postgres._config import PostgresConfig
from pitstop_postgres._failures import is_conflict, is_missing_table, may_help_to_connect_anew, translate
from pitstop_postgres._names import Names
from pitstop_postgres._pool import Pool
from pitstop_postgres._schema import prepare
from pitstop_postgres._server_time import ServerTime
from pitstop_postgres._session import Identity, Session


__all__ = ["Database", "Run"]

_T = TypeVar("_T")

#: A write whose outcome is not known is followed for so many times ``operation_timeout``.
_INSISTENCE = 3
#: Seconds that a call has at least, also after the end of its budget, because the server may answer.
_LEAST_RUN = 0.5
#: Seconds after the server's own time-out until the connection is given up. As a rule the server's answer comes before, and then
#: it is known that nothing was done.
_GRACE = 1.0
#: How often a statement is executed again after a conflict, or after a table was dropped.
_MOST_RUNS = 20
#: Seconds between two tries after a conflict, and between two looks at a session that is ending.
_PAUSE = 0.01

_TIME = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
_END = "SELECT pg_terminate_backend(pid) FROM pg_stat_get_activity(%s::int) WHERE backend_start::text = %s"
_IS_THERE = "SELECT 1 FROM pg_stat_get_activity(%s::int) WHERE backend_start::text = %s"


class _Bound(local):
    """The end of the calls of a thread, by the monotonic clock; None: there is none."""

    ends: float | None = None


@attrs.frozen
class Run:
    """One run of a write."""

    session: Session
    #: Whether an earlier run may have done the same. Its session is over, so it does nothing more.
    again: bool


class Database:
    """The server of one handle."""

    def __init__(self, config: PostgresConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.names = Names.of(config)
        self.location = config.location
        self.pool = Pool(config)
        #: For operators: how often an outcome was unknown, and how often it became known, by name.
        self.counters: Counter[str] = Counter()
        #: The threads that are inside a call of the backend. A signal handler that calls it again could wait for itself.
        self.calls = Calls()
        self._timeout = config.operation_timeout.total_seconds()
        self._bound = _Bound()
        # By real time, whatever the clock of the store is: people wait in real time.
        self._real = SystemClock()
        self._time = ServerTime(self._real, self._ask_time)
        #: The name of the store that the tables have. None: they are not checked yet.
        self.store: str | None = None

    def prepare(self) -> None:
        """Check the tables, and make them if they are missing, unless that was done."""
        if self.store is None:
            self.read(_nothing)

    def migrate(self) -> None:
        """Check the tables, and make them if they are missing, whatever the option ``create`` says."""

        def make(session: Session) -> str:
            return prepare(session, self.names, self.location, create=True)

        self.store = self.read(make, prepared=False)

    @property
    def given_now(self) -> int | None:
        """The instant of the configured clock, for a statement; None: the statement reads the server's clock."""
        return None if self._config.clock is None else self._clock.time_us() // 1000

    def now_us(self) -> int:
        """Return the microseconds since the epoch, by the configured clock, or else by the server's."""
        return self._time.now_us() if self._config.clock is None else self._clock.time_us()

    @contextmanager
    def bounded(self, seconds: float | None = None) -> Iterator[float]:
        """See :meth:`pitstop.abc.Backend.bounded`."""
        outer, now = self._bound.ends, self._real.monotonic()
        ends = now + (self._timeout + _GRACE if seconds is None else seconds)
        self._bound.ends = ends if outer is None else min(ends, outer)
        try:
            yield max(self._bound.ends - now, 0.0)
        finally:
            self._bound.ends = outer

    def read(self, work: Callable[[Session], _T], *, prepared: bool = True) -> _T:
        """Run statements that change nothing, and again after a lost connection.

        :param prepared: whether the tables are to be checked, and made if they are missing.
        """
        return self._run(lambda run: work(run.session), writes=False, prepared=prepared)

    def write(self, work: Callable[[Run], _T]) -> _T:
        """Run a write, and again while its outcome is unknown.

        :param work: does the write in one statement. In a run that is ``again``, it finds out first whether it was done.
        :raises OutcomeUnknown: if a run may have been done, and no later one could tell.
        """
        return self._run(work, writes=True, prepared=True)

    def _run(self, work: Callable[[Run], _T], *, writes: bool, prepared: bool) -> _T:
        deadline = self._real.monotonic() + self._left(self._timeout + _GRACE)
        # The first one is what the caller hears. A later error, of a server that is away by then, would suggest that nothing was sent.
        doubt: PitstopError | None = None
        for number in range(_MOST_RUNS):
            sent = False
            try:
                with self.pool.session(deadline) as session:
                    self._end_lost(session, deadline, writes=writes)
                    if prepared and self.store is None:
                        self.store = prepare(session, self.names, self.location, create=self._config.create)
                    sent = True
                    return work(Run(session, again=doubt is not None))
            except psycopg.Error as error:
                failure = translate(error, self.location)
                if sent and not _is_answer(error):
                    if doubt is None:
                        doubt = failure
                        deadline = self._doubted(deadline, writes=writes)
                elif not self._may_repeat(error, doubted=doubt is not None):
                    raise _final(doubt if writes else None, failure) from None
                if number == _MOST_RUNS - 1 or self._real.monotonic() >= deadline:
                    raise _final(doubt if writes else None, failure) from None
            except BackendUnavailable as error:
                # No connection is free, for example, or the tables are not Pitstop's.
                if doubt is None or not writes or isinstance(error, OutcomeUnknown):
                    raise
                raise _final(doubt, error) from None
            self._pause(number)
        raise AssertionError("the last run returns or raises")

    def _may_repeat(self, error: psycopg.Error, *, doubted: bool) -> bool:
        """Prepare for another run after an error by which nothing was done. Return whether another run may help."""
        if not _is_answer(error):
            # There is no connection. If a write may have been done, it is worth a wait.
            return doubted
        if is_missing_table(error):
            self.store = None
            return True
        if may_help_to_connect_anew(error):
            self.pool.discard_idle()
            return True
        return is_conflict(error)

    def _doubted(self, deadline: float, *, writes: bool) -> float:
        """Return until when the outcome of a statement whose answer was lost is followed."""
        if not writes:
            return deadline
        self.counters["outcome_unknown"] += 1
        if self._config.pgbouncer:
            # The session at the server is not known, so it cannot be ended, and its write may be done after a repetition.
            return float("-inf")
        return self._real.monotonic() + self._left(_INSISTENCE * self._timeout)

    def _pause(self, number: int) -> None:
        seconds = _PAUSE * min(2**number, 50) * random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, hides nothing
        self._real.wait(Doorbell(), seconds)

    def _end_lost(self, session: Session, deadline: float, *, writes: bool) -> None:
        """End the sessions that were lost. Otherwise the server could do their writes later, after a repetition.

        :raises BackendUnavailable: if a session does not end. Nothing was changed.
        """
        lost = self.pool.lost
        while writes and lost:
            identity = lost[0]
            session.fetch(_END, (identity.pid, identity.began))
            while session.fetch(_IS_THERE, (identity.pid, identity.began)):
                if self._real.monotonic() >= deadline:
                    raise BackendUnavailable(
                        f"PostgreSQL at {self.location} still executes a statement of a connection that was lost (process "
                        f"{identity.pid}), and could not end it. Nothing was changed."
                    )
                self._real.wait(Doorbell(), _PAUSE)
            _remove(lost, identity)

    def _left(self, seconds: float) -> float:
        """Return ``seconds``, or less if the calls of this thread are to end before."""
        ends = self._bound.ends
        return seconds if ends is None else min(seconds, max(ends - self._real.monotonic(), _LEAST_RUN))

    def _ask_time(self) -> int:
        ((now,),) = self.read(lambda session: session.fetch(_TIME), prepared=False)
        assert isinstance(now, int)
        return now

    def close(self) -> None:
        """Close the sessions. A second call does nothing."""
        self.pool.close()


def _is_answer(error: psycopg.Error) -> bool:
    """Whether the server has refused the statement, so that nothing was done. If it ends the session, that is not certain."""
    return error.sqlstate is not None and not error.sqlstate.startswith(("57P", "08"))


def _final(doubt: PitstopError | None, failure: PitstopError) -> PitstopError:
    if doubt is None:
        return failure
    return OutcomeUnknown(f"{str(doubt).removesuffix(' Nothing was changed.')} Whether it was done is not known.")


def _nothing(session: Session) -> None:
    """Do nothing: the tables are checked before."""


def _remove(lost: deque[Identity], identity: Identity) -> None:
    try:
        lost.remove(identity)
    except ValueError:
        # Another thread has ended it at the same time.
        return
