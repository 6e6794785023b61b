"""The facade refuses wrong arguments, and stores nothing then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

import pitstop

from core.kit import Scripted, backend
from pitstop import BackendUnavailable, MessageError, PitstopError, ScheduleError
from pitstop._engine._lifecycle import Component
from pitstop.abc import Capability, Damaged


NOW = timedelta(0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda pit: pit.store({"id": "a", "x": {1}}, NOW), MessageError),
            (lambda pit: pit.store({"id": ""}, NOW), MessageError),
            (lambda pit: pit.store({"id": "a"}, datetime(2030, 1, 1)), ScheduleError),
            (lambda pit: pit.store({"id": "a"}, NOW, NOW, timedelta(1)), ScheduleError),
            (lambda pit: pit.store({"id": "a"}, NOW, timedelta(1)), ScheduleError),
            (lambda pit: pit.store({"id": "a"}, NOW, every=timedelta(0)), ScheduleError),
            (lambda pit: pit.store_many([({"id": "a"}, NOW), ({"id": "b"}, 5)]), ScheduleError),
        ],
    )
    def test_leave_what_was_stored_as_it_was(self, pit, call, error):
        pit.store({"id": "a", "foo": 1}, timedelta(hours=1))
        before = pit.get("a")
        with pytest.raises(error):
            call(pit)
        assert pit.entries() == [before]

    @pytest.mark.parametrize(
        ("item", "error", "text"),
        [
            (({"a": {1}}, NOW), MessageError, "items[1]: msg['a'] is a set, which cannot be stored."),
            (({"id": 5}, NOW), MessageError, "items[1]: The id must be a str, not int."),
            (({}, "soon"), ScheduleError, "items[1]: when='soon' is no distance from now."),
            (({}, NOW, NOW, timedelta(1)), ScheduleError, "items[1]: end=datetime.timedelta(0) is not after the start"),
            (
                ({},),
                ScheduleError,
                "items[1] is no (message, when) or (message, start, end, every). Give a tuple of two to four.",
            ),
            ({"id": "a"}, ScheduleError, "items[1] is no (message, when) or (message, start, end, every)."),
            ("ab", ScheduleError, "items[1] is no (message, when) or (message, start, end, every)."),
            (
                ({}, NOW, None, timedelta(1), "all"),
                ScheduleError,
                "items[1] is no (message, when) or (message, start, end, every).",
            ),
        ],
    )
    def test_of_store_many_name_the_item(self, pit, item, error, text):
        with pytest.raises(error) as caught:
            pit.store_many([({}, NOW), item])
        assert str(caught.value).startswith(text)
        assert pit.entries() == []

    @pytest.mark.parametrize("call", ["get", "remove", "redrive"])
    @pytest.mark.parametrize("id", [5, None, "", "a\0", b"a"])
    def test_of_what_cannot_be_an_id(self, pit, call, id):
        with pytest.raises(MessageError, match=r"^The id "):
            getattr(pit, call)(id)

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"state": "gone"}, "state='gone' is unknown. Give one of: scheduled, due, leased, dead, paused."),
            ({"limit": 0}, "limit=0 cannot be used. Give a whole number of at least 1."),
            ({"limit": True}, "limit=True cannot be used. Give a whole number of at least 1."),
            ({"limit": "5"}, "limit='5' cannot be used. Give a whole number of at least 1."),
            ({"after": "a"}, "after='a' is no Entry. Give the last entry of the page before."),
        ],
    )
    def test_of_entries(self, pit, options, text):
        with pytest.raises(PitstopError) as caught:
            pit.entries(**options)
        assert str(caught.value) == text


class TestFacade:
    def test_store_many_of_one_id_keeps_the_last_and_returns_all_ids(self, pit):
        assert pit.store_many([({"id": "a", "n": 1}, NOW), ({"id": "b"}, NOW), ({"id": "a", "n": 2}, NOW)]) == [
            *("a", "b", "a")
        ]
        assert pit.get("a").message == {"id": "a", "n": 2}
        assert pit.store_many([]) == []

    def test_now_is_in_whole_milliseconds_of_the_clock_that_decides(self, pit, clock):
        clock.advance(0.0015)
        assert pit.now() == datetime(2020, 1, 1, microsecond=1000, tzinfo=UTC)

    def test_pages_of_entries_follow_each_other(self, pit):
        pit.store_many([({"id": str(number)}, timedelta(seconds=number // 2)) for number in range(7)])
        seen, after = [], None
        while page := pit.entries(limit=2, after=after):
            seen += [entry.id for entry in page]
            after = page[-1]
        assert seen == ["0", "1", "2", "3", "4", "5", "6"]

    def test_an_entry_does_not_change_and_is_not_shared(self, pit):
        pit.store({"id": "a", "list": [1]}, NOW)
        entry = pit.get("a")
        entry.message["list"].append(2)
        assert pit.get("a").message == {"id": "a", "list": [1]}
        with pytest.raises(AttributeError):
            entry.state = "dead"

    def test_what_is_stored_is_a_copy(self, pit):
        message = {"id": "a", "list": [1]}
        pit.store(message, NOW)
        message["list"].append(2)
        assert pit.get("a").message == {"id": "a", "list": [1]}

    @pytest.mark.parametrize("id", ["a", "https://shop.example/orders/1"])
    def test_a_damaged_document_is_not_redriven(self, clock, id):
        class Damaging(Scripted):
            def get(self, id):
                return Damaged(id, "Damaged: msg cannot be read. Store the message again, or remove it.", None, "t")

        with pitstop.init({"type": backend(Damaging, clock)}) as pit:
            assert pit.get(id).last_error.startswith("Damaged: msg cannot be read.")
            with pytest.raises(MessageError) as caught:
                pit.redrive(id)
            assert str(caught.value) == (
                f"'{id}' cannot be redriven. Damaged: msg cannot be read. Store the message again, or remove it."
            )

    def test_writes_in_a_transaction_go_to_what_the_backend_makes_of_the_session_and_wake_nobody(self, clock):
        class Transaction:
            def __init__(self, session):
                self.session, self.done = session, []

            def put(self, records):
                self.done += [record.id for record in records]

            def delete(self, id):
                self.done.append(f"without {id}")
                return True

        class Transacting(Scripted):
            capabilities = Capability.TRANSACTIONS

            def within(self, session):
                made.append(Transaction(session))
                return made[-1]

        class Asleep(Component):
            def __init__(self):
                self.noticed = []

            def notice(self, due, kinds=None):
                self.noticed.append(due)

        made, asleep = [], Asleep()
        with pitstop.init({"type": backend(Transacting, clock)}) as pit:
            pit._session.add(asleep)
            pit.store({"id": "a"}, NOW, session="mine")
            pit.store_many([({"id": "b"}, NOW), ({"id": "c"}, NOW)], session="mine")
            assert pit.remove("d", session="mine") is True
            assert pit.entries() == []
            assert asleep.noticed == []
            pit.store({"id": "e"}, NOW)
            assert len(asleep.noticed) == 1
        assert [each.session for each in made] == ["mine"] * 3
        assert [each.done for each in made] == [["a"], ["b", "c"], ["without d"]]

    def test_ping_asks_the_backend(self, clock):
        class Away(Scripted):
            def ping(self):
                raise BackendUnavailable("The store is on fire. Put it out.")

        with pitstop.init({"type": backend(Scripted, clock)}) as pit:
            assert pit.ping() is None
        with (
            pitstop.init({"type": backend(Away, clock)}) as pit,
            pytest.raises(BackendUnavailable, match="is on fire"),
        ):
            pit.ping()

    def test_is_closed_at_the_end_of_its_block(self, store):
        with pitstop.init({"type": store}) as pit:
            pass
        assert repr(pit) == "<Pitstop on memory:// (closed)>"
