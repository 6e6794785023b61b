"""``pitstop plugins``, and commands of plugins. ``tests/packaging/test_third_party_plugin.py`` tests them in an environment."""

from __future__ import annotations

import re

import pytest

from core.installed import install


__all__ = ["install"]

PLUGIN = """
    from pitstop import hookimpl
    class Plugin:
        @hookimpl
        def pitstop_message_stored(self, entry): ...
        @hookimpl
        def pitstop_message_acked(self, delivery): ...
    plugin = Plugin()
    other = Plugin()
"""
COMMAND = """
    import click
    from pitstop.cli.commands import common_options, pass_settings, print_json

    @click.command()
    @click.option("--fail", is_flag=True)
    @common_options
    @pass_settings
    def count(settings, fail):
        "Count the messages."
        if fail:
            raise KeyError("hunter2")
        with settings.open() as pit:
            print_json({"count": len(pit.entries()), "json": settings.json})
"""


def test_it_lists_plugins_in_the_order_of_their_names(install, invoke, lines):
    install("zz", "1", {"pitstop.plugins": {"b": "acme_one:plugin"}}, acme_one=PLUGIN)
    install("aa", "2", {"pitstop.plugins": {"c": "acme_two:plugin", "a": "acme_two:other"}}, acme_two=PLUGIN)
    found = lines(invoke("plugins", "--json").stdout)
    assert [(each["name"], each["distribution"], each["version"], each["status"]) for each in found] == [
        ("a", "aa", "2", "ok"),
        ("b", "zz", "1", "ok"),
        ("c", "aa", "2", "ok"),
    ]
    assert {tuple(each["hooks"]) for each in found} == {("pitstop_message_acked", "pitstop_message_stored")}
    table = invoke("plugins").stdout
    assert re.search(r"^b +zz +1 +ok +pitstop_message_acked, pitstop_message_stored +- *$", table, re.MULTILINE)


def test_a_broken_one_hides_no_other_one(install, invoke, lines):
    install("bad", "1", {"pitstop.plugins": {"a": "acme_bad:plugin"}}, acme_bad="raise RuntimeError('broken')")
    install("good", "1", {"pitstop.plugins": {"b": "acme_good:plugin"}}, acme_good=PLUGIN)
    result = invoke("plugins", "--json")
    assert [(each["name"], each["status"], each["error"]) for each in lines(result.stdout)] == [
        (
            "a",
            "broken",
            (
                "Plugin 'a' from bad 1 failed to load: RuntimeError: broken. Upgrade it (pip install --upgrade bad), or report it to its "
                "author."
            ),
        ),
        ("b", "ok", None),
    ]
    assert result.exit_code == 0


def test_two_distributions_of_one_name_are_both_broken(install, invoke, lines):
    install("one", "1", {"pitstop.plugins": {"same": "acme_one:plugin"}}, acme_one=PLUGIN)
    install("two", "2", {"pitstop.plugins": {"same": "acme_two:plugin"}}, acme_two=PLUGIN)
    found = lines(invoke("plugins", "--json").stdout)
    assert [(each["distribution"], each["status"]) for each in found] == [("one", "broken"), ("two", "broken")]
    assert {each["error"] for each in found} == {
        "Two distributions provide 'same' in pitstop.plugins: one 1 and two 2. Uninstall one of them (pip uninstall NAME)."
    }


def test_disabled_ones_are_listed_and_not_loaded(install, invoke, lines, monkeypatch):
    install("bad", "1", {"pitstop.plugins": {"a": "acme_bad:plugin"}}, acme_bad="raise RuntimeError('loaded')")
    monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", "a,b")
    result = invoke("plugins", "--json")
    assert [(each["status"], each["error"]) for each in lines(result.stdout)] == [("disabled", None)]
    assert result.stderr == "PITSTOP_DISABLE_PLUGINS names plugins that are not installed: b.\n"


def test_none(invoke):
    assert invoke("plugins", "--json").stderr.startswith("No plugin is installed.")


class TestCommands:
    @pytest.fixture
    def acme(self, install):
        install("acme", "1.2", {"pitstop.commands": {"count": "acme_count:count"}}, acme_count=COMMAND)

    def test_one_of_a_plugin_runs_with_the_options_of_all_commands(self, acme, invoke, pit):
        pit.store({"id": "a"})
        assert invoke("count", "--json").stdout == '{"count":1,"json":true}\n'
        assert re.search(r"^ +count +Count the messages\.$", invoke("--help").stdout, re.MULTILINE)
        assert "Count the messages." in invoke("count", "--help").stdout

    def test_a_similar_name_is_answered_with_it(self, acme, invoke):
        result = invoke("cuont")
        assert result.exit_code == 2
        assert "Did you mean 'count'?" in result.stderr

    def test_an_error_that_it_lets_out_is_its_own_fault(self, acme, invoke):
        result = invoke("count", "--fail")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == (
            "Error: Command 'count' from acme 1.2 let an error out, which is a fault in it: KeyError (at acme_count.py:12). Report it "
            "to its author.\n"
        )

    def test_one_that_does_not_load_is_listed_and_raises_its_error(self, install, invoke, lines):
        install("acme", "1.2", {"pitstop.commands": {"count": "acme_count:count"}}, acme_count="raise OSError('gone')")
        reason = (
            "Command 'count' from acme 1.2 failed to load: OSError: gone. Upgrade it (pip install --upgrade acme), or report it to "
            "its author."
        )
        for arguments in ((), ("--help",), ("--unknown", "x")):
            result = invoke("count", *arguments)
            assert (result.exit_code, result.stderr) == (1, f"Error: {reason}\n")
        assert "(broken, from acme: see 'pitstop plugins')" in " ".join(invoke("--help").stdout.split())
        (found,) = lines(invoke("plugins", "--json").stdout)
        assert (found["group"], found["status"], found["error"]) == ("pitstop.commands", "broken", reason)
        assert invoke("stats").exit_code == 1

    def test_one_that_is_no_command(self, install, invoke):
        install("acme", "1.2", {"pitstop.commands": {"count": "acme_count:count"}}, acme_count="def count(): ...")
        assert invoke("count").stderr == (
            "Error: Command 'count' from acme 1.2 is no command: it is a function, and no click.Command. Put @click.command() before "
            "it. Upgrade it (pip install --upgrade acme), or report it to its author.\n"
        )

    def test_one_of_pitstops_own_cannot_be_replaced(self, install, invoke, lines, pit):
        source = COMMAND.replace("def count", "def stats")
        install("acme", "1.2", {"pitstop.commands": {"stats": "acme_count:stats"}}, acme_count=source)
        assert "Count the messages by state" in invoke("stats", "--help").stdout
        (found,) = lines(invoke("plugins", "--json").stdout)
        assert (found["status"], found["error"]) == (
            "broken",
            (
                "Command 'stats' from acme 1.2 has the name of a command of Pitstop's own, which is used instead. Its author must "
                "rename it."
            ),
        )

    def test_one_that_is_disabled_does_not_exist(self, acme, invoke, monkeypatch):
        monkeypatch.setenv("PITSTOP_DISABLE_PLUGINS", "count")
        assert "No such command 'count'" in invoke("count").stderr
        assert "Count the messages." not in invoke("--help").stdout
