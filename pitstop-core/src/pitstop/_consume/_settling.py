"""Settling: settles a delivery at the end of its handler, as the verdict says, and logs the failure of the handler.

Threads: the worker or the loop's thread, and the thread that ends a ``consume``.
"""

from __future__ import annotations

import logging

from pitstop._consume._handler import log_failure
from pitstop._consume._verdict import ACK, GIVE_BACK, NACK, NOTHING, ask, judged
from pitstop._engine._delivery import Delivery
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._transaction import ask_after_pledge
from pitstop._engine._writer import AckWriter
from pitstop._errors import PitstopError


__all__ = ["settle"]

_log = logging.getLogger("pitstop.consumer")

_ACKNOWLEDGE = Purpose.ACK


def settle(
    writer: AckWriter,
    backend: object,
    lease: Lease,
    delivery: Delivery,
    failure: BaseException | None,
    *,
    interrupted: bool = False,
    may_write: bool = False,
) -> None:
    """Settle a delivery. An error of the settlement is not raised, because the writer counts or logs it.

    :param backend: the backend in use; None if it is closed by now. See :func:`log_failure`.
    :param failure: the exception that the handler raised. None: it returned.
    :param interrupted: whether the handler was interrupted: cancelled, or left behind at the end of the program.
    :param may_write: whether the calling thread may write the settlement.
    """
    if lease.pledge is not None and not lease.settled:
        is_news = lease.is_news(failure)
        _end_pledge(writer, lease, delivery, failure, interrupted=interrupted, may_write=may_write)
        if failure is not None and not (interrupted or is_news):
            log_failure(lease, failure, NACK, backend)
        return
    if failure is None and lease.told is None and not interrupted:
        # As a rule. The verdict is the same, without the calls for each message.
        decided = ACK if lease.purpose is None else NOTHING
    else:
        decided, failure = judged(lease, failure, interrupted=interrupted)
    if decided is not NOTHING:
        try:
            if decided is ACK:
                lease.ask(_ACKNOWLEDGE, delivery)
            else:
                ask(lease, delivery, decided, failure)
            writer.put(lease, blocking=may_write and decided is not GIVE_BACK)
        except PitstopError as error:
            _log.debug("%r could not be settled: %s", lease.id, error)
    if failure is not None:
        log_failure(lease, failure, decided, backend)


def _end_pledge(
    writer: AckWriter,
    lease: Lease,
    delivery: Delivery,
    failure: BaseException | None,
    *,
    interrupted: bool,
    may_write: bool,
) -> None:
    """Settle a delivery that its handler has acknowledged in a transaction of the user."""
    try:
        if ask_after_pledge(lease, delivery, failure, interrupted=interrupted):
            writer.put(lease, blocking=may_write and lease.purpose is not Purpose.GIVE_BACK)
    except PitstopError as error:
        _log.debug("%r, acknowledged in a transaction, could not be settled: %s", lease.id, error)
