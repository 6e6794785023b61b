"""ChangingMany: the methods of the facade that remove, redrive or reschedule many messages, batch by batch.

Each batch is a call of its own. Between two batches nothing is held, so that the caller's iterable and its ``progress`` may use
Pitstop, and other threads go on. The memory holds the ids of one batch, or of one search. Changes that need the messages read and write a part of a
batch at a time, as :meth:`pitstop.abc.Backend.get_portion` bounds it. A removal reads no messages here.

Threads: the one that calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice

import attrs

from pitstop._decisions._move import reschedule, revive
from pitstop._decisions._search import query_of, some_ids
from pitstop._decisions._settle import redrive
from pitstop._decisions._store import new_revision
from pitstop._engine._calls import entrance
from pitstop._engine._handling import supersede
from pitstop._engine._session import Session
from pitstop._errors import Conflict, OutcomeUnknown, PitstopError
from pitstop._finding import check_query
from pitstop._storing import MOST_READS, Storing, check_conditional
from pitstop._values._entry import State
from pitstop._values._id import valid_id
from pitstop._values._schedule import Moment, plan
from pitstop.abc import PAUSED, Capability, Damaged, Progress, Query, Record, Settlement
from pitstop.abc._query import Place


__all__ = ["ChangingMany"]

#: How many messages one batch has.
_BATCH = 500
#: The most places that one search returns. A search among messages with one and the same ``due`` reads all of these, because
#: indexes do not have their order. So longer changes make longer searches, and few of them.
_MOST_PLACES = 32_000
#: Seconds. A search that takes longer is followed by none for more places. Each has to end within the time of one operation.
_QUICK = 0.35
#: How many characters of a revision are the same in all revisions of a call of ``reschedule_many``. The others are as many.
_MARK = 16

_Content = Record | Damaged
#: Changes the messages with these ids, those that match the query, and returns how many it has changed.
_Do = Callable[[Sequence[str], Query | None], int]
#: Changes messages that were read, and returns how many it has changed, and the ids of those that are to be read again.
_Change = Callable[[Sequence[_Content], Query | None], tuple[int, Sequence[str]]]


class ChangingMany:
    """A part of :class:`pitstop.Pitstop`."""

    _session: Session

    def remove_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        state: State | None = None,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Remove messages by their ids, or all that match a search. Return how many were removed.

        Messages that a listener has are removed as well, as by :meth:`pitstop.Pitstop.remove`. A message that is changed
        meanwhile, so that it does not match any more, stays. The call works batch by batch. If it fails, the messages of the
        batches before were removed, and the same call goes on with the rest.

        :param ids: an iterable of ids, also a generator. It is read batch by batch. Ids without a message are left out.
        :param state: as in :meth:`pitstop.Pitstop.entries`; also ``kind``, ``prefix``, ``due_before``, ``due_after`` and
            ``failing``. Give at least one condition, and no ``ids``.
        :param progress: called after each batch with the number of messages so far. If it raises, the call ends with that error.
        :raises PitstopError: if an argument cannot be used, or there is neither ``ids`` nor a condition.
        :raises MessageError: if one of the ``ids`` cannot be an id. The batches before it were done.
        :raises Conflict: if other programs change one of the messages all the time, so that it cannot be removed on a condition.
        :raises OutcomeUnknown: if a reply was lost. Its ``ids`` name the messages that may have been removed.
        :raises Unsupported: if the store can remove no message on a condition.
        """
        query = self._query(ids, state, kind, prefix, due_before, due_after, failing)
        if query is not None:
            return self._by_query(query, self._delete, progress)
        return self._by_ids(ids, self._delete, progress)

    def redrive_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        state: State | None = None,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Make dead messages due now, by their ids, or all dead ones that match a search. Return how many were redriven.

        Other messages are left out, and so are documents that cannot be read. For each message the call does what
        :meth:`pitstop.Pitstop.redrive` does. It works batch by batch, as :meth:`remove_many` does.

        :param ids: as in :meth:`remove_many`.
        :param state: as in :meth:`remove_many`; ``"dead"`` means all dead messages.
        :param progress: as in :meth:`remove_many`.
        :raises PitstopError: as :meth:`remove_many`.
        :raises MessageError: as :meth:`remove_many`.
        :raises OutcomeUnknown: if a reply was lost. Its ``ids`` name the messages that may have been redriven.
        """
        query = self._query(ids, state, kind, prefix, due_before, due_after, failing)
        redrive_some = partial(self._change, change=self._redrive)
        if query is None:
            return self._by_ids(ids, redrive_some, progress)
        if query.state not in {None, "dead"}:
            return 0
        return self._by_query(attrs.evolve(query, state="dead"), redrive_some, progress)

    def reschedule_many(
        self,
        ids: Iterable[str] | None = None,
        *,
        when: Moment | None,
        state: State | None = None,
        kind: str | None = None,
        prefix: str | None = None,
        due_before: Moment | None = None,
        due_after: Moment | None = None,
        failing: bool | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Let messages come at ``when``, by their ids, or all that match a search. Return how many were changed.

        For each message the call does what :meth:`pitstop.Pitstop.reschedule` does. Messages that come at that time already are
        not counted, and documents that cannot be read are left out. The call works batch by batch, as :meth:`remove_many` does.

        :param ids: as in :meth:`remove_many`.
        :param when: as in :meth:`pitstop.Pitstop.store`. None: now. A distance counts from the beginning of the call.
        :param state: as in :meth:`remove_many`.
        :param progress: as in :meth:`remove_many`.
        :raises PitstopError: as :meth:`remove_many`.
        :raises MessageError: as :meth:`remove_many`.
        :raises ScheduleError: if ``when`` makes no sense.
        :raises Conflict: if other programs change one of the messages all the time.
        :raises OutcomeUnknown: if a reply was lost. Its ``ids`` name the messages that may have been changed.
        :raises Unsupported: if the store cannot change a message on a condition.
        """
        query = self._query(ids, state, kind, prefix, due_before, due_after, failing)
        now_us = self._checked_now()
        due, _ = plan(when, None, None, None, None, now_us)
        change = partial(self._reschedule, due=due, now_us=now_us, mark=new_revision()[:_MARK])
        reschedule_some = partial(self._change, change=change)
        if query is not None:
            return self._by_query(query, reschedule_some, progress)
        return self._by_ids(ids, reschedule_some, progress)

    @entrance
    def _query(
        self,
        ids: object,
        state: State | None,
        kind: str | None,
        prefix: str | None,
        due_before: Moment | None,
        due_after: Moment | None,
        failing: bool | None,
    ) -> Query | None:
        """Return the query of a call; None if ids were given."""
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
        if ids is not None:
            if query != Query():
                raise PitstopError("Both ids and conditions were given. Give ids, or conditions.")
            return None
        if query == Query() or query == Query(prefix=""):
            raise PitstopError(
                "There are neither ids nor conditions, so all messages would be changed. Give ids, or a condition that is not empty, such "
                "as prefix='order-7:'."
            )
        check_query(query, backend)
        return query

    @entrance
    def _checked_now(self) -> int:
        check_conditional(self._session)
        return self._session.backend.now()

    def _by_ids(self, ids: object, do: _Do, progress: Callable[[int], object] | None) -> int:
        count = 0
        given = some_ids(ids)
        # Read outside of any call of Pitstop: a generator may call Pitstop itself.
        for batch in _batches(given):
            count += self._batch(batch, do)
            if progress is not None:
                progress(count)
        return count

    def _by_query(self, query: Query, do: _Do, progress: Callable[[int], object] | None) -> int:
        count, after, most = 0, None, _BATCH
        clock = self._session.clock
        while True:
            begun = clock.monotonic()
            found = self._places(query, after, most)
            # A search for failing messages reads each message whole.
            grows = query.failing is None and clock.monotonic() - begun < _QUICK
            for first in range(0, max(len(found), 1), _BATCH):
                count += self._some(found[first : first + _BATCH], query, do)
                if progress is not None:
                    progress(count)
            if len(found) < most:
                return count
            after, most = found[-1], min(4 * most, _MOST_PLACES) if grows else most

    @entrance
    def _batch(self, ids: Sequence[str], do: _Do) -> int:
        self._session.flush(ids)
        return do(ids, None)

    @entrance
    def _places(self, query: Query, after: Place | None, most: int) -> Sequence[Place]:
        # Acks that returned come first: the messages are gone.
        self._session.flush()
        return self._session.backend.find_places(query, most, after)

    @entrance
    def _some(self, places: Sequence[Place], query: Query, do: _Do) -> int:
        """Change the messages of a search with these places that match still. Return how many were changed."""
        ids = [id for _, id in places]
        self._session.flush(ids)
        return do(ids, query) if ids else 0

    def _delete(self, ids: Sequence[str], query: Query | None) -> int:
        try:
            with self._in_doubt(ids):
                applied = self._session.backend.delete_many(ids, query)
        except OutcomeUnknown as error:
            supersede(self._session.events, error.ids or ids)
            raise
        except Conflict:
            # All messages of the batch but one may be gone.
            supersede(self._session.events, ids)
            raise
        gone = [id for id, done in zip(ids, applied, strict=True) if done]
        self._forget(gone)
        return len(gone)

    @contextmanager
    def _in_doubt(self, ids: Sequence[str]) -> Iterator[None]:
        """Change messages. If that fails, some of them may be changed or gone, and no listener may hand these out as they were.

        A listener gives back those that it has claimed ahead. If they are still there, they come again.
        """
        try:
            yield
        except BaseException:
            self._session.forget(dict.fromkeys(ids))
            raise

    def _forget(self, ids: Sequence[str]) -> None:
        """Note that these messages are gone, for handlers, and for listeners of this process that have claimed them ahead."""
        if ids:
            supersede(self._session.events, ids)
            self._session.forget(dict.fromkeys(ids))

    def _change(self, ids: Sequence[str], query: Query | None, change: _Change) -> int:
        """Read the messages with these ids portion by portion, and change those that match, each portion before the next one."""
        backend = self._session.backend
        count, left = 0, ids
        while left:
            read, left = backend.get_portion(left)
            now = backend.now() // 1000
            # Since the search they may have changed.
            done, again = change([each for each in read if query is None or query.matches(each, now)], query)
            count, left = count + done, [*left, *again]
        return count

    def _redrive(self, page: Sequence[_Content], query: Query | None) -> tuple[int, Sequence[str]]:
        session = self._session
        now = session.backend.now() // 1000
        conditional = Capability.CONDITIONAL in session.capabilities
        settlements: list[Settlement] = []
        moved: list[tuple[Record, str, Progress]] = []
        kinds: set[str] = set()
        for each in page:
            if isinstance(each, Damaged) or each.progress.due is not None or each.progress.token in {None, PAUSED}:
                continue
            kinds.add(each.kind)
            alive = revive(each, now) if conditional else None
            if alive is None:
                settlements.append(redrive(each, now))
            else:
                # Its `expires` counts from now, which is no part of the progress.
                moved.append((attrs.evolve(alive, revision=new_revision()), each.revision, each.progress))
        count = sum(session.backend.put_many_if(moved)) if moved else 0
        applied = session.backend.settle(settlements) if settlements else ()
        session.written(None, kinds)
        unknown = [each.id for each, done in zip(settlements, applied, strict=True) if done is None]
        if unknown:
            raise OutcomeUnknown(
                f"{len(unknown)} messages may have been redriven: the reply was lost, and other programs have changed them since. "
                f"Redrive again: that does no harm.",
                ids=tuple(unknown),
            )
        return count + sum(map(bool, applied)), ()

    def _reschedule(
        self, page: Sequence[_Content], query: Query | None, due: int, now_us: int, mark: str
    ) -> tuple[int, Sequence[str]]:
        """Reschedule messages, each once in a call.

        A message that was made due may be claimed at once, and so come to a later page of the search with the end of its lease as
        its ``due``. To reschedule it again would end that lease, and so on without end.

        :param mark: the beginning of the revisions of this call. Claims and settlements keep the revision.
        """
        session = self._session
        backend, now = session.backend, now_us // 1000
        storing = Storing(session, backend, now_us, at_once=True)
        count, tries = 0, 0
        again: list[str] = []
        left = [each for each in page if isinstance(each, Record) and not each.revision.startswith(mark)]
        while items := [(moved, each) for each in left if (moved := reschedule(each, due, now)) != each]:
            if tries == MOST_READS:
                id = items[0][1].id
                raise Conflict(
                    f"The message {id!r} was not rescheduled, because other programs have changed it {MOST_READS} times meanwhile. "
                    f"Try again.",
                    id=id,
                )
            tries += 1
            items = [(attrs.evolve(moved, revision=mark + new_revision()[_MARK:]), each) for moved, each in items]
            with self._in_doubt([each.id for _, each in items]):
                stored = backend.put_many_if([(moved, each.revision, each.progress) for moved, each in items])
            for (moved, _), done in zip(items, stored, strict=True):
                if done:
                    storing.replaced(moved)
            count += sum(map(bool, stored))
            missed = [each.id for (_, each), done in zip(items, stored, strict=True) if not done]
            # They were changed meanwhile: read again, those that still match.
            read, rest = backend.get_portion(missed) if missed else ((), ())
            again += rest
            at = backend.now() // 1000
            left = [
                each
                for each in read
                if isinstance(each, Record)
                and not each.revision.startswith(mark)
                and (query is None or query.matches(each, at))
            ]
        return count, again


def _batches(given: Iterator[object]) -> Iterator[Sequence[str]]:
    """Yield distinct ids, batch by batch.

    :raises MessageError: if one of them cannot be an id. The batches before it were yielded.
    """
    while some := list(islice(given, _BATCH)):
        yield list(dict.fromkeys(map(valid_id, some)))
