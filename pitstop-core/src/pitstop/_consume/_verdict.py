"""The verdict on a delivery: how the outcome of its handler settles it.

One rule for the threads and the tasks of ``consume``, and for the tests that drive a store.

Threads: any thread calls ``verdict`` and ``judged``, which are pure functions; the thread that settles calls the rest.
"""

from __future__ import annotations

from enum import Enum

from pitstop._decisions._ending import ends_program
from pitstop._decisions._settle import error_text
from pitstop._engine._lease import Lease, Purpose
from pitstop._engine._transaction import ask_after_pledge
from pitstop._errors import LeaseLost, PitstopError


__all__ = ["ACK", "GIVE_BACK", "NACK", "NOTHING", "Verdict", "ask", "ask_at_end", "judged", "verdict"]


class Verdict(Enum):
    """The treatment of a delivery at the end of its handler."""

    #: The handler returned.
    ACK = "ack"
    #: The handler failed: the message comes back as ``retry`` says.
    NACK = "nack"
    #: The program ends: the message is due again at once, and this was no attempt.
    GIVE_BACK = "give back"
    #: The delivery is settled already, or it cannot be settled any more.
    NOTHING = "nothing"


# Looked up once: members of an Enum are slow to get at.
ACK, NACK, GIVE_BACK, NOTHING = Verdict.ACK, Verdict.NACK, Verdict.GIVE_BACK, Verdict.NOTHING
_ACKNOWLEDGE = Purpose.ACK


def verdict(
    failure: BaseException | None,
    *,
    settled: bool = False,
    news: PitstopError | None = None,
    interrupted: bool = False,
) -> Verdict:
    """Decide.

    :param failure: the exception that the handler raised; None: it returned.
    :param settled: whether the handler settled the delivery itself.
    :param news: the error that the delivery's own ``ack``, ``nack`` or ``extend`` raised last. It comes from the store, so it
        is no failure of the handler.
    :param interrupted: whether the handler was interrupted: cancelled, or left behind at the end of the program.
    """
    if settled or isinstance(news, LeaseLost):
        return Verdict.NOTHING
    if interrupted or ends_program(failure):
        return Verdict.GIVE_BACK
    if failure is None:
        return Verdict.ACK
    return Verdict.NOTHING if failure is news else Verdict.NACK


def judged(
    lease: Lease, failure: BaseException | None, *, interrupted: bool = False
) -> tuple[Verdict, BaseException | None]:
    """Decide on a lease at the end of its handler.

    :return: the verdict, and the failure of the handler. None: it has not failed, because it returned, was interrupted, or let
        out news of the store.
    """
    news = lease.told
    if lease.superseded:
        # An extension after the handler had stored or removed the message has raised the news. The lease is settled all the
        # same, so that it is counted.
        failure, news = None if lease.is_news(failure) else failure, None
    decided = verdict(failure, settled=lease.settled, news=news, interrupted=interrupted)
    return decided, None if interrupted or failure is news else failure


def ask(lease: Lease, delivery: object, decided: Verdict, failure: BaseException | None) -> None:
    """Ask for the settlement of a verdict other than NOTHING.

    :raises LeaseLost: if another thread has settled the lease meanwhile.
    """
    if decided is ACK:
        lease.ask(_ACKNOWLEDGE, delivery)
    elif decided is NACK:
        lease.ask(Purpose.NACK, delivery, error_text(failure))
    else:
        lease.ask(Purpose.GIVE_BACK, delivery)


def ask_at_end(lease: Lease, delivery: object, failure: BaseException | None, *, interrupted: bool = False) -> bool:
    """Ask for the settlement of a delivery at the end of its handler. Return whether there is one to write.

    :raises LeaseLost: if another thread has settled the lease meanwhile.
    """
    if lease.pledge is not None and not lease.settled:
        return ask_after_pledge(lease, delivery, failure, None, interrupted=interrupted)
    decided, _ = judged(lease, failure, interrupted=interrupted)
    if decided is not NOTHING:
        ask(lease, delivery, decided, failure)
    return decided is not NOTHING
