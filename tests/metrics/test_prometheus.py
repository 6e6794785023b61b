"""Metrics for Prometheus: the text of a scrape, parsed by the parser of prometheus-client."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

from datetime import timedelta

import pytest

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import pitstop

from pitstop import BackendUnavailable, ConfigError, testing
from pitstop.metrics import Metrics
from pitstop.testing import ManualClock


LATENESS, HANDLING = "pitstop_delivery_lateness_seconds", "pitstop_handling_duration_seconds"
#: All names of the samples, with their labels.
NAMES = {
    "pitstop_messages_stored_total": {"kind"},
    "pitstop_messages_delivered_total": {"kind", "attempt"},
    "pitstop_messages_settled_total": {"kind", "outcome"},
    "pitstop_store_errors_total": set(),
    "pitstop_in_flight": set(),
    "pitstop_claimed_ahead": set(),
    "pitstop_messages": {"state"},
    "pitstop_oldest_due_age_seconds": set(),
    "pitstop_clock_skew_seconds": set(),
    "pitstop_listener_last_poll_timestamp_seconds": set(),
    **{
        f"{name}_{part}": {"le"} if part == "bucket" else set()
        for name in (LATENESS, HANDLING)
        for part in ("bucket", "count", "sum")
    },
}


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def local():
    """The clock of this machine, apart from that of the store."""
    return ManualClock()


@pytest.fixture
def metrics(registry, local):
    return Metrics.prometheus(registry, clock=local)


def scraped(registry) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return the samples of a scrape: values by labels, by name."""
    samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for each in family.samples:
            samples.setdefault(each.name, {})[tuple(sorted(each.labels.items()))] = each.value
    return samples


def value(registry, name: str, **labels: str) -> float | None:
    return scraped(registry).get(name, {}).get(tuple(sorted(labels.items())))


def failing(delivery: pitstop.Delivery) -> None:
    raise ValueError(delivery.id)


def test_a_scrape_has_the_names_and_labels_and_no_ids(registry, metrics):
    with pitstop.init("memory://", plugins=[metrics]) as pit:
        pit.store({"id": "hunter2"}, kind="mail")
        pit.consume(lambda msg: None, until_idle=True)
        with pit.listen() as listener:
            listener.get(timeout=0)
            samples = scraped(registry)
    found = {name: {key for labels in each for key, _ in labels} for name, each in samples.items()}
    assert found == NAMES
    assert "hunter2" not in str(samples)


@pytest.fixture
def store(request, tmp_path):
    """The configuration of a store on each backend."""
    if request.param == "mongo":
        uri, name = request.getfixturevalue("mongo_uri"), request.getfixturevalue("mongo_dbname")
        return {"type": "mongo", "uri": uri, "dbname": name, "coll": "messages"}
    if request.param == "postgres":
        uri = request.getfixturevalue("postgres_uri")
        return {"url": uri, "table": f"metrics_{os.getpid()}_{threading.get_ident()}"}
    return f"{request.param}:///{tmp_path}/store" if request.param != "memory" else "memory://"


@pytest.mark.parametrize("store", ["memory", "sqlite", "filesystem", "mongo", "postgres"], indirect=True)
def test_each_event_counts_on_each_backend(registry, store):
    metrics = Metrics.prometheus(registry)
    options = {"url": store} if isinstance(store, str) else dict(store)
    with pitstop.init({**options, "retry": {"max_attempts": 2, "delay": "1ms"}}, plugins=[metrics]) as pit:
        pit.store_many([({"id": "a"}, None), ({"id": "b"}, None)], kind="mail")
        pit.store({"id": "late"}, timedelta(hours=1))
        pit.consume({"mail": lambda delivery: failing(delivery) if delivery.id == "a" else None}, max_messages=3)
        samples = scraped(registry)
    mail = ("kind", "mail")
    assert samples["pitstop_messages_stored_total"] == {(mail,): 2, (("kind", ""),): 1}
    assert samples["pitstop_messages_delivered_total"] == {
        (("attempt", "first"), mail): 2,
        (("attempt", "again"), mail): 1,
    }
    assert samples["pitstop_messages_settled_total"] == {
        (mail, ("outcome", "acked")): 1,
        (mail, ("outcome", "nacked")): 1,
        (mail, ("outcome", "dead")): 1,
    }
    assert samples[f"{LATENESS}_count"] == {(): 2}
    assert 0 <= samples[f"{LATENESS}_sum"][()] < 60
    assert samples[f"{HANDLING}_count"] == {(): 3}
    states = {labels[0][1]: count for labels, count in samples["pitstop_messages"].items()}
    assert states == {"scheduled": 1, "due": 0, "leased": 0, "dead": 1, "paused": 0}
    # The servers of the tests run on this machine.
    assert abs(samples["pitstop_clock_skew_seconds"][()]) < 60


def test_lateness_and_handling_are_histograms(registry, metrics, local):
    store = ManualClock()
    with pitstop.init({"type": "memory", "clock": store}, plugins=[metrics]) as pit, pit.listen() as listener:
        pit.store({"id": "a"}, timedelta(seconds=10))
        store.advance(12.2)
        with listener.get():
            local.advance(0.3)
            assert value(registry, "pitstop_in_flight") == 1
    assert value(registry, f"{LATENESS}_sum") == pytest.approx(2.2)
    assert value(registry, f"{LATENESS}_bucket", le="1.0") == 0
    assert value(registry, f"{LATENESS}_bucket", le="2.5") == value(registry, f"{LATENESS}_bucket", le="+Inf") == 1
    assert value(registry, f"{HANDLING}_sum") == pytest.approx(0.3)
    assert value(registry, "pitstop_in_flight") == 0


def test_a_handler_that_raises_is_not_in_flight_any_more(registry, metrics):
    with pitstop.init("memory://", plugins=[metrics]) as pit:
        pit.store({})
        pit.consume(failing, until_idle=True)
    assert (value(registry, "pitstop_in_flight"), value(registry, f"{HANDLING}_count")) == (0, 1)


class TestKinds:
    def test_beyond_the_bound_are_other(self, registry):
        metrics = Metrics.prometheus(registry, kinds=2)
        with pitstop.init("memory://", plugins=[metrics]) as pit:
            for kind in ("a", "b", "c", "d", "a"):
                pit.store({}, kind=kind)
        stored = scraped(registry)["pitstop_messages_stored_total"]
        assert stored == {(("kind", "a"),): 2, (("kind", "b"),): 1, (("kind", "other"),): 2}

    def test_none_may_be_labels(self, registry):
        with pitstop.init("memory://", plugins=[Metrics.prometheus(registry, kinds=0)]) as pit:
            pit.store({}, kind="a")
        assert value(registry, "pitstop_messages_stored_total", kind="other") == 1

    def test_a_bound_is_a_number(self, registry):
        with pytest.raises(ConfigError, match=r"^kinds='many' cannot be used"):
            Metrics.prometheus(registry, kinds="many")


class TestGauges:
    def test_messages_that_are_claimed_ahead(self, registry, metrics):
        with pitstop.init("memory://", plugins=[metrics]) as pit, pit.listen(prefetch=3) as listener:
            pit.store_many([({}, None)] * 3)
            listener.get()
            assert value(registry, "pitstop_claimed_ahead") == 2
        assert value(registry, "pitstop_claimed_ahead") == 0

    def test_the_last_poll_is_the_oldest_of_all_listeners(self, registry, metrics, local):
        store = ManualClock()
        config = {"type": "memory", "clock": store}
        with pitstop.init(config, plugins=[metrics]) as pit, pit.listen() as stuck, pit.listen() as other:
            assert value(registry, "pitstop_listener_last_poll_timestamp_seconds") is None
            stuck.get(timeout=0)
            for each in (store, local):
                each.advance(100)
            other.get(timeout=0)
            polled = value(registry, "pitstop_listener_last_poll_timestamp_seconds")
            assert polled == pytest.approx(local.time_us() / 1e6 - 100)

    def test_the_skew_and_the_age_go_by_the_clock_of_the_store(self, registry, metrics, local):
        store = ManualClock()
        store.advance(5)
        with pitstop.init({"type": "memory", "clock": store}, plugins=[metrics]) as pit:
            pit.store({})
            store.advance(30)
            assert value(registry, "pitstop_clock_skew_seconds") == pytest.approx(35)
            assert value(registry, "pitstop_oldest_due_age_seconds") == pytest.approx(30)
            # It grows between two questions to the store.
            local.advance(4)
            assert value(registry, "pitstop_oldest_due_age_seconds") == pytest.approx(34)

    def test_a_store_is_asked_every_ten_seconds_at_most_and_once_for_all_pitstops(
        self, registry, metrics, local, monkeypatch
    ):
        asked = []
        stats = pitstop.Pitstop.stats
        monkeypatch.setattr(pitstop.Pitstop, "stats", lambda pit: asked.append(pit) or stats(pit))
        config = {"type": "memory", "name": "shared"}
        with pitstop.init(config, plugins=[metrics]), pitstop.init(config, plugins=[metrics]):
            for _ in range(5):
                scraped(registry)
            assert len(asked) == 1
            local.advance(9.9)
            scraped(registry)
            assert len(asked) == 1
            local.advance(0.2)
            scraped(registry)
            assert len(asked) == 2

    def test_nothing_but_a_scrape_asks_the_store(self, registry, metrics, monkeypatch):
        monkeypatch.setattr(pitstop.Pitstop, "stats", lambda _: pytest.fail("asked"))
        with pitstop.init("memory://", plugins=[metrics]) as pit:
            pit.store_many([({}, None)] * 100)
            pit.consume(lambda msg: None, until_idle=True)

    def test_a_store_that_is_away_breaks_no_scrape(self, registry, metrics, local):
        with testing.init(plugins=[metrics]) as pit:
            pit.store({})
            assert value(registry, "pitstop_messages", state="due") == 1
            pit.faults.fail_next("tally", 2)
            local.advance(20)
            # The last answer is younger than a minute.
            assert value(registry, "pitstop_messages", state="due") == 1
            local.advance(41)
            samples = scraped(registry)
            assert "pitstop_messages" not in samples
            # The second one is counted by the next scrape: the counters come first.
            assert samples["pitstop_store_errors_total"] == {(): 1}
            assert value(registry, "pitstop_store_errors_total") == 2
            assert samples["pitstop_messages_stored_total"] == {(("kind", ""),): 1}
            local.advance(10)
            assert value(registry, "pitstop_messages", state="due") == 1

    def test_a_store_that_hangs_delays_a_scrape_for_a_moment_only(self, registry, metrics, monkeypatch):
        hangs = threading.Event()
        monkeypatch.setattr("pitstop.metrics._gauges._PATIENCE", 0.01)

        def stats(_):
            hangs.wait(60)
            raise BackendUnavailable("It took too long.")

        monkeypatch.setattr(pitstop.Pitstop, "stats", stats)
        with pitstop.init("memory://", plugins=[metrics]):
            samples = scraped(registry)
            assert "pitstop_messages" not in samples
            assert samples["pitstop_claimed_ahead"] == {(): 0}
            (thread,) = [each for each in threading.enumerate() if each.name == "pitstop-metrics"]
            # The first question goes on. No second one joins it.
            scraped(registry)
            assert [each for each in threading.enumerate() if each.name == "pitstop-metrics"] == [thread]
            hangs.set()
            thread.join()

    def test_a_pitstop_that_is_closed_does_not_count(self, registry, metrics):
        with pitstop.init("memory://", plugins=[metrics]) as pit:
            pit.store({})
        assert "pitstop_messages" not in scraped(registry)


def test_an_event_loop_counts_too(registry, metrics, local):
    seen = []

    async def handler(msg):
        seen.append((value(registry, "pitstop_in_flight"), msg))

    async def run():
        async with pitstop.init_async("memory://", plugins=[metrics]) as pit:
            await pit.store({"id": "a"}, kind="mail")
            await pit.consume(handler, until_idle=True)
            # The handler has asked the store a moment ago.
            local.advance(10)
            return scraped(registry)

    samples = asyncio.run(run())
    assert seen == [(1, {"id": "a"})]
    assert samples["pitstop_messages_settled_total"] == {(("kind", "mail"), ("outcome", "acked")): 1}
    assert samples[f"{HANDLING}_count"] == samples[f"{LATENESS}_count"] == {(): 1}
    assert sum(samples["pitstop_messages"].values()) == 0


def test_a_signal_handler_that_stores_in_the_middle_of_an_update_does_not_wait_for_itself(registry, metrics):
    with pitstop.init("memory://", plugins=[metrics]) as pit:
        before = signal.signal(signal.SIGUSR1, lambda *_: pit.store({}))
        try:
            with metrics.tally.read():
                signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert value(registry, "pitstop_messages_stored_total", kind="") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_the_child_of_a_fork_counts_from_zero_and_never_waits_for_a_lock_of_its_parent(registry, metrics):
    with pitstop.init({"type": "memory"}, plugins=[metrics]) as pit:
        pit.store({}, kind="parent")
        with metrics.tally.read():
            child = os.fork()
            if not child:
                code = 1
                try:
                    metrics.pitstop_message_stored("child")
                    found = scraped(registry)["pitstop_messages_stored_total"]
                    code = 0 if found == {(("kind", "child"),): 1} else 2
                finally:
                    os._exit(code)
        _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert scraped(registry)["pitstop_messages_stored_total"] == {(("kind", "parent"),): 1}


def test_a_long_time_without_a_scrape_takes_no_memory(registry, metrics):
    with pitstop.init("memory://", plugins=[metrics]) as pit:
        pit.store_many([({}, None)] * 5000)
        assert len(metrics.tally) <= 1001
    assert value(registry, "pitstop_messages_stored_total", kind="") == 5000
