"""The part of the facade through which an application gets its messages: listeners, and consumers.

Threads: any.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from os import PathLike

from pitstop._consume._attended import attended
from pitstop._consume._course import Course, checked_drain
from pitstop._consume._handler import sync_handler, takes_delivery
from pitstop._consume._lanes import Handlers, Lane, Plan, named, planned
from pitstop._consume._threads import Consuming
from pitstop._engine._calls import entrance
from pitstop._engine._intake import Intake
from pitstop._engine._listener import Listener
from pitstop._engine._session import Session
from pitstop._engine._throttle import Throttle
from pitstop._engine._watcher import Watcher
from pitstop._health._place import parse_place
from pitstop._values._arguments import MOST_THREADS, ListenOptions
from pitstop._values._consumer import Consumer
from pitstop._values._summary import Summary
from pitstop.abc import Capability
from pitstop.abc._backend import lacks_kinds


__all__ = ["Listening", "ask_in_time", "open_intake", "open_intakes"]

#: Seconds that the store has to answer a probe.
_PROBE_TIME = 5.0


class Listening:
    """The methods of :class:`pitstop.Pitstop` that get messages."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._watcher = Watcher(session)

    @entrance
    def listen(
        self,
        *,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
        kinds: Collection[str] | None = None,
    ) -> Listener:
        """Return a listener for messages as they become due.

        :param lock_time: how long a message is leased, in place of the configured time.
        :param loop_time: the longest time between two polls of the store, in place of the configured time.
        :param prefetch: how many messages are claimed at once. By default, as many as the consumer handles in some
            milliseconds: one if it is slow, 500 at most. Claimed messages that wait for their turn are leased. If another
            process updates or removes one of them meanwhile, its ack is too late.
        :param heartbeat: extend the lease of each unsettled delivery, again and again, from another thread.
            ``delivery.lost`` tells if that failed. A delivery that was dropped unsettled is no longer extended.
        :param max_lease: how long a delivery may be held by the heartbeat, from when it was handed out. By default, without end.
        :param kinds: get only messages that were stored with one of these kinds. ``""`` is the kind of messages that were given
            none. By default, messages of all kinds. Messages of other kinds are not in the way, however many are due.
        :raises ConfigError: if a value cannot be used.
        :raises Unsupported: if the store cannot choose by kind.
        """
        options = ListenOptions.of(
            lock_time=lock_time,
            loop_time=loop_time,
            prefetch=prefetch,
            heartbeat=heartbeat,
            max_lease=max_lease,
            kinds=kinds,
        )
        return Listener(open_intake(self, options))

    def consume(
        self,
        handler: Handlers,
        *,
        workers: int = 1,
        lock_time: timedelta | float | str | None = None,
        loop_time: timedelta | float | str | None = None,
        prefetch: int | None = None,
        heartbeat: bool = False,
        max_lease: timedelta | float | str | None = None,
        max_messages: int | None = None,
        until_idle: bool = False,
        drain: timedelta | float | str = 30,
        kinds: Collection[str] | None = None,
        deliveries: bool | None = None,
        rate: str | None = None,
        batch: int | None = None,
        health: str | PathLike[str] | None = None,
    ) -> Summary:
        """Handle messages as they become due, until a signal. Acknowledge each message for which the handler returns.

        A message for which the handler raises is nacked. It comes back as ``retry`` decides. The error is logged without its
        text, which is kept as ``last_error``. A delivery that the handler settled itself stays as it is. While the store is
        away, ``consume`` does not end: it polls again and again.

        In the main thread, SIGTERM, SIGINT and SIGHUP end it, and all other calls of ``consume`` in the process. Messages that
        no handler saw are given back at once, running handlers finish, their acks are written, and the summary is returned.
        At a second signal ``consume`` waits for nothing, and gives back the messages of running handlers as well.
        :meth:`close` ends it like a signal.

        :param handler: called with the message, as in ``delivery.msg``; or with the :class:`pitstop.Delivery`, if its first
            parameter is annotated as one or named ``delivery``. With several workers it is called from several threads.
            A mapping gives each kind a handler, or a :class:`pitstop.Handle` with options of its own. ``"*"`` stands for all other
            kinds. Without it, messages of other kinds are left for other consumers. Each kind has its own workers and its own
            leases, so a slow kind keeps no other waiting.
        :param workers: how many messages are handled at a time, each in a thread. In a mapping: of each kind, and at most 10,000
            together.
        :param lock_time: as for :meth:`listen`; also ``loop_time`` and ``prefetch``.
        :param heartbeat: hold the leases of messages that are being handled, as for :meth:`listen`; also ``max_lease``.
        :param max_messages: end after this number of messages.
        :param until_idle: end when no message is due and no handler runs.
        :param drain: how long running handlers may still take at the end: a ``timedelta``, seconds, or text.
        :param kinds: handle only messages of these kinds, as for :meth:`listen`.
        :param deliveries: whether the handler is called with the delivery, if its signature does not show it.
        :param rate: the most messages in a time, as in ``"50/s"``, ``"100/m"`` or ``"1000/15m"``, spread evenly. Retries count. A batch
            comes at once, and the next message waits for as long as all of it takes. In a mapping: of all kinds together. Each
            process has its own rate. The other messages stay in the store, unclaimed.
        :param batch: call the handler with a list of deliveries: those that are due now, of this number at most. It may settle each by
            itself. At its end, the others are acknowledged, or nacked if it raised.
        :param health: the place where probes ask whether this consumer is alive and ready, while it runs: a host and a port, as in
            ``"127.0.0.1:8080"``, with ``/livez`` and ``/readyz``; ``"unix:PATH"``; or a file whose time is touched, as in
            ``"/run/pitstop.alive"``. Port 0 chooses a free port, which :attr:`consumers` shows.
        :return: the number of messages by outcome, and why it ended.
        :raises ConfigError: if a value cannot be used.
        :raises PitstopError: if the handler cannot be called, or is async.
        :raises BackendUnavailable: if the store refuses the first poll (``error.permanent``).
        :raises Unsupported: if the store cannot choose by kind.
        """
        plans = planned(
            handler,
            field="workers",
            workers=workers,
            most=MOST_THREADS,
            deliveries=deliveries,
            kinds=kinds,
            rate=rate,
            options={
                "lock_time": lock_time,
                "loop_time": loop_time,
                "prefetch": prefetch,
                "heartbeat": heartbeat,
                "max_lease": max_lease,
                "batch": batch,
            },
        )
        patience = checked_drain(drain, max_messages, until_idle)
        place, course = parse_place(health), Course(max_messages, patience.total_seconds())
        with_delivery = []
        for each in plans:
            with named(each.kind):
                with_delivery.append(takes_delivery(sync_handler(each.handler), each.deliveries))
        intakes: list[Intake] = []
        with attended(place, course, lambda: intakes, partial(ask_in_time, self)):
            intakes += open_intakes(self, plans)
            lanes = [
                Lane(intake, plan.handler, takes, plan.workers, plan.options.batch)
                for intake, plan, takes in zip(intakes, plans, with_delivery, strict=True)
            ]
            return Consuming(self._session, lanes, course, until_idle=until_idle).run()

    @entrance
    def _ask_in_time(self) -> None:
        with self._session.bounded(_PROBE_TIME):
            self._session.backend.ping()

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The calls of :meth:`consume` that run now."""
        return tuple(each.consumer() for each in self._session.components if isinstance(each, Consuming))


def open_intake(
    pit: Listening, options: ListenOptions, *, claimed_apart: bool = False, throttles: Sequence[Throttle] = ()
) -> Intake:
    """Return what is behind a new listener, for code of this library that claims on behalf of others.

    :param claimed_apart: whether the threads that handle messages never claim.
    :param throttles: the rates at which messages are claimed.
    :raises BackendUnavailable: if the Pitstop is closed.
    :raises ConfigError: if ``max_lease`` is shorter than a lease.
    :raises Unsupported: if kinds are chosen, and the backend has none.
    """
    session = pit._session
    backend = session.backend  # raises if the Pitstop is closed
    if options.kinds is not None and Capability.KINDS not in session.capabilities:
        raise lacks_kinds(backend)
    return Intake(session, pit._watcher, options, claimed_apart=claimed_apart, throttles=throttles)


def ask_in_time(pit: Listening) -> None:
    """Ask the store for something small, for a probe, which does not wait for long.

    :raises BackendUnavailable: if the store cannot be used.
    """
    pit._ask_in_time()


def open_intakes(pit: Listening, plans: Sequence[Plan]) -> list[Intake]:
    """Return an intake for each of these plans, or none.

    :raises BackendUnavailable: as :func:`open_intake`, like the other errors.
    """
    opened: list[Intake] = []
    with ExitStack() as stack:
        for each in plans:
            with named(each.kind):
                intake = open_intake(pit, each.options, throttles=each.throttles)
            # Those before an error are closed.
            stack.callback(intake.close)
            opened.append(intake)
        stack.pop_all()
    return opened
