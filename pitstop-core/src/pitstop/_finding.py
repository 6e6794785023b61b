"""Finding: the methods of the facade that search the store and count its messages.

Threads: the one that calls.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, overload

from pitstop._decisions._describe import describe, summarize
from pitstop._decisions._explain import explain
from pitstop._decisions._search import query_of
from pitstop._engine._calls import entrance
from pitstop._engine._session import Session
from pitstop._errors import BackendUnavailable, PitstopError
from pitstop._values._arguments import MOST_RECORDS, place_after, whole_number
from pitstop._values._entry import Entry, State, Stats
from pitstop._values._explanation import Explanation
from pitstop._values._id import valid_id
from pitstop._values._instant import from_instant
from pitstop._values._quoting import quoted
from pitstop._values._schedule import Moment
from pitstop._values._seen import SeenConsumer
from pitstop.abc import Backend, Capability, Query
from pitstop.abc._backend import lacks_kinds
from pitstop.abc._lacks import lacks_notes


__all__ = ["Finding", "check_query"]


class Finding:
    """A part of :class:`pitstop.Pitstop`."""

    _session: Session

    @entrance
    def entries(
        self,
        state: State | None = None,
        limit: int = 100,
        after: Entry | None = None,
        *,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
    ) -> list[Entry]:
        """Return the entries of stored messages, ordered by due time and then by id, dead messages last.

        With ``prefix``, the order is that of the ids alone. An entry is returned if it matches all arguments.

        :param state: only messages in this state.
        :param limit: the most entries to return.
        :param after: the last entry of the page before, to go on from there with the same arguments. Its message need not exist
            any more.
        :param kind: only messages of this kind; ``""``: those that were given none.
        :param prefix: only messages whose id begins with this text. Ids are compared by code points, so upper case and lower case
            differ.
        :param due_before: only messages whose ``due`` is before this time: an aware datetime, or a distance from now, which may be
            negative: a ``timedelta``, or text such as ``"15m"`` or ``"-1h"``. Dead messages have no ``due``.
        :param due_after: only messages whose ``due`` is at this time or later. So two ranges that meet have no message in common.
        :param failing: True: only messages whose current occurrence has failed, and that no listener has now: they wait for a
            retry, their lease ran out, or they are dead. The end of a program is no failure. False: only the others.
        :raises PitstopError: if an argument cannot be used; the text names it.
        :raises Unsupported: if the store has no kinds, and ``kind`` is given.
        """
        most = min(whole_number(limit, "limit", error=PitstopError), MOST_RECORDS)
        place = place_after(after)
        backend = self._session.backend
        query = query_of(
            backend.now(),
            state=state,
            kind=kind,
            prefix=prefix,
            due_before=due_before,
            due_after=due_after,
            failing=failing,
        )
        check_query(query, backend)
        self._session.flush()
        # A scan is older than searches. Each backend has it.
        stored = backend.scan(query.state, most, place) if query.only_state else backend.find(query, most, place)
        now = backend.now() // 1000
        return [describe(each, now) for each in stored]

    @entrance
    def explain(self, id: str) -> Explanation | None:
        """Return why a message has not come; None if there is no message with that id.

        It was acknowledged or removed then, or has another id.

        :raises MessageError: if ``id`` cannot be an id.
        """
        id, session = valid_id(id), self._session
        backend, clock = session.backend, session.clock
        session.flush((id,))
        kinds = backend.paused_kinds() if Capability.PAUSES in backend.capabilities else {}
        stored = backend.get(id)
        before, now_us, after = clock.time_us(), backend.now(), clock.time_us()
        if stored is None:
            return None
        return explain(
            stored,
            describe(stored, now_us // 1000),
            from_instant(now_us // 1000),
            {kind: None if end is None else from_instant(end) for kind, end in kinds.items()},
            timedelta(microseconds=(before + after) // 2 - now_us),
            _seen(session),
        )

    @entrance
    def seen_consumers(self) -> list[SeenConsumer]:
        """Return the processes that have an open listener on this store, in the order of their begin.

        This process is shown as it is now; :attr:`consumers` shows more of it. Others were seen lately: each says once per
        ``announce`` time (a minute unless configured) that it consumes.

        :raises Unsupported: if the store has several processes, and keeps no notes.
        """
        backend = self._session.backend
        if not _consumers_are_known(backend):
            raise lacks_notes(backend, backend.location)
        return self._session.presence.seen()

    @overload
    def stats(self) -> Stats: ...

    @overload
    def stats(self, by: None) -> Stats: ...

    @overload
    def stats(self, by: Literal["kind"]) -> dict[str, Stats]: ...

    def stats(self, by: Literal["kind"] | None = None) -> Stats | dict[str, Stats]:
        """Return the number of messages in each state. This reads an index over all messages; avoid it in a hot path.

        :param by: ``"kind"``: return a ``dict`` with these numbers for each kind that has a message, in the order of the kinds.
            This reads all messages. A message whose kind is damaged is in none of them.
        :raises PitstopError: if ``by`` is another value.
        """
        return self._stats(by)

    @entrance
    def _stats(self, by: object) -> Stats | dict[str, Stats]:
        if by is not None and not (isinstance(by, str) and by == "kind"):
            raise PitstopError(f"by={quoted(by)} is unknown. Give by='kind', or leave it out.")
        backend = self._session.backend
        self._session.flush()
        if by is None:
            return summarize(backend.tally())
        return {kind: summarize(tally) for kind, tally in sorted(backend.tally_by_kind().items())}


def _seen(session: Session) -> list[SeenConsumer] | None:
    """Return the consumers of a store; None if it cannot tell, or not to this user: all else is worth an answer."""
    try:
        return session.presence.seen() if _consumers_are_known(session.backend) else None
    except BackendUnavailable:
        return None


def _consumers_are_known(backend: Backend) -> bool:
    capabilities = backend.capabilities
    return Capability.NOTES in capabilities or Capability.MULTI_PROCESS not in capabilities


def check_query(query: Query, backend: Backend) -> None:
    """Check that a backend can answer a search.

    :raises Unsupported: if it cannot.
    """
    if query.kind and Capability.KINDS not in backend.capabilities:
        raise lacks_kinds(backend)
