"""Find out whether consumers use a store: by the messages that they have."""

from __future__ import annotations

from pitstop._engine._session import Session
from pitstop._errors import PitstopError
from pitstop.abc import Damaged


__all__ = ["refuse_leased"]


def refuse_leased(session: Session) -> None:
    """Raise if a message of the store is leased. A consumer that has no message is not seen.

    :raises PitstopError: if a message is leased.
    """
    backend = session.backend
    leased = backend.scan("leased", 1, None)
    if leased:
        (first,) = leased
        count = max(backend.tally().leased, 1)
        some = (
            f"1 message is leased ({first.id!r:.80})"
            if count == 1
            else f"{count:,} messages are leased (one is {first.id!r:.80})"
        )
        aside = (
            "" if isinstance(first, Damaged) else " A lease that a dead consumer left ends by itself, or by release()."
        )
        raise PitstopError(
            f"{some} in {session.location}, so consumers use this store. Stop them, and try again.{aside} Or give live=True: then "
            f"messages may be handled while they are copied, and be handled twice."
        )
