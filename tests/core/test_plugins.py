"""Plugins are found and registered in order, are called for events, and cannot disturb a message."""

from __future__ import annotations

import contextlib
import logging

from datetime import timedelta

import pytest

import pitstop

from core.installed import BACKEND, alone, install
from core.kit import Scripted, backend
from pitstop import BackendLoadError, ConfigError, LeaseLost, PluginConflict, hookimpl
from pitstop.abc import Outcome, Progress, Settlement
from pitstop_memory import MemoryBackend, MemoryConfig


__all__ = ["alone", "install"]


class Observer:
    """A plugin that records every event with all its arguments."""

    def __init__(self) -> None:
        self.events: list[tuple] = []

    @hookimpl
    def pitstop_message_stored(self, entry):
        self.events.append(("stored", entry.id, entry.state, entry.due, entry.message))

    @hookimpl
    def pitstop_message_leased(self, delivery):
        self.events.append(("leased", delivery.id, delivery.attempt))

    @hookimpl
    def pitstop_message_acked(self, delivery):
        self.events.append(("acked", delivery.id, delivery.attempt))

    @hookimpl
    def pitstop_message_retried(self, delivery, error, due):
        self.events.append(("retried", delivery.id, error, due))

    @hookimpl
    def pitstop_message_dead(self, id, error):
        self.events.append(("dead", id, error))

    @hookimpl
    def pitstop_lease_lost(self, delivery):
        self.events.append(("lease lost", delivery.id, delivery.attempt))

    @hookimpl
    def pitstop_recurrence_advanced(self, id, scheduled_for, last_error):
        self.events.append(("advanced", id, scheduled_for, last_error))


@pytest.fixture
def observer():
    return Observer()


def opened(clock, *plugins, **options):
    return pitstop.init({"type": "memory", "clock": clock, **options}, plugins=plugins)


class TestEvents:
    def test_of_a_one_shot(self, clock, observer):
        with opened(clock, observer) as pit, pit.listen() as listener:
            start = pit.now()
            pit.store({"id": "a", "foo": 1}, timedelta(seconds=1))
            clock.advance(1)
            listener.get().nack(ValueError("boom"), delay=timedelta(seconds=2))
            clock.advance(2)
            listener.get().ack()
        assert observer.events == [
            ("stored", "a", "scheduled", start + timedelta(seconds=1), {"id": "a", "foo": 1}),
            ("leased", "a", 1),
            ("retried", "a", "ValueError: boom", start + timedelta(seconds=3)),
            ("leased", "a", 2),
            ("acked", "a", 2),
        ]

    def test_of_a_series(self, clock, observer):
        with opened(clock, observer, retry={"max_attempts": 1}) as pit, pit.listen() as listener:
            start = pit.now()
            pit.store({"id": "s"}, timedelta(0), timedelta(hours=2), timedelta(hours=1))
            listener.get().nack("boom")
            clock.advance(3600)
            delivery = listener.get()
            assert delivery.last_error == "boom"
            delivery.ack()
        hour = timedelta(hours=1)
        assert observer.events == [
            ("stored", "s", "due", start, {"id": "s"}),
            ("leased", "s", 1),
            ("advanced", "s", start + hour, "boom"),
            ("leased", "s", 1),
            ("acked", "s", 1),
        ]

    def test_of_an_occurrence_that_was_skipped(self, clock, observer):
        with opened(clock, observer) as pit, pit.listen() as listener:
            start = pit.now()
            pit.store({"id": "s"}, timedelta(0), None, timedelta(hours=1), catch_up="skip", grace=timedelta(minutes=1))
            clock.advance(1800)
            assert listener.get() is None
        assert observer.events[1:] == [("advanced", "s", start + timedelta(hours=1), None)]

    def test_of_a_message_that_dies_by_a_nack_or_by_leases_that_ran_out(self, clock, observer):
        with opened(clock, observer, retry={"max_attempts": 1}) as pit, pit.listen() as listener:
            pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            listener.get().nack("boom")
            listener.get()
            clock.advance(900)
            assert listener.get() is None
        assert observer.events[2:] == [
            ("leased", "a", 1),
            ("dead", "a", "boom"),
            ("leased", "b", 1),
            ("dead", "b", "Given up after 1 attempt; the last one was not acknowledged before its lease ran out."),
        ]

    def test_of_a_lease_that_was_lost(self, clock, observer):
        with opened(clock, observer) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get()
            pit.remove("a")
            for settle in (delivery.ack, delivery.nack, delivery.extend):
                with pytest.raises(LeaseLost):
                    settle()
        # The lease is lost once, however often the delivery is settled.
        assert observer.events[2:] == [("lease lost", "a", 1)]

    def test_each_message_of_store_many(self, clock, observer):
        with opened(clock, observer) as pit:
            pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0)), ({"id": "a"}, timedelta(0))])
        assert sorted(event[1] for event in observer.events) == ["a", "b"]

    def test_come_after_the_write_and_not_of_one_that_failed(self, clock, observer):
        store = backend(Scripted, clock)
        with pitstop.init({"type": store}, plugins=[observer]) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get()
            store.down = True
            with pytest.raises(pitstop.BackendUnavailable):
                delivery.ack()
            store.down = False
        assert [event[0] for event in observer.events] == ["stored", "leased"]

    def test_an_observer_takes_the_arguments_that_it_wants(self, clock):
        class Some:
            due = None

            @hookimpl
            def pitstop_message_retried(self, due):
                self.due = due

        some = Some()
        with opened(clock, some) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0))
            listener.get().nack(delay=timedelta(seconds=5))
            assert some.due == pit.now() + timedelta(seconds=5)

    def test_go_to_the_plugin_that_was_given_last_first(self, clock):
        told = []

        class Named:
            def __init__(self, name):
                self.name = name

            @hookimpl
            def pitstop_message_stored(self):
                told.append(self.name)

        with opened(clock, Named("a"), Named("b"), Named("c")) as pit:
            pit.store({}, timedelta(0))
        assert told == ["c", "b", "a"]

    def test_are_frozen_at_init(self, clock):
        class Late:
            @hookimpl
            def pitstop_message_stored(self):
                raise AssertionError("looked up after init")

        late = Late()
        late.pitstop_message_stored = None
        plugins = [Observer()]
        pit = pitstop.init({"type": "memory", "clock": clock}, plugins=plugins)
        plugins.append(late)
        first = plugins[0]
        first.pitstop_message_stored = late.pitstop_message_stored
        pit.store({"id": "a"}, timedelta(0))
        assert [event[0] for event in first.events] == ["stored"]
        pit.close()


class TestRaising:
    class Broken:
        @hookimpl
        def pitstop_message_stored(self):
            raise ZeroDivisionError("stored")

        @hookimpl
        def pitstop_message_leased(self):
            raise ZeroDivisionError("leased")

        @hookimpl
        def pitstop_message_acked(self):
            raise ZeroDivisionError("acked")

        @hookimpl
        def pitstop_handling(self):
            raise ZeroDivisionError("handling")

    def test_observers_are_logged_counted_and_isolated(self, clock, observer, caplog):
        with opened(clock, observer, self.Broken()) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0))
            pit.store({"id": "b", "pin": "hunter2"}, timedelta(0))
            with listener.get() as delivery:
                assert delivery.id == "a"
            assert pit.get("a") is None
            assert [event[:2] for event in observer.events] == [
                *(("stored", "a"), ("stored", "b")),
                *(("leased", "a"), ("acked", "a")),
            ]
            assert pit._session.events.hooks.errors == {
                "TestRaising.Broken.pitstop_message_stored": 2,
                "TestRaising.Broken.pitstop_message_leased": 1,
                "TestRaising.Broken.pitstop_message_acked": 1,
                "TestRaising.Broken.pitstop_handling": 1,
            }
        assert {(record.name, record.levelno) for record in caplog.records} == {("pitstop.plugins", logging.ERROR)}
        assert caplog.records[0].message == (
            "plugin hook TestRaising.Broken.pitstop_message_stored raised; the message is not affected"
        )
        assert "ZeroDivisionError: stored" in caplog.text
        assert "hunter2" not in caplog.text

    def test_an_observer_that_ends_the_process_may(self, clock):
        class Ending:
            @hookimpl
            def pitstop_message_stored(self):
                raise KeyboardInterrupt

        with opened(clock, Ending()) as pit:
            with pytest.raises(KeyboardInterrupt):
                pit.store({"id": "a"}, timedelta(0))
            assert pit.get("a") is not None


class TestHandling:
    def around(self, name, told, *, entering=None, leaving=None):
        class Around:
            @hookimpl
            def pitstop_handling(self, delivery):
                @contextlib.contextmanager
                def context():
                    told.append(f"enter {name} {delivery.id}")
                    if entering:
                        raise entering
                    try:
                        yield
                    except BaseException as error:
                        told.append(f"{name} saw {type(error).__name__}")
                        raise
                    finally:
                        told.append(f"leave {name}")
                        if leaving:
                            raise leaving

                return context()

        return Around()

    def handle(self, clock, plugins, error=None):
        with opened(clock, *plugins) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get()
            if error is None:
                with delivery:
                    pass
            else:
                with pytest.raises(type(error)) as caught, delivery:
                    raise error
                assert caught.value is error
            return pit.get("a"), pit._session.events.hooks.errors

    def test_the_first_plugin_is_the_outermost(self, clock):
        told = []
        entry, errors = self.handle(clock, [self.around("outer", told), self.around("inner", told)])
        assert told == ["enter outer a", "enter inner a", "leave inner", "leave outer"]
        assert (entry, errors) == (None, {})

    def test_is_left_before_the_ack(self, clock, observer):
        told = observer.events
        self.handle(clock, [self.around("x", told), observer])
        assert [event if isinstance(event, str) else event[0] for event in told] == [
            "stored",
            "leased",
            "enter x a",
            "leave x",
            "acked",
        ]

    @pytest.mark.parametrize("error", [ValueError("boom"), StopIteration("boom"), KeyboardInterrupt("boom")])
    def test_sees_the_error_of_the_body_and_cannot_hold_it_back(self, clock, error):
        class Swallowing:
            @hookimpl
            def pitstop_handling(self):
                return contextlib.suppress(BaseException)

        told = []
        name = type(error).__name__
        entry, errors = self.handle(
            clock, [self.around("outer", told), Swallowing(), self.around("inner", told)], error
        )
        assert told[2:] == [f"inner saw {name}", "leave inner", f"outer saw {name}", "leave outer"]
        # Ctrl-C is no failure of the message.
        assert entry.last_error == (None if isinstance(error, KeyboardInterrupt) else f"{name}: boom")
        assert errors == {}

    @pytest.mark.parametrize("error", [None, ValueError("boom")])
    @pytest.mark.parametrize("where", ["entering", "leaving"])
    def test_that_raises_itself_disturbs_neither_the_message_nor_the_others(self, clock, error, where):
        told = []
        broken = self.around("broken", told, **{where: ZeroDivisionError("plugin")})
        plugins = [self.around("outer", told), broken, self.around("inner", told)]
        entry, errors = self.handle(clock, plugins, error)
        assert (entry is None) == (error is None)
        assert told[0] == "enter outer a"
        assert "enter inner a" in told
        assert told[-1] == "leave outer"
        assert sum(errors.values()) == 1

    def test_none_is_no_context(self, clock):
        class Nothing:
            @hookimpl
            def pitstop_handling(self, delivery):
                return None

        assert self.handle(clock, [Nothing()]) == (None, {})


class TestCreateBackend:
    class Creates:
        def __init__(self, answer):
            self.answer, self.asked = answer, []

        @hookimpl
        def pitstop_create_backend(self, type, options):
            self.asked.append((type, dict(options)))
            return self.answer

    def test_the_first_answer_wins_and_the_entry_points_are_asked_last(self):
        first, second = self.Creates(None), self.Creates(MemoryBackend())
        never = self.Creates(MemoryBackend(MemoryConfig(name="never")))
        pit = pitstop.init({"type": "no such type", "a": 1}, plugins=[never, second, first])
        assert pit._session.backend is second.answer
        assert first.asked == second.asked == [("no such type", {"a": 1})]
        assert never.asked == []

    def test_it_may_take_the_place_of_an_installed_backend(self):
        mine = self.Creates(MemoryBackend(MemoryConfig(name="mine")))
        assert repr(pitstop.init("memory://", plugins=[mine])) == "<Pitstop on memory://mine>"

    def test_a_plugin_that_asks_to_be_last_still_comes_before_the_entry_points(self):
        class Last:
            @hookimpl(trylast=True)
            def pitstop_create_backend(self):
                return MemoryBackend(MemoryConfig(name="last"))

        assert repr(pitstop.init("memory://", plugins=[Last()])) == "<Pitstop on memory://last>"

    def test_an_answer_that_is_no_backend_is_refused(self):
        with pytest.raises(BackendLoadError) as caught:
            pitstop.init({"type": "x"}, plugins=[self.Creates({})])
        assert str(caught.value) == ("A plugin answered for type 'x' with a dict, which is no pitstop.abc.Backend.")


class TestMisfits:
    def refusal(self, *plugins, error=ConfigError) -> str:
        with pytest.raises(error) as caught:
            pitstop.init({"type": "memory"}, plugins=plugins)
        return str(caught.value)

    def test_a_hook_that_does_not_exist(self):
        class Misspelled:
            @hookimpl
            def pitstop_message_store(self, entry):
                pass

            def __repr__(self):
                return "<Misspelled>"

        text = self.refusal(Misspelled())
        assert text.startswith(
            "The plugin <Misspelled> implements a hook that does not exist: pitstop_message_store. "
            "Did you mean 'pitstop_message_stored'? The hooks are: pitstop_create_backend, pitstop_message_stored, "
        )

    def test_an_argument_that_does_not_exist(self):
        class Wrong:
            @hookimpl
            def pitstop_message_stored(self, message):
                pass

            def __repr__(self):
                return "<Wrong>"

        assert self.refusal(Wrong()) == (
            "The plugin <Wrong> has a pitstop_message_stored that takes 'message', which this hook does not have. "
            "The arguments there are: entry, id, kind. Take those that you need, by these names."
        )

    def test_a_wrapper_around_an_event(self):
        class Wrapping:
            @hookimpl(wrapper=True)
            def pitstop_message_stored(self):
                return (yield)

        assert (
            "wraps pitstop_message_stored, which is only observed. Implement it without wrapper=True"
            in self.refusal(Wrapping())
        )

    def test_the_same_object_twice(self):
        observer = Observer()
        text = self.refusal(observer, observer, error=PluginConflict)
        assert text == f"The plugin {observer!r} is registered twice. Give each once."

    def test_a_class_in_place_of_an_instance(self):
        assert self.refusal(Observer) == "The plugin 'Observer' is a class. Give an instance of it."

    def test_nothing_is_left_behind_for_the_next_init(self):
        class Misspelled:
            @hookimpl
            def pitstop_nothing(self):
                pass

        self.refusal(Misspelled())
        pitstop.init({"type": "memory"}).close()


class TestInstalled:
    NOTING = """
        import builtins
        from pitstop import hookimpl
        class Plugin:
            @hookimpl
            def pitstop_message_stored(self, entry):
                builtins.pitstop_told.append("{name}")
        plugin = Plugin()
    """

    @pytest.fixture
    def told(self, monkeypatch):
        import builtins

        monkeypatch.setattr(builtins, "pitstop_told", [], raising=False)
        return builtins.pitstop_told

    def noting(self, install, name, distribution, module):
        points = {"pitstop.plugins": {name: f"{module}:plugin"}}
        install(distribution, "1.0", points, **{module: self.NOTING.format(name=name)})

    def test_are_registered_in_the_order_of_their_names_before_the_given_ones(self, install, told, clock):
        for name, distribution in (("b", "zz"), ("c", "aa"), ("a", "mm")):
            self.noting(install, name, distribution, f"acme_plugin_{name}")

        class Given:
            @hookimpl
            def pitstop_message_stored(self):
                told.append("given")

        with opened(clock, Given()) as pit:
            pit.store({}, timedelta(0))
        assert told == ["given", "c", "b", "a"]

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            (
                "raise RuntimeError('broken')",
                "RuntimeError: broken. Upgrade it (pip install --upgrade acme), or report it to its author.",
            ),
            (
                "x = 1",
                (
                    "its module 'acme_broken' has no 'plugin', which the entry point names. Upgrade it (pip install --upgrade acme), "
                    "or report it to its author."
                ),
            ),
            (
                "import no_such_module_of_acme",
                (
                    "it needs the module 'no_such_module_of_acme', which is not installed. Install that, or install the distribution "
                    "anew with all its dependencies (pip install --force-reinstall acme)."
                ),
            ),
        ],
    )
    def test_one_that_does_not_load_is_logged_and_left_out(self, install, told, clock, caplog, source, reason):
        install("acme", "1.2", {"pitstop.plugins": {"a-broken": "acme_broken:plugin"}}, acme_broken=source)
        self.noting(install, "b", "fine", "acme_plugin_b")
        with opened(clock) as pit:
            pit.store({}, timedelta(0))
        assert told == ["b"]
        (record,) = caplog.records
        assert (record.levelno, record.message) == (
            logging.ERROR,
            (
                f"Plugin 'a-broken' from acme 1.2 failed to load: {reason} It is left out; PITSTOP_DISABLE_PLUGINS=a-broken silences "
                "this line."
            ),
        )
        assert record.exc_info[1] is not None

    def test_of_one_name_from_two_distributions_are_a_conflict(self, install, told):
        self.noting(install, "a", "acme-one", "acme_plugin_one")
        self.noting(install, "a", "acme-two", "acme_plugin_two")
        with pytest.raises(
            PluginConflict, match=r"^Two distributions provide 'a' in pitstop\.plugins: acme-(one|two) 1"
        ):
            pitstop.init({"type": "memory"})

    def test_a_plugin_may_create_backends(self, install):
        source = """
            from pitstop import hookimpl
            from pitstop_memory import MemoryBackend, MemoryConfig

            @hookimpl
            def pitstop_create_backend(type, options):
                return MemoryBackend(MemoryConfig(name="by-a-module")) if type == "special" else None
        """
        install("acme", "1.2", {"pitstop.plugins": {"special": "acme_special"}}, acme_special=source)
        assert repr(pitstop.init("special://")) == "<Pitstop on memory://by-a-module>"
        assert repr(pitstop.init("memory://")) == "<Pitstop on memory://>"

    def test_plugins_and_backends_of_one_distribution_live_side_by_side(self, install, told, clock):
        points = {"pitstop.plugins": {"acme": "acme_both:plugin"}, "pitstop.backends": {"acme": "acme_good:Good"}}
        install("acme", "1.2", points, acme_both=self.NOTING.format(name="acme"), acme_good=BACKEND)
        with pitstop.init({"type": "acme", "clock": clock}) as pit:
            pit.store({}, timedelta(0))
        assert told == ["acme"]


def test_a_settlement_without_progress_is_told_to_nobody(clock, observer):
    with opened(clock, observer) as pit:
        pit._session.events.settled(Settlement("a", "t", Outcome.COMPLETE, None))
        pit._session.events.settled(Settlement("a", "t", Outcome.RELEASE, Progress(0, 0)))
    assert observer.events == []


class TestMistakes:
    def test_a_method_that_is_not_marked_would_never_be_called(self):
        class Audit:
            def pitstop_message_acked(self, delivery): ...

            def __repr__(self):
                return "<Audit>"

        with pytest.raises(ConfigError) as caught:
            pitstop.init({"type": "memory"}, plugins=[Audit()])
        assert str(caught.value) == (
            "The plugin <Audit> has a pitstop_message_acked that is not marked, so it would never be called. "
            "Put @pitstop.hookimpl before it."
        )

    def test_one_plugin_that_is_not_in_a_list(self):
        with pytest.raises(ConfigError, match=r"plugins is of type object\. Give a list"):
            pitstop.init({"type": "memory"}, plugins=object())
