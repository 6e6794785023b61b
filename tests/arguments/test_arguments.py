"""Arguments that cannot be used: the same error on every backend, sync and asyncio, before the store or a lock is used.

The tests are one table: a call with one argument, the values that it refuses, and the error that names the argument.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import sys

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, ClassVar

import attrs
import pytest

import pitstop

from pitstop import ConfigError, Entry, MessageError, PitstopError, hookimpl, testing
from pitstop.testing import ManualClock


NAN, INF, HUGE = math.nan, math.inf, 10**400
#: Python refuses to print this number, so an error must not try.
UNPRINTABLE = 10**5000


class Unfriendly:
    """An object that raises at each use."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


class BrokenZone(tzinfo):
    def utcoffset(self, when):
        raise RuntimeError("no offset")


NO_NUMBER = [None, "5", 5.0, True, NAN, [5], Unfriendly()]
NO_COUNT = [0, -1, -HUGE, 2**63, HUGE, UNPRINTABLE, *NO_NUMBER]
NO_OPTIONAL_COUNT = [each for each in NO_COUNT if each is not None]
NO_DURATION = [NAN, INF, -INF, -1, -0.001, True, HUGE, UNPRINTABLE, "-1", "soon", "", "9" * 5000, "1s" * 10_000]
NO_DURATION += [timedelta(-1), timedelta.max, [5], b"5s", Unfriendly()]
NO_POSITIVE_DURATION = [0, 0.0, "0s", timedelta(0), timedelta(microseconds=999), *NO_DURATION]
NO_ID = [None, 5, b"a", "", "\ud800", "a\0b", {"$gt": ""}, "x" * 513, Unfriendly()]
NO_FLAG = ["no", 0, 1, Unfriendly()]


def _kind(value: object) -> str:
    """Return the name of a case. Some values cannot be printed."""
    return type(value).__name__


def entry(**fields: Any) -> Entry:
    now = datetime.now(UTC)
    return Entry(**{"id": "a", "message": {}, "state": "due", "due": now, "scheduled_for": now, **fields})


#: The method, the argument, the values that it refuses, the error, and the name in its text.
TABLE: list[tuple[str, str, list[Any], type[PitstopError], str]] = [
    ("entries", "limit", NO_COUNT, PitstopError, "limit"),
    ("entries", "state", ["gone", "", 5, ["due"], {"due"}, Unfriendly()], PitstopError, "state"),
    ("entries", "after", ["a", 5, ("a", 1), Unfriendly()], PitstopError, "after"),
    ("entries", "after", [entry(id=each) for each in (5, None, {"$gt": ""}, "\ud800")], PitstopError, "after.id"),
    (
        "entries",
        "after",
        [entry(due=each) for each in (5, "now", datetime(2020, 1, 1), datetime(2020, 1, 1, tzinfo=BrokenZone()))],
        PitstopError,
        "after.due",
    ),
    ("get", "id", NO_ID, MessageError, "id"),
    ("remove", "id", NO_ID, MessageError, "id"),
    ("redrive", "id", NO_ID, MessageError, "id"),
    ("listen", "lock_time", NO_POSITIVE_DURATION, ConfigError, "lock_time"),
    ("listen", "loop_time", NO_POSITIVE_DURATION, ConfigError, "loop_time"),
    ("listen", "prefetch", NO_OPTIONAL_COUNT, ConfigError, "prefetch"),
    ("listen", "heartbeat", NO_FLAG, ConfigError, "heartbeat"),
    ("listen", "max_lease", [timedelta(hours=1)], ConfigError, "max_lease"),
    ("heartbeat", "max_lease", NO_POSITIVE_DURATION, ConfigError, "max_lease"),
    ("consume", "at once", NO_COUNT, ConfigError, "at once"),
    ("consume", "max_messages", NO_OPTIONAL_COUNT, ConfigError, "max_messages"),
    ("consume", "drain", [None, *NO_DURATION], ConfigError, "drain"),
    ("consume", "until_idle", NO_FLAG, ConfigError, "until_idle"),
    ("consume", "deliveries", NO_FLAG, ConfigError, "deliveries"),
    ("consume", "prefetch", NO_OPTIONAL_COUNT, ConfigError, "prefetch"),
    ("consume", "lock_time", NO_POSITIVE_DURATION, ConfigError, "lock_time"),
    ("get from listener", "timeout", NO_DURATION, ConfigError, "timeout"),
]


@pytest.fixture(params=["memory", "sqlite", "filesystem", "mongo"])
def config(request: pytest.FixtureRequest, tmp_path) -> dict[str, Any]:
    if request.param == "mongo":
        uri, dbname = map(request.getfixturevalue, ("mongo_uri", "mongo_dbname"))
        return {"type": "mongo", "uri": uri, "dbname": dbname}
    paths = {"sqlite": tmp_path / "store.db", "filesystem": tmp_path / "store"}
    return {"type": request.param} | ({"path": paths[request.param]} if request.param in paths else {})


class World:
    """Calls the methods by the names of the table, in one of the two worlds."""

    at_once: ClassVar[str]

    def call(self, method: str, argument: str, value: Any) -> None:
        argument = self.at_once if argument == "at once" else argument
        getattr(self, method.replace(" ", "_"))(**{argument: value})


class Sync(World):
    at_once = "workers"

    def __init__(self, config: dict[str, Any]) -> None:
        self.pit = pitstop.init(config)

    def __getattr__(self, method: str) -> Any:
        return getattr(self.pit, method)

    def heartbeat(self, **options: Any) -> None:
        self.pit.listen(heartbeat=True, **options)

    def consume(self, **options: Any) -> None:
        self.pit.consume(print, **{"until_idle": True, **options})

    def get_from_listener(self, **options: Any) -> None:
        with self.pit.listen() as listener:
            listener.get(**options)

    def close(self) -> None:
        self.pit.close()


class Asyncio(World):
    at_once = "concurrency"

    def __init__(self, config: dict[str, Any]) -> None:
        self.runner = asyncio.Runner()
        self.pit = pitstop.init_async(config)

    def __getattr__(self, method: str) -> Any:
        def call(**options: Any) -> Any:
            async def called() -> Any:
                result = getattr(self.pit, method)(**options)
                return await result if inspect.isawaitable(result) else result

            return self.runner.run(called())

        return call

    def heartbeat(self, **options: Any) -> None:
        self.listen(heartbeat=True, **options)

    def consume(self, **options: Any) -> None:
        async def handler(message: dict[str, Any]) -> None:
            pass

        async def consume() -> None:
            await self.pit.consume(handler, **{"until_idle": True, **options})

        self.runner.run(consume())

    def get_from_listener(self, **options: Any) -> None:
        async def get() -> None:
            async with self.pit.listen() as listener:
                await listener.get(**options)

        self.runner.run(get())

    def close(self) -> None:
        self.runner.run(self.pit.aclose())
        self.runner.close()


@pytest.fixture(params=[Sync, Asyncio], ids=["sync", "asyncio"])
def world(request: pytest.FixtureRequest, config: dict[str, Any]):
    world = request.param(config)
    yield world
    world.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("method", "argument", "values", "error", "name"),
    TABLE,
    ids=[f"{row[0]}-{row[4]}-{i}" for i, row in enumerate(TABLE)],
)
def test_a_value_that_cannot_be_used_is_refused_by_name(world, method, argument, values, error, name):
    for value in values:
        with pytest.raises(PitstopError) as caught:
            world.call(method, argument, value)
        text = str(caught.value)
        assert type(caught.value) is error, text
        assert (world.at_once if name == "at once" else name) in text
        assert len(text) < 600, "the value is not quoted in bounded length"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("method", "argument", "value"),
    [
        ("entries", "limit", sys.maxsize),
        ("entries", "after", entry(due=None)),
        ("entries", "after", entry(id="")),
        ("listen", "lock_time", 36_525 * 86_400),
        ("listen", "loop_time", "36525d"),
        ("listen", "prefetch", sys.maxsize),
        ("consume", "max_messages", sys.maxsize),
        ("consume", "drain", "36525d"),
        ("consume", "loop_time", "36525d"),
        ("consume", "lock_time", "36525d"),
        ("consume", "prefetch", sys.maxsize),
        ("get from listener", "timeout", 0),
        ("get from listener", "timeout", -0.0),
        ("get from listener", "timeout", "0s"),
        ("get from listener", "timeout", timedelta(0)),
    ],
)
def test_the_extremes_of_usable_values_are_accepted(world, method, argument, value):
    world.call(method, argument, value)


def test_a_wait_without_end_is_spelled_none(world):
    with pytest.raises(ConfigError, match=r"^timeout=inf cannot be used. Give None to wait without end\.$"):
        world.call("get from listener", "timeout", INF)


def test_the_longest_timeout_is_waited_for_until_a_message_comes(config):
    with pitstop.init(config) as pit, pit.listen() as listener:
        pit.store({"id": "a"}, timedelta(0))
        delivery = listener.get(timeout="36525d")
        assert delivery is not None
        delivery.ack()


class Audit:
    @hookimpl
    def pitstop_message_stored(self, entry: Entry) -> None:
        pass


@pytest.mark.parametrize("init", [pitstop.init, pitstop.init_async, lambda _, plugins: testing.init(plugins=plugins)])
@pytest.mark.parametrize("plugins", ["audit", b"audit", {"audit": Audit()}, 5, None, Audit(), Unfriendly()], ids=_kind)
def test_plugins_that_are_no_list_are_refused(init, plugins):
    with pytest.raises(ConfigError, match=r"^plugins is of type \w+. Give a list, as in plugins=\[Audit\(\)\]"):
        init("memory://", plugins=plugins)


@pytest.mark.parametrize("plugin", ["audit", 5, None, [], object(), "mongodb://app:S3CRET@db1/app"])
def test_a_plugin_without_a_hook_is_refused(plugin):
    with pytest.raises(ConfigError, match=r"^The plugin .* has no hook, so it would never be called") as caught:
        pitstop.init("memory://", plugins=[plugin])
    assert "S3CRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda value: ManualClock().advance(value), "by"),
        (lambda value: ManualClock().wait_for_sleepers(0, value), "timeout"),
        (lambda value: testing.init().run_for(value, print), "delta"),
        (lambda value: testing.init().faults.latency("lease", value), "delta"),
    ],
)
@pytest.mark.parametrize("value", [NAN, INF, True, HUGE, UNPRINTABLE, "soon", -1, Unfriendly()], ids=_kind)
def test_the_tools_for_tests_refuse_durations_by_name(call, name, value):
    with pytest.raises(PitstopError, match=rf"^{name}=") as caught:
        call(value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda value: ManualClock().wait_for_sleepers(value), "count"),
        (lambda value: testing.init().run_until_idle(print, max_steps=value), "max_steps"),
        (lambda value: testing.init().drain(print, max_jumps=value), "max_jumps"),
        (lambda value: testing.init().faults.fail_next("lease", times=value), "times"),
        (lambda value: testing.init(seed=value or "x"), "seed"),
        (lambda value: testing.init(ids=value or 5), "ids"),
        (ManualClock, "start"),
    ],
)
@pytest.mark.parametrize("value", [-1, 5.0, "x" * 10_000, [5], True], ids=_kind)
def test_the_tools_for_tests_refuse_numbers_and_more_by_name(call, name, value):
    if name == "seed" and value == -1:
        value = "x"
    with pytest.raises(PitstopError, match=rf"^{name}=") as caught:
        call(value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "port", ["9" * 5000, "65536", "0", "-1", 2**63, HUGE, UNPRINTABLE, True, "٣", Unfriendly()], ids=_kind
)
def test_a_port_out_of_range_is_refused_by_name(port):
    with pytest.raises(ConfigError, match=r"^port=") as caught:
        pitstop.init({"type": "mongo", "port": port})
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "options",
    [
        {"ack_write_concern": "9" * 5000},
        {"ack_write_concern": UNPRINTABLE},
        {"host": "\ud800"},
        {"host": "a\0b"},
        {"coll": "\ud800"},
        {"dbname": "\ud800"},
        {"user": "\ud800", "pass": "x"},
        {"user": "x", "pass": "\udfff"},
        {"user": "x", "pass": "b\0"},
        {"replica_set": "\ud800"},
        {"host": "h:" + "9" * 5000},
    ],
    ids=lambda options: next(iter(options)),
)
def test_other_values_that_no_mongodb_can_have_are_refused_by_name(options):
    with pytest.raises(ConfigError) as caught:
        pitstop.init({"type": "mongo", **options})
    assert any(key in str(caught.value) for key in options)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "retry",
    [{"max_attempts": UNPRINTABLE}, {"max_attempts": "9" * 5000}, {"factor": "1" * 400}, {"delay": UNPRINTABLE}],
    ids=lambda retry: next(iter(retry)),
)
def test_a_retry_that_cannot_be_used_is_refused_by_name(retry):
    with pytest.raises(ConfigError, match=rf"^retry: {next(iter(retry))}=") as caught:
        pitstop.init({"type": "memory", "retry": retry})
    assert len(str(caught.value)) < 600


def test_an_entry_that_was_returned_can_be_given_back_as_after(config):
    with pitstop.init(config) as pit:
        pit.store_many([({"id": each}, timedelta(hours=1)) for each in "abc"])
        (first,) = pit.entries(limit=1)
        assert [each.id for each in pit.entries(after=first)] == ["b", "c"]
        assert [each.id for each in pit.entries(after=attrs.evolve(first, message={"x": 1}))] == ["b", "c"]


def test_an_id_whose_bytes_are_no_utf8_can_be_paged_past(tmp_path):
    """A store that holds such an id returns it with surrogates, and takes it back."""
    with pitstop.init({"type": "sqlite", "path": tmp_path / "store.db"}) as pit:
        pit.store({"id": "a"}, timedelta(hours=1))
        assert pit.entries(after=entry(id="\udcff")) != []
