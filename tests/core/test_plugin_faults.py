"""Faulty plugins: each error names the plugin, its distribution and the remedy, and the program goes on unless it is strict."""

from __future__ import annotations

import contextlib

from datetime import timedelta

import pytest

import pitstop

from core.installed import install
from pitstop import ConfigError, PluginConflict, PluginFailed, PluginLoadError, hookimpl, testing


__all__ = ["install"]

FIX = "Upgrade it (pip install --upgrade acme), or report it to its author."
SILENCE = "It is left out; PITSTOP_DISABLE_PLUGINS=acme silences this line."
WHO = "Plugin 'acme' from acme 1.2"
TAKE = "Take those that you need, by these names."


def hook(line: str) -> str:
    """Return the source of a plugin with this method."""
    return f"""
from pitstop import hookimpl
class Plugin:
    @hookimpl
    {line}
plugin = Plugin()
"""


#: Sources of installed plugins that do not fit, and the reason that is given.
MISFITS = {
    "argument": (
        hook("def pitstop_message_dead(self, id, errors): ..."),
        (
            "has a pitstop_message_dead that takes 'errors', which this hook does not have. Did you mean 'error'? "
            f"The arguments there are: id, error, kind. {TAKE}"
        ),
    ),
    "keyword": (
        hook("def pitstop_message_dead(self, *, id): ..."),
        (
            "has a pitstop_message_dead with keyword-only arguments (id), but arguments are given by position. "
            f"The arguments there are: id, error, kind. {TAKE}"
        ),
    ),
    "self": (
        hook("def pitstop_message_stored(entry): ..."),
        f"has a pitstop_message_stored whose first argument is 'entry': its self is missing. The arguments there are: entry, id, kind. {TAKE}",
    ),
    "async": (
        hook("async def pitstop_message_stored(self, entry): ..."),
        "has an async pitstop_message_stored, which nothing would await. Write it with a plain def.",
    ),
    "wrapper": (
        hook("def pitstop_message_stored(self): yield").replace("@hookimpl", "@hookimpl(wrapper=True)"),
        (
            "wraps pitstop_message_stored, which is only observed. Implement it without wrapper=True; pitstop_handling puts a context "
            "around a handler."
        ),
    ),
    "unmarked": (
        "def pitstop_message_acked(): ...\nplugin = __import__('sys').modules[__name__]",
        "has a pitstop_message_acked that is not marked, so it would never be called. Put @pitstop.hookimpl before it.",
    ),
    "class": (hook("def pitstop_message_stored(self): ...") + "plugin = Plugin", "is a class. Give an instance of it."),
    "property": (
        hook("def pitstop_message_stored(self): ...")
        + "class Odd(Plugin):\n    @property\n    def pitstop_message_dead(self): raise OSError('odd')\nplugin = Odd()",
        "cannot be used: OSError: odd.",
    ),
}


@pytest.fixture
def acme(install):
    """Install the plugin ``acme`` with a source."""

    def acme(source: str, name: str = "acme") -> None:
        install("acme", "1.2", {"pitstop.plugins": {name: "acme_plugin:plugin"}}, acme_plugin=source)

    return acme


class TestMisfits:
    @pytest.mark.parametrize("name", MISFITS)
    def test_an_installed_plugin_that_does_not_fit_is_logged_and_left_out(self, acme, caplog, name):
        source, reason = MISFITS[name]
        acme(source)
        with pitstop.init("memory://") as pit:
            pit.store({"id": "a"}, timedelta(0))
            (plugin,) = pit.plugins
        (record,) = caplog.records
        assert record.message == f"{WHO} {reason} {FIX} {SILENCE}"
        assert (plugin.status, plugin.error, plugin.hooks) == ("broken", f"{WHO} {reason} {FIX}", ())

    @pytest.mark.parametrize("name", MISFITS)
    def test_strict_raises_the_same_text(self, acme, caplog, name):
        source, reason = MISFITS[name]
        acme(source)
        with pytest.raises(PluginLoadError) as caught:
            pitstop.init("memory://", strict_plugins=True)
        assert str(caught.value) == f"{WHO} {reason} {FIX}"
        assert caplog.records == []

    def test_strict_raises_for_one_that_does_not_load(self, acme):
        acme("raise RuntimeError('broken')")
        with pytest.raises(
            PluginLoadError, match=r"^Plugin 'acme' from acme 1\.2 failed to load: RuntimeError: broken\."
        ):
            pitstop.init_async("memory://", strict_plugins=True)

    def test_strict_is_true_or_false(self):
        with pytest.raises(ConfigError, match=r"^strict_plugins='no' cannot be used\. Give True or False\."):
            pitstop.init("memory://", strict_plugins="no")

    def test_two_names_of_one_object(self, install, caplog):
        points = {"pitstop.plugins": {"a": "acme_plugin:plugin", "b": "acme_plugin:plugin"}}
        install("acme", "1.2", points, acme_plugin=hook("def pitstop_message_stored(self): ..."))
        with pitstop.init("memory://") as pit:
            assert [(each.name, each.status) for each in pit.plugins] == [("a", "ok"), ("b", "broken")]
        assert "Plugin 'b' from acme 1.2 is the same object as plugin 'a'." in caplog.text

    def test_a_hook_that_only_other_releases_have_is_not_called(self, acme, caplog):
        source = hook(
            "def pitstop_from_the_future(self, thing): ...\n    @hookimpl\n    def pitstop_message_stored(self): ..."
        )
        acme(source.replace("@hookimpl", "@hookimpl(optionalhook=True)", 1))
        pitstop.init("memory://", strict_plugins=True).close()

    def test_a_hook_under_another_name_is_called(self):
        told = []

        class Renamed:
            @hookimpl(specname="pitstop_message_stored")
            def stored(self, entry):
                told.append(entry.id)

        with pitstop.init("memory://", plugins=[Renamed()]) as pit:
            pit.store({"id": "a"}, timedelta(0))
            assert [each.hooks for each in pit.plugins] == [("pitstop_message_stored",)]
        assert told == ["a"]


class TestDisabled:
    @pytest.mark.parametrize("value", ["acme", " other, acme ,", "all"])
    def test_a_plugin_that_is_named_is_not_loaded(self, acme, monkeypatch, caplog, value):
        acme("raise RuntimeError('loaded')")
        monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", value)
        with pitstop.init("memory://", strict_plugins=True) as pit:
            (plugin,) = pit.plugins
        assert plugin == pitstop.Plugin(name="acme", distribution="acme", version="1.2", status="disabled")
        assert caplog.records == []

    @pytest.mark.parametrize("value", ["", "acm", "ALL"])
    def test_others_are_loaded(self, acme, monkeypatch, value):
        acme(hook("def pitstop_message_stored(self): ..."))
        monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", value)
        with pitstop.init("memory://") as pit:
            assert [each.status for each in pit.plugins] == ["ok"]

    def test_a_given_plugin_is_not_disabled(self, monkeypatch):
        monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", "all")
        with pitstop.init("memory://", plugins=[Failing()]) as pit:
            assert [each.status for each in pit.plugins] == ["ok"]

    def test_it_settles_a_conflict_of_two_distributions(self, install, monkeypatch):
        for name in ("one", "two"):
            install(f"acme-{name}", "1", {"pitstop.plugins": {"same": f"acme_{name}:p"}}, **{f"acme_{name}": "p = 1"})
        with pytest.raises(PluginConflict):
            pitstop.init("memory://")
        monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", "same")
        pitstop.init("memory://").close()


class Failing:
    """A plugin whose hooks raise."""

    def __init__(self, *events: str) -> None:
        self.events = events

    def __repr__(self) -> str:
        return "<Failing>"

    def fail(self, event: str) -> None:
        if event in self.events:
            raise ZeroDivisionError(event)

    @hookimpl
    def pitstop_message_stored(self):
        self.fail("stored")

    @hookimpl
    def pitstop_message_leased(self):
        self.fail("leased")

    @hookimpl
    def pitstop_message_acked(self):
        self.fail("acked")

    @hookimpl
    def pitstop_handling(self):
        self.fail("handling")
        return contextlib.nullcontext()


class TestRaising:
    def test_an_installed_observer_is_logged_with_its_distribution_and_counted(self, acme, caplog):
        acme(hook("def pitstop_message_stored(self): 1 / 0"))
        with pitstop.init("memory://") as pit:
            for _ in range(3):
                pit.store({}, timedelta(0))
            (plugin,) = pit.plugins
        assert plugin == pitstop.Plugin(
            name="acme", distribution="acme", version="1.2", status="ok", hooks=("pitstop_message_stored",), raised=3
        )
        (record,) = caplog.records
        assert record.message == (
            "plugin hook Plugin.pitstop_message_stored of plugin 'acme' from acme 1.2 raised; the message is not affected"
        )
        assert isinstance(record.exc_info[1], ZeroDivisionError)

    def test_a_context_counts_for_the_plugin_that_made_it(self, acme):
        source = hook(
            "def pitstop_handling(self):\n        import contextlib\n        stack = contextlib.ExitStack()\n"
            "        stack.callback(lambda: 1 / 0)\n        return stack"
        )
        acme(source)
        with pitstop.init("memory://", plugins=[Failing()]) as pit:
            pit.store({}, timedelta(0))
            with pit.listen() as listener, listener.get():
                pass
            assert [(each.name, each.raised) for each in pit.plugins] == [("acme", 1), ("<Failing>", 0)]

    def test_strict_raises_in_the_store_after_the_message_was_stored_and_announced(self):
        seen = []

        class Seeing:
            @hookimpl
            def pitstop_message_stored(self, entry):
                seen.append(entry.id)

        with pitstop.init("memory://", plugins=[Seeing(), Failing("stored")], strict_plugins=True) as pit:
            with pytest.raises(PluginFailed) as caught:
                pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            assert str(caught.value) == (
                "The plugin <Failing> raised ZeroDivisionError in Failing.pitstop_message_stored. The message is not affected. Mend "
                "the plugin, or leave out strict_plugins=True."
            )
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            assert seen == ["a", "b"]
            assert {entry.id for entry in pit.entries()} == {"a", "b"}

    def test_strict_names_the_distribution(self, acme):
        acme(hook("def pitstop_message_stored(self): 1 / 0"))
        with (
            pitstop.init("memory://", strict_plugins=True) as pit,
            pytest.raises(
                PluginFailed,
                match=r"^Plugin 'acme' from acme 1\.2 raised ZeroDivisionError in Plugin\.pitstop_message_stored\. The message is "
                r"not affected\. Report it to the author of acme, or set PITSTOP_DISABLE_PLUGINS=acme\.$",
            ),
        ):
            pit.store({}, timedelta(0))

    def test_strict_raises_at_the_get_and_the_message_is_not_lost(self, clock):
        with pitstop.init({"type": "memory", "clock": clock}, plugins=[Failing("leased")], strict_plugins=True) as pit:
            pit.store({"id": "a"}, timedelta(0))
            with pit.listen() as listener, pytest.raises(PluginFailed):
                listener.get()
            assert pit.get("a").state == "due"

    @pytest.mark.parametrize("event", ["acked", "handling"])
    def test_strict_raises_what_happened_behind_the_caller_at_the_next_message(self, event):
        with pitstop.init("memory://", plugins=[Failing(event)], strict_plugins=True) as pit:
            pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            with pit.listen(prefetch=1) as listener:
                with listener.get() as delivery:
                    assert delivery.id == "a"
                with pytest.raises(PluginFailed):
                    listener.get()
            assert pit.get("a") is None
            assert pit.get("b").state == "due"

    def test_strict_raises_at_the_end_of_consume(self):
        with pitstop.init("memory://", plugins=[Failing("acked")], strict_plugins=True) as pit:
            pit.store({"id": "a"}, timedelta(0))
            with pytest.raises(PluginFailed):
                pit.consume(lambda msg: None, until_idle=True)
            assert pit.get("a") is None

    def test_strict_raises_at_the_close_at_the_latest(self):
        pit = pitstop.init("memory://", plugins=[Failing("acked")], strict_plugins=True)
        pit.store({"id": "a"}, timedelta(0))
        pit.listen().get().ack()
        with pytest.raises(PluginFailed):
            pit.close()
        pit.close()

    def test_strict_raises_in_an_event_loop(self):
        import asyncio

        async def handler(msg): ...

        async def run():
            async with pitstop.init_async("memory://", plugins=[Failing("leased")], strict_plugins=True) as pit:
                await pit.store({"id": "a"}, timedelta(0))
                with pytest.raises(PluginFailed):
                    await pit.consume(handler, until_idle=True)
                assert [each.raised for each in pit.plugins] == [1]
                assert (await pit.get("a")).state == "due"

        asyncio.run(run())

    def test_strict_raises_in_a_driven_test(self):
        with testing.init(plugins=[Failing("stored")], strict_plugins=True) as pit, pytest.raises(PluginFailed):
            pit.store({"id": "a"}, timedelta(0))

    def test_an_error_is_raised_once(self):
        with pitstop.init("memory://", plugins=[Failing("stored")], strict_plugins=True) as pit:
            with pytest.raises(PluginFailed):
                pit.store({"id": "a"}, timedelta(0))
            pit.listen().get().ack()


class TestKinds:
    def test_a_dead_message_and_a_series_have_their_kinds(self, clock):
        told = []

        class Kinds:
            @hookimpl
            def pitstop_message_dead(self, id, kind):
                told.append(("dead", id, kind))

            @hookimpl
            def pitstop_recurrence_advanced(self, id, kind):
                told.append(("advanced", id, kind))

        config = {"type": "memory", "clock": clock, "retry": {"max_attempts": 1}}
        with pitstop.init(config, plugins=[Kinds()]) as pit, pit.listen() as listener:
            pit.store({"id": "a"}, timedelta(0), kind="mail")
            pit.store({"id": "s"}, timedelta(0), None, timedelta(hours=1), kind="report")
            for _ in range(2):
                listener.get().nack("boom")
        assert sorted(told) == [("advanced", "s", "report"), ("dead", "a", "mail")]
