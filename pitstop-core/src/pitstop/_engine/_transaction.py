"""Acks in a transaction of the user. Only the commit makes such an ack count, and no driver reports the commit to Pitstop.

So the delivery stays open. At the end of its handler a nack is written, which the fence refuses if the transaction has
committed: the message does not have the token any more. The refusal is the news that the ack is written.

Threads: the one that calls ``ack``; the one that ends the handler. Any thread looks for transactions that have ended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress

import attrs

from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import ack, error_text
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._pledge import NOT_COMMITTED, Pledge
from pitstop._engine._session import Session
from pitstop._engine._wakeup import Wakeup
from pitstop._errors import BackendUnavailable, PitstopError, Unsupported
from pitstop.abc import Damaged, Record, Settlement


__all__ = ["OpenPledges", "ack_within", "ask_after_pledge"]


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


@attrs.frozen
class _Open:
    """A delivery whose handler has ended, with its ack in a transaction that was open then."""

    lease: Lease
    delivery: object
    pledge: Pledge
    #: The settlement to ask for, if the transaction does not commit.
    purpose: Purpose
    error: str | None


class OpenPledges:
    """The deliveries of one listener whose handlers ended before the transactions of their acks did.

    Each one is asked for once its transaction has ended, or is left to the end of its lease.
    """

    def __init__(self, session: Session, wakeup: Wakeup) -> None:
        """Return an empty collection.

        :param wakeup: wakes the thread that looks at them.
        """
        self._session = session
        self._wakeup = wakeup
        # Any thread appends and removes.
        self._open: deque[_Open] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def add(self, lease: Lease, delivery: object, pledge: Pledge, purpose: Purpose, error: str | None) -> None:
        """Ask for this settlement when the transaction has ended without a commit."""
        self._open.append(_Open(lease, delivery, pledge, purpose, error))
        self._wakeup.wake()

    def discard(self, lease: Lease) -> None:
        """Ask for nothing: a handler has the delivery again, because the transaction around it is tried again."""
        for each in tuple(self._open):
            if each.lease is lease:
                with suppress(ValueError):
                    self._open.remove(each)

    def ended(self) -> Iterator[Lease]:
        """Yield the leases whose transactions have ended, and whose settlements were asked for by this."""
        for each in tuple(self._open):
            lease = each.lease
            # Otherwise a retry of the transaction has acknowledged it again, or another call has settled it.
            current = lease.pledge is each.pledge and lease.purpose is None
            try:
                if current and lease.in_transaction and not lease.is_over(self._session.backend.now()):
                    continue
            except BackendUnavailable:
                # The acks of others are written all the same, or wait for the store as well.
                continue
            with suppress(ValueError):
                self._open.remove(each)
                with suppress(PitstopError):
                    if current:
                        lease.ask(each.purpose, each.delivery, each.error)
                        yield lease

    def clear(self) -> None:
        """Forget them: their messages come back when their leases run out."""
        self._open.clear()


def ask_after_pledge(
    lease: Lease,
    delivery: object,
    failure: BaseException | None,
    later: OpenPledges | None,
    *,
    interrupted: bool = False,
) -> bool:
    """Ask for the settlement at the end of a handler that has acknowledged in a transaction.

    :param failure: the exception that the handler raised. None: it returned.
    :param later: takes the delivery if its transaction is open. None: then the message comes back when its lease runs out,
        unless the transaction commits.
    :param interrupted: whether the handler was interrupted: cancelled, or left behind at the end of the program.
    :return: whether to write the settlement. False: the transaction is open, so that the write would wait for its end.
    :raises LeaseLost: if another thread has settled the lease meanwhile, or the lease is lost.
    """
    error: str | None
    purpose, error = Purpose.NACK, NOT_COMMITTED
    if interrupted or (failure is not None and (ends_program(failure) or isinstance(failure, GeneratorExit))):
        purpose, error = Purpose.GIVE_BACK, None
    elif failure is not None and not lease.is_news(failure):
        error = error_text(failure)
    pledge = lease.pledge
    if pledge is not None and pledge.is_open():
        if later is not None:
            later.add(lease, delivery, pledge, purpose, error)
        return False
    lease.ask(purpose, delivery, error)
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
