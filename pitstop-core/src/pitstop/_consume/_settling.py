"""Settling: settles a delivery at the end of its handler, as the verdict says, and logs the failure of the handler.

Threads: the worker or the loop's thread, and the thread that ends a ``consume``.
"""

from __future__ import annotations

import logging

from collections.abc import Sequence
from typing import Any

from pitstop._consume._batches import Item
from pitstop._consume._handler import log_failed_batch, log_failure
from pitstop._consume._verdict import ACK, GIVE_BACK, NACK, NOTHING, Verdict, ask, judged
from pitstop._engine._delivery import Delivery
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._transaction import ask_after_pledge
from pitstop._engine._writer import AckWriter
from pitstop._errors import PitstopError
from pitstop.abc import log_fields


__all__ = ["settle", "settle_together"]

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
        if _ask_after_pledge(writer, lease, delivery, failure, interrupted=interrupted):
            _write(writer, [lease], may_write=may_write and lease.purpose is not Purpose.GIVE_BACK)
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
            _log.debug("%r could not be settled: %s", lease.id, error, extra=unsettled(lease))
    if failure is not None:
        log_failure(lease, failure, decided, backend)


def settle_together(
    writer: AckWriter,
    backend: object,
    items: Sequence[Item],
    failure: BaseException | None,
    *,
    interrupted: bool = False,
    may_write: bool = False,
) -> int:
    """Do as :func:`settle`, with the deliveries of one batch. They are written together.

    The error of a settlement that the handler asked for is no failure of the other messages: those that it had not settled are
    given back.

    :return: how many deliveries are given back.
    """
    stopped = interrupted or any(lease.is_news(failure) for lease, _ in items)
    asked: list[Lease] = []
    failed: list[tuple[Lease, Verdict]] = []
    given_back = 0
    for lease, delivery in items:
        interrupts = stopped and not lease.is_news(failure)
        if lease.pledge is not None and not lease.settled:
            decided, own_failure = NACK, None if stopped else failure
            is_asked = _ask_after_pledge(writer, lease, delivery, failure, interrupted=interrupts)
        else:
            decided, own_failure = judged(lease, failure, interrupted=interrupts)
            is_asked = decided is not NOTHING and _ask(lease, delivery, decided, own_failure)
        if is_asked:
            asked.append(lease)
            given_back += lease.purpose is Purpose.GIVE_BACK
        if own_failure is not None:
            failed.append((lease, decided))
    _write(writer, asked, may_write=may_write and not given_back)
    if failure is not None and failed:
        log_failed_batch(failed, failure, backend)
    return given_back


def _write(writer: AckWriter, asked: Sequence[Lease], *, may_write: bool) -> None:
    for number, lease in enumerate(asked, 1):
        try:
            if number < len(asked) and not writer.unattended:
                # With the last one.
                writer.take_along(lease)
            else:
                writer.put(lease, blocking=may_write)
        except PitstopError as error:
            _log.debug("%r could not be settled: %s", lease.id, error, extra=unsettled(lease))


def _ask(lease: Lease, delivery: Delivery, decided: Verdict, failure: BaseException | None) -> bool:
    """Ask for a settlement. Return False if the lease is over."""
    try:
        ask(lease, delivery, decided, failure)
    except PitstopError as error:
        _log.debug("%r could not be settled: %s", lease.id, error, extra=unsettled(lease))
        return False
    return True


def _ask_after_pledge(
    writer: AckWriter, lease: Lease, delivery: Delivery, failure: BaseException | None, *, interrupted: bool
) -> bool:
    """Ask for the settlement of a delivery that its handler has acknowledged in a transaction of the user.

    :return: whether there is one to write.
    """
    try:
        return ask_after_pledge(lease, delivery, failure, writer.open_pledges, interrupted=interrupted)
    except PitstopError as error:
        text = "%r, acknowledged in a transaction, could not be settled: %s"
        _log.debug(text, lease.id, error, extra=unsettled(lease))
        return False


def unsettled(lease: Lease) -> dict[str, Any]:
    """Return the fields of a line about a delivery that could not be settled."""
    kind = lease.emission.leased.kind
    return log_fields("not_settled", message_id=lease.id, kind=kind, attempt=lease.attempt)
