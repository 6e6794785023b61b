"""The real engine in simulated worlds: it keeps its promises, the same seed does the same, and known-bad variants are caught."""

from __future__ import annotations

import _thread
import hashlib
import os
import subprocess
import sys
import threading

from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from pitstop._engine._leftovers import Leftovers
from simulation.__main__ import main
from simulation.portions import MOST_FAILURES, run
from simulation.rules import check
from simulation.simulate import shrink, simulate
from simulation.store import TrueStore
from simulation.variants import VARIANTS


#: Few enough for every run of the tests; ``nox -s simulate`` runs any number.
SEEDS = 200
#: The steps of the world of one seed; fewer in every run of the tests.
RUNS = 1000
RUN_STEPS = 60 if os.environ.get("PITSTOP_TEST_LARGE") else 20
#: The number of seeds that must catch each variant. Most need less than ten; those with a lost reply in a rare moment, up to some hundreds.
BOUND = 600
#: The rules that catch each variant: those that describe its fault. A variant that is broken itself, and only raises undocumented errors,
# is not caught.
CAUGHT_BY = {
    "fencing-off": {"stale"},
    "lease-end-not-fenced": {"stale"},
    "settle-upserts": {"stale"},
    "lease-early": {"early", "nack", "attempts"},
    "lease-not-written": {"twice", "stale"},
    "update-keeps-lease": {"lost", "early", "stale"},
    "store-keeps-the-first": {"update", "lost", "stale"},
    "store-many-stores-one": {"lost", "update", "stale", "moved", "kinds"},
    "nack-lost": {"stale", "lost", "early", "attempts"},
    "store-repeated-blindly": {"acked"},
    "lost-reply-is-success": {"told", "attempts"},
    "unknown-is-lost": {"told"},
    "deadline-ignored": {"handed"},
    "deadline-from-the-answer": {"handed"},
    "ack-after-deadline": {"told"},
    "nack-after-ack": {"told", "stale"},
    "next-from-ack-time": {"anchored"},
    "retry-chooses-anew": {"nack", "anchored", "attempts"},
    "key-of-each-attempt": {"key"},
    "give-back-counts": {"attempts"},
    "give-back-of-what-was-shown": {"twice", "anchored"},
    "writer-drops-what-is-in-doubt": {"told"},
    "writer-forgets-to-put-back": {"told"},
    "writer-writes-after-the-lease": {"told"},
    "writer-reports-what-it-hopes": {"told"},
    "writer-reports-the-batch": {"told"},
    "buffer-forgets-nothing": {"update"},
    "buffer-hands-out-twice": {"twice", "handed"},
    "background-gives-back-what-is-handled": {"twice", "anchored"},
    "series-dies": {"anchored"},
    "attempts-without-end": {"attempts"},
    "suspects-not-confirmed": {"attempts"},
    "uncertain-attempts-count": {"attempts", "nack"},
    "claims-bury": {"attempts"},
    "claims-of-kinds-take-others": {"kinds"},
    "expired-is-emitted": {"policies"},
    "expired-in-the-buffer-is-emitted": {"policies"},
    "expired-series-ends": {"anchored"},
    "lock-time-of-the-message-ignored": {"policies"},
    "retry-of-the-message-ignored": {"nack"},
    "attempts-of-the-message-ignored": {"attempts", "nack", "anchored"},
    "if-revision-ignored": {"edit"},
    "revision-of-the-store-alone": {"edit"},
    "edited-series-begins-anew": {"edit"},
    "rescheduled-series-is-anchored-anew": {"moved"},
    "emission-now-of-the-leased": {"moved"},
    "moved-message-expires-as-before": {"moved"},
    "release-forgets-the-attempt": {"moved"},
}

_DIGEST = """
import hashlib, sys
from simulation.simulate import simulate
print(hashlib.sha256(b"".join(simulate(seed).history.to_bytes() for seed in range(20))).hexdigest())
"""


def digest(*seeds):
    return hashlib.sha256(b"".join(simulate(seed).history.to_bytes() for seed in seeds)).hexdigest()


def caught(variant):
    """Return the rules that the first failing run breaks first."""
    failed = next((run for seed in range(BOUND) if (run := simulate(seed, variant)).failed), None)
    return set() if failed is None else {failed.violations[0].rule}


def environment(**variables):
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | variables


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    """Return the counts of events in the runs of all seeds. A failing run ends the test, with its full report."""
    total = Counter[str]()
    for seed in range(SEEDS):
        each = simulate(seed)
        if each.failed:
            pytest.fail(shrink(each).report(), pytrace=False)
        total += each.seen
    return total


def test_the_engine_keeps_what_it_promises(seen):
    assert seen["emit"] > SEEDS


def test_the_seeds_meet_every_fault_at_every_call(seen):
    faults = ["refused", "dropped", "lost", "late", "stuck", "slow", "crash before", "crash after"]
    missing = [
        f"{call} {fault}" for call in ("put", "lease", "settle") for fault in faults if not seen[f"{call} {fault}"]
    ]
    assert not missing


@pytest.mark.parametrize(
    "what",
    [
        "ack ok", "ack lost", "ack unknown", "ack crash", "nack ok", "extend ok", "with ok", "store unknown",
        "remove unknown", "redrive ok", "close ok", "stop ok", "post ok",
        "post acked", "post lost", "pump ok", "drop ok", "emit again", "emit for several", "emit of what is gone",
        "lease of an expired one", "given back", "skipped", "dead", "settle stale", "settle bury", "settle reschedule",
        "settle expire", "expired", "lease of kinds", "lease of its own time", "edit ok", "edit conflict", "reschedule ok",
        "emit_now ok", "release ok", "released",
    ],
)  # fmt: skip
def test_the_seeds_meet(what, seen):
    assert seen[what]


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_engine_or_store_that_is_known_to_be_bad_is_caught(variant):
    assert caught(variant) & CAUGHT_BY[variant]


def test_a_variant_that_only_raises_errors_is_not_taken_for_caught(monkeypatch):
    @contextmanager
    def broken():
        def lease(*_):
            raise TypeError("it is the variant that is broken")

        with mock.patch.object(TrueStore, "lease", lease):
            yield

    monkeypatch.setitem(VARIANTS, "broken", broken)
    assert caught("broken") <= {"errors"}
    assert not any("errors" in rules for rules in CAUGHT_BY.values())


def test_a_variant_leaves_the_engine_as_it_was():
    before = digest(7)
    for variant in VARIANTS:
        simulate(7, variant)
    assert digest(7) == before


def test_one_seed_has_one_history():
    assert len({simulate(3, steps=RUN_STEPS).history.to_bytes() for _ in range(RUNS)}) == 1
    assert len({simulate(3).history.to_bytes() for _ in range(20)}) == 1


def test_a_run_starts_no_thread(monkeypatch):
    """The order of events would depend on the system."""
    started, stops = [], []
    begin_stop = Leftovers.begin_stop

    def stop(self):
        stops.append(self)
        return begin_stop(self)

    monkeypatch.setattr(Leftovers, "begin_stop", stop)
    monkeypatch.setattr(_thread, "start_new_thread", lambda *_: started.append("of the module _thread"))
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    for seed in range(30, 60):
        simulate(seed)
    assert stops, "a listener that is stopped with messages in hand gives them back in a thread"
    assert started == []


def test_two_seeds_have_two():
    assert digest(1) != digest(2)


def test_a_seed_has_the_same_history_in_another_process():
    def elsewhere(hashes):
        environment = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(Path(__file__).parents[1])}
        told = subprocess.run(
            [sys.executable, "-c", _DIGEST], env=environment, check=True, capture_output=True, text=True
        )
        return told.stdout.strip()

    assert {elsewhere("1"), elsewhere("2")} == {digest(*range(20))}


def test_a_failure_says_what_happened_and_how_to_see_it_again(capsys):
    failed = (each for seed in range(BOUND) if (each := simulate(seed, "fencing-off")).failed)
    # Of some seeds, the last step is needed.
    long, short = next((each, shorter) for each in failed if (shorter := shrink(each)).steps < each.steps)
    assert (short.seed, short.violations[0].rule) == (long.seed, long.violations[0].rule)
    command = f"nox -s simulate -- --seed {long.seed} --steps {short.steps} --variant fencing-off"
    report = short.report().splitlines()
    assert report[0].startswith(f"seed {long.seed}, {short.steps} steps: stale: ")
    assert "settle" in report[-2]
    assert report[-1] == f"again: {command}"

    assert main(command.partition("-- ")[2].split()) == 1
    said = capsys.readouterr().out
    assert all(line in said for line in report[1:-1])
    assert str(short.violations[0]) in said


def test_a_command_of_many_seeds_runs_them_in_processes_of_their_own():
    command = [sys.executable, "-m", "simulation", "--seeds", "12", "--jobs", "1"]
    told = subprocess.run(command, env=environment(), check=False, capture_output=True, text=True)
    assert (told.returncode, told.stderr) == (0, "")
    assert "12 seeds in" in told.stdout


def test_a_command_of_many_seeds_stops_when_enough_of_them_failed():
    portion = run(range(100), "fencing-off", 60)
    assert len(portion.reports) == MOST_FAILURES
    assert MOST_FAILURES <= portion.seeds < 100


# Rules that no variant breaks.


def test_an_error_that_nobody_promised_breaks_a_rule():
    history = [
        (0, "world", "world", 1000, 0, None, None),
        (0, "p1", "begin", 1, "ack", 1),
        (0, "p1", "end", 1, "ack", "error", "KeyError"),
    ]
    assert [str(each) for each in check(history)] == ["errors: call 1 (ack) raised KeyError"]


def test_what_is_stored_at_the_end_and_was_never_emitted_is_lost():
    history = [
        (0, "world", "world", 1000, 0, None, None),
        (0, "p1", "begin", 1, "store", ("a", 1, False, 5, None, None, None, None)),
        (0, "p1", "put", 1, (("a", 1, 5, None),)),
        (0, "p1", "end", 1, "store", "ok", "a"),
    ]
    assert check(history) == []
    assert [each.rule for each in check([*history, (9, "world", "left", (("a", 1, 5),))])] == ["lost"]
    assert [each.rule for each in check([*history, (9, "world", "left", ())])] == ["lost", "lost"]


class TestSettlementsOfUnknownOutcome:
    """A nack whose outcome was told to be unknown, and whose write came after that."""

    NACK = (5_000, 0, 1, 1, False)

    @staticmethod
    def history(*events):
        return [
            (0, "world", "world", 1000, 0, None, None),
            (0, "p1", "begin", 1, "store", ("a", 1, False, 0, None, None, None, None)),
            (0, "p1", "put", 1, (("a", 1, 0, None),)),
            (0, "p1", "end", 1, "store", "ok", "a"),
            (1, "p2", "begin", 2, "get", 0),
            (1, "p2", "lease", 2, 1, 1000, (("a", 1, "t1", 1, 1001),)),
            (1, "p2", "end", 2, "get", "ok", True),
            (1, "p2", "emit", 2, 1, "a", 1, "t1", "a:0", 0, 1, 0, 1001),
            *events,
        ]

    def nacked(self, delay, error, outcome, *, late=True):
        first, again = (2, "p2", "begin", 3, "nack", 1, 4_998, "failed"), (4, "p2", "begin", 4, "nack", 1, delay, error)
        written = (3, "p2", "settle", 3, (("a", "t1", "release", self.NACK, True),), late)
        told = (3, "p2", "end", 3, "nack", "unknown", None)
        refused = (4, "p2", "settle", 4, (("a", "t1", "release", self.NACK, False),), False)
        ended = (4, "p2", "end", 4, "nack", outcome, None)
        tries = (first, (2, "p2", "fault", 3, "settle", "late"), *((told, written) if late else (written, told)))
        return [str(each) for each in check(self.history(*tries, again, refused, ended))]

    @pytest.mark.parametrize("late", [False, True])
    def test_the_same_one_again_is_done(self, late):
        assert self.nacked(4_998, "failed", "ok", late=late) == []

    @pytest.mark.parametrize(("delay", "error"), [(None, "failed"), (4_998, None)])
    def test_another_one_is_not(self, delay, error):
        expected = "told: the nack of delivery 1 was told that it was done, and nothing was"
        assert self.nacked(delay, error, "ok") == [expected]
        assert self.nacked(delay, error, "unknown") == []

    @pytest.mark.parametrize("known", [False, True])
    def test_an_ack_after_a_block_that_raised_is_the_users(self, known):
        """The nack of the block made the message dead. Its reply was lost, so the user may ack the message."""
        fault = () if known else ((2, "p2", "fault", 3, "settle", "lost"),)
        history = self.history(
            (2, "p2", "begin", 3, "with", 1, True),
            *fault,
            (2, "p2", "settle", 3, (("a", "t1", "bury", (None, 0, 1, 1, True), True),), False),
            (3, "p2", "end", 3, "with", "ok", None),
            (4, "p2", "begin", 4, "post", 1),
            (4, "p2", "end", 4, "post", "ok", None),
            (5, "p2", "begin", 5, "close"),
            (5, "p2", "settle", 5, (("a", "t1", "complete", None, True),), False),
            (5, "p2", "end", 5, "close", "ok", None),
        )
        history[0] = (0, "world", "world", 1000, 0, 1, None)
        assert [each.rule for each in check(history)] == (["twice"] if known else [])

    def test_the_same_one_again_is_not_lost(self):
        assert self.nacked(4_998, "failed", "lost") == [
            "told: the nack of delivery 1 was told that its lease is lost, and it was done"
        ]
        assert self.nacked(0, "failed", "lost") == []


class TestLateConfirmations:
    """A suspect whose attempt is written twice before it is handed out; the first write comes last."""

    @staticmethod
    def check(*events):
        return [
            each.rule
            for each in check(
                [
                    (0, "world", "world", 1000, 0, None, None),
                    (0, "p1", "begin", 1, "store", ("a", 1, False, 0, None, None, None, None)),
                    (0, "p1", "put", 1, (("a", 1, 0, None),)),
                    (0, "p1", "end", 1, "store", "ok", "a"),
                    (0, "p2", "begin", 2, "get", 0),
                    (0, "p2", "lease", 2, 2, 1000, (("a", 1, "t1", 1, 1000),)),
                    (0, "p2", "crash"),
                    (1000, "p3", "begin", 3, "get", 0),
                    (1000, "p3", "lease", 3, 2, 1000, (("a", 1, "t2", 2, 2000),)),
                    *events,
                ]
            )
        ]

    @staticmethod
    def write(at, due, *, attempts=2, late=False):
        return (at, "p3", "settle", 3, (("a", "t2", "extend", (due, 0, attempts, 0, True), True),), late)

    EMITTED = (1200, "p3", "emit", 3, 1, "a", 1, "t2", "a:0", 0, 2, 0, 2200)

    def test_a_late_one_cuts_the_lease_short_or_takes_the_attempt_back(self):
        assert self.check(self.write(1200, 2200), self.EMITTED) == []
        for late in (self.write(1200, 2100, late=True), self.write(1200, 2000, attempts=1, late=True)):
            assert self.check(self.write(1200, 2200), self.EMITTED, late) == []
            assert self.check(self.write(1200, 2200), late, self.EMITTED) == []

    def test_it_never_extends_the_lease(self):
        assert self.check(self.write(1200, 2200), self.EMITTED, self.write(1200, 2201, late=True)) == ["extend"]

    def test_no_other_one_comes_after_the_message_was_handed_out(self):
        assert self.check(self.write(1200, 2200), self.EMITTED, self.write(1200, 2200)) == ["twice"]

    def test_a_message_that_was_deferred_needs_a_confirmation(self):
        for late in (False, True):
            deferral = self.write(1200, 2200, attempts=1, late=late)
            assert self.check(deferral, self.EMITTED) == ["attempts"]
            assert self.check(deferral, self.write(1200, 2200), self.EMITTED) == []
