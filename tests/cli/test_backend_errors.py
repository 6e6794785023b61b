"""A backend that raises foreign errors: one line names the one at fault."""

from __future__ import annotations

from datetime import timedelta

import pytest

import pitstop


NOW = timedelta(0)
COMMANDS = [
    ("store", "{}"),
    ("list",),
    ("list", "--json"),
    ("show", "a"),
    ("remove", "a"),
    ("redrive", "a"),
    ("stats",),
    ("ping",),
]


def raises(error):
    """Return a function that raises ``error``, and that seems to be in a module of the backend."""
    space = {"error": error, "__name__": "pitstop_sqlite._odd"}
    exec(compile("def fail(*_, **__): raise error", "/somewhere/pitstop_sqlite/_odd.py", "exec"), space)
    return space["fail"]


@pytest.fixture
def careless(monkeypatch, url):
    """Let each method of the SQLite backend raise ``error``, on an existing store."""
    pitstop.init(url).close()

    def let_out(error):
        for name in ("put", "delete", "get", "scan", "tally", "lease", "settle", "next_due", "ping"):
            monkeypatch.setattr(f"pitstop_sqlite.SqliteBackend.{name}", raises(error))

    return let_out


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("due"), ""),
        (OSError(5, "Input/output error"), ": Input/output error"),
        # This must not be taken for a reader of our stdout that has gone.
        (BrokenPipeError(32, "Broken pipe"), ": Broken pipe"),
    ],
    ids=["KeyError", "OSError", "BrokenPipeError"],
)
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_it_is_one_line_that_names_the_backend_and_the_place(invoke, careless, arguments, error, said):
    careless(error)
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"Error: The backend SqliteBackend of 'pitstop_sqlite' let an error out, which is a fault in it: "
        f"{type(error).__name__}{said} (at _odd.py:1). Report it to its author.\n"
    )


def test_its_text_is_not_shown_which_may_hold_anything(invoke, careless):
    careless(RuntimeError("no login at sqlite://me:geheim@host"))
    result = invoke("ping")
    assert "let an error out" in result.stderr
    assert "login" not in result.output


def test_one_that_cannot_even_be_made_is_named_too(invoke, monkeypatch):
    monkeypatch.setattr("pitstop_sqlite.SqliteBackend.__init__", raises(IndexError()))
    result = invoke("stats")
    assert result.exit_code == 1
    assert "SqliteBackend of 'pitstop_sqlite' let an error out, which is a fault in it: IndexError (at" in result.stderr


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one", "workers"])
def test_while_listening_as_well(invoke, careless, pit, workers):
    pit.store({"id": "a"}, NOW)
    careless(KeyError("due"))
    result = invoke("listen", "--once", *workers, "--exec", "true")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith(
        "Error: The backend SqliteBackend of 'pitstop_sqlite' let an error"
    )


def test_a_bug_of_the_command_itself_is_not_blamed_on_the_backend(invoke, monkeypatch, pit):
    monkeypatch.setattr("pitstop.cli._stats.print_fields", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        invoke("stats")


def test_an_error_of_the_system_is_one_line(invoke, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device", "/tmp")

    monkeypatch.setattr("tempfile.TemporaryDirectory", full)
    assert invoke("demo").stderr == "Error: No space left on device: /tmp\n"
