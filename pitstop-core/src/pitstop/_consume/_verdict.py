"""The verdict on a delivery: how the outcome of its handler settles it.

One rule for the threads and the tasks of ``consume``, and for the tests that drive a store.

Threads: any; a pure function.
"""

from __future__ import annotations

from enum import Enum

from pitstop._decisions._ending import ends_program
from pitstop._errors import LeaseLost, PitstopError


__all__ = ["Verdict", "verdict"]


class Verdict(Enum):
    """What is done with a delivery at the end of its handler."""

    #: The handler returned.
    ACK = "ack"
    #: The handler failed: the message comes back as ``retry`` says.
    NACK = "nack"
    #: The program ends: the message is due again at once, and this was no attempt.
    GIVE_BACK = "give back"
    #: The delivery is settled already, or it cannot be settled any more.
    NOTHING = "nothing"


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
