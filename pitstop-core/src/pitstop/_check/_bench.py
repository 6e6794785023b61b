"""The tools with which a promise is tried: records of its own in a scratch, and waits in real time."""

from __future__ import annotations

import contextlib
import os

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from pitstop.abc import Backend, Damaged, Doorbell, Outcome, Progress, Record, Settlement, SystemClock


__all__ = ["MINUTE", "Bench", "Broken", "released"]

#: A minute in milliseconds: a lease that does not run out during the check.
MINUTE = 60_000

#: Microseconds by which a store's clock may jump when it is measured anew. Such a jump does not count as early.
_TOLERANCE_US = 5000
#: Milliseconds within which a due message must come.
_PATIENCE = 5000
#: Claims after which the bench stops claiming: there are never that many messages.
_MOST_CLAIMS = 100


class Broken(Exception):
    """A promise is not kept. The text describes the finding."""


class Bench:
    """The records of one promise. Records that a broken promise left behind are not taken for those of the next."""

    def __init__(self, store: Backend, tick: int, *, beside: Backend, check: str) -> None:
        """
        :param store: the scratch.
        :param tick: milliseconds that are long for this store: it answers several times within them.
        :param beside: the store whose scratch it is.
        :param check: the beginning of the ids of all benches of one check.
        """
        self.store = store
        self.tick = tick
        #: Whether a message was leased that is not the check's. The check must claim nothing more then.
        self.met_others = False
        self._beside = beside
        self._check = check
        self._prefix = f"{check}{os.urandom(4).hex()}-"
        self._ids: set[str] = set()
        self._clock = SystemClock()

    def record(
        self,
        name: str = "a",
        due_in: int = 0,
        *,
        message: Mapping[str, Any] | None = None,
        series: Mapping[str, Any] | None = None,
    ) -> Record:
        """Return a new version of a record, due in that many milliseconds."""
        id, due = self._prefix + name, self.now() + due_in
        self._ids.add(id)
        content = dict(message or {"of": "pitstop check"})
        return Record(id, content, series, os.urandom(16).hex(), Progress(due, due))

    def put(self, *names: str, due_in: int = 0) -> list[Record]:
        """Store new records with these names."""
        records = [self.record(name, due_in) for name in names]
        self.store.put(records)
        return records

    def claim(self, limit: int = 10, duration: int = MINUTE) -> list[Record]:
        """Claim up to ``limit`` due records and return them.

        :raises Broken: if a message of another origin is among them. It is given back.
        """
        claimed: list[Record] = []
        for _ in range(_MOST_CLAIMS):
            some = self.store.lease(limit - len(claimed), duration)
            self._give_back([each for each in some if not each.id.startswith(self._check)])
            # After a broken promise, records of another bench may be left.
            claimed += [self.sound(each) for each in some if each.id in self._ids]
            if not some or len(claimed) >= limit:
                break
        return claimed

    def claim_one(self) -> Record:
        """Claim the one record that is due, and return it."""
        claimed = self.claim()
        self.expect(len(claimed) == 1, f"{len(claimed)} messages were claimed where one was due")
        return claimed[0]

    def claim_at(self, due: int) -> tuple[Record, float]:
        """Claim again and again until a record comes. Return it, and the milliseconds that have passed since ``due``."""
        while not (claimed := self.claim()):
            late = self.now() - due
            self.expect(late < _PATIENCE, f"it did not come within {late} ms after its time")
            self._clock.wait(Doorbell(), self.tick / 20_000)
        late_us = self.store.now() - due * 1000
        self.expect(late_us > -_TOLERANCE_US, f"it came {-late_us / 1000:.0f} ms before its time")
        return claimed[0], max(late_us, 0) / 1000

    def settle(self, record: Record, outcome: Outcome, progress: Progress | None, *, token: str | None = None) -> bool:
        """Settle one record, by its own token if no other is given. Return whether that was applied."""
        (applied,) = self.store.settle([self.settlement(record, outcome, progress, token=token)])
        return bool(applied)

    def settlement(
        self, record: Record, outcome: Outcome, progress: Progress | None, *, token: str | None = None
    ) -> Settlement:
        token = token or record.progress.token
        if token is None:
            raise Broken("a claimed message has no token")
        return Settlement(record.id, token, outcome, progress)

    def get(self, record: Record) -> Record | None:
        found = self.store.get(record.id)
        return None if found is None else self.sound(found)

    def there(self, record: Record) -> Record:
        """Return the stored version of a record that must be there."""
        found = self.get(record)
        if found is None:
            raise Broken(f"the message {self.name(record)!r} is not there")
        return found

    def now(self) -> int:
        """Return the instant by the store's clock."""
        return self.store.now() // 1000

    def name(self, record: Record) -> str:
        return record.id.removeprefix(self._prefix)

    def expect(self, holds: bool, seen: str) -> None:
        """:raises Broken: with the text ``seen``, if ``holds`` is false."""
        if not holds:
            raise Broken(seen)

    def sound(self, found: Record | Damaged) -> Record:
        if isinstance(found, Damaged):
            raise Broken(f"a message that was just stored cannot be read. {found.error}")
        return found

    def clear(self) -> None:
        """Remove the remaining records."""
        for id in self._ids:
            self.store.delete(id)

    def _give_back(self, others: Sequence[Record | Damaged]) -> None:
        """Give back messages that were in the store before the check, as they were before they were leased."""
        if not others:
            return
        self.met_others = True
        back = sum(self._is_given_back(each) for each in others)
        rest = "" if back == len(others) else "; the others come back when their lease ends, in a minute at most"
        raise Broken(
            f"messages that are not of this check were leased: {len(others)}, of which {back} were given back{rest}. Do "
            f"not check this store again before its backend is mended"
        )

    def _is_given_back(self, record: Record | Damaged) -> bool:
        # An unreadable message could only be deleted or set aside, and a check must do neither.
        if isinstance(record, Damaged) or record.progress.token is None:
            return False
        settlement = self.settlement(record, Outcome.RELEASE, _unleased(record.progress, self.now()))
        for store in (self.store, self._beside):
            # A scratch that leases foreign messages may not find them again. The write is fenced, so it is never done twice.
            with contextlib.suppress(Exception):
                (applied,) = store.settle([settlement])
                found = store.get(record.id)
                # Another consumer may rightly have claimed the message by now.
                if applied and not (isinstance(found, Record) and found.progress.token == settlement.token):
                    return True
        return False


def released(record: Record, due: int, error: str | None = None) -> Progress:
    """Return the progress after a nack of a claimed record."""
    return attrs.evolve(record.progress, due=due, token=None, last_error=error, unsettled=0, ahead=0)


def _unleased(progress: Progress, now: int) -> Progress:
    """Return the progress before a lease, as far as it is known. After a retry its ``due`` is unknown, but it was over."""
    attempts = max(progress.attempts - 1, 0)
    due, first = (now, progress.first_leased) if attempts else (min(progress.scheduled_for, now), None)
    unsettled, ahead = (max(progress.unsettled - 1, 0), progress.ahead) if attempts else (0, 0)
    return attrs.evolve(
        progress, due=due, attempts=attempts, first_leased=first, token=None, unsettled=unsettled, ahead=ahead
    )
