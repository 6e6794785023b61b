"""Kinds of other authors: how they are found, and what core does when their rules are broken."""

from __future__ import annotations

import time

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

import pitstop

from pitstop import Every, PluginConflict, Recurrence, ScheduleError
from pitstop._recurrence import _registry


HOUR = 3_600_000


class Tides(Recurrence):
    """High water, each 12 hours and 25 minutes."""

    kind = "acme.tides"

    def __init__(self, port="BRE"):
        self.port = port

    def after(self, instant, start):
        tide = 745 * 60_000
        return start + ((instant - start) // tide + 1) * tide

    def dump(self):
        return {"port": self.port}

    @classmethod
    def load(cls, fields):
        return cls(**fields)


class Broken(Tides):
    """A rule that goes wrong after its first occurrence."""

    kind = "acme.broken"
    answer = None

    def after(self, instant, start):
        return start + HOUR if instant < start else self.answer(instant)


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    monkeypatch.setattr(_registry, "_KINDS", dict(_registry._KINDS))
    _registry._entry_points.cache_clear()
    yield
    _registry._entry_points.cache_clear()


def test_a_kind_of_four_members_has_all_that_core_needs(pit, clock):
    pitstop.register_recurrence(Tides)
    start, tide = pit.now(), timedelta(minutes=745)
    pit.store({"id": "a"}, start, None, Tides())
    assert pit.get("a").scheduled_for == start
    assert pit.get("a").every.port == "BRE"
    clock.advance(tide * 20 + timedelta(hours=1))
    with pit.listen().get() as delivery:
        assert delivery.scheduled_for == start + 20 * tide
        assert delivery.missed == 20
    assert pit.get("a").scheduled_for == start + 21 * tide


def test_the_defaults_of_latest_and_count_agree_with_arithmetic():
    rule, tide = Tides(), 745 * 60_000
    for instant in (0, tide - 1, tide, tide + 1, 1_900_000_000_000):
        wanted = instant // tide * tide
        assert rule.latest(instant, 0) == wanted
    assert rule.count(tide, 500 * tide, 0) == 499
    capped = rule.count(0, 5000 * tide, 0)
    assert isinstance(capped, pitstop.AtLeast)
    assert (capped, str(capped), repr(capped), f"{capped:,}") == (1000, "at least 1000", "AtLeast(1000)", "1,000")


def test_a_kind_is_found_by_its_entry_point(install):
    source = """
        from pitstop import Every

        class Moon(Every):
            kind = "acme.moon"
    """
    install("acme-tides", "1.0", {"pitstop.recurrences": {"acme.moon": "acme_moon:Moon"}}, acme_moon=source)
    rule = _registry.load_recurrence({"v": 1, "kind": "acme.moon", "ms": 5})
    assert type(rule).__name__ == "Moon"
    assert _registry.is_known(rule)


def test_a_kind_that_does_not_load_is_an_error_of_its_messages_alone(install, pit):
    install("acme-tides", "1.0", {"pitstop.recurrences": {"acme.moon": "acme_gone:Moon"}})
    with pytest.raises(
        ScheduleError, match=r"'acme\.moon' from acme-tides 1\.0 failed to load: there is no module 'acme_gone'"
    ):
        _registry.load_recurrence({"v": 1, "kind": "acme.moon"})
    pit.store({"id": "a"}, every="1h")


def test_a_class_under_the_name_of_another_kind_is_refused_and_not_added(install):
    source = """
        from pitstop import Every

        class Moon(Every):
            kind = "acme.sun"
    """
    install("acme-tides", "1.0", {"pitstop.recurrences": {"acme.moon": "acme_moon:Moon"}}, acme_moon=source)
    with pytest.raises(ScheduleError, match=r"'acme\.moon' from acme-tides 1\.0 has the kind 'acme\.sun'"):
        _registry.load_recurrence({"v": 1, "kind": "acme.moon", "ms": 5})
    with pytest.raises(ScheduleError, match=r"Unknown recurrence kind 'acme\.sun'"):
        _registry.load_recurrence({"v": 1, "kind": "acme.sun", "ms": 5})


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (Tides(), r"is no subclass of pitstop\.Recurrence"),
        (int, r"is no subclass of pitstop\.Recurrence"),
        (type("Half", (Recurrence,), {"kind": "acme.half"}), "the class Half lacks after, dump, load"),
        (type("Plain", (Every,), {"kind": "plain"}), "the class Plain has the kind 'plain'. Give it a name with a dot"),
        (type("Own", (Every,), {}), "the class Own has the kind 'every'"),
        (type("Old", (Every,), {"kind": "acme.old", "version": "1"}), "the class Old has the version '1'"),
    ],
)
def test_a_class_that_cannot_be_a_kind_is_refused(cls, text):
    with pytest.raises(ScheduleError, match=text):
        pitstop.register_recurrence(cls)


def test_two_classes_cannot_have_one_kind():
    assert pitstop.register_recurrence(Tides) is Tides
    assert pitstop.register_recurrence(Tides) is Tides
    with pytest.raises(PluginConflict, match=r"the kind 'acme\.tides' belongs to the class .*Tides already"):
        pitstop.register_recurrence(type("Tides", (Tides,), {}))


def test_a_rule_of_an_unregistered_kind_is_refused_at_the_store(pit):
    with pytest.raises(ScheduleError, match=r"Register its class under the entry-point group 'pitstop\.recurrences'"):
        pit.store({"id": "a"}, every=Tides())


def raising(instant):
    raise ZeroDivisionError("no moon")


class Ports(Tides):
    """A rule whose form depends on the order in which its ports were given."""

    kind = "acme.ports"

    def __init__(self, ports):
        self.ports = list(ports)

    def __eq__(self, other):
        return set(self.ports) == set(other.ports)

    __hash__ = None

    def dump(self):
        return {"ports": self.ports}


def test_a_rule_that_has_several_forms_is_kept(pit):
    """As a set has that is written as a list: each process then has another order."""
    pitstop.register_recurrence(Ports)
    ports = [["BRE", "HAM"], ["HAM", "BRE"], ["HAM"]]
    assert [pit.store({"id": "a"}, every=Ports(each), if_exists="keep").outcome for each in ports] == [
        "created",
        "kept",
        "replaced",
    ]


def test_a_rule_that_cannot_be_compared_is_another_one(monkeypatch, pit):
    pitstop.register_recurrence(Ports)
    pit.store({"id": "a"}, every=Ports(["BRE", "HAM"]))
    monkeypatch.setattr(Ports, "__eq__", lambda *_: 1 / 0)
    assert pit.store({"id": "a"}, every=Ports(["HAM", "BRE"]), if_exists="keep").outcome == "replaced"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (raising, "it raised ZeroDivisionError: no moon"),
        (lambda instant: instant, "which is not later"),
        (lambda instant: instant - 5 * HOUR, "which is not later"),
        (lambda instant: 1.5e12, "it returned a float where an int is due"),
        (lambda instant: "soon", "it returned a str where an int is due"),
    ],
)
@pytest.mark.parametrize("settle", ["ack", "nack"])
def test_a_broken_rule_keeps_the_message_with_its_error_and_the_others_go_on(
    monkeypatch, pit, clock, answer, text, settle
):
    pitstop.register_recurrence(Broken)
    monkeypatch.setattr(Broken, "answer", staticmethod(lambda instant: instant + HOUR))
    pit.store({"id": "broken"}, every=Broken())
    pit.store({"id": "other"}, "1h")
    clock.advance("1h")
    listener = pit.listen(prefetch=2)
    deliveries = [listener.get(), listener.get()]
    monkeypatch.setattr(Broken, "answer", staticmethod(answer))
    for each in deliveries:
        getattr(each, settle)(**({"wait": True} if settle == "ack" else {"delay": timedelta(0)}))
    if settle == "nack":
        # The retry asks the rule for later occurrences, and is refused.
        assert [each.id for each in iter(listener.get, None)] == ["other"]
    entry = pit.get("broken")
    assert entry.state == "dead"
    assert text in entry.last_error
    assert "'acme.broken' is broken" in entry.last_error
    assert pit.stats().dead == 1


def nothing():
    raise ZeroDivisionError("no moon")


def itself():
    form = {}
    form["again"] = form
    return form


@pytest.mark.parametrize(
    ("dump", "text"),
    [
        (lambda: {"port": {"BRE"}}, r"dump\(\)\['port'\] is a set\. Give text, int of 64 bits, bool, None"),
        (lambda: {"ports": [1, ("BRE",)]}, r"dump\(\)\['ports'\]\[1\] is a tuple"),
        (lambda: {"port": datetime(2031, 1, 1, tzinfo=UTC)}, "is a datetime"),
        (lambda: {"port": 1.5}, "is a float"),
        (lambda: {"port": 2**63}, "is an int of more than 64 bits"),
        (lambda: {"port": "\ud800"}, "has a lone surrogate"),
        (lambda: {"port": "x" * 200_000}, "characters as JSON. Give at most 200000"),
        (lambda: {"port": {"$where": 1}}, r"dump\(\)\['port'\] has the key '\$where'"),
        (lambda: {"a.b": 1}, r"has the key 'a\.b'"),
        (lambda: {1: 1}, "has the key 1, which is no text"),
        (lambda: {"kind": "every"}, "dump\\(\\) has a field 'v' or 'kind', which core adds"),
        (lambda: {"v": 2}, "dump\\(\\) has a field 'v' or 'kind', which core adds"),
        (lambda: ["BRE"], r"dump\(\) raised TypeError"),
        (nothing, r"dump\(\) raised ZeroDivisionError: no moon"),
        (itself, "is more than 20 levels deep, or holds itself"),
    ],
)
def test_a_rule_whose_stored_form_is_not_plain_is_refused_at_the_store(monkeypatch, pit, dump, text):
    pitstop.register_recurrence(Tides)
    monkeypatch.setattr(Tides, "dump", lambda self: dump())
    with pytest.raises(ScheduleError, match=text):
        pit.store({"id": "a"}, every=Tides())
    assert pit.get("a") is None


@pytest.mark.parametrize(
    ("load", "text"),
    [
        (lambda fields: nothing(), "cannot be read: ZeroDivisionError: no moon"),
        (lambda fields: None, r"cannot be read: load\(\) returned a NoneType"),
        (lambda fields: Every("1h"), r"cannot be read: load\(\) returned a Every"),
        (lambda fields: Tides("HAM"), r"load\(\) returns a rule whose dump\(\) is another one"),
    ],
)
def test_a_rule_that_cannot_be_read_again_is_refused_at_the_store(monkeypatch, pit, load, text):
    pitstop.register_recurrence(Tides)
    monkeypatch.setattr(Tides, "load", load)
    with pytest.raises(ScheduleError, match=text):
        pit.store({"id": "a"}, every=Tides())
    assert pit.get("a") is None


def test_a_stored_form_that_gives_no_rule_sets_its_message_aside(monkeypatch, pit):
    pitstop.register_recurrence(Tides)
    pit.store({"id": "a"}, every=Tides())
    monkeypatch.setattr(Tides, "load", lambda fields: None)
    assert pit.listen().get() is None
    assert "load() returned a NoneType" in pit.get("a").last_error


def test_an_entry_has_a_rule_of_its_own(pit):
    """An application that changes it changes no other message."""
    pitstop.register_recurrence(Tides)
    pit.store({"id": "a"}, every=Tides())
    pit.get("a").every.port = "HAM"
    assert pit.get("a").every.port == "BRE"


class Listed(Tides):
    """Three occurrences. After the last one it goes wrong: it gives that one again."""

    kind = "acme.listed"

    def after(self, instant, start):
        times = [start, start + HOUR, start + 2 * HOUR]
        return next((each for each in times if each > instant), times[-1])


class Miscounting(Tides):
    kind = "acme.miscounting"

    def count(self, since, until, start):
        return self.answer()


class Lost(Tides):
    kind = "acme.lost"

    def latest(self, instant, start):
        return instant + HOUR


@pytest.mark.parametrize(
    ("cls", "answer", "text"),
    [
        (Listed, None, "which is not later"),
        (Lost, None, "as the latest occurrence"),
        (Miscounting, nothing, "it raised ZeroDivisionError: no moon"),
        (Miscounting, lambda: -1, "it returned -1 as the number of occurrences"),
        (Miscounting, lambda: "many", "it returned 'many' as the number of occurrences"),
    ],
)
def test_a_rule_that_fails_at_the_catch_up_is_set_aside_and_the_others_go_on(
    monkeypatch, pit, clock, cls, answer, text
):
    pitstop.register_recurrence(cls)
    monkeypatch.setattr(cls, "answer", staticmethod(answer), raising=False)
    pit.store({"id": "broken"}, every=cls())
    pit.store({"id": "other"}, "50h")
    clock.advance("50h")
    listener = pit.listen()
    with listener.get() as delivery:
        assert delivery.id == "other"
    assert listener.get() is None
    entry = pit.get("broken")
    assert entry.state == "dead"
    assert text in entry.last_error


def test_the_latest_of_a_rule_that_goes_back_is_an_error_and_not_an_endless_search():
    with pytest.raises(ScheduleError, match="which is not later"):
        Listed().latest(50 * HOUR, 0)


def test_an_int_of_another_type_is_taken_as_its_number(monkeypatch):
    from pitstop._recurrence._base import following, last_until

    class Number(int):
        pass

    monkeypatch.setattr(Tides, "after", lambda self, instant, start: Number(instant + 5))
    monkeypatch.setattr(Tides, "latest", lambda self, instant, start: Number(instant))
    assert type(following(Tides(), 5, 0)) is int
    assert type(last_until(Tides(), 5, 0)) is int


@pytest.mark.parametrize("zone", [ZoneInfo("Europe/Berlin"), "Europe/Berlin", "Mars", None, 5])
def test_a_preview_of_a_kind_shows_its_zone_or_else_utc(pit, zone):
    pitstop.register_recurrence(Tides)
    rule = Tides()
    rule.tz = zone
    (shown,) = pit.preview(rule, n=1)
    assert shown.at == pit.now()
    assert shown.zone == ("Europe/Berlin" if str(zone) == "Europe/Berlin" else "UTC")


def test_a_kind_that_fails_to_mark_an_occurrence_is_named(monkeypatch, pit):
    pitstop.register_recurrence(Tides)
    rule = Tides()
    rule.tz = "Europe/Berlin"
    monkeypatch.setattr(Tides, "is_moved", lambda self, occurrence, start: 1 / 0)
    with pytest.raises(ScheduleError, match=r"'acme\.tides' is broken: .*ZeroDivisionError"):
        pit.preview(rule, n=1)


def test_a_broken_rule_is_refused_at_the_store(monkeypatch, pit):
    pitstop.register_recurrence(Broken)
    monkeypatch.setattr(Broken, "after", lambda self, instant, start: instant)
    with pytest.raises(ScheduleError, match="which is not later"):
        pit.store({"id": "a"}, every=Broken())
    with pytest.raises(ScheduleError, match="which is not later"):
        next(Broken().occurrences(datetime(2031, 1, 1, tzinfo=UTC)))


def test_no_refusal_takes_long():
    """Each has its own cause. All are refused well within 50 ms, of which a slow machine may need more."""
    from pitstop import Calendar, Cron, RRule, Times

    start = datetime(2031, 5, 4, tzinfo=UTC)
    attempts = [
        lambda: Cron("0 0 31 2 *"),
        lambda: Cron("0 0 31 2,4,6 *"),
        lambda: Cron("0 0 */20 2 1#5,2#5,3#5"),
        lambda: Cron("0 0 30 2 *", tz="Nowhere/Atall"),
        lambda: Cron("* " * 100_000),
        lambda: next(RRule("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30").occurrences(start)),
        lambda: next(RRule("FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30").occurrences(start)),
        lambda: next(RRule("FREQ=DAILY;INTERVAL=7;BYDAY=MO").occurrences(start)),
        lambda: next(RRule("FREQ=DAILY;INTERVAL=1000;BYMONTH=4;BYMONTHDAY=31").occurrences(start)),
        lambda: next(RRule("FREQ=DAILY;BYDAY=MO;BYSETPOS=5").occurrences(start)),
        lambda: next(RRule("FREQ=MONTHLY;BYMONTHDAY=1,2;BYSETPOS=3").occurrences(start)),
        lambda: next(
            RRule("FREQ=YEARLY;INTERVAL=4;BYMONTH=2;BYMONTHDAY=29").occurrences(datetime(2031, 1, 1, tzinfo=UTC))
        ),
        lambda: next(RRule("FREQ=WEEKLY;BYDAY=MO,TU;BYSETPOS=4").occurrences(start)),
        lambda: Calendar(months=1, days=3),
        lambda: Times([start] * 5000),
        lambda: Every("0s"),
    ]
    for attempt in attempts:
        best = 1.0
        for _ in range(3):
            forget_what_was_read()
            began = time.process_time()
            with pytest.raises(ScheduleError):
                attempt()
            best = min(best, time.process_time() - began)
        assert best < 0.05, (attempts.index(attempt), best)


def forget_what_was_read():
    from pitstop._recurrence import _cron_fields, _rrule, _rrule_parts, _wall

    for each in (_cron_fields.read_cron, _rrule_parts.read_rrule, _rrule._anchored, _rrule._indices, _wall._zone_names):
        each.cache_clear()
