"""Find out whether consumers use a store: by the messages that they have, and by what they say of themselves in the store."""

from __future__ import annotations

from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, PitstopError, Unsupported
from pitstop.abc import Damaged


__all__ = ["refuse_in_use"]


_OR_LIVE = "Or give live=True: then messages may be handled while they are copied, and be handled twice."


def refuse_in_use(session: Session) -> None:
    """Raise if a message of the store is leased, or a consumer was seen lately, as far as the store can tell.

    :raises PitstopError: if so.
    """
    _refuse_leased(session)
    _refuse_seen(session)


def _refuse_leased(session: Session) -> None:
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
            f"{some} in {session.location}, so consumers use this store. Stop them, and try again.{aside} {_OR_LIVE}"
        )


def _refuse_seen(session: Session) -> None:
    try:
        seen = session.presence.seen()
    except (BackendUnavailable, Unsupported):
        # The store cannot tell, or not to this user.
        return
    if seen:
        first = seen[0]
        who = f"{first.name} on {first.host}, pid {first.pid}"
        some = f"A consumer ({who}) was" if len(seen) == 1 else f"{len(seen)} consumers (one is {who}) were"
        raise PitstopError(
            f"{some} seen lately in {session.location}. Stop the consumers, and try again: 'pitstop consumers' lists them, and one that was "
            f"killed for some minutes more. {_OR_LIVE}"
        )
