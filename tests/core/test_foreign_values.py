"""Values of other libraries' types: taken as what they are, or refused with the path and the item.

The classes here do what those of well-known libraries do; each says which. No code of theirs may come out of Pitstop as an
error of its own, or change what is stored.
"""

from __future__ import annotations

import asyncio
import collections
import itertools
import threading
import types

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

import pytest

import pitstop

from pitstop import ConfigError, MessageError, PitstopError, ScheduleError
from pitstop._values._duration import parse_duration
from pitstop._values._message import MAX_DEPTH, copy_message
from pitstop._values._plain import shown
from pitstop._values._quoting import quoted
from pitstop.testing import ManualClock


NOW = timedelta(0)
HOUR = timedelta(hours=1)
START = datetime(2020, 1, 1, tzinfo=UTC)


class Duration(timedelta):
    """As pendulum's: its public fields have another meaning if it is negative, and it is divided by its own kind alone."""

    @property
    def days(self):
        return -1 if self < timedelta(0) else timedelta.days.__get__(self)

    def _refuse(self, other):
        raise AttributeError("'datetime.timedelta' object has no attribute '_to_microseconds'")

    __floordiv__ = __divmod__ = __truediv__ = __mod__ = _refuse


class Timedelta(timedelta):
    """As that of pandas 2 in whole seconds: all fields of the base class are zero, and the public ones are right."""

    def __new__(cls, seconds):
        made = super().__new__(cls)
        made.wanted = timedelta(seconds=seconds)
        return made

    days = property(lambda self: self.wanted.days)
    seconds = property(lambda self: self.wanted.seconds)
    microseconds = property(lambda self: self.wanted.microseconds)

    def total_seconds(self):
        return self.wanted.total_seconds()


class Moment(datetime):
    """As pendulum's: what is left after a subtraction is no plain ``timedelta``."""

    def __sub__(self, other):
        return Duration(microseconds=1)


class NotATime(datetime):
    """As pandas.NaT: its methods raise, and its fields are NaN."""

    def utcoffset(self):
        raise ValueError("NaTType does not support utcoffset")

    year = property(lambda self: float("nan"))

    def __repr__(self):
        return "NaT"


class Year12000(datetime):
    """As a Timestamp of pandas beyond what a ``datetime`` can name: the base class has another year."""

    year = property(lambda self: 12000)


class Zone(tzinfo):
    """A zone that does what it is told."""

    def __init__(self, told):
        self.told = told

    def utcoffset(self, when):
        if isinstance(self.told, BaseException):
            raise self.told
        return self.told


class OddOffset(datetime):
    """A datetime that does not let the zone say the offset."""

    offset = "an hour"

    def utcoffset(self):
        return self.offset


def zoned(told):
    return datetime(2031, 1, 1, tzinfo=Zone(told))


UNREADABLE = {
    "not-a-time": lambda: NotATime(2031, 1, 1),
    "year": lambda: Year12000(1972, 1, 1, tzinfo=UTC),
    "zone-raises": lambda: zoned(LookupError("no such zone")),
    "zone-recurs": lambda: zoned(RecursionError()),
    "zone-returns-text": lambda: zoned("hunter2"),
    "zone-is-out-of-range": lambda: zoned(timedelta(days=1)),
    "offset-is-text": lambda: OddOffset(2031, 1, 1),
}
SPANS = {
    "pendulum": lambda seconds: Duration(seconds=seconds),
    "pandas": Timedelta,
}


@pytest.fixture(params=["sync", "async"])
def pit(request):
    """A store in memory, through each of the facades."""
    clock = ManualClock()
    if request.param == "sync":
        with pitstop.init({"type": "memory", "clock": clock}) as pit:
            yield pit
        return
    loop = asyncio.new_event_loop()
    facade = pitstop.init_async({"type": "memory", "clock": clock})

    class InLoop:
        def __getattr__(self, name):
            return lambda *args, **options: loop.run_until_complete(getattr(facade, name)(*args, **options))

    yield InLoop()
    loop.run_until_complete(facade.aclose())
    loop.close()


class TestTimes:
    @pytest.mark.parametrize("kind", SPANS)
    def test_spans_are_taken_as_when_every_end_and_grace(self, pit, kind):
        span = SPANS[kind]
        pit.store({"id": "a"}, span(60), span(3 * 3600), span(3600), catch_up="skip", grace=span(5))

        entry = pit.get("a")
        assert entry.due == START + timedelta(minutes=1)
        assert entry.end == START + 3 * HOUR
        assert entry.every == HOUR
        assert type(entry.every) is timedelta

    @pytest.mark.parametrize("kind", SPANS)
    def test_a_span_in_the_past_is_due_since_then(self, pit, kind):
        pit.store({"id": "a"}, SPANS[kind](-90_061))

        assert pit.get("a").due == START - timedelta(seconds=90_061)

    def test_datetimes_are_taken_as_when_end_and_values(self, pit):
        moment = Moment(2031, 5, 4, 12, 0, 0, 123_000, tzinfo=ZoneInfo("Europe/Paris"))
        pit.store({"id": "a", "at": [moment]}, moment, Moment(2032, 1, 1, tzinfo=UTC), HOUR)

        entry = pit.get("a")
        expected = datetime(2031, 5, 4, 10, 0, 0, 123_000, tzinfo=UTC)
        assert entry.due == entry.message["at"][0] == expected
        assert type(entry.message["at"][0]) is datetime
        assert entry.message["at"][0].tzinfo is UTC
        assert entry.end == datetime(2032, 1, 1, tzinfo=UTC)

    @pytest.mark.parametrize(("fold", "hour"), [(0, 0), (1, 1)])
    def test_both_passes_of_a_fold_are_told_apart(self, pit, fold, hour):
        moment = Moment(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Paris"), fold=fold)
        pit.store({"id": "a", "at": moment}, moment)

        entry = pit.get("a")
        assert entry.due == entry.message["at"] == datetime(2024, 10, 27, hour, 30, tzinfo=UTC)

    def test_an_offset_may_be_a_span_of_their_own(self, pit):
        pit.store({"id": "a"}, zoned(Duration(hours=1)))

        assert pit.get("a").due == datetime(2030, 12, 31, 23, tzinfo=UTC)

    @pytest.mark.parametrize("name", UNREADABLE)
    def test_one_that_cannot_be_read_is_refused_with_the_path_the_field_and_the_item(self, pit, name):
        bad = UNREADABLE[name]()
        with pytest.raises(MessageError, match=r"^msg\['at'\]\['last'\]\[0\] is a \w+ that cannot be read: "):
            pit.store({"at": {"last": [bad]}}, NOW)
        with pytest.raises(MessageError, match=r"^items\[1\]: msg\['at'\] is a "):
            pit.store_many([({"id": "a"}, NOW), ({"id": "b", "at": bad}, NOW)])
        for field, times in {"when": (bad,), "end": (NOW, bad, HOUR), "every": (NOW, None, bad)}.items():
            with pytest.raises(ScheduleError, match=rf"^{field}=") as caught:
                pit.store({"id": "c"}, *times)
            assert "hunter2" not in str(caught.value)
            with pytest.raises(ScheduleError, match=rf"^items\[0\]: {field}="):
                pit.store_many([({"id": "c"}, *times)])
        assert pit.entries() == []

    def test_a_span_that_contradicts_itself_is_refused(self, pit):
        class Liar(timedelta):
            def total_seconds(self):
                return 5.0

        class Broken(timedelta):
            def total_seconds(self):
                raise ZeroDivisionError

        for bad, why in ((Liar(hours=1), "are not what its total_seconds"), (Broken(1), "raised ZeroDivisionError")):
            for field, times in {"when": (bad,), "end": (NOW, bad, HOUR), "every": (NOW, None, bad)}.items():
                with pytest.raises(ScheduleError, match=rf"^{field}=.* cannot be read: its .*{why}"):
                    pit.store({"id": "a"}, *times)
            with pytest.raises(ScheduleError, match=r"^grace=.* cannot be read"):
                pit.store({"id": "a"}, NOW, None, HOUR, catch_up="skip", grace=bad)

    def test_a_catch_up_that_compares_in_its_own_way_is_what_its_text_is(self, pit):
        class Word(str):
            __slots__ = ()
            __hash__ = str.__hash__

            def __eq__(self, other):
                return True

        pit.store({"id": "a"}, NOW, None, HOUR, catch_up=Word("all"))
        with pytest.raises(ScheduleError, match=r"^catch_up='sometimes' is unknown"):
            pit.store({"id": "a"}, NOW, None, HOUR, catch_up=Word("sometimes"))

    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
    def test_what_is_no_fault_of_the_value_passes_through(self, pit, error):
        if error in {KeyboardInterrupt, SystemExit} and type(pit).__name__ == "InLoop":
            return  # raised in a thread of asyncio's, which ends the loop: that is asyncio's to say
        for message, when in (({"at": zoned(error())}, NOW), ({}, zoned(error()))):
            with pytest.raises(error):
                pit.store(message, when)


class TestDeliveries:
    @pytest.mark.parametrize("kind", SPANS)
    def test_extend_and_nack_take_spans(self, kind):
        clock = ManualClock()
        with pitstop.init({"type": "memory", "clock": clock}) as pit:
            pit.store({"id": "a"}, NOW)
            delivery = pit.listen().get()
            delivery.extend(SPANS[kind](7200))
            assert delivery.leased_until == START + 2 * HOUR
            delivery.nack("x", SPANS[kind](60))
            assert pit.get("a").due == START + timedelta(minutes=1)

    def test_extend_and_nack_refuse_what_cannot_be_read(self):
        class Broken(timedelta):
            def total_seconds(self):
                raise ZeroDivisionError

        with pitstop.init("memory://") as pit:
            pit.store({"id": "a"}, NOW)
            delivery = pit.listen().get()
            for bad in (Broken(1), NotATime(2031, 1, 1), {"password": "hunter2"}):
                with pytest.raises(PitstopError, match=r"^duration=") as caught:
                    delivery.extend(bad)
                assert "hunter2" not in str(caught.value)
                with pytest.raises(ScheduleError, match=r"^delay=") as caught:
                    delivery.nack("x", bad)
                assert "hunter2" not in str(caught.value)
            delivery.ack()

    def test_an_error_whose_text_is_of_a_class_of_its_own_is_kept(self):
        class Text(str):
            __slots__ = ()

            def encode(self, *args):
                raise ZeroDivisionError

        class Failure(Exception):
            def __str__(self):
                return Text("no luck")

        with pitstop.init("memory://") as pit:
            pit.store({"id": "a"}, NOW)
            pit.listen().get().nack(Failure(), timedelta(hours=1))
            assert pit.get("a").last_error == "Failure: no luck"


class TestDurationsInOptions:
    @pytest.mark.parametrize("kind", SPANS)
    def test_spans_and_numbers_of_other_libraries_are_taken(self, kind):
        class Number(float):
            """As numpy.float64."""

        class Text(str):
            __slots__ = ()

            def strip(self, *args):
                return "hunter2"

        for given in (SPANS[kind](90), Number(90), Text("1m30s")):
            read = parse_duration(given, "lock_time")
            assert (read, type(read)) == (timedelta(seconds=90), timedelta)
        with pitstop.init({"type": "memory", "lock_time": SPANS[kind](90), "retry": {"delay": SPANS[kind](5)}}) as pit:
            pit.store({"id": "a"}, NOW)
            with pit.listen(lock_time=SPANS[kind](60)) as listener:
                assert listener.get(timeout=SPANS[kind](1)).id == "a"

    def test_what_cannot_be_read_is_refused_whatever_its_repr_does(self):
        class Broken(timedelta):
            def total_seconds(self):
                raise ZeroDivisionError

            def __repr__(self):
                raise ZeroDivisionError

        with pytest.raises(ConfigError) as caught:
            parse_duration(Broken(1), "lock_time")
        assert str(caught.value).startswith(
            "lock_time=<Broken whose repr() raised ZeroDivisionError> is not a duration. "
        )
        with pytest.raises(ConfigError, match="lock_time=<an int of"):
            parse_duration(10**5000, "lock_time")

    def test_a_clock_of_a_test_takes_them(self):
        clock = ManualClock(Moment(2031, 1, 1, tzinfo=ZoneInfo("Europe/Paris")))
        assert clock.now() == datetime(2030, 12, 31, 23, tzinfo=UTC)
        assert clock.advance(Duration(hours=1)) == datetime(2031, 1, 1, tzinfo=UTC)
        assert clock.advance_to(Moment(2031, 1, 2, tzinfo=UTC)) == datetime(2031, 1, 2, tzinfo=UTC)
        with pytest.raises(ScheduleError, match=r"^when=NaT cannot be read"):
            clock.advance_to(NotATime(2031, 1, 1))
        with pytest.raises(ScheduleError, match=r"^start=NaT cannot be read"):
            ManualClock(NotATime(2031, 1, 1))

    def test_assertions_of_a_test_find_what_was_stored_by_what_it_was(self):
        with pitstop.testing.init() as pit:
            moment = Moment(2031, 1, 1, tzinfo=UTC)
            pit.store({"id": "a", "at": moment}, Duration(hours=1))
            pit.assert_stored({"at": moment}, id="a", due_in=Duration(hours=1))
            with pytest.raises(AssertionError, match="NaT wanted"):
                pit.assert_stored({"at": NotATime(2031, 1, 1)})


class Shown(str):
    """Text that is shown, compared and encoded in its own way, as a lazy translation is."""

    __slots__ = ()

    def __str__(self):
        return "hunter2"

    def __repr__(self):
        raise ZeroDivisionError

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def encode(self, *args):
        raise ZeroDivisionError

    def isascii(self):
        return True

    def __len__(self):
        return 1


class Count(int):
    """A whole number whose methods raise or lie."""

    def _refuse(self, *args):
        raise ZeroDivisionError

    __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __int__ = __index__ = lambda self: 7


class Number(float):
    def __float__(self):
        return 7.0


class Raw(bytes):
    __slots__ = ()

    def __bytes__(self):
        return b"hunter2"

    def __len__(self):
        return 0


class TestScalars:
    def test_subclasses_are_taken_as_the_value_of_their_base(self, pit):
        given = {"id": Shown("a"), "text": Shown("ü"), "int": Count(5), "float": Number(0.5), "bytes": Raw(b"x")}
        assert pit.store(given, NOW) == "a"

        message = pit.get("a").message
        assert message == {"id": "a", "text": "ü", "int": 5, "float": 0.5, "bytes": b"x"}
        assert [type(each) for each in message.values()] == [str, str, int, float, bytes]

    def test_the_limits_hold_for_the_value_of_the_base(self):
        with pytest.raises(MessageError, match=r"^msg\['a'\] is an int beyond 64 bits"):
            copy_message({"a": Count(2**63)})
        with pytest.raises(MessageError, match=r"^msg\['a'\] holds a lone surrogate"):
            copy_message({"a": Shown("\ud800")})

    def test_a_type_that_only_has_the_name_of_an_accepted_one_is_told_apart(self):
        """As numpy.bool."""
        other = type("bool", (), {"__module__": "numpy"})()
        with pytest.raises(MessageError, match=r"^msg\['a'\] is a numpy\.bool, which cannot be stored"):
            copy_message({"a": other})

    @pytest.mark.parametrize("pretends", [dict, list, str, int, float, bytes, datetime, timedelta])
    def test_one_that_pretends_to_be_of_a_type_is_refused(self, pretends):
        """As a Mock with a spec, and a proxy that has nothing to stand for."""

        class Proxy:
            __class__ = property(lambda self: pretends)

        class Unbound:
            @property
            def __class__(self):
                raise RuntimeError("working outside of a request")

        for bad in (Proxy(), Unbound()):
            with pytest.raises(MessageError, match=r"^msg\['a'\]\[0\] is a "):
                copy_message({"a": [bad]})
            with pytest.raises(MessageError):
                copy_message(bad)
            with pitstop.init("memory://") as pit, pytest.raises(ScheduleError, match=r"^when="):
                pit.store({}, bad)


class TestMappings:
    def test_of_any_kind_are_taken(self):
        class Settings(collections.UserDict):
            pass

        inner = {"a": [1]}
        for given in (
            types.MappingProxyType(inner),
            collections.ChainMap({}, inner),
            Settings(inner),
            collections.OrderedDict(inner),
            collections.defaultdict(list, inner),
        ):
            assert copy_message(given) == (None, {"a": [1]})
            assert copy_message({"value": given}) == (None, {"value": {"a": [1]}})
        assert copy_message(collections.ChainMap({"b": 1}, {"id": "x"})) == ("x", {"b": 1})
        for odd in (5, None, ""):
            with pytest.raises(MessageError, match=r"^The id "):
                copy_message(Settings(id=odd))

    def test_one_that_is_changed_while_it_is_read_is_refused_with_the_path(self):
        """As by another thread. The text that is read calls in, so that it happens at the same place each time."""
        changing = {}

        class Calling(tzinfo):
            def utcoffset(self, when):
                changing["more"] = 1
                return timedelta(0)

        for message, path in ((changing, "msg"), ({"a": [0, changing]}, r"msg\['a'\]\[1\]")):
            changing.clear()
            changing.update(at=datetime(2031, 1, 1, tzinfo=Calling()), more_of_it=2)
            with pytest.raises(
                MessageError, match=rf"^{path} was changed while it was read, by another thread perhaps"
            ):
                copy_message(message)
        changing.clear()
        changing.update(at=datetime(2031, 1, 1, tzinfo=Calling()), more_of_it=2)
        changing = collections.OrderedDict(changing)
        with pytest.raises(MessageError, match=r"^msg is a OrderedDict, and reading it raised RuntimeError"):
            copy_message(changing)

    def test_one_that_other_threads_change_is_stored_or_refused_and_nothing_else(self):
        changing = {str(number): number for number in range(1000)}
        done = threading.Event()

        def change():
            for number in itertools.count():
                if done.is_set():
                    return
                changing[f"n{number % 50}"] = 1
                changing.pop(f"n{(number + 25) % 50}", None)

        thread = threading.Thread(target=change)
        thread.start()
        try:
            for _ in range(200):
                try:
                    copy_message(changing)
                except MessageError as error:
                    assert str(error).startswith("msg was changed while it was read")
        finally:
            done.set()
            thread.join()

    @pytest.mark.parametrize(
        ("pairs", "text"),
        [
            (lambda: iter([("a", 1), ("a", 2)]), "has the key 'a' more than once"),
            (lambda: iter([("a", 1, 2)]), "and reading it raised ValueError"),
            (lambda: iter([5]), "and reading it raised TypeError"),
            (lambda: None, "and reading it raised TypeError"),
            (lambda: 1 / 0, "and reading it raised ZeroDivisionError"),
            (lambda: ((str(number), "x" * 1000) for number in itertools.count()), "is larger than 15728640 bytes"),
        ],
        ids=["twice", "triples", "no-pairs", "nothing", "raises", "endless"],
    )
    def test_one_that_lies_is_refused_with_the_path(self, pit, pairs, text):
        class Liar(Mapping):
            def __getitem__(self, key):
                raise KeyError(key)

            def __iter__(self):
                return iter(["a"])

            def __len__(self):
                return 1

            def items(self):
                return pairs()

        with pytest.raises(MessageError, match=rf"msg.* {text}|{text} \(at msg"):
            pit.store(Liar(), NOW)
        with pytest.raises(MessageError, match=rf"msg\['b'\]\[0\].* {text}|{text} \(at msg\['b'\]\[0\]"):
            pit.store({"b": [Liar()]}, NOW)
        with pytest.raises(MessageError, match=r"^items\[1\]: "):
            pit.store_many([({}, NOW), (Liar(), NOW)])
        assert pit.entries() == []

    def test_one_whose_keys_it_cannot_find_is_refused(self):
        class Liar(Mapping):
            def __getitem__(self, key):
                raise KeyError(key)

            def __iter__(self):
                return iter(["id"])

            def __len__(self):
                return 1

        with pytest.raises(MessageError, match=r"^msg is a Liar, and reading it raised KeyError"):
            copy_message(Liar())

    def test_the_id_of_one_that_answers_once_is_the_stored_one(self, pit):
        class Once(collections.UserDict):
            def get(self, key, default=None):
                raise ZeroDivisionError

            def __contains__(self, key):
                raise ZeroDivisionError

        assert pit.store(Once(id="a", b=1), NOW) == "a"
        assert pit.store_many([(Once(id="a", b=2), NOW)]) == ["a"]
        assert pit.get("a").message == {"id": "a", "b": 2}

    def test_two_keys_with_one_text_are_refused(self):
        class Key(str):
            __slots__ = ()
            __hash__ = object.__hash__

        with pytest.raises(MessageError, match=r"^msg has the key 'a' more than once"):
            copy_message({Key("a"): 1, Key("a"): 2})

    def test_no_error_shows_a_key_that_may_hold_anything(self):
        class Key:
            def __repr__(self):
                raise ZeroDivisionError

        for key in (Key(), (Key(),), ("a", ("hunter2",)), frozenset({"hunter2"})):
            with pytest.raises(MessageError, match=rf"^msg has a key of type {type(key).__name__}\. Keys") as caught:
                copy_message({key: 1})
            assert "hunter2" not in str(caught.value)


class TestLists:
    def test_one_with_an_iterator_of_its_own_is_what_that_says(self):
        class Doubled(list):
            def __iter__(self):
                return (each * 2 for each in list.__iter__(self))

            def __len__(self):
                raise ZeroDivisionError

        assert copy_message({"a": Doubled([1, 2])}) == (None, {"a": [2, 4]})

    @pytest.mark.parametrize(
        ("iterate", "text"),
        [
            (lambda: None, "reading it raised TypeError"),
            (lambda: (1 / (3 - each) for each in range(5)), "reading it raised ZeroDivisionError"),
            (itertools.count, "is larger than 15728640 bytes"),
            (lambda: itertools.repeat("x"), "is larger than 15728640 bytes"),
        ],
        ids=["no-iterator", "raises", "endless", "endless-text"],
    )
    def test_one_that_cannot_be_read_is_refused_with_the_path(self, iterate, text):
        class Liar(list):
            def __iter__(self):
                return iterate()

        with pytest.raises(MessageError, match=rf"msg\['a'\].* {text}|{text} \(at msg\['a'\]"):
            copy_message({"a": Liar()})

    def test_an_item_of_store_many_may_be_any_tuple_or_list_that_can_be_read(self, pit):
        Item = collections.namedtuple("Item", "message when")  # noqa: PYI024 - as a user has it

        class Liar(list):
            def __iter__(self):
                return itertools.repeat({})

            def __len__(self):
                return 2

        class Broken(list):
            def __iter__(self):
                raise ZeroDivisionError

        assert pit.store_many([Item({"id": "a"}, NOW), [{"id": "b"}, NOW]]) == ["a", "b"]
        for bad in (Liar(), Broken([{}, NOW]), [], [{}], "ab"):
            with pytest.raises(ScheduleError, match=r"^items\[1\] is no \(message, when\)"):
                pit.store_many([({}, NOW), bad])


class TestDepth:
    def test_all_kinds_of_containers_count_as_levels(self):
        for wrap in (lambda each: {"a": each}, lambda each: [each], lambda each: types.MappingProxyType({"a": each})):
            deep = 1
            for _ in range(MAX_DEPTH - 1):
                deep = wrap(deep)
            copy_message({"a": deep})
            with pytest.raises(MessageError, match="is more than 100 levels deep"):
                copy_message({"a": wrap(deep)})

    def test_a_stack_that_is_nearly_full_is_the_depth_error_too(self):
        deep = 1
        for _ in range(MAX_DEPTH - 2):
            deep = {"a": deep}

        def store_at_depth(pit):
            try:
                return store_at_depth(pit)
            except RecursionError:
                # There is room for a few calls here, and not for a hundred.
                return copy_message({"a": deep})

        with pytest.raises(MessageError, match="levels deep, or a container holds itself") as caught:
            store_at_depth(None)
        assert str(caught.value).startswith("msg")

    def test_a_mapping_that_calls_itself_is_the_depth_error_too(self):
        class Endless(collections.UserDict):
            def items(self):
                return self.items()

        with pytest.raises(MessageError, match=r"^msg\['a'\] is more than 100 levels deep"):
            copy_message({"a": Endless()})


class TestShown:
    def test_what_may_hold_a_message_is_shown_by_its_type(self):
        for value in ({"password": "hunter2"}, ["hunter2"], b"hunter2", types.SimpleNamespace(a="hunter2")):
            assert shown(value) == f"<{type(value).__name__}>"

    def test_times_numbers_and_text_are_shown_as_they_are(self):
        for value in (
            None,
            True,
            1,
            1.5,
            "15m",
            timedelta(1),
            datetime(2031, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        ):
            assert shown(value) == repr(value)

    def test_long_ones_are_cut(self):
        assert len(quoted("x" * 10_000)) < 200
