"""The self-check of a live store: broken backends fail, sound ones pass, and no message is touched."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3

from typing import ClassVar

import attrs
import pytest

from pitstop import BackendUnavailable, ConfigError
from pitstop._check._check import check
from pitstop._check._promises import PROMISES
from pitstop.abc import Backend, Capability, Damaged, Outcome, Progress, Record, SystemClock
from pitstop.testing import ManualClock
from pitstop_memory import MemoryBackend, MemoryConfig
from pitstop_sqlite import SqliteBackend, SqliteConfig


LOOKS = [
    "it answers",
    "its clock",
    "its messages",
    "its next message",
    "its capabilities",
    "its suite",
    "its concerns",
]
SCRATCH = "a scratch to try the rest in"


@pytest.fixture(autouse=True)
def _quickly(monkeypatch):
    """Waits are a fifth of the real ones."""
    monkeypatch.setattr("pitstop._check._check._LEAST_TICK", 20)


@pytest.fixture(autouse=True)
def _sound_sqlite(monkeypatch):
    """Most Pythons contain an SQLite with a bug, which causes a warning."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))


def failed(backend: Backend) -> dict[str, str]:
    return {each.name: each.seen for each in check(backend) if each.status == "failed"}


def message(id: str, due_in: int) -> Record:
    due = SystemClock().time_us() // 1000 + due_in
    return Record(id, {"secret": "s3cr3t"}, None, os.urandom(16).hex(), Progress(due, due))


@pytest.mark.parametrize("kind", [MemoryBackend, SqliteBackend])
def test_a_sound_store_passes_and_its_messages_are_not_touched(tmp_path, kind):
    backend = kind() if kind is MemoryBackend else kind(SqliteConfig(path=tmp_path / "pitstop.db"))
    backend.put([message("due", -1000), message("leased", -2000), message("later", 60_000)])
    backend.lease(1, 60_000)
    before = list(backend.scan(None, 10, None))

    found = list(check(backend))

    assert {each.status for each in found} == {"ok"}, found
    assert [each.name for each in found] == [*LOOKS, SCRATCH, *(each.name for each in PROMISES)]
    assert all(each.expected and each.seen and each.milliseconds >= 0 for each in found)
    assert found[2].seen == "1 scheduled, 1 due, 1 leased, 0 dead"
    assert list(backend.scan(None, 10, None)) == before
    assert "s3cr3t" not in repr(found)
    backend.close()


class Lossy(MemoryBackend):
    def _put(self, records):
        super()._put(
            [
                attrs.evolve(each, message={key: str(it) if it is None else it for key, it in each.message.items()})
                for each in records
            ]
        )


class Early(MemoryBackend):
    def _now_ms(self):
        return super()._now_ms() + 60


class LastFirst(MemoryBackend):
    def _lease(self, limit, duration):
        leased = super()._lease(100, duration)
        first = max(leased, key=lambda each: each.progress.scheduled_for, default=None)
        for each in leased:
            if limit == 1 and each is not first:
                back = Progress(each.progress.scheduled_for, each.progress.scheduled_for)
                self._room.shelf.change(each.id, back)
        return leased if limit != 1 or first is None else [first]


class Unleased(MemoryBackend):
    def _lease(self, limit, duration):
        leased = super()._lease(limit, duration)
        for each in leased:
            self._room.shelf.change(each.id, Progress(each.progress.scheduled_for, each.progress.scheduled_for))
        return leased


class Unfenced(MemoryBackend):
    def _apply(self, settlement, now):
        record = self._room.shelf.get(settlement.id)
        token = settlement.token if record is None else record.progress.token
        return super()._apply(attrs.evolve(settlement, token=token or ""), now)


class LateAcks(MemoryBackend):
    """It settles by id alone after the lease has ended."""

    def _apply(self, settlement, now):
        if settlement.outcome is Outcome.COMPLETE and settlement.token != "0" * 32:
            return self._room.shelf.delete(settlement.id)
        return super()._apply(settlement, now)


class Forgetful(MemoryBackend):
    def _apply(self, settlement, now):
        return settlement.outcome is Outcome.COMPLETE or super()._apply(settlement, now)


class Hasty(MemoryBackend):
    """It loses the delay of a nack."""

    def _apply(self, settlement, now):
        if settlement.outcome is Outcome.RELEASE:
            settlement = attrs.evolve(settlement, progress=attrs.evolve(settlement.progress, due=now))
        return super()._apply(settlement, now)


class Inextensible(MemoryBackend):
    def _apply(self, settlement, now):
        if settlement.outcome is Outcome.EXTEND:
            settlement = attrs.evolve(settlement, progress=self._room.shelf.get(settlement.id).progress)
        return super()._apply(settlement, now)


class KeepsLeases(MemoryBackend):
    def _put(self, records):
        old = {each.id: self._room.shelf.get(each.id) for each in records}
        super()._put(
            [each if old[each.id] is None else attrs.evolve(each, progress=old[each.id].progress) for each in records]
        )


class Resurrecting(MemoryBackend):
    gone: ClassVar[dict[str, Record]] = {}

    def delete(self, id):
        self.gone.setdefault(id, self._room.shelf.get(id))
        return super().delete(id)

    def _apply(self, settlement, now):
        old = self.gone.get(settlement.id)
        if settlement.outcome is Outcome.RELEASE and self._room.shelf.get(settlement.id) is None and old is not None:
            self._room.shelf.put(old)
        return super()._apply(settlement, now)


class AlwaysThere(MemoryBackend):
    def delete(self, id):
        super().delete(id)
        return True


class HalfBatches(MemoryBackend):
    def _apply_all(self, settlements):
        applied = super()._apply_all(settlements[:2])
        return [*applied, *(True for _ in settlements[2:])]


class Unsorted(MemoryBackend):
    def scan(self, state, limit, after):
        return list(reversed(super().scan(state, limit, after)))


class Miscounting(MemoryBackend):
    def tally(self):
        return attrs.evolve(super().tally(), dead=0)


class Doubling(MemoryBackend):
    """Sometimes two claims return the same message."""

    claims = 0

    def _lease(self, limit, duration):
        leased = super()._lease(limit, duration)
        self.claims += 1
        if limit == 3 and self.claims % 2:
            for each in leased:
                self._room.shelf.change(each.id, attrs.evolve(each.progress, due=each.progress.scheduled_for))
        return leased


@pytest.mark.parametrize(
    ("kind", "promise", "seen"),
    [
        (Lossy, "values come back", "not the same value came back for: None"),
        (Early, "nothing comes early", r"it came \d+ ms before its time"),
        (LastFirst, "the oldest comes first", "claimed in the order c, a, b, not a, b, c"),
        (Unleased, "a lease keeps others off", r"\d+ messages were claimed where one was due"),
        (Unfenced, "a stale token changes nothing", "an ack with a token that is not its own was reported as applied"),
        (LateAcks, "a lease ends", "an ack after the end of its lease was applied"),
        (Forgetful, "an ack deletes", "it is still there after its ack"),
        (Hasty, "a nack comes back", r"it came \d+ ms before its time"),
        (Inextensible, "an extension holds", "the lease does not have its new end"),
        (KeepsLeases, "storing again ends the lease", "the ack of the old version was applied to the new"),
        (Resurrecting, "a removed message is gone", "a nack of a removed message was reported as applied"),
        (AlwaysThere, "a removed message is gone", "a second removal reported that it was there"),
        (HalfBatches, "a batch is settled one by one", r"reported as applied: \[True, True, True, True\], not .*"),
        (Unsorted, "stored messages are listed", "listed as .*, not as a, b, c, dead"),
        (Miscounting, "stored messages are listed", r"counted as \(2, 1, 0, 0\), not as .*"),
        (Doubling, "each goes to one", r"\d+ of 40 messages were claimed twice"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_a_broken_store_fails_the_promise_that_it_breaks(kind, promise, seen):
    told = failed(kind())
    assert promise in told, told
    assert re.fullmatch(seen, told[promise]), told[promise]


def test_what_a_broken_store_leaves_behind_does_not_fail_the_next_promise():
    assert failed(Lossy()).keys() == {"values come back"}
    assert failed(LastFirst()).keys() == {"the oldest comes first"}
    assert failed(Inextensible()).keys() == {"an extension holds"}


class Raising(MemoryBackend):
    def get(self, id):
        raise TypeError("the password is s3cr3t")


def test_what_a_store_raises_is_told_by_its_place_and_not_by_its_text():
    (seen, *_) = failed(Raising()).values()
    assert seen.startswith("TypeError was raised, at test_check.py:")


class Itself(MemoryBackend):
    """Its scratch is the store."""

    @contextlib.contextmanager
    def scratch(self):
        yield self


@pytest.mark.parametrize("empty", [True, False])
def test_a_scratch_that_is_the_store_is_noticed_before_a_message_is_claimed(empty):
    backend = Itself()
    if not empty:
        backend.put([message("due", -1000)])
    before = list(backend.scan(None, 10, None))

    found = list(check(backend))

    assert (found[-1].name, found[-1].status) == (SCRATCH, "failed")
    assert found[-1].seen == (
        "a message that is stored in it is visible in the store" if empty else "there are messages in it"
    )
    assert list(backend.scan(None, 10, None)) == before


class Unreadable(Itself):
    """Its scratch is the store, and the read that would show this fails."""

    error: Exception

    def get(self, id):
        raise self.error


@pytest.mark.parametrize("error", [TypeError("x"), BackendUnavailable("away for a second")], ids=["broken", "away"])
def test_the_mark_is_taken_away_also_when_the_look_for_it_fails_and_nobody_could_be_given_it(error, monkeypatch):
    backend = Unreadable()
    backend.error = error
    stored = []
    monkeypatch.setattr(backend, "put", lambda records: (stored.extend(records), MemoryBackend.put(backend, records)))

    with contextlib.suppress(BackendUnavailable):
        assert list(check(backend))[-1].status == "failed"

    assert [(each.progress.due, each.progress.token is None) for each in stored] == [(None, False)]
    assert list(backend.scan(None, 10, None)) == []


class Drain(MemoryBackend):
    """A scratch whose leases come from the store, from the beginning or after some use."""

    beside: MemoryBackend | None = None
    sound_leases = 0

    @contextlib.contextmanager
    def scratch(self):
        with super().scratch() as scratch:
            scratch.beside, scratch.sound_leases = self, self.sound_leases
            yield scratch

    def lease(self, limit, duration):
        self.sound_leases -= 1
        return super().lease(limit, duration) if self.beside is None or self.sound_leases >= 0 else self.others(limit)

    def others(self, limit):
        return self.beside.lease(limit, 60_000)


@pytest.mark.parametrize(("sound_leases", "found_in"), [(0, SCRATCH), (1, "nothing comes early")])
def test_messages_of_the_store_that_a_scratch_leases_are_given_back_and_the_check_ends(sound_leases, found_in):
    backend = Drain()
    backend.sound_leases = sound_leases
    backend.put([message(f"new {number}", -1000 - number) for number in range(30)])
    before = list(backend.scan(None, 100, None))

    found = list(check(backend))

    assert (found[-1].name, found[-1].status) == (found_in, "failed")
    number = 1 if found_in == SCRATCH else 10
    assert found[-1].seen == (
        f"messages that are not of this check were leased: {number}, of which {number} were given back. Do not check this "
        f"store again before its backend is mended"
    )
    assert {each.status for each in found[:-1]} == {"ok"}
    assert list(backend.scan(None, 100, None)) == before


def test_a_message_that_was_tried_before_is_given_back_with_its_attempts():
    backend = Drain()
    before = message("retried", -500)
    tried = Progress(before.progress.due, before.progress.due - 5000, 2, before.progress.due - 5000, "failed", "t")
    backend.put([attrs.evolve(before, progress=tried)])

    assert list(check(backend))[-1].status == "failed"

    (after,) = (each.progress for each in backend.scan(None, 10, None))
    assert (after.attempts, after.first_leased, after.last_error) == (2, tried.first_leased, "failed")
    assert tried.due <= after.due <= backend.now() // 1000


class DrainOfDamaged(Drain):
    def others(self, limit):
        return [Damaged("a", "Damaged: msg cannot be read.", 5, "t")]


class HeldDrain(Drain):
    def settle(self, settlements):
        raise TypeError("s3cr3t")


@pytest.mark.parametrize("kind", [DrainOfDamaged, HeldDrain])
def test_what_cannot_be_given_back_is_told_with_when_it_comes_back(kind):
    backend = kind()
    backend.put([message("a", -500)])
    found = list(check(backend))
    assert found[-1].name == SCRATCH
    assert (
        "were leased: 1, of which 0 were given back; the others come back when their lease ends, in a minute at most. "
        in found[-1].seen
    )


class ClaimsWhatIsGone(MemoryBackend):
    def delete(self, id):
        self.gone = self._room.shelf.get(id)
        return super().delete(id)

    def lease(self, limit, duration):
        return [self.gone]


def test_a_claim_where_there_is_nothing_is_noticed():
    assert failed(ClaimsWhatIsGone())[SCRATCH] == "a message was claimed where there is none"


class Plain(MemoryBackend):
    capabilities = Capability(0)

    def _lease(self, limit, duration):
        raise AssertionError("it was only to look")

    _put = _apply_all = _lease


def test_without_a_scratch_it_only_looks_and_says_so():
    found = list(check(Plain()))
    assert [each.name for each in found] == [*LOOKS, "its promises"]
    assert found[-1].status == "warning"
    assert found[-1].seen == "Plain does not have the capability SCRATCH, so the store was only inspected"
    assert {each.status for each in found[:-1]} == {"ok"}


class Silent(MemoryBackend):
    suite_version = None


def test_a_backend_that_does_not_say_which_suite_it_passed_is_a_warning():
    found = {each.name: each for each in check(Silent())}
    assert found["its suite"].status == "warning"
    assert found["its suite"].seen == "it does not state which version of the suite it passed (suite_version)"


class Concerned(MemoryBackend):
    told: object = ("Others can read it. Use chmod.", "It is old.")

    def concerns(self):
        return self.told


def test_each_concern_of_a_backend_is_a_warning_of_its_own():
    found = [each for each in check(Concerned()) if each.name == "its concerns"]
    assert [(each.status, each.seen) for each in found] == [
        ("warning", "Others can read it. Use chmod."),
        ("warning", "It is old."),
    ]


@pytest.mark.parametrize("told", ["Others can read it.", None], ids=["text", "nothing"])
def test_concerns_that_are_no_list_fail_the_check(told):
    backend = Concerned()
    backend.told = told
    assert failed(backend) == {"its concerns": f"concerns() returned a {type(told).__name__}, and not a list of texts"}


class Ahead(MemoryBackend):
    def __init__(self, config=None):
        super().__init__(config)
        self.clock = FastClock()


class FastClock(SystemClock):
    def time_us(self):
        return super().time_us() + 90_000_000


def test_a_store_whose_clock_is_another_one_passes_with_a_warning():
    found = {each.name: each for each in check(Ahead())}
    assert {each.name for each in found.values() if each.status != "ok"} == {"its clock"}
    assert found["its clock"].status == "warning"
    assert found["its clock"].seen.startswith("90,000.")
    assert found["its clock"].seen.endswith(" ms ahead of this machine's; the store's counts. Set both by NTP")


class Away(MemoryBackend):
    def put(self, records):
        if all(each.progress.due is None for each in records):
            return super().put(records)
        raise BackendUnavailable("The store is away.")


def test_a_store_that_goes_away_is_told_as_ever_after_what_was_found():
    found = []
    with pytest.raises(BackendUnavailable, match="The store is away"):
        found.extend(check(Away()))
    assert [each.name for each in found][: len(LOOKS) + 1] == [*LOOKS, SCRATCH]


def test_a_check_that_is_broken_off_leaves_nothing(tmp_path):
    backend = SqliteBackend(SqliteConfig(path=tmp_path / "pitstop.db"))
    findings = check(backend)
    for each in findings:
        if each.name == "values come back":
            break
    assert any(".check-" in each.name for each in tmp_path.iterdir())
    findings.close()
    assert not any(".check-" in each.name for each in tmp_path.iterdir())
    backend.close()


def test_a_store_by_a_clock_in_the_hand_is_refused():
    with pytest.raises(ConfigError, match=r"^The check waits in real time.*Leave out clock\.$"):
        next(check(MemoryBackend(MemoryConfig(clock=ManualClock()))))
