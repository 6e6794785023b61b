"""The fixtures that pytest finds if Pitstop is installed, and their cost in projects that do not use them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys

from datetime import UTC, datetime, timedelta

import pytest

from pitstop import BackendUnavailable, testing
from pitstop.testing import ManualClock, TestPitstop
from pitstop_memory import MemoryBackend, MemoryConfig


NOW, HOUR = timedelta(0), timedelta(hours=1)


class TestFixtures:
    def test_the_pitstop_of_a_test_is_empty_and_in_memory(self, pitstop):
        assert isinstance(pitstop, TestPitstop)
        assert pitstop.location.startswith("memory://")
        pitstop.refute_stored()
        pitstop.store({"id": "a"}, NOW)

    def test_each_test_has_its_own(self, pitstop):
        pitstop.refute_stored()

    def test_the_others_are_parts_of_it(self, pitstop, pitstop_clock, pitstop_events, pitstop_faults):
        assert isinstance(pitstop_clock, ManualClock)
        assert pitstop_clock is pitstop.clock
        assert pitstop_events is pitstop.events
        assert pitstop_faults is pitstop.faults

    def test_the_clock_alone_needs_no_pitstop(self, pitstop_clock, request):
        assert pitstop_clock.now() == datetime(2020, 1, 1, tzinfo=UTC)
        assert "pitstop" not in request.fixturenames

    def test_hours_pass_at_once(self, pitstop):
        pitstop.store({"to": "ada"}, HOUR, None, HOUR)
        assert pitstop.run_for("3h", lambda msg: None).acked == 3

    def test_an_async_test_awaits_its_handlers(self, pitstop):
        seen = []

        async def handler(msg):
            await asyncio.sleep(0)
            seen.append(msg["id"])

        async def test():
            pitstop.store({"id": "a"}, HOUR)
            assert (await pitstop.arun_for("1h", handler)).acked == 1

        asyncio.run(test())
        assert seen == ["a"]

    def test_the_end_of_a_test_closes_it_and_minds_no_leases(self, pitstop):
        pitstop.store({"id": "a"}, NOW)
        assert pitstop.listen().get() is not None


@pytest.mark.pitstop(start="2024-02-28T09:00Z", lock_time="5m", seed=1)
class TestMarker:
    def test_says_when_the_clock_starts_and_options_of_the_configuration(self, pitstop):
        pitstop.store({"id": "a"}, NOW)
        assert pitstop.listen().get().leased_until == datetime(2024, 2, 28, 9, 5, tzinfo=UTC)

    @pytest.mark.pitstop(start=datetime(2031, 1, 1, tzinfo=UTC))
    def test_the_nearest_one_counts_and_the_rest_of_the_others_stays(self, pitstop):
        assert pitstop.now() == datetime(2031, 1, 1, tzinfo=UTC)
        pitstop.store({"id": "a"}, NOW)
        assert pitstop.listen().get().leased_until == datetime(2031, 1, 1, 0, 5, tzinfo=UTC)

    def test_a_seed_draws_ids(self, pitstop):
        with testing.init(seed=1) as same, testing.init(seed=2) as other:
            id = pitstop.store({}, NOW)
            assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", id)
            assert same.store({}, NOW) == id != other.store({}, NOW)
            assert same.store({}, NOW) == pitstop.store({}, NOW) != id

    def test_a_seed_draws_faults(self, pitstop, pitstop_faults):
        with testing.init(seed=1) as same:
            for pit in (pitstop, same):
                pit.faults.at_random(0.5)
                for _ in range(20):
                    with contextlib.suppress(BackendUnavailable):
                        pit.store({"id": "a"}, NOW)
            assert pitstop_faults.log == same.faults.log != ()

    @pytest.mark.pitstop(ids="mail-{n}")
    def test_gives_the_form_of_ids(self, pitstop):
        assert pitstop.store({}, NOW) == "mail-1"


class TestOverriding:
    @pytest.fixture(params=["memory://", {"retry": {"delay": "1m"}}, "sqlite"])
    def pitstop_config(self, request, tmp_path):
        return f"sqlite:///{tmp_path}/pit.db" if request.param == "sqlite" else request.param

    @pytest.fixture
    def pitstop_start_time(self):
        return datetime(1999, 12, 31, tzinfo=UTC)

    @pytest.mark.pitstop(lock_time="1m")
    def test_a_project_says_its_backend_and_the_time_and_a_test_says_more(self, pitstop):
        pitstop.store({"id": "a"}, NOW)
        assert pitstop.listen().get().leased_until == datetime(1999, 12, 31, 0, 1, tzinfo=UTC)


class TestReadyBackend:
    @pytest.fixture
    def pitstop_config(self, pitstop_clock):
        return {"type": MemoryBackend(MemoryConfig(clock=pitstop_clock))}

    def test_a_project_may_give_one_that_goes_by_the_clock_of_the_test(self, pitstop, pitstop_config):
        pitstop.store({"id": "a"}, HOUR)
        assert pitstop.run_for("1h", lambda msg: None).ids == ["a"]


@pytest.fixture
def run(tmp_path):
    """Runs a file of tests in a process and a folder of its own, strictly."""

    def run(code: str, *arguments: str) -> tuple[int, str]:
        (tmp_path / "test_it.py").write_text(code)
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "--strict-markers", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
        )
        return done.returncode, done.stdout + done.stderr

    return run


_WRONG = {
    "@pytest.mark.pitstop(strat='2024-01-01T00:00Z')": "Unknown configuration key 'strat'. Known: announce, clock, consumer_name, create, lock_time, loop_time, "
    "name, retry. @pytest.mark.pitstop takes start, seed, ids beside these. Did you mean 'start'?",
    "@pytest.mark.pitstop(lock_tim='5m')": "Unknown configuration key 'lock_tim'. Did you mean 'lock_time'?",
    "@pytest.mark.pitstop('5m')": "@pytest.mark.pitstop('5m') has a value without a name. Give keywords: start, seed, ids",
    "@pytest.mark.pitstop(start='noon')": "@pytest.mark.pitstop(start=...) cannot be used: 'noon' is no time. Write it as",
    "@pytest.mark.pitstop(start='2024-01-01')": "is naive: it does not say in which zone.",
    "@pytest.mark.pitstop(start=5)": "start=5 is no datetime. Give an aware one",
    "@pytest.mark.pitstop(seed='x')": "seed='x' is a str. Give a whole number.",
    "@pytest.mark.pitstop(type='memry')": "Unknown backend type 'memry'. Did you mean 'memory'?",
    "@pytest.mark.pitstop(clock=__import__('pitstop.testing').testing.ManualClock())": "are two clocks. Give one.",
}


def test_a_marker_that_cannot_be_used_says_what_to_do(run):
    tests = (f"{marker}\ndef test_{n}(pitstop): pass\n" for n, marker in enumerate(_WRONG))

    code, out = run("import pytest\n\n" + "\n".join(tests))

    assert code == pytest.ExitCode.TESTS_FAILED
    assert f"{len(_WRONG)} errors" in out
    for text in _WRONG.values():
        assert text in out
    # The traceback would add nothing.
    assert "Traceback" not in out
    assert "During handling" not in out


_OTHER_CLOCK = """
import pytest
from pitstop.testing import ManualClock

class TestItsOwn:
    @pytest.fixture
    def pitstop_clock(self):
        return ManualClock()

    @pytest.mark.pitstop(start="2024-02-28T09:00Z")
    def test_start(self, pitstop):
        pass

    @pytest.mark.pitstop(lock_time="1m")
    def test_the_rest(self, pitstop):
        pass

class TestOneThatAsks:
    @pytest.fixture
    def pitstop_clock(self, pitstop_clock):
        return pitstop_clock

    @pytest.mark.pitstop(start="2024-02-28T09:00Z")
    def test_start(self, pitstop):
        assert pitstop.now().year == 2024
"""


def test_a_start_that_a_clock_of_the_project_would_ignore_is_refused(run):
    code, out = run(_OTHER_CLOCK)

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "2 passed, 1 error" in out
    assert "@pytest.mark.pitstop(start=...) of test_start has no effect: pitstop_clock is redefined" in out
    assert "Redefine pitstop_start_time instead" in out


_NAMED = """
import pytest
from datetime import timedelta

@pytest.fixture
def pitstop_config():
    return "memory://app"

@pytest.fixture
def pitstop(pitstop):
    for entry in list(pitstop.entries()):
        pitstop.remove(entry.id)
    return pitstop

@pytest.mark.parametrize("n", [1, 2])
def test_it(pitstop, n):
    pitstop.refute_stored()
    pitstop.store({"id": "left"}, timedelta(1))
"""


def test_a_store_with_a_name_is_emptied_by_the_project_as_the_docs_say(run):
    # Another handle keeps the store, for example that of a whole application.
    code, out = run(
        "import pitstop\nkept = pitstop.init('memory://app')\n" + _NAMED + "\ndef test_end(): kept.close()\n"
    )
    assert (code, out.count("3 passed")) == (0, 1), out


_FAILING = """
import pytest
from datetime import timedelta
from pitstop import testing

@pytest.mark.pitstop(retry={"delay": "1m", "max_attempts": 1})
def test_that_fails(pitstop):
    pitstop.store({"id": "mail", "to": "ada"}, timedelta(hours=1))
    pitstop.faults.fail_next("entries")
    with pytest.raises(Exception):
        pitstop.entries()
    pitstop.faults.fail_next("entries")
    def handler(msg):
        raise ValueError("no such user")
    pitstop.run_for("2h", handler, raise_errors=False)
    assert pitstop.get("mail") is None

@pytest.fixture
def shop():
    with testing.init(ids="order-{n}") as pit:
        yield pit

def test_with_one_of_its_own(shop):
    shop.store({}, timedelta(hours=1))
    shop.close()
    assert False

def test_asked_late(request):
    request.getfixturevalue("pitstop").store({"id": "late"}, timedelta(hours=1))
    assert False

def test_with_none(pitstop_clock):
    assert False

def test_that_passes(pitstop):
    pitstop.store({"id": "quiet"}, timedelta(hours=1))
"""


def test_a_failure_shows_the_content_and_the_events_of_the_store(run):
    code, out = run(_FAILING)

    assert code == pytest.ExitCode.TESTS_FAILED
    _, first, shop, late, none = re.split(r"\n_{3,} test_\w+ _{3,}\n", out.partition("short test summary")[0])
    assert re.search(r"^-+ pitstop -+\nIt is 2020-01-01 02:00:00 UTC in <Pitstop on memory://>\.$", first, re.MULTILINE)
    assert re.search(
        r"^- +dead +mail +1 +- +ValueError: no such user +\{'id': 'mail', 'to': 'ada'\}$", first, re.MULTILINE
    )
    assert re.search(r"^2020-01-01 01:00:00  dead +mail", first, re.MULTILINE)
    # A planned fault that did not strike is not shown, and does not strike here.
    assert re.search(r"^2020-01-01 00:00:00  entries +1 +fail", first, re.MULTILINE)
    assert "entries    2 " not in first
    assert "pitstop: shop" in shop
    assert "order-1" in shop
    assert re.search(r"scheduled +late", late)
    assert "- pitstop -" not in none
    assert "quiet" not in out


_UNUSED = """
import sys

def test_nothing_was_imported():
    loaded = {name.partition(".")[0] for name in sys.modules}
    assert "pitstop_pytest" in loaded
    assert not loaded & {"pitstop", "attr", "attrs", "hypothesis", "pitstop_memory", "asyncio"}

def test_a_failure_imports_nothing_either():
    assert "pitstop" in sys.modules
"""


def test_a_project_that_does_not_ask_for_it_imports_nothing_of_it(run):
    # Another author's plugin imports asyncio if it is installed.
    code, out = run(_UNUSED, "-p", "no:anyio")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 passed" in out
    assert "FAILED test_it.py::test_a_failure_imports_nothing_either" in out


def test_a_run_can_do_without_it(run):
    code, out = run("def test_it(pitstop): pass", "-p", "no:pitstop")

    assert code == pytest.ExitCode.TESTS_FAILED
    assert "fixture 'pitstop' not found" in out
