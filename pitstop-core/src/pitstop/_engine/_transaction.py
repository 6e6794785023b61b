"""Acks in a transaction of the user. Only the commit makes such an ack count, and no driver reports the commit to Pitstop.

So the delivery stays open. At the end of its handler a nack is written, which the fence refuses if the transaction has
committed: the message does not have the token any more. The refusal is the news that the ack is written.

Threads: the one that calls ``ack``; the one that ends the handler.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import ack, error_text
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._pledge import NOT_COMMITTED, Pledge
from pitstop._engine._session import Session
from pitstop._errors import PitstopError, Unsupported
from pitstop.abc import Damaged, Record, Settlement


__all__ = ["ack_within", "ask_after_pledge"]


def ack_within(
    session: Session,
    lease: Lease,
    user_session: object,
    settle_down: Callable[[], None],
    lose: Callable[[], None],
) -> None:
    """Acknowledge in the transaction that the user's session is in.

    :param settle_down: waits a moment for an extension that is under way, so that it does not conflict with the ack.
    :param lose: called once if the lease is over.
    :raises LeaseLost: if the lease is over, or was settled before. Nothing was changed.
    :raises Unsupported: if the store has no such transactions.
    :raises PitstopError: if the session cannot be used, or the next occurrence cannot be computed.
    """
    writes = session.backend.within(user_session)
    settle, is_open = getattr(writes, "settle", None), getattr(writes, "is_open", None)
    if settle is None or is_open is None:
        raise Unsupported(
            f"{type(session.backend).__name__} ({session.location}) stores messages in a transaction, but cannot acknowledge "
            f"them there. Leave session out of ack(), or use a backend that can, such as 'mongo' or 'sqlite'."
        )
    before = lease.pledge
    settlement = _settlement_of(lease)
    # From here on, the heartbeat leaves the lease alone.
    pledge = Pledge(settlement, is_open)
    try:
        lease.pledge_ack(pledge)
        settle_down()
        if not lease.is_over(session.backend.now()) and settle([settlement])[0]:
            return
        if lease.refuse_pledge(before, stands=lease.superseded and not _is_as_leased(lease, writes.get(lease.id))):
            lose()
    except BaseException:
        if lease.pledge is pledge:
            lease.pledge = attrs.evolve(pledge, failed=True)
        raise
    finally:
        lease.end_pledge(settlement)
    if lease.told is not None:
        raise lease.told


def ask_after_pledge(
    lease: Lease, delivery: object, failure: BaseException | None, *, interrupted: bool = False
) -> bool:
    """Ask for the settlement at the end of a handler that has acknowledged in a transaction.

    :param failure: the exception that the handler raised. None: it returned.
    :param interrupted: whether the handler was interrupted: cancelled, or left behind at the end of the program.
    :return: whether to write the settlement. False: the transaction is open, so that the write would wait for its end. If it
        aborts, the message comes back when its lease runs out.
    :raises LeaseLost: if another thread has settled the lease meanwhile, or the lease is lost.
    """
    if lease.in_transaction:
        return False
    if interrupted or (failure is not None and (ends_program(failure) or isinstance(failure, GeneratorExit))):
        lease.ask(Purpose.GIVE_BACK, delivery)
    elif failure is None or lease.is_news(failure):
        lease.ask(Purpose.NACK, delivery, NOT_COMMITTED)
    else:
        lease.ask(Purpose.NACK, delivery, error_text(failure))
    return True


def _is_as_leased(lease: Lease, stored: Record | Damaged | None) -> bool:
    """Whether the message is the one that was leased: neither stored anew nor removed."""
    return isinstance(stored, Record) and stored.revision == lease.record.revision


def _settlement_of(lease: Lease) -> Settlement:
    try:
        return ack(lease.emission)
    except BaseException as error:
        if ends_program(error):
            raise
        raise PitstopError(
            f"{lease.id!r} was not acknowledged: {type(error).__name__} was raised while its next state was computed. "
            f"Look at its recurrence; or store the message again, or remove it."
        ) from error
