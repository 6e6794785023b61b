"""Drive a Pitstop from a test: emit due messages in this thread, and move the clock in between.

This drives the real listener, without a thread and without a wait. Claims, acks and nacks are decided by the same code as
always.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import attrs

from pitstop._consume._handler import (
    Handler,
    HandlerIsAsync,
    callable_handler,
    close_awaitable,
    is_async,
)
from pitstop._consume._lanes import Handlers, Plan, named, planned
from pitstop._errors import PitstopError
from pitstop._pitstop import Pitstop
from pitstop._values._arguments import MOST_THREADS
from pitstop.testing._drive import Drive, Run
from pitstop.testing._report import Report


if TYPE_CHECKING:
    from pitstop._aio._pitstop import AsyncPitstop
    from pitstop._engine._delivery import Delivery

__all__ = [
    "MAX_JUMPS",
    "MAX_STEPS",
    "Handlers",
    "adrain",
    "arun_for",
    "arun_until",
    "arun_until_idle",
    "drain",
    "run_for",
    "run_until",
    "run_until_idle",
]

#: The default for the most emissions at one instant.
MAX_STEPS = 100_000
#: The default for the most jumps of :func:`drain`.
MAX_JUMPS = 10_000


def run_until_idle(
    pit: Pitstop,
    handler: Handlers,
    *,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Handle all messages that are due now, in this thread, while the clock stands still.

    Messages that become due at this same moment meanwhile are handled, too. Each message is acknowledged when the handler
    returns, and nacked when it raises. A delivery that the handler settled itself stays as it was settled.

    :param pit: a Pitstop whose clock is a :class:`ManualClock`.
    :param handler: called with the message, as in ``delivery.msg``. A mapping gives each kind a handler or a
        :class:`pitstop.Handle`, as for :meth:`pitstop.Pitstop.consume`; of a ``Handle``, ``lock_time``, ``prefetch`` and
        ``deliveries`` hold here. Messages of several kinds are handled one at a time, in the order of their due times.
        Messages of a kind that were claimed together, by a ``prefetch`` above 1, come before those of other kinds.
    :param deliveries: whether to call it with the :class:`pitstop.Delivery` instead. By default, it is called so if its first
        parameter is annotated as a delivery or named ``delivery``, as for :meth:`pitstop.Pitstop.consume`.
    :param kinds: handle only messages of these kinds, as for :meth:`pitstop.Pitstop.consume`.
    :param raise_errors: an exception of the handler ends the run and is raised, once the message was nacked. The report so
        far is its ``pitstop_report``, and a note. False: the report holds the error, and the message comes back by ``retry``.
    :param max_steps: the most emissions at one instant.
    :return: the steps in order. A store that fails an ack or nack does not raise: the step is ``unsettled``.
    :raises PitstopError: if the run has no end, the handler is async, or the clock is a real one.
    :raises BackendUnavailable: if the store fails a claim.
    :raises Unsupported: if the store cannot choose by kind.
    """
    __tracebackhide__ = True
    return _driven(Drive(pit, _plans(handler, deliveries, kinds, _plain), raise_errors, max_steps).idle())


def run_for(
    pit: Pitstop,
    delta: timedelta | float | str,
    handler: Handlers,
    *,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Let time pass: handle each message at its own instant, up to now + ``delta`` inclusive.

    The clock goes from due time to due time, ends of leases included. At the end it stands at now + ``delta``, rounded up to a
    millisecond like the due times of the store. It stands later only if the handler, or a latency, moved it there.

    :param delta: a ``timedelta``, seconds, or text such as ``"3h"``.
    """
    __tracebackhide__ = True
    return _driven(Drive(pit, _plans(handler, deliveries, kinds, _plain), raise_errors, max_steps).for_(delta))


def run_until(
    pit: Pitstop,
    when: datetime,
    handler: Handlers,
    *,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Let time pass until ``when``, inclusive: see :func:`run_for`."""
    __tracebackhide__ = True
    return _driven(Drive(pit, _plans(handler, deliveries, kinds, _plain), raise_errors, max_steps).until(when))


def drain(
    pit: Pitstop,
    handler: Handlers,
    *,
    max_jumps: int = MAX_JUMPS,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """Handle all messages, however far in the future: the clock goes from due time to due time until no message is left.

    :param max_jumps: how often the clock may be moved. A series without end never ends.
    :raises PitstopError: if messages are left after that; the text names them.
    """
    __tracebackhide__ = True
    return _driven(Drive(pit, _plans(handler, deliveries, kinds, _plain), raise_errors, max_steps).drain(max_jumps))


async def arun_until_idle(
    pit: Pitstop | AsyncPitstop,
    handler: Handlers,
    *,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`run_until_idle`, for a handler that may be async. It handles one message at a time.

    :param pit: also an :class:`pitstop.AsyncPitstop` whose clock is a :class:`ManualClock`. Its store is called in this
        thread, because nothing else waits while the clock stands still.
    """
    __tracebackhide__ = True
    plans = _plans(handler, deliveries, kinds, callable_handler)
    return await _adriven(Drive(_plain_one(pit), plans, raise_errors, max_steps).idle())


async def arun_for(
    pit: Pitstop | AsyncPitstop,
    delta: timedelta | float | str,
    handler: Handlers,
    *,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`run_for`, for a handler that may be async. It handles one message at a time."""
    __tracebackhide__ = True
    plans = _plans(handler, deliveries, kinds, callable_handler)
    return await _adriven(Drive(_plain_one(pit), plans, raise_errors, max_steps).for_(delta))


async def arun_until(
    pit: Pitstop | AsyncPitstop,
    when: datetime,
    handler: Handlers,
    *,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`run_until`, for a handler that may be async. It handles one message at a time."""
    __tracebackhide__ = True
    plans = _plans(handler, deliveries, kinds, callable_handler)
    return await _adriven(Drive(_plain_one(pit), plans, raise_errors, max_steps).until(when))


async def adrain(
    pit: Pitstop | AsyncPitstop,
    handler: Handlers,
    *,
    max_jumps: int = MAX_JUMPS,
    deliveries: bool | None = None,
    kinds: Collection[str] | None = None,
    raise_errors: bool = True,
    max_steps: int = MAX_STEPS,
) -> Report:
    """As :func:`drain`, for a handler that may be async. It handles one message at a time."""
    __tracebackhide__ = True
    plans = _plans(handler, deliveries, kinds, callable_handler)
    return await _adriven(Drive(_plain_one(pit), plans, raise_errors, max_steps).drain(max_jumps))


def _plain_one(pit: Pitstop | AsyncPitstop) -> Pitstop:
    if isinstance(pit, Pitstop):
        return pit
    # Imported here: programs that do not use asyncio must not pay for it.
    from pitstop._aio._pitstop import pitstop_of  # noqa: PLC0415 - see above

    return pitstop_of(pit)


def _plans(handler: object, deliveries: bool | None, kinds: object, check: Callable[[Handler], Handler]) -> list[Plan]:
    """Return a plan for each kind, as for ``consume``.

    :param check: returns a handler that can be used, or raises.
    """
    # The run has no other thread: it handles one message at a time, and extends no lease.
    options = {"lock_time": None, "loop_time": None, "prefetch": None, "heartbeat": False, "max_lease": None}
    plans = planned(
        handler, field="workers", workers=1, most=MOST_THREADS, deliveries=deliveries, kinds=kinds, options=options
    )
    for each in plans:
        with named(each.kind):
            check(each.handler)
    return [attrs.evolve(each, options=attrs.evolve(each.options, heartbeat=False, max_lease=None)) for each in plans]


def _driven(run: Run) -> Report:
    __tracebackhide__ = True
    try:
        lane, delivery = next(run)
        while True:
            failure: BaseException | None = None
            try:
                result = lane.handler(delivery if lane.deliveries else delivery.msg)
            except BaseException as error:  # noqa: BLE001 - the run raises it again if it is to be raised
                failure = error
                _tell_what_it_got(error, delivery, lane.deliveries)
            else:
                if isinstance(result, Awaitable):
                    failure = _given_up(result)
            lane, delivery = run.send(failure)
    except StopIteration as end:
        return _report_of(end)
    finally:
        run.close()


async def _adriven(run: Run) -> Report:
    __tracebackhide__ = True
    # An async handler has imported asyncio already. Programs without one must not pay for the import.
    from pitstop._aio._delivery import current_task, is_interruption  # noqa: PLC0415 - see above

    task = current_task()
    try:
        lane, delivery = next(run)
        while True:
            failure: BaseException | None = None
            try:
                result = lane.handler(delivery if lane.deliveries else delivery.msg)
                if isinstance(result, Awaitable):
                    await result
            except BaseException as error:
                if is_interruption(error, task):
                    # The interruption is not the handler's: the run ends, whatever raise_errors is.
                    run.throw(error)
                    raise
                failure = error
                _tell_what_it_got(error, delivery, lane.deliveries)
            lane, delivery = run.send(failure)
    except StopIteration as end:
        return _report_of(end)
    finally:
        run.close()


def _tell_what_it_got(error: BaseException, delivery: Delivery, deliveries: bool) -> None:
    """Add a hint to the error of a handler that expects a delivery and did not request one."""
    if deliveries or not isinstance(error, AttributeError) or error.obj is not delivery.msg:
        return
    if hasattr(delivery, error.name or ""):
        error.add_note(
            f"The handler was called with the message, and {error.name!r} is an attribute of a Delivery. Give deliveries=True, and "
            f"the handler is called with the delivery."
        )


def _report_of(end: StopIteration) -> Report:
    report = end.value
    assert isinstance(report, Report), "a run returns its report"
    return report


def _plain(handler: Handler) -> Handler:
    if is_async(callable_handler(handler)):
        raise _is_async()
    return handler


def _is_async() -> PitstopError:
    return HandlerIsAsync(
        "The handler is async, so its result would never be awaited. Use await arun_until_idle(...), arun_for, arun_until or adrain."
    )


def _given_up(result: Awaitable[object]) -> PitstopError:
    """Return the error to raise in place of awaiting the result. Close the result, which would never be awaited."""
    close_awaitable(result)
    return _is_async()
