"""Metrics for OpenTelemetry, read by the reader of the SDK that tests use."""

from __future__ import annotations

from datetime import timedelta

import pytest

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

import pitstop

from pitstop.metrics import Metrics


@pytest.fixture
def reader():
    return InMemoryMetricReader()


@pytest.fixture
def provider(reader):
    provider = MeterProvider([reader], shutdown_on_exit=False)
    yield provider
    provider.shutdown()


def collected(reader) -> dict[str, tuple[str, list]]:
    """Return the unit and the points of each metric."""
    data = reader.get_metrics_data()
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    assert scope.scope.name == "pitstop"
    return {each.name: (each.unit, list(each.data.data_points)) for each in scope.metrics}


def values(points) -> dict[tuple, float]:
    return {tuple(sorted(each.attributes.items())): each.value for each in points}


def test_the_same_observer_feeds_its_instruments(reader, provider):
    with pitstop.init("memory://", plugins=[Metrics.opentelemetry(provider)]) as pit:
        pit.store({"id": "hunter2"}, kind="mail")
        pit.store({}, timedelta(hours=1))
        pit.consume(lambda msg: None, max_messages=1)
        with pit.listen() as listener:
            listener.get(timeout=0)
            found = collected(reader)
    assert {name: unit for name, (unit, _) in found.items()} == {
        "pitstop.messages.stored": "{message}",
        "pitstop.messages.delivered": "{message}",
        "pitstop.messages.settled": "{message}",
        "pitstop.delivery.lateness": "s",
        "pitstop.handling.duration": "s",
        "pitstop.in_flight": "{message}",
        "pitstop.claimed_ahead": "{message}",
        "pitstop.messages": "{message}",
        "pitstop.oldest_due_age": "s",
        "pitstop.clock_skew": "s",
        "pitstop.listener.last_poll_timestamp": "s",
    }
    points = {name: points for name, (_, points) in found.items()}
    assert values(points["pitstop.messages.stored"]) == {(("kind", "mail"),): 1, (("kind", ""),): 1}
    assert values(points["pitstop.messages.delivered"]) == {(("attempt", "first"), ("kind", "mail")): 1}
    assert values(points["pitstop.messages.settled"]) == {(("kind", "mail"), ("outcome", "acked")): 1}
    assert values(points["pitstop.in_flight"]) == {(): 0}
    assert values(points["pitstop.messages"])[(("state", "scheduled"),)] == 1
    (lateness,) = points["pitstop.delivery.lateness"]
    assert (lateness.count, lateness.explicit_bounds[0], lateness.explicit_bounds[-1]) == (1, 0.001, 3600)
    assert "hunter2" not in str(found)


def test_without_an_sdk_it_counts_for_nobody():
    with pitstop.init("memory://", plugins=[Metrics.opentelemetry()], strict_plugins=True) as pit:
        pit.store({})
        pit.consume(lambda msg: None, until_idle=True)
