"""The pytest plugin for ``pitstop.testing``: fixtures, a marker, and failures that show the content of the store.

If Pitstop is installed, each run of pytest imports this module, for any project. The package takes time to import, so this
module stands beside it, and imports nothing from it before a test uses a fixture.

A project adapts it by redefining the fixtures ``pitstop_config``, ``pitstop_start_time``, ``pitstop_clock``, and if need be
``pitstop`` itself.
"""

from __future__ import annotations

import sys

from collections.abc import Generator, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from pitstop.testing import Events, Faults, ManualClock, TestPitstop

#: The keywords that the marker itself uses. Its other keywords are options of the backend.
_OWN = ("start", "seed", "ids")
#: On a test: the Pitstop of its fixture.
_PIT = pytest.StashKey["TestPitstop"]()
#: On a test: the clock that the fixture of this module made, with the start of the marker.
_CLOCK = pytest.StashKey["ManualClock"]()


@pytest.fixture
def pitstop_start_time() -> datetime | str | None:
    """When the clock starts: an aware datetime, or text such as "2024-02-28T09:00Z". Redefine it in your project.

    None: 2020-01-01T00:00Z.
    """
    return None


@pytest.fixture
def pitstop_config() -> Mapping[str, Any] | str:
    """The configuration, as for pitstop.init: a mapping or a URL. Redefine it in your project.

    Without a "type" it is the memory backend. If a store outlives a test (a server, a file, "memory://name"), the project
    must empty it.
    """
    return {}


@pytest.fixture
def pitstop_clock(request: pytest.FixtureRequest, pitstop_start_time: datetime | str | None) -> ManualClock:
    """The clock of the test, a ManualClock: it stands still until the test moves it."""
    from pitstop import PitstopError  # noqa: PLC0415 - see above
    from pitstop.testing import ManualClock  # noqa: PLC0415 - see above

    marked = _marked(request.node)
    start = marked.get("start", pitstop_start_time)
    try:
        clock = ManualClock(datetime.fromisoformat(start) if isinstance(start, str) else start)
    except PitstopError as error:
        problem = str(error)
    except ValueError:
        problem = f"{start!r} is no time. Write it as '2024-02-28T09:00Z'."
    else:
        request.node.stash[_CLOCK] = clock
        return clock
    # Outside of the handler, so that only this text is shown.
    place = "@pytest.mark.pitstop(start=...)" if "start" in marked else "pitstop_start_time"
    pytest.fail(f"{place} cannot be used: {problem}", pytrace=False)


@pytest.fixture
def pitstop(
    request: pytest.FixtureRequest, pitstop_config: Mapping[str, Any] | str, pitstop_clock: ManualClock
) -> Iterator[TestPitstop]:
    """The Pitstop of the test, a pitstop.testing.TestPitstop: empty, in memory unless configured otherwise.

    It is closed at the end. Messages that are leased then are no failure. A test that is about them calls
    pitstop.assert_no_leases().
    """
    from pitstop import PitstopError  # noqa: PLC0415 - see above
    from pitstop.testing import init  # noqa: PLC0415 - see above

    marked = _marked(request.node)
    own = {name: marked.pop(name) for name in _OWN if name in marked}
    if own.pop("start", None) is not None and request.node.stash.get(_CLOCK, None) is not pitstop_clock:
        pytest.fail(
            f"@pytest.mark.pitstop(start=...) of {request.node.name} has no effect: pitstop_clock is redefined, and does not use "
            f"the marker's start. Redefine pitstop_start_time instead, let pitstop_clock use the fixture that it replaces, or move "
            f"the clock in the test.",
            pytrace=False,
        )
    config = {"url": pitstop_config} if isinstance(pitstop_config, str) else pitstop_config
    if isinstance(config, Mapping):
        config = {**config, **marked}
        if "type" not in config and "url" not in config:
            config["type"] = "memory"
    try:
        pit = init(config, clock=pitstop_clock, **own)
    except PitstopError as error:
        problem = _told(error, marked, request.node)
    else:
        request.node.stash[_PIT] = pit
        yield pit
        pit.close()
        return
    pytest.fail(problem, pytrace=False)


@pytest.fixture
def pitstop_events(pitstop: TestPitstop) -> Events:
    """The events of messages so far, in order: pitstop.events."""
    return pitstop.events


@pytest.fixture
def pitstop_faults(pitstop: TestPitstop) -> Faults:
    """The faults of the test's store: pitstop.faults. The marker's seed is the seed of at_random()."""
    return pitstop.faults


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "pitstop(start=..., seed=..., ids=..., **options): for the fixture pitstop of this test: the start of its clock, the seed "
        "of its random choices, the form of its ids, and options of its configuration, such as lock_time.",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the content and the events of a test's Pitstops to its failure."""
    report = yield
    # In the teardown it is usually closed already.
    if report.failed and report.when != "teardown":
        report.sections += [(name, _explained(pit)) for name, pit in _pits_of(item).items()]
    return report


def _marked(item: pytest.Item) -> dict[str, Any]:
    """Return the keywords of all markers. Those of the function take precedence over those of its class and module."""
    keywords: dict[str, Any] = {}
    for mark in item.iter_markers("pitstop"):
        if mark.args:
            pytest.fail(
                f"@pytest.mark.pitstop({mark.args[0]!r:.80}) has a value without a name. "
                f"Give keywords: {', '.join(_OWN)}, and options of the configuration.",
                pytrace=False,
            )
        keywords = {**mark.kwargs, **keywords}
    return keywords


def _told(error: Exception, options: Mapping[str, Any], item: pytest.Item) -> str:
    """Return the text that says what cannot be used, where it comes from, and perhaps what was meant."""
    from pitstop.abc import did_you_mean  # noqa: PLC0415 - see above

    text = f"The fixture pitstop of {item.name} cannot be made: {error}"
    if any(item.iter_markers("pitstop")):
        wrong = next((name for name in options if f"{name!r}" in str(error)), "")
        text += f" @pytest.mark.pitstop takes {', '.join(_OWN)} beside these. {did_you_mean(wrong, _OWN)}".rstrip()
    return text


def _explained(pit: TestPitstop) -> str:
    from pitstop.testing import explain  # noqa: PLC0415 - see above

    try:
        return explain(pit)
    except Exception as error:  # noqa: BLE001 - the failure itself must be shown, whatever the store does
        return f"This Pitstop cannot be read: {type(error).__name__}: {error}"


def _pits_of(item: pytest.Item) -> dict[str, TestPitstop]:
    """Return each Pitstop of a test: that of the fixture, and those that other fixtures return."""
    testing = sys.modules.get("pitstop.testing")
    if testing is None:
        return {}
    given = {"pitstop": item.stash.get(_PIT, None), **getattr(item, "funcargs", {})}
    return {
        name if name.startswith("pitstop") else f"pitstop: {name}": value
        for name, value in given.items()
        if isinstance(value, testing.TestPitstop)
    }
