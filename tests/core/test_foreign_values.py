"""Values, mappings and lists of other libraries are accepted with their exact value, or refused with the path and the item.

An error of their code never leaves Pitstop unchanged, and their code never changes the stored value.
"""

from __future__ import annotations

import collections
import itertools
import threading
import types

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo

import bson
import pytest

from hypothesis import given
from hypothesis import strategies as st

import pitstop

from core.foreign import facades, zoned
from pitstop import MessageError, ScheduleError
from pitstop._values._message import MAX_DEPTH, copy_message, measured_copy


NOW = timedelta(0)


@pytest.fixture(params=["sync", "async"])
def pit(request):
    """A memory store behind each of the facades."""
    yield from facades(request.param)


class Shown(str):
    """Text with its own ways to print, compare and encode itself, like a lazy translation."""

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


class Unbound:
    """A proxy without an object, like one of a web framework outside of a request."""

    @property
    def __class__(self):
        raise RuntimeError("working outside of a request")


class Raw(bytes):
    __slots__ = ()

    def __bytes__(self):
        return b"hunter2"

    def __len__(self):
        return 0


class TestScalars:
    def test_subclasses_are_taken_as_the_value_of_their_base(self, pit):
        message = {"id": Shown("a"), "text": Shown("ü"), "int": Count(5), "float": Number(0.5), "bytes": Raw(b"x")}
        assert pit.store(message, NOW) == "a"

        message = pit.get("a").message
        assert message == {"id": "a", "text": "ü", "int": 5, "float": 0.5, "bytes": b"x"}
        assert [type(each) for each in message.values()] == [str, str, int, float, bytes]

    def test_an_id_of_a_subclass_is_the_text_of_its_base(self, pit):
        pit.store({"id": "a"}, NOW)
        assert pit.get(Shown("a")).id == "a"
        assert not pit.redrive(Shown("a"))
        assert pit.remove(Shown("a"))
        for use in (pit.get, pit.remove, pit.redrive):
            with pytest.raises(MessageError, match=r"^The id must be a str, not Unbound"):
                use(Unbound())

    def test_the_limits_hold_for_the_value_of_the_base(self):
        with pytest.raises(MessageError, match=r"^msg\['a'\] is an int beyond 64 bits"):
            copy_message({"a": Count(2**63)})
        with pytest.raises(MessageError, match=r"^msg\['a'\] holds a lone surrogate"):
            copy_message({"a": Shown("\ud800")})

    def test_a_type_that_only_has_the_name_of_an_accepted_one_is_told_apart(self):
        """Like numpy.bool."""
        other = type("bool", (), {"__module__": "numpy"})()
        with pytest.raises(MessageError, match=r"^msg\['a'\] is a numpy\.bool, which cannot be stored"):
            copy_message({"a": other})

    @pytest.mark.parametrize("pretends", [dict, list, str, int, float, bytes, datetime, timedelta])
    def test_one_that_pretends_to_be_of_a_type_is_refused(self, pretends):
        """A Mock with a spec does the same."""

        class Proxy:
            __class__ = property(lambda self: pretends)

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
        for mapping in (
            types.MappingProxyType(inner),
            collections.ChainMap({}, inner),
            Settings(inner),
            collections.OrderedDict(inner),
            collections.defaultdict(list, inner),
        ):
            assert copy_message(mapping) == (None, {"a": [1]})
            assert copy_message({"value": mapping}) == (None, {"value": {"a": [1]}})
        assert copy_message(collections.ChainMap({"b": 1}, {"id": "x"})) == ("x", {"b": 1})
        for odd in (5, None, ""):
            with pytest.raises(MessageError, match=r"^The id "):
                copy_message(Settings(id=odd))

    def test_one_that_is_changed_while_it_is_read_is_refused_with_the_path(self):
        """Simulate another thread: the text calls back when it is read, so that the change always happens at the same place."""
        changing = {}

        class Calling(tzinfo):
            def utcoffset(self, when):
                changing["more"] = 1
                return timedelta(0)

        for message, path in ((changing, "msg"), ({"a": [0, changing]}, r"msg\['a'\]\[1\]")):
            changing.clear()
            changing.update(at=datetime(2031, 1, 1, tzinfo=Calling()), more_of_it=2)
            with pytest.raises(
                MessageError, match=rf"^{path} was changed while it was read, perhaps by another thread"
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
        for pair in ({Key("a"): 1, "a": 2}, {"a": 2, Key("a"): 1}):
            with pytest.raises(MessageError, match=r"^msg\['b'\]\[0\] has the key 'a' more than once"):
                copy_message({"b": [pair]})

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
                # The stack has room for a few calls here, and not for a hundred.
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


SCALARS = {
    **{repr(value): lambda value=value: value for value in (None, True, 1, 2**40, 2**70, 0.5, "x", "\ud800", b"x")},
    "naive": lambda: datetime(2031, 1, 1),
    "zone that raises": lambda: zoned(LookupError()),
    "object": object,
    "text": lambda: Shown("ü"),
    "int": lambda: Count(5),
    "float": lambda: Number(0.5),
    "bytes": lambda: Raw(b"x"),
    "proxy": Unbound,
}
#: The fault of a container; most containers have none.
HOWS = st.sampled_from(["plain", "plain", "own", "own", "raises at once", "raises at the end"])
KEYS = st.sampled_from(["a", "b", "ü", 5, "\0"]) | st.sampled_from(["a", "b", "c", "d"])
#: Functions that make the values, because hypothesis itself inspects the values that it draws.
PLANS = st.recursive(
    st.sampled_from(sorted(SCALARS)),
    lambda inner: (
        st.tuples(st.just("mapping"), HOWS, st.dictionaries(KEYS, inner, max_size=3))
        | st.tuples(st.just("list"), HOWS, st.lists(inner, max_size=3))
    ),
    max_leaves=8,
)


def made(plan):
    """Return the value of a plan."""
    if isinstance(plan, str):
        return SCALARS[plan]()
    kind, how, inner = plan

    class OddMapping(collections.UserDict):
        def items(self):
            return odd(self.data.items())

    class OddList(list):
        def __iter__(self):
            return odd(list.__iter__(self))

        def __len__(self):
            raise ZeroDivisionError

    def odd(items):
        if how == "raises at once":
            raise ZeroDivisionError
        yield from items
        if how == "raises at the end":
            raise LookupError

    if kind == "mapping":
        value = {key: made(each) for key, each in inner.items()}
        return value if how == "plain" else OddMapping(value)
    value = [made(each) for each in inner]
    return value if how == "plain" else OddList(value)


@given(HOWS, st.dictionaries(KEYS | st.just("id"), PLANS, max_size=3))
def test_nothing_but_a_message_error_comes_out_of_any_structure_of_these(how, fields):
    try:
        identifier, body, size = measured_copy(made(("mapping", how, fields)))
    except MessageError as error:
        assert len(str(error)) < 500
        return
    assert size == len(bson.encode(body if identifier is None else {"id": identifier, **body}))
