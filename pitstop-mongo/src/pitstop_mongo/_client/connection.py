"""The way to the server: a client of Pitstop's own, made lazily and again after a fork, or the user's."""

from __future__ import annotations

import logging
import os

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, local
from typing import TypeVar

import pymongo

from pymongo.errors import BulkWriteError, InvalidOperation, OperationFailure

from pitstop import BackendUnavailable, OutcomeUnknown, PitstopError
from pitstop.abc import Calls, Clock, SystemClock
from pitstop_mongo._client.client import open_client
from pitstop_mongo._client.collection import Collection
from pitstop_mongo._client.config import MongoConfig
from pitstop_mongo._client.dialect import dialect_of
from pitstop_mongo._client.failures import (
    CAUGHT,
    Kind,
    is_before_sending,
    is_login_refused,
    is_permanent,
    kind_of,
    translate,
)
from pitstop_mongo._client.link import Link
from pitstop_mongo._client.run import Run


__all__ = ["Connection"]

_log = logging.getLogger("pitstop.mongo")

_T = TypeVar("_T")

#: How many times ``operation_timeout`` a write whose outcome is unknown is tried again, and how often at most. Not
#: beyond a lease, of which that timeout is a third.
_INSISTENCE = 3
_MOST_RUNS = 6
#: Seconds that the last run gets at least.
_LEAST_RUN = 0.5
#: Seconds for which the servers are told, at the close, what they need not keep any longer.
_FAREWELL = 0.5

_BAD_VALUE = 2


class _Bound(local):
    """Until when, by the monotonic clock, the calls of this thread are to end."""

    ends: float | None = None


def _wrote(run: Run | None) -> bool:
    return run is not None and run.wrote


class Connection:
    """Gives the :class:`Link` of this process, and runs operations on it within bounds."""

    def __init__(self, config: MongoConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.dialect = dialect_of(config.client)
        #: What went wrong and was mended, by name; for operators.
        self.counters: Counter[str] = Counter()
        self._timeout = config.operation_timeout.total_seconds()
        self._bound = _Bound()
        #: Which threads are inside of a call of the backend. The driver has locks of its own, for which a call that has
        #: interrupted another one, in a signal handler, could wait without end.
        self.calls = Calls()
        # By real time, whatever clock the store goes by: it is about how long people wait.
        self._real = SystemClock()
        #: Milliseconds that one operation may take.
        self.longest_ms = round(self._timeout * 1000)
        self._lock, self._lock_pid = Lock(), os.getpid()
        self._closed = False
        self._link: Link | None = None
        # Of the process that this one was forked from. Not ours to close; and dropping them would warn.
        self._inherited: list[Link] = []
        # The one before, whose login was refused.
        self._outdated: Link | None = None
        if config.client is not None or (config.target is None or not config.target.srv):
            # Nothing connects yet, but PyMongo has a look at all options. For hosts from DNS it would ask the DNS.
            self._link = self._open()

    @property
    def location(self) -> str:
        """``mongodb://host:port/database.collection``, without user and password."""
        hosts = ",".join(self._config.addresses)
        if not hosts:
            known = getattr(self._config.client, "nodes", None)
            nodes = sorted(f"{host}:{port}" for host, port in known) if isinstance(known, frozenset) else []
            hosts = ",".join(nodes) or "(the client that was given)"
        scheme = "mongodb+srv" if self._config.target is not None and self._config.target.srv else "mongodb"
        return f"{scheme}://{hosts}/{self._config.dbname}.{self._config.coll}"

    def now_us(self) -> int:
        """Microseconds since the epoch, by the clock that decides: the configured one, or the server's."""
        if self._config.clock is not None:
            return self._clock.time_us()
        with self.operation() as link:
            return link.time.now_us()

    @contextmanager
    def bounded(self, seconds: float | None = None) -> Iterator[float]:
        """See :meth:`pitstop.abc.Backend.bounded`."""
        outer, now = self._bound.ends, self._real.monotonic()
        ends = now + (self._timeout if seconds is None else seconds)
        self._bound.ends = ends if outer is None else min(ends, outer)
        try:
            yield max(self._bound.ends - now, 0.0)
        finally:
            self._bound.ends = outer

    def _left(self, seconds: float) -> float:
        """So many seconds; less, if this thread has not got them."""
        ends = self._bound.ends
        return seconds if ends is None else min(seconds, max(ends - self._real.monotonic(), _LEAST_RUN))

    @contextmanager
    def operation(self) -> Iterator[Link]:
        """One or a few commands: bounded in time, with the driver's errors as Pitstop's."""
        try:
            with self._bounded(self._timeout) as link:
                yield link
        except CAUGHT as error:
            # The driver's text may quote a document, so it is not shown as the cause either.
            raise translate(error, self.location) from None

    def until_known(self, write: Callable[[Run], _T], *, single: bool = True) -> _T:
        """Run a write, and again while its outcome is unknown: for three times ``operation_timeout`` at most.

        In a :meth:`bounded` body, whose caller repeats the write by itself, only in the first half of the time that is left.

        :param write: sends the commands of one run.
        :param single: whether it writes one document, or several by commands of one document each. On a replica set the
            driver repeats such commands by itself, and the server does them once, also over a change of the primary. So the
            first run gets all of the time if there is a primary now, or members that can elect one.
        :raises OutcomeUnknown: if a run may have changed something, and no later one could tell.
        """
        link = self._current()
        patience = self._left(_INSISTENCE * self._timeout)
        deadline = self._clock.monotonic() + patience
        last = deadline if self._bound.ends is None else deadline - patience / 2
        repeats = single and self.dialect.repeats_writes(link.client)
        lasting = repeats and self.dialect.is_set_alive(link.client)
        # The first one is what the caller hears. A later error, of a server that is away by then for example, would suggest
        # that nothing was ever sent.
        doubt: PitstopError | None = None
        for number in range(_MOST_RUNS):
            run: Run | None = None
            try:
                left = max(deadline - self._clock.monotonic(), _LEAST_RUN)
                with self._bounded(left if lasting and not number else min(left, self._timeout)) as link:
                    run = Run(link, again=doubt is not None)
                    return write(run)
            except OutcomeUnknown:
                raise
            except BackendUnavailable as error:
                # The backend was closed meanwhile, for example.
                if doubt is None and not _wrote(run):
                    raise
                doubt = doubt or error
                break
            except CAUGHT as error:
                kind = self._kind_of_write(error, repeats=repeats)
                told = translate(error, self.location)
                if doubt is None and kind is not Kind.UNKNOWN and isinstance(error, BulkWriteError):
                    text = f"{told} The others of the batch may have been done."
                    raise OutcomeUnknown(text, permanent=is_permanent(error)) from None
                if doubt is None and kind is not Kind.UNKNOWN and not _wrote(run):
                    raise told from None
                if doubt is None:
                    self.counters["outcome_unknown"] += 1
                    doubt = told
                if kind is Kind.PERMANENT or is_permanent(error) or self._clock.monotonic() >= last:
                    break
        assert doubt is not None, "only a doubt ends in another run"
        permanent = isinstance(doubt, BackendUnavailable) and doubt.permanent
        raise OutcomeUnknown(f"{doubt} Whether it was done is not known.", permanent=permanent) from None

    def _kind_of_write(self, error: Exception, *, repeats: bool) -> Kind:
        """Return whether a write that failed with this error was done.

        :param repeats: whether the driver repeats the write by itself.
        """
        if isinstance(error, InvalidOperation) and self._config.client is None:
            # Pitstop closes its own client at the end, and when it makes a new one: also under a write that was sent.
            return Kind.UNKNOWN
        if repeats and is_before_sending(error):
            # It may be of the driver's second try, after a first one whose reply was lost.
            return Kind.UNKNOWN
        return kind_of(error)

    def _current(self) -> Link:
        link = self._link
        return self._renew() if link is None or link.pid != os.getpid() else link

    @contextmanager
    def _bounded(self, seconds: float) -> Iterator[Link]:
        link = self._current()
        try:
            with self.dialect.turn, pymongo.timeout(self._left(seconds)):
                if not link.exists:
                    self._collection(link).must_exist()
                    link.exists = True
                yield link
        except CAUGHT as error:
            if kind_of(error) is not Kind.PERMANENT:
                link.time.outdate()
            if is_login_refused(error):
                self._log_in_anew(link)
            raise

    @contextmanager
    def indexed(self, *, foreign: bool = False) -> Iterator[Link]:
        """An operation that needs the index: it is there when this begins, and the collection was looked at.

        :param foreign: whether the collection may hold nothing but documents of others.
        :raises BackendUnavailable: also when it is no collection for messages; the text says why.
        """
        with self.operation() as link:
            if not link.indexed or not (link.known or foreign):
                self._prepare(link, foreign=foreign)
            try:
                yield link
            except OperationFailure as error:
                if error.code == _BAD_VALUE and "hint" in str(error):
                    # Somebody dropped the index, or the collection; the next operation makes it again.
                    link.indexed = False
                raise

    def _prepare(self, link: Link, *, foreign: bool) -> None:
        if self.dialect.tells_of_collections:
            self._collection(link).prepare(foreign=foreign)
        else:
            link.handles.coll.create_index([("due", 1)])
        link.indexed = True
        link.known = link.known or not foreign

    def _collection(self, link: Link) -> Collection:
        return Collection(link.handles, self.location, self._config.create)

    def ping(self) -> None:
        """See :meth:`pitstop.abc.Backend.ping`. Makes nothing."""
        with self.operation() as link:
            if self.dialect.tells_of_collections and not link.known:
                self._collection(link).look()
            # A read of the collection: the server's own ping answers those who may not use it, too.
            link.handles.raw.find_one({"_id": self.dialect.one("")}, {"_id": 1})

    def close(self) -> None:
        """Close the client if it is Pitstop's own. Again is harmless."""
        with self._mutex():
            self._closed = True
            links = (self._link, self._outdated)
            self._link = self._outdated = None
        for link in links:
            self._close_own(link)

    def _close_own(self, link: Link | None) -> None:
        if link is None or self._config.client is not None:
            return
        if link.pid == os.getpid():
            # Else a server that hangs would be waited for.
            with pymongo.timeout(_FAREWELL):
                link.client.close()
        else:
            self._inherited.append(link)

    def _mutex(self) -> Lock:
        if self._lock_pid != os.getpid():
            # Whoever held the lock when this process was forked is not here to let go of it.
            self._lock, self._lock_pid = Lock(), os.getpid()
        return self._lock

    def _renew(self) -> Link:
        with self._mutex():
            if self._closed:
                raise BackendUnavailable(f"MongoDB at {self.location} cannot be used: this backend was closed.")
            link = self._link
            if link is None or link.pid != os.getpid():
                if link is not None:
                    self._inherited.append(link)
                    self._warn_of_fork()
                link = self._link = self._open()
            return link

    def _log_in_anew(self, link: Link) -> None:
        """Let go of an own client that could not log in, so that the next operation is answered at once.

        PyMongo would take the server for away for some seconds; and connections whose user was removed stay nobody's,
        also when there is one again.
        """
        if self._config.client is not None:
            return
        with self._mutex():
            if self._link is not link:
                return
            # Other threads may be on it: it is closed when its turn comes again.
            self._link, self._outdated, before = None, link, self._outdated
        self._close_own(before)

    def _warn_of_fork(self) -> None:
        if isinstance(self._config.client, pymongo.MongoClient):
            _log.warning(
                "The client that was given was made in another process, before a fork, where PyMongo does not promise "
                "that it works. Make it in each process, and give it to a Pitstop made there (in gunicorn's post_fork, "
                "in Celery's worker_process_init); or leave client out: then each process gets one of its own."
            )

    def _open(self) -> Link:
        client = self._config.client
        if client is None:
            client = open_client(self._config, self.location)
        return Link(client, self.dialect, self._config, self._clock)
