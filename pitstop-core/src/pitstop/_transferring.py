"""Transferring: the methods of the facade that move all messages of a store to a file or to another store.

Each page is a call of its own. Between two pages nothing is held, so that the caller's iterable and its ``progress`` may use Pitstop.

Threads: the one that calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import get_args

from pitstop._engine._session import Session
from pitstop._errors import PitstopError
from pitstop._transfer._lines import lines_of, pages_of
from pitstop._transfer._source import Source
from pitstop._transfer._target import Target
from pitstop._values._arguments import flag
from pitstop._values._quoting import quoted
from pitstop._values._transfer import IfOther, Transfer
from pitstop.abc import Capability


__all__ = ["Transferring"]


class Transferring:
    """A part of :class:`pitstop.Pitstop`."""

    _session: Session

    def export_lines(self, *, live: bool = False) -> Iterator[bytes]:
        """Return an iterator over all messages as lines of JSON, for :meth:`import_lines`. The store is not changed.

        The lines have everything that a backend stores: ids, kinds, policies, schedules, attempts, errors, revisions, dead and
        paused messages, and the paused kinds. A leased message is exported without its lease, due at the end of the lease. The
        store is read in pages, also if it is large. The lines are one consistent view only if no program changes the store meanwhile.

        :param live: export also while consumers have messages. They may handle messages that are exported as well.
        :return: lines in ASCII, each with its line feed. If the iterator raises, the lines so far cannot be imported as a whole.
        :raises PitstopError: if a message is leased, and ``live`` is false. Also by the iterator, at its end, if the store has not as many
            messages as were read.
        """
        source = Source(self._session, live=flag(live, "live", error=PitstopError))
        now, pauses = source.begin()
        return lines_of(source.location, now, pauses, source.pages())

    def import_lines(
        self,
        lines: Iterable[bytes | str],
        *,
        if_exists: IfOther = "keep",
        live: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Store the messages of an export. Return how many were written, and the outcome for the others.

        Each message gets the id, the revision, the times, the attempts and the error that it had, so its ``delivery.key`` is the
        same. Each page is checked by its digest before it is written, and read back and compared after that. A second import of the
        same lines changes nothing. If the call fails or the process dies, the same call goes on: messages that are there already are
        not written again. But a message that a consumer has acknowledged meanwhile is gone, and would be stored again. So start
        consumers when the import is done.

        :param lines: of :meth:`export_lines`: an open file, or any iterable. It is read page by page.
        :param if_exists: the treatment of a stored message with the same id that is not equal in all fields. ``"keep"``: it stays,
            and counts as ``kept``. ``"replace"``: the imported message takes its place.
        :param live: import also while consumers of this store have messages.
        :param progress: called after each page with the number of messages so far. If it raises, the call ends with that error.
        :raises PitstopError: if the lines are not those of an export, were changed or are cut off; the text names the line, and the
            pages before it were imported. Also if a message is leased, and ``live`` is false; and if a message that was written is not
            there as it was written.
        :raises Conflict: with ``if_exists="replace"``, if other programs change one of the messages all the time.
        :raises OutcomeUnknown: if a reply was lost. The same call finds out.
        :raises Unsupported: if the store cannot keep a kind, a policy or a paused kind, or cannot write on a condition.
        """
        target = _target(self._session, if_exists, live)
        for page in pages_of(lines):
            if page.pauses:
                target.pause(page.pauses)
            target.write(page.records)
            if progress is not None and page.records:
                progress(target.outcome.messages)
        return target.outcome

    def copy_to(
        self,
        target: Transferring,
        *,
        if_exists: IfOther = "keep",
        live: bool = False,
        progress: Callable[[int], object] | None = None,
    ) -> Transfer:
        """Store all messages of this store in another one. Return how many were written, and the outcome for the others.

        This does what :meth:`export_lines` and :meth:`import_lines` do, without a file. This store is not changed: stop its
        consumers before, and remove it when the copy is done.

        :param target: the other store, a :class:`pitstop.Pitstop`.
        :param if_exists: as in :meth:`import_lines`.
        :param live: copy also while consumers of one of the two stores have messages.
        :param progress: as in :meth:`import_lines`.
        :raises PitstopError: as :meth:`export_lines` and :meth:`import_lines`; or if both are one store.
        :raises Conflict: as :meth:`import_lines`.
        :raises OutcomeUnknown: as :meth:`import_lines`.
        :raises Unsupported: as :meth:`import_lines`.
        """
        if not isinstance(target, Transferring):
            raise PitstopError(f"target={quoted(target)} is no Pitstop. Give one that pitstop.init() has returned.")
        _refuse_same(self._session, _session_of(target))
        source = Source(self._session, live=flag(live, "live", error=PitstopError))
        sink = _target(_session_of(target), if_exists, live)
        _, pauses = source.begin()
        sink.pause(pauses)
        for page in source.pages():
            sink.write(page)
            if progress is not None:
                progress(sink.outcome.messages)
        return sink.outcome


def _session_of(part: Transferring) -> Session:
    return part._session


def _target(session: Session, if_exists: object, live: object) -> Target:
    checked: IfOther | None = next((each for each in get_args(IfOther) if each == if_exists), None)
    if checked is None:
        raise PitstopError(f"if_exists={quoted(if_exists)} is unknown. Give 'keep' or 'replace'.")
    target = Target(session, if_exists=checked, live=flag(live, "live", error=PitstopError))
    target.begin()
    return target


def _refuse_same(source: Session, target: Session) -> None:
    shared = Capability.MULTI_PROCESS in source.capabilities and source.location == target.location
    if source is target or shared:
        raise PitstopError(f"Both stores are {source.location}, so there is nothing to copy. Give another target.")
