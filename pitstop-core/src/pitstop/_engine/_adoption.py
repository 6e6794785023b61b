"""Taking over what an older library stored in the same place, page by page.

Threads: the one that calls.
"""

from __future__ import annotations

import os

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from pitstop._decisions._adopt import Adoption, decide_adoption, locked_until
from pitstop._engine._session import Session


__all__ = ["Adopted", "Fate", "Locks", "adopt", "look_for_locks"]

#: ``adoptable``: it would be adopted. ``left``: it cannot be. ``changed``: another client wrote to it meanwhile, so it stays.
Fate = Literal["adoptable", "adopted", "left", "changed"]


@attrs.frozen
class Locks:
    """The locks that a look has found so far."""

    #: Documents of any kind that were looked at, roughly.
    seen: int = 0
    #: Documents whose lock is still to end.
    locked: int = 0
    #: The instant at which the last of these locks ends.
    until: int = 0


@attrs.frozen
class Adopted:
    """The outcome of one page."""

    #: Documents of any kind that were looked at, roughly.
    seen: int
    fates: Sequence[tuple[Adoption, Fate]]


def look_for_locks(session: Session) -> Iterator[Locks]:
    """Look for documents that an old listener may be working on. Each result adds up all results before it.

    :raises pitstop.Unsupported: when the backend cannot adopt.
    """
    backend = session.backend
    locks, after = Locks(), None
    while True:
        page = backend.legacy(after, locked_after=backend.now() // 1000)
        ends = [locked_until(each) or 0 for each in page.found]
        locks = Locks(locks.seen + page.seen, locks.locked + len(ends), max([locks.until, *ends]))
        yield locks
        after = page.after
        if after is None:
            return


def adopt(session: Session, *, write: bool, locked: bool) -> Iterator[Adopted]:
    """Adopt the documents that can be adopted. It may be left at any point, and begun again.

    :param write: adopt them; else only say which would be adopted.
    :param locked: adopt locked documents, too. Each is due when its lock ends.
    :raises pitstop.Unsupported: when the backend cannot adopt.
    """
    backend = session.backend
    after = None
    while True:
        page = backend.legacy(after)
        now_us = backend.now()
        adoptions = [decide_adoption(each, now_us, os.urandom(16).hex(), locked=locked) for each in page.found]
        yield Adopted(page.seen, _write(session, adoptions) if write else _foretell(adoptions))
        after = page.after
        if after is None:
            return


def _foretell(adoptions: Sequence[Adoption]) -> list[tuple[Adoption, Fate]]:
    return [(each, "left" if each.record is None else "adoptable") for each in adoptions]


def _write(session: Session, adoptions: Sequence[Adoption]) -> list[tuple[Adoption, Fate]]:
    items = [(each.legacy, each.record) for each in adoptions if each.record is not None]
    done = iter(session.backend.adopt(items) if items else ())
    fates: list[tuple[Adoption, Fate]] = []
    for each in adoptions:
        if each.record is None:
            fates.append((each, "left"))
        else:
            fates.append((each, "adopted" if next(done) else "changed"))
    _tell(session, [each for each, fate in fates if fate == "adopted"])
    return fates


def _tell(session: Session, adopted: Sequence[Adoption]) -> None:
    """Report the adopted messages as stored, and wake the listeners."""
    records = [each.record for each in adopted if each.record is not None]
    if session.events.observes_stored and records:
        now = session.backend.now() // 1000
        for record in records:
            session.events.stored(record, now)
    if records:
        session.written(min(record.progress.due or 0 for record in records), {record.kind for record in records})
    session.events.raise_kept()
