"""The command as a whole: how it is found, what it needs, how it fails."""

from __future__ import annotations

import os
import string
import subprocess
import sys

import pytest

from click.testing import CliRunner

from pitstop.cli._app import app


def python(code: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, **options)


def test_importing_pitstop_imports_neither_click_nor_rich_nor_a_backend():
    code = (
        "import sys, pitstop, pitstop.cli; print([m for m in ('click', 'rich', 'pitstop_sqlite') if m in sys.modules])"
    )
    assert python(code).stdout == "[]\n"


@pytest.mark.parametrize("command", [None, *app.commands])
def test_help_is_text_without_control_characters_or_escapes(invoke, command):
    result = invoke(*([] if command is None else [command]), "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: pitstop {'[OPTIONS]' if command is None else command} ")
    assert set(result.stdout) <= set(string.printable) - set("\\\r\t\v\f")


def test_without_a_command_the_help_is_printed_in_its_lines(invoke):
    result = invoke()
    assert "Usage: pitstop [OPTIONS] COMMAND [ARGS]...\n" in result.output
    assert "\n  Begin with: pitstop demo\n" in result.output
    assert "Error" not in result.output


@pytest.mark.parametrize("command", app.commands)
def test_help_names_the_environment_only_where_it_counts(invoke, command):
    told = " ".join(invoke(command, "--help").stdout.split())
    assert "--url URL" in told
    assert ("Default: PITSTOP_URL" in told) == (command not in {"demo", "backends", "plugins"})


@pytest.mark.parametrize(
    ("command", "examples"),
    [
        (
            "store",
            """
  pitstop store '{"msg": "object"}' --in 15m
  pitstop store '{"report": "daily"}' --id daily --at 2031-05-04T06:00+02:00 --every 1d
  pitstop store '{"report": "weekly"}' --id weekly --cron '0 9 * * MON' --tz Europe/Berlin --if-exists keep
  pitstop store --in 1h < messages.jsonl
""",
        ),
        (
            "listen",
            """
  pitstop listen | jq .msg
  pitstop listen --exec 'curl --fail --json @- https://example.com/hook'
""",
        ),
    ],
)
def test_examples_in_the_help_have_a_line_each(invoke, command, examples):
    assert examples in invoke(command, "--help").stdout


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_it_says_in_one_line_what_to_install(missing):
    code = f"import sys; sys.modules['{missing}'] = None; from pitstop.cli import main; sys.exit(main())"
    result = python(code)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f'The command needs {missing}. Install it with: pip install "pitstop-core[cli]"\n'


def test_ctrl_c_while_the_command_is_still_imported_ends_it_in_one_line():
    code = """if True:
        import sys

        class Interrupted:
            def find_spec(self, name, path=None, target=None):
                if name == "click":
                    raise KeyboardInterrupt

        sys.meta_path.insert(0, Interrupted())
        from pitstop.cli import main
        sys.exit(main())
    """
    result = python(code)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "\nAborted!\n")


def test_another_missing_module_is_not_taken_for_the_extra():
    """A missing dependency of a backend, for example, is not part of [cli]."""
    code = "import sys; sys.modules['attrs'] = None; from pitstop.cli import main; main()"
    result = python(code)
    assert "ModuleNotFoundError" in result.stderr
    assert "[cli]" not in result.stderr


def test_python_m_pitstop_is_the_command(spawn):
    out, err = spawn("--version").communicate()
    assert (out, err) == ("pitstop, version 0.1.0\n", "")


def test_the_url_may_stand_before_or_after_the_command_and_the_later_one_wins(invoke, tmp_path):
    here, there = f"sqlite:///{tmp_path}/here.db", f"sqlite:///{tmp_path}/there.db"
    assert invoke("--url", here, "store", '{"a": 1}', "--id", "one").exit_code == 0
    assert invoke("store", '{"a": 1}', "--id", "two", "--url", there).exit_code == 0
    assert invoke("--url", here, "show", "one").exit_code == 0
    assert invoke("--url", here, "show", "two", "--url", there).exit_code == 0
    assert invoke("show", "one").exit_code == 1, "PITSTOP_URL names a third one"


def test_without_a_url_it_uses_a_file_in_the_working_directory(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "PITSTOP_URL"}
    command = [sys.executable, "-m", "pitstop", "store", '{"a": 1}']
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert (tmp_path / "pitstop.db").exists()


@pytest.mark.usefixtures("pit")
def test_json_may_stand_before_the_command(invoke, lines):
    assert lines(invoke("--json", "stats").stdout)[0]["due"] == 0


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--url", "nowhere", "stats"], 1, "The URL has no scheme"),
        (["--url", "mongodbb://x", "stats"], 1, "Did you mean 'mongodb'?"),
        (["--url", "sqlite:///x.db?lock_tme=1s", "stats"], 1, "Did you mean 'lock_time'?"),
        (["lst"], 2, "No such command 'lst'. Did you mean 'list'?"),
        (["list", "--state", "ded"], 2, "'ded'"),
        (["list", "--limit", "0"], 2, "--limit"),
        (["listen", "--lock-time", "soon"], 2, "'soon' is no duration. Write it as in '15m'"),
        (["listen", "--lock-time", "0"], 1, "lock_time"),
        (["show", ""], 1, "The id is empty"),
    ],
)
@pytest.mark.usefixtures("pit")
def test_an_error_is_one_line_without_a_traceback(invoke, args, code, text):
    result = invoke(*args)
    assert result.exit_code == code
    assert result.stdout == ""
    assert text in result.stderr.splitlines()[-1]
    assert code == 2 or result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["--url", "memory://user:geheim@host/path", "stats"],
        ["--url", "sqlite://user:geheim@host/x.db", "stats"],
        ["--url", "mongo://user:geheim@host:port/x", "stats"],
        ["--url", "mongo://user:ge%68eim@127.0.0.1:1/x?nonsense=geheim&pass=geheim", "stats"],
        ["mongo://user:geheim@host/x"],
        ["list", "mongo://user:geheim@host/x"],
        ["list", "--state", "mongo://user:geheim@host/x"],
        ["--ulr", "mongo://user:geheim@host/x", "list"],
        ["store", "{}", "--in", "mongo://h/?password=geheim"],
    ],
)
def test_a_password_is_never_printed(args):
    result = CliRunner().invoke(app, args, prog_name="pitstop")
    assert result.exit_code in {1, 2}
    assert result.stderr
    assert "geheim" not in result.output


def test_advice_of_the_library_on_how_to_write_a_url_is_left_as_it_is():
    result = CliRunner().invoke(app, ["stats"], env={"PITSTOP_URL": "mongodb://bob:hunt@er2@host"}, prog_name="pitstop")
    assert result.exit_code == 1
    assert "Write it as mongodb://user:password@host:27017/database?option=value" in result.stderr
    assert "hunt" not in result.output
    assert "er2" not in result.output


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("x://bob:geheim@host is bad", "x://***@host is bad"),
        ("x://user:geheim@host is bad", "x://***@host is bad"),
        ("x://user:password@geheim@host is bad", "x://***@host is bad"),
        ("x://bob:user:password@host is bad", "x://***@host is bad"),
        ("x://user:password@host,y://bob:geheim@host", "x://***@host"),
        ("bad. Write it as x://user:password@host", "bad. Write it as x://user:password@host"),
    ],
)
def test_a_text_that_looks_like_credentials_is_masked_but_for_the_placeholder(monkeypatch, said, shown):
    def fail(url, **_):
        raise __import__("pitstop").BackendUnavailable(said)

    monkeypatch.setattr("pitstop.init", fail)
    result = CliRunner().invoke(app, ["--url", "x://host", "stats"])
    assert result.stderr == f"Error: {shown}\n"


def test_the_placeholder_as_the_password_that_is_used_is_masked(monkeypatch):
    def fail(config, **_):
        raise __import__("pitstop").BackendUnavailable(f"{config['url']} is down")

    monkeypatch.setattr("pitstop.init", fail)
    result = CliRunner().invoke(app, ["--url", "x://user:password@host", "stats"])
    assert result.stderr == "Error: x://user:***@host is down\n"


def test_a_password_that_a_careless_backend_puts_into_its_error_is_masked(monkeypatch):
    def fail(url, **_):
        raise __import__("pitstop").BackendUnavailable("could not log in with s3cret!\nreally not")

    monkeypatch.setattr("pitstop.init", fail)
    result = CliRunner().invoke(app, ["--url", "x://me:s3cret%21@host", "stats"])
    assert result.stderr == "Error: could not log in with ***\\nreally not\n".replace("\\n", " ")
    assert result.exit_code == 1


def test_a_warning_of_the_library_is_one_line_on_stderr(invoke, pit):
    """The engine logs a message that died."""
    pit.store({"id": "a"}, __import__("datetime").timedelta(0))
    result = invoke("--url", f"{pit._session.location}?retry.max_attempts=1", "listen", "--once", "--exec", "exit 4")
    assert "Warning: message 'a' is dead; its last_error says why\n" in result.stderr
    assert pit.get("a").last_error == "exit code 4"
