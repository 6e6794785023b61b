"""The connection to the server, by the user's client, or by Pitstop's own, which is made lazily and again after a fork."""

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
from pitstop.abc import Calls, Clock, SystemClock, log_fields
from pitstop_mongo._client.client import open_client
from pitstop_mongo._client.collection import Collection
from pitstop_mongo._client.config import MongoConfig
from pitstop_mongo._client.dialect import Handles, dialect_of
from pitstop_mongo._client.failures import (
    CAUGHT,
    Kind,
    is_before_sending,
    is_login_refused,
    is_permanent,
    kind_of,
    names_no_index,
    translate,
)
from pitstop_mongo._client.link import Link
from pitstop_mongo._client.run import Run


__all__ = ["Connection"]

_log = logging.getLogger("pitstop.mongo")

_T = TypeVar("_T")

#: For how many times ``operation_timeout`` a write whose outcome is unknown is repeated, and how often at most. Not for
#: longer than a lease: by default the timeout is a third of it.
_INSISTENCE = 3
_MOST_RUNS = 6
#: The least seconds that the last run gets.
_LEAST_RUN = 0.5
#: Seconds in which the servers are told, at the close, which sessions and cursors they may drop.
_FAREWELL = 0.5


class _Bound(local):
    """The instant of the monotonic clock by which the calls of this thread are to end."""

    ends: float | None = None


def _wrote(run: Run | None) -> bool:
    return run is not None and run.wrote


class Connection:
    """Gives the :class:`Link` of this process, and runs operations on it within a time limit."""

    def __init__(self, config: MongoConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.dialect = dialect_of(config.used_client)
        #: For operators: how often an outcome was unknown, and how often it became known, by name.
        self.counters: Counter[str] = Counter()
        self._timeout = config.operation_timeout.total_seconds()
        self._bound = _Bound()
        #: The threads that are inside a call of the backend. The driver has locks of its own. A signal handler that calls
        #: the backend, and has interrupted such a call, could wait for them without end.
        self.calls = Calls()
        # By real time, whatever the clock of the store is: people wait in real time.
        self._real = SystemClock()
        #: The most milliseconds of one operation.
        self.longest_ms = round(self._timeout * 1000)
        self._lock, self._lock_pid = Lock(), os.getpid()
        self._closed = False
        self._link: Link | None = None
        self._routed: bool | None = None
        # Written once, by any thread.
        self._async_handles: Handles | None = None
        # Links of the process that this one was forked from. They are not ours to close. If they were dropped, Python would warn.
        self._inherited: list[Link] = []
        # The link before this one, whose login was refused.
        self._outdated: Link | None = None
        if config.used_client is not None or (config.target is None or not config.target.srv):
            # PyMongo checks all options now, and connects later. For hosts from DNS it would already ask the DNS.
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

    @property
    def is_routed(self) -> bool:
        """Whether the collection is behind a router of a sharded cluster. False until a server has answered."""
        routed = self._routed
        if routed is None and self._link is not None:
            routed = self._routed = self.dialect.is_routed(self._link.client)
        return bool(routed)

    def async_handles(self) -> Handles:
        """Return the collection of the user's AsyncMongoClient."""
        if self._async_handles is None:
            config = self._config
            self._async_handles = self.dialect.open(config.client, config.dbname, config.coll, config.ack_write_concern)
        return self._async_handles

    def now_us(self) -> int:
        """Return the microseconds since the epoch, by the configured clock, or else by the server's."""
        if self._config.clock is not None:
            return self._clock.time_us()
        link = self._link
        known = link.time.known_us() if link is not None and link.pid == os.getpid() else None
        if known is not None:
            return known
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
        """Return ``seconds``, or less if the calls of this thread are to end before."""
        ends = self._bound.ends
        return seconds if ends is None else min(seconds, max(ends - self._real.monotonic(), _LEAST_RUN))

    @contextmanager
    def operation(self, most: float | None = None) -> Iterator[Link]:
        """Run one or a few commands within ``operation_timeout``. Errors of the driver come out as Pitstop's.

        :param most: the most seconds, if fewer.
        """
        try:
            with self._bounded(self._timeout if most is None else min(most, self._timeout)) as link:
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
                translated = translate(error, self.location)
                if doubt is None and kind is not Kind.UNKNOWN and isinstance(error, BulkWriteError):
                    text = f"{translated} The others of the batch may have been done."
                    raise OutcomeUnknown(text, permanent=is_permanent(error)) from None
                if doubt is None and kind is not Kind.UNKNOWN and not _wrote(run):
                    raise translated from None
                if doubt is None:
                    self.counters["outcome_unknown"] += 1
                    doubt = translated
                if kind is Kind.PERMANENT or is_permanent(error) or self._clock.monotonic() >= last:
                    break
        assert doubt is not None, "only a doubt ends in another run"
        permanent = isinstance(doubt, BackendUnavailable) and doubt.permanent
        raise OutcomeUnknown(f"{doubt} Whether it was done is not known.", permanent=permanent) from None

    def _kind_of_write(self, error: Exception, *, repeats: bool) -> Kind:
        """Return whether a write that failed with this error was done.

        :param repeats: whether the driver repeats the write by itself.
        """
        if isinstance(error, InvalidOperation) and self._config.used_client is None:
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
    def indexed(self, *, foreign: bool = False, kinds: bool = False) -> Iterator[Link]:
        """Run an operation that needs the index. Before it begins, the collection is checked, and the index is made.

        :param foreign: whether a collection with documents of other programs alone is accepted.
        :param kinds: whether the operation can use the index of the kinds. If the index is missing, it is made meanwhile.
        :raises BackendUnavailable: also if the collection cannot hold messages. The text says why.
        """
        with self.operation() as link:
            if not link.indexed or not (link.known or foreign):
                self._prepare(link, foreign=foreign)
            if kinds and link.kinds.ready is None and self.dialect.describes_collections:
                link.kinds.prepare(self._collection(link), self._left(self._timeout) / 2)
            try:
                yield link
            except OperationFailure as error:
                if names_no_index(error):
                    # The index or the collection was dropped. The next operation makes the index again.
                    link.indexed = False
                raise

    def prepare(self) -> None:
        """Check the collection, and make the index, unless this process has done both. See :meth:`indexed`."""
        link = self._current()
        if not (link.indexed and link.known):
            with self.indexed():
                pass

    def _prepare(self, link: Link, *, foreign: bool) -> None:
        if self.dialect.describes_collections:
            self._collection(link).prepare(foreign=foreign)
        else:
            link.handles.coll.create_index([("due", 1)])
        link.indexed = True
        link.known = link.known or not foreign

    def index_of_kinds(self, link: Link) -> str | None:
        """Return the name of the index of the kinds; None if there is none that a read can use. No index is made."""
        ready = link.kinds.ready
        return self._collection(link).index_of_kinds() if ready is None else ready.name

    def _collection(self, link: Link) -> Collection:
        return Collection(link.handles, self.location, self._config.create)

    def ping(self) -> None:
        """See :meth:`pitstop.abc.Backend.ping`. It makes neither the collection nor the index."""
        with self.operation() as link:
            if self.dialect.describes_collections and not link.known:
                self._collection(link).look()
            # A read of the collection, because the server's own ping also answers users who may not read it.
            link.handles.raw.find_one({"_id": self.dialect.one("")}, {"_id": 1})

    def close(self) -> None:
        """Close the client if it is Pitstop's own. A second call does nothing."""
        with self._mutex():
            self._closed = True
            links = (self._link, self._outdated)
            self._link = self._outdated = None
        for link in links:
            self._close_own(link)

    def _close_own(self, link: Link | None) -> None:
        if link is None or self._config.used_client is not None:
            return
        if link.pid == os.getpid():
            # Without a limit the driver would wait for a server that hangs.
            with pymongo.timeout(_FAREWELL):
                link.client.close()
        else:
            self._inherited.append(link)

    def _mutex(self) -> Lock:
        if self._lock_pid != os.getpid():
            # A thread that held the lock when this process was forked does not exist here, and cannot release it.
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
        """Replace Pitstop's own client, because it could not log in. So the next operation gets an answer at once.

        PyMongo would treat the server as away for some seconds. Connections whose user was removed stay without a user, also
        after the user was added again.
        """
        if self._config.used_client is not None:
            return
        with self._mutex():
            if self._link is not link:
                return
            # Other threads may be using it. It is closed when the next client is replaced.
            self._link, self._outdated, before = None, link, self._outdated
        self._close_own(before)

    def _warn_of_fork(self) -> None:
        if isinstance(self._config.used_client, pymongo.MongoClient):
            _log.warning(
                "The given client was made before a fork, in another process. PyMongo does not promise that it works here. "
                "Make a client in each process, and give it to a Pitstop that is made there (in gunicorn's post_fork, in "
                "Celery's worker_process_init). Or leave client out: then Pitstop makes a client for each process.",
                extra=log_fields("client_forked", backend="mongodb"),
            )

    def _open(self) -> Link:
        client = self._config.used_client
        if client is None:
            client = open_client(self._config, self.location)
        return Link(client, self.dialect, self._config, self._clock)
