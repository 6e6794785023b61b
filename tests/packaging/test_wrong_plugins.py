"""Wrong backends of other authors: the full text that a user of ``pitstop.init`` sees, and an operator who runs
``pitstop backends``. Each is a real distribution, found like those of pip.
"""

from __future__ import annotations

import json

from typing import Any

import pytest

from click.testing import CliRunner

import pitstop

from core.installed import BACKEND, install
from pitstop import BackendLoadError, PitstopError, PluginConflict
from pitstop.cli._app import app


__all__ = ["install"]

WHO = "Backend 'broken' from acme-backend 1.2"
UPGRADE = "Upgrade it (pip install --upgrade acme-backend), or report it to its author."
OURS = "this pitstop-core has version 1."
UPGRADE_OURS = "Upgrade pitstop-core (pip install --upgrade pitstop-core)."
SILENT = "does not state the version of the backend API for which it is written:"
AGAIN = "(pip install --force-reinstall acme-backend)"

FROM_PITSTOP = """
    from pitstop.abc import Backend
    class Good(Backend):
"""


def listed() -> dict[str, dict[str, Any]]:
    """Return the output of ``pitstop backends --json`` by name. If several have one name, the last one counts."""
    result = CliRunner().invoke(app, ["backends", "--json"], prog_name="pitstop")
    assert result.exit_code == 0, result.output
    return {line["name"]: line for line in map(json.loads, result.stdout.splitlines())}


def told(error: type[PitstopError] = BackendLoadError) -> str:
    """Return the error text of ``init``, which is also that of ``pitstop backends``. It hides none of the others there."""
    with pytest.raises(error) as caught:
        pitstop.init({"type": "broken"})
    assert type(caught.value) is error
    lines = listed()
    assert (lines["broken"]["status"], lines["broken"]["error"]) == ("broken", str(caught.value))
    assert (lines["broken"]["capabilities"], lines["broken"]["suite_version"]) == ([], None)
    assert [lines[name]["status"] for name in ("memory", "mongo", "sqlite")] == ["ok"] * 3
    pitstop.init({"type": "memory"}).close()
    return str(caught.value)


@pytest.fixture
def broken(install):
    """Install the backend ``broken``, with this source of its module."""

    def broken(source: str | None, points_to: str = "acme_backend:Good") -> None:
        sources = {} if source is None else {"acme_backend": source}
        install("acme-backend", "1.2", {"pitstop.backends": {"broken": points_to}}, **sources)

    return broken


def test_its_module_is_missing(broken):
    broken(None, "acme_gone:Good")
    assert told() == (
        f"{WHO} failed to load: there is no module 'acme_gone', which its entry point names. "
        f"Install it anew {AGAIN}, or report it to its author."
    )


def test_a_module_inside_of_its_package_is_missing(broken):
    broken("x = 1", "acme_backend.inner:Good")
    assert told() == (
        f"{WHO} failed to load: there is no module 'acme_backend.inner', which its entry point names. "
        f"Install it anew {AGAIN}, or report it to its author."
    )


def test_something_that_it_depends_on_is_missing(broken):
    broken("import no_such_driver.client")
    assert told() == (
        f"{WHO} failed to load: it needs the module 'no_such_driver', which is not installed. "
        f"Install that, or install the backend anew with all its dependencies {AGAIN}."
    )


def test_its_class_is_missing_in_the_module(broken):
    broken("class Gold: pass")
    assert told() == (
        f"{WHO} failed to load: its module 'acme_backend' has no 'Good', which the entry point names. "
        f"Did you mean 'Gold'? {UPGRADE}"
    )


def test_its_entry_point_is_no_name_of_an_object(broken):
    broken("x = 1", "acme backend")
    assert told() == (
        f"{WHO} failed to load: its entry point is 'acme backend', and not of the form 'module:Class'. {UPGRADE}"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('out of petrol')", "RuntimeError: out of petrol"),
        ("raise ModuleNotFoundError('no driver')", "ModuleNotFoundError: no driver"),
        ("from json import no_such_name_x", "ImportError: cannot import name 'no_such_name_x' from 'json'"),
        ("None.name", "AttributeError: 'NoneType' object has no attribute 'name'"),
        ("def", "SyntaxError: invalid syntax (acme_backend.py, line 1)"),
    ],
    ids=["raises", "by hand", "import", "attribute", "syntax"],
)
def test_it_raises_when_it_is_imported(broken, source, reason):
    broken(source)
    text = told()
    assert text.startswith(f"{WHO} failed to load: {reason}")
    assert text.endswith(f". {UPGRADE}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("raise ImportError('acme needs a driver')", f"ImportError: acme needs a driver. {UPGRADE}"),
        (
            "import no_such_driver",
            (
                "it needs the module 'no_such_driver', which is not installed. Install that, or install the backend anew with all "
                f"its dependencies {AGAIN}."
            ),
        ),
        ("raise RuntimeError('out of petrol')", f"RuntimeError: out of petrol. {UPGRADE}"),
        ("raise SystemExit(7)", f"it ends the program when it is imported (exit code 7). {UPGRADE}"),
        (
            "raise AttributeError(name)",
            f"its module 'acme_backend' has no 'Good', which the entry point names. {UPGRADE}",
        ),
    ],
    ids=["import", "missing", "raises", "ends", "attribute"],
)
def test_a_lazy_module_of_it_raises_when_its_class_is_asked_for(broken, line, reason):
    broken(f"def __getattr__(name):\n    {line}\n")
    assert told() == f"{WHO} failed to load: {reason}"


@pytest.mark.parametrize(("code", "shown"), [("7", "7"), ("", "None"), ("'no licence'", "'no licence'")])
def test_it_ends_the_program_when_it_is_imported(broken, code, shown):
    broken(f"import sys\nsys.exit({code})")
    assert told() == f"{WHO} failed to load: it ends the program when it is imported (exit code {shown}). {UPGRADE}"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("Good = dict", "the class dict"),
        ("class Good: pass", "the class Good"),
        ("def Good(): pass", "a function"),
        ("Good = 5", "a int"),
        ("import pitstop_memory\nGood = pitstop_memory.MemoryBackend()", "a MemoryBackend"),
        ("import types\nGood = types.SimpleNamespace(secret='s3cr3t')", "a SimpleNamespace"),
    ],
)
def test_it_is_no_backend(broken, source, what):
    broken(source)
    assert told() == f"{WHO} is no backend: {what} is no subclass of pitstop.abc.Backend. {UPGRADE}"


def test_its_module_alone_is_no_backend(broken):
    broken("x = 1", "acme_backend")
    assert told() == f"{WHO} is no backend: a module is no subclass of pitstop.abc.Backend. {UPGRADE}"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (
            "api_version = 99",
            f"is written for version 99 of the backend API; {OURS} {UPGRADE_OURS}",
        ),
        (
            "api_version = 0",
            f"is written for version 0 of the backend API; {OURS} {UPGRADE}",
        ),
        (
            "api_version = '1'",
            f"{SILENT} its api_version is '1'; {OURS} {UPGRADE}",
        ),
        (
            "pass",
            f"{SILENT} its api_version is None; {OURS} {UPGRADE}",
        ),
    ],
    ids=["newer", "older", "text", "none"],
)
def test_it_is_written_for_another_version(broken, line, text):
    broken(f"{FROM_PITSTOP}        {line}\n")
    assert told() == f"{WHO} {text}"


def test_it_is_not_finished(broken):
    broken(f"{FROM_PITSTOP}        api_version = 1\n        def now(self): return 0\n")
    assert told() == (
        f"{WHO} is not finished: the class Good lacks delete, get, lease, next_due, put, scan, settle, tally. {UPGRADE}"
    )


@pytest.mark.parametrize(("stated", "kind"), [("None", "NoneType"), ("5", "int"), ("['WATCH']", "list")])
def test_its_capabilities_are_none(broken, stated, kind):
    broken(f"{BACKEND}        capabilities = {stated}\n")
    assert told() == (
        f"{WHO} does not state its capabilities: they are a {kind}, and no pitstop.abc.Capability. Its class Good "
        f"must state capabilities = Capability(0) if it has none, else for example Capability.DURABLE | Capability.WATCH. "
        f"{UPGRADE}"
    )


NO_KINDS = {
    "lease": "    def lease(self, limit, duration): return []",
    "next_due": "    def next_due(self): return None",
}


@pytest.mark.parametrize(
    ("method", "signature"),
    [("lease", "lease(self, limit, duration, kinds=None)"), ("next_due", "next_due(self, kinds=None)")],
)
@pytest.mark.parametrize("owner", ["Good", "Base"])
def test_its_method_takes_no_kinds_although_it_inherits_the_capability(broken, owner, method, signature):
    """The first claim with kinds would raise a TypeError, in a listener that runs already."""
    bases = "class Good(Base): pass" if owner == "Base" else ""
    source = f"from pitstop_memory import MemoryBackend\nclass {owner}(MemoryBackend):\n{NO_KINDS[method]}\n{bases}\n"
    broken(source)
    assert told() == (
        f"{WHO} has the capability KINDS, but {owner}.{method}() takes no kinds. The signature must be {signature}. A class "
        f"that claims without kinds must state its capabilities without Capability.KINDS. {UPGRADE}"
    )


@pytest.mark.parametrize("method", NO_KINDS)
@pytest.mark.parametrize("ready", [False, True], ids=["class", "backend"])
def test_a_class_that_is_given_takes_no_kinds_although_it_inherits_the_capability(method, ready):
    scope: dict[str, Any] = {}
    exec(f"from pitstop_memory import MemoryBackend\nclass Good(MemoryBackend):\n{NO_KINDS[method]}\n", scope)
    with pytest.raises(
        BackendLoadError, match=rf"^Good has the capability KINDS, but Good\.{method}\(\) takes no kinds\."
    ):
        pitstop.init({"type": scope["Good"]() if ready else scope["Good"]})


@pytest.mark.parametrize(
    "body",
    [
        "    capabilities = MemoryBackend.capabilities & ~Capability.KINDS\n" + "\n".join(NO_KINDS.values()),
        "    def lease(self, *arguments): return super().lease(*arguments)",
        "    def lease(self, limit, duration, choice=None): return super().lease(limit, duration, choice)",
        "    lease = functools.partialmethod(MemoryBackend.lease)",
        "    next_due = staticmethod(max)",
    ],
    ids=["without the capability", "any arguments", "another name", "partial", "no signature"],
)
def test_a_method_that_can_be_called_with_kinds_is_accepted(broken, body):
    head = "import functools\nfrom pitstop.abc import Capability\nfrom pitstop_memory import MemoryBackend\n"
    broken(f"{head}class Good(MemoryBackend):\n{body}\n")
    pitstop.init({"type": "broken"}).close()


@pytest.mark.parametrize(
    ("metadata", "points_to", "reason"),
    [
        (
            None,
            "acme_backend:Gold",
            "its module 'acme_backend' has no 'Gold', which the entry point names. Did you mean 'Good'? {half}",
        ),
        (
            "",
            "acme_gone:Good",
            "there is no module 'acme_gone', which its entry point names. Install it anew, or report it to its author.",
        ),
    ],
    ids=["missing", "empty"],
)
def test_its_distribution_is_only_half_installed(broken, tmp_path, metadata, points_to, reason):
    broken(BACKEND, points_to)
    (path,) = tmp_path.glob("*/*.dist-info/METADATA")
    path.unlink() if metadata is None else path.write_text(metadata)
    assert told() == (
        f"Backend 'broken' from {points_to!r}, of a distribution that is only half installed (its METADATA has no name) "
        f"failed to load: " + reason.format(half="Remove what is left of it, and install it anew.")
    )


def test_two_distributions_have_one_name(install):
    install("acme-one", "1.0", {"pitstop.backends": {"broken": "acme_one:Good"}}, acme_one=BACKEND)
    install("acme-two", "2.0", {"pitstop.backends": {"broken": "acme_two:Good"}}, acme_two=BACKEND)
    assert told(PluginConflict) == (
        "Two distributions provide 'broken' in pitstop.backends: acme-two 2.0 and acme-one 1.0. "
        "Uninstall one of them (pip uninstall NAME)."
    )
    result = CliRunner().invoke(app, ["backends"], prog_name="pitstop")
    rows = [line.split()[:4] for line in result.stdout.splitlines() if line.startswith("broken")]
    assert rows == [["broken", "acme-one", "1.0", "broken"], ["broken", "acme-two", "2.0", "broken"]]


def test_one_of_ours_under_the_name_of_another_distribution_is_a_conflict(install):
    install("acme-one", "1.0", {"pitstop.backends": {"sqlite": "acme_one:Good"}}, acme_one=BACKEND)
    with pytest.raises(
        PluginConflict, match=r"'sqlite' in pitstop\.backends: acme-one 1\.0 and pitstop-sqlite 0\.1\.0"
    ):
        pitstop.init("sqlite:///never.db")
    lines = listed()
    assert (lines["sqlite"]["status"], lines["memory"]["status"]) == ("broken", "ok")


def test_one_distribution_twice_on_the_path_is_no_conflict(install):
    for version in ("1.2", "1.3"):
        install("acme-backend", version, {"pitstop.backends": {"acme": "acme_good:Good"}}, acme_good=BACKEND)
    pitstop.init({"type": "acme"}).close()
    assert (listed()["acme"]["status"], listed()["acme"]["version"]) == ("ok", "1.3")


def test_only_the_one_that_was_asked_for_is_loaded(install):
    install("acme-backend", "1.2", {"pitstop.backends": {"acme": "acme_good:Good"}}, acme_good=BACKEND)
    install("bad", "1", {"pitstop.backends": {"bad": "acme_bad:X"}}, acme_bad="raise SystemError('loaded')")
    pitstop.init({"type": "acme"}).close()


@pytest.mark.parametrize(
    ("line", "stated", "hint"),
    [
        ("pass", 6, None),
        ("suite_version = 7", 7, None),
        ("suite_version = 0", 0, "passed suite 0, this pitstop-core has 6: run the suite again"),
        ("suite_version = None", None, "it does not state which version of the suite it passed (suite_version)"),
        ("suite_version = '1'", None, "its suite_version is a str, and not a number such as 6"),
        ("suite_version = True", None, "its suite_version is a bool, and not a number such as 6"),
    ],
)
def test_one_that_loads_tells_which_suite_it_passed(install, line, stated, hint):
    source = f"{BACKEND}        {line}\n"
    install("acme-backend", "1.2", {"pitstop.backends": {"acme": "acme_good:Good"}}, acme_good=source)
    acme = listed()["acme"]
    assert (acme["status"], acme["error"], acme["suite_version"], acme["hint"]) == ("ok", None, stated, hint)


def test_an_installed_plugin_that_ends_the_program_is_left_out_too(install, caplog):
    install("acme", "1.2", {"pitstop.plugins": {"ends": "acme_ends:plugin"}}, acme_ends="import sys; sys.exit(7)")
    pitstop.init({"type": "memory"}).close()
    assert [each.message for each in caplog.records] == [
        (
            "Plugin 'ends' from acme 1.2 failed to load: it ends the program when it is imported (exit code 7). Upgrade it (pip install "
            "--upgrade acme), or report it to its author. It is left out; PITSTOP_DISABLE_PLUGINS=ends silences this line."
        )
    ]
