"""Kinds: the texts that are accepted, the stores that have them, and the observers that see them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import ClassVar

import pytest

import pitstop

from pitstop.abc import AllBut, Capability, Damaged, Record, is_chosen, read_record
from pitstop_memory import MemoryBackend


NOW = datetime(2020, 1, 1, tzinfo=UTC)


class Plain(MemoryBackend):
    """A backend that is older than kinds: its methods do not have the argument."""

    capabilities: ClassVar[Capability] = Capability.CONDITIONAL

    def lease(self, limit, duration):
        return super().lease(limit, duration)

    def next_due(self):
        return super().next_due()


class TestWhatIsAKind:
    @pytest.mark.parametrize("kind", ["mail", "E-Mail", " ", "a.b", "$set", "é", "😀", "k" * 64])
    def test_a_short_text_is(self, pit, kind):
        pit.store({"id": "a"}, kind=kind)
        assert pit.get("a").kind == kind

    @pytest.mark.parametrize(
        ("kind", "why"),
        [
            (None, "must be a str, not NoneType"),
            (7, "must be a str, not int"),
            (b"mail", "must be a str, not bytes"),
            (["mail"], "must be a str, not list"),
            ("k" * 65, "has 65 characters; at most 64"),
            ("a\0b", "holds NUL"),
            ("\ud800", "lone surrogate"),
            ("*", "stands for all other kinds"),
        ],
    )
    def test_anything_else_is_refused(self, pit, kind, why):
        with pytest.raises(pitstop.MessageError, match=why):
            pit.store({}, kind=kind)
        with pytest.raises(pitstop.MessageError, match=why):
            pit.store_many([({}, None)], kind=kind)
        assert pit.entries() == []

    def test_a_subclass_of_str_is_stored_as_plain_text(self, pit):
        class Kind(str):
            __slots__ = ()

            def __str__(self):
                raise AssertionError

        pit.store({"id": "a"}, kind=Kind("mail"))
        assert type(pit.get("a").kind) is str

    @pytest.mark.parametrize(
        ("kinds", "why"),
        [
            ("mail", "kinds='mail' cannot be used. Give a list"),
            ({"mail": 1}, "Give a list"),
            (7, "Give a list"),
            ([], "has no kinds"),
            ([str(n) for n in range(101)], "more than 100 kinds. Give fewer"),
            (["*"], "Leave kinds out to get all messages, or use '\\*' as a key"),
            ([None], "must be a str"),
        ],
    )
    @pytest.mark.parametrize("listen", [True, False], ids=["listen", "consume"])
    def test_a_choice_of_kinds_is_a_list_of_some(self, pit, kinds, why, listen):
        use = pit.listen if listen else partial(pit.consume, print)
        with pytest.raises(pitstop.ConfigError, match=why):
            use(kinds=kinds)


def test_all_but_some():
    assert is_chosen("a", None)
    assert is_chosen("a", ["a"])
    assert not is_chosen("", ["a"])
    assert is_chosen("", AllBut(["a"]))
    assert not is_chosen("a", AllBut(["a"]))
    assert repr(AllBut("ba")) == "AllBut(['a', 'b'])"


class TestABackendWithoutKinds:
    @pytest.fixture
    def pit(self):
        with pitstop.init({"type": Plain()}) as pit:
            yield pit

    def test_it_serves_listeners_of_all_kinds(self, pit):
        pit.store({"id": "a"})
        assert pit.consume(lambda message: None, until_idle=True).acked == 1

    def test_kinds_are_refused_by_name(self, pit):
        for use in (
            lambda: pit.store({}, kind="mail"),
            lambda: pit.store_many([({}, None)], kind="mail"),
            lambda: pit.listen(kinds=["mail"]),
            lambda: pit.consume(print, kinds=["mail"]),
        ):
            with pytest.raises(pitstop.Unsupported, match=r"Plain .* does not have the capability KINDS"):
                use()
        assert pit.entries() == []


class TestRecords:
    SOUND: ClassVar = {
        "id": "a",
        "message": {},
        "series": None,
        "revision": "r",
        "due": 1,
        "scheduled_for": 1,
        "attempts": 0,
        "first_leased": None,
        "last_error": None,
        "token": None,
    }

    def test_one_of_an_older_release_has_neither_kind_nor_policy(self):
        record = read_record(**self.SOUND)
        assert isinstance(record, Record)
        assert (record.kind, record.policy) == ("", None)

    @pytest.mark.parametrize(
        ("field", "value"), [("kind", 7), ("kind", b"mail"), ("policy", []), ("policy", "x"), ("policy", 0)]
    )
    @pytest.mark.parametrize("id", ["a", "é"])
    def test_a_damaged_field_is_named(self, field, value, id):
        damaged = read_record(**{**self.SOUND, "id": id, field: value})
        assert isinstance(damaged, Damaged)
        assert f"Damaged: {field} cannot be read" in damaged.error


def test_plugins_see_the_kind():
    class Audit:
        def __init__(self):
            self.seen = []

        @pitstop.hookimpl
        def pitstop_message_stored(self, entry):
            self.seen.append(("stored", entry.kind))

        @pitstop.hookimpl
        def pitstop_message_leased(self, delivery):
            self.seen.append(("leased", delivery.kind))

        @pitstop.hookimpl
        def pitstop_message_acked(self, delivery):
            self.seen.append(("acked", delivery.kind))

    audit = Audit()
    with pitstop.init({"type": "memory"}, plugins=[audit]) as pit:
        pit.store({}, kind="mail")
        pit.consume(lambda message: None, until_idle=True)
    assert audit.seen == [("stored", "mail"), ("leased", "mail"), ("acked", "mail")]


def test_a_listener_of_a_kind_is_woken_by_a_store_of_this_process(pit):
    """It sleeps for an hour otherwise."""
    pit.store({}, timedelta(hours=1), kind="bulk")
    handled = []

    def handle(message):
        handled.append(message["id"])
        if message["id"] == "first":
            pit.store({"id": "second"}, kind="mail")

    pit.store({"id": "first"}, kind="mail")
    assert pit.consume(handle, max_messages=2, kinds=["mail"], loop_time=3600).acked == 2
    assert handled == ["first", "second"]
