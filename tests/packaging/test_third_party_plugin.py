"""A plugin of another author, installed beside Pitstop: listed, working, and then broken on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import venv

from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from venvs import ROOT, run


pytestmark = pytest.mark.timeout(600)

WHO = "'webhook' from pitstop-webhook 0.1.0"

#: Lets a message die, and handles another one. It does not know the plugin.
HOST = """
import logging
from datetime import timedelta
import pitstop
logging.basicConfig(format="%(name)s: %(message)s", level=logging.WARNING)
with pitstop.init({"type": "sqlite", "path": "host.db", "retry": {"max_attempts": 1}}) as pit:
    pit.store({"id": "bad"}, timedelta(0), kind="mail")
    with pit.listen() as listener:
        listener.get().nack("boom")
        pit.store({"id": "good"}, timedelta(0))
        with listener.get() as delivery:
            print("handled", delivery.id)
    for each in pit.plugins:
        print(each.name, each.status, each.raised)
"""


@pytest.fixture(scope="module")
def environment(wheels: dict[str, Path], once: Callable[..., Path]) -> Path:
    """The folder of an environment with Pitstop, the command, and the plugin."""

    def make(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip"]
        run([*pip, "wheel", "-q", "--no-deps", "--wheel-dir", str(folder), str(ROOT / "examples" / "pitstop-webhook")])
        (plugin,) = folder.glob("pitstop_webhook-*.whl")
        own = [f"{wheels['pitstop-core']}[cli]", str(wheels["pitstop-sqlite"]), str(wheels["pitstop-memory"])]
        run([*pip, "install", "--quiet", *own, str(plugin), "pytest>=8"])

    return once("environment of the webhook", make)


@pytest.fixture
def hook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook: its URL, and the documents that it got."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", got
        server.shutdown()
        thread.join()


@pytest.fixture
def broken(environment: Path) -> Iterator[Callable[[str, str], None]]:
    """Replace a part of the plugin's source. It is mended afterwards."""
    (source,) = environment.glob("lib/python3*/site-packages/pitstop_webhook/__init__.py")
    sound = source.read_text()

    def breaks(old: str, new: str) -> None:
        assert old in sound
        source.write_text(sound.replace(old, new))

    yield breaks
    source.write_text(sound)


def host(environment: Path, tmp_path: Path, **variables: str) -> tuple[list[str], str]:
    """Run the program that uses Pitstop. Return its lines, and its log."""
    done = subprocess.run(
        [str(environment / "bin" / "python"), "-P", "-c", HOST],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def listed(environment: Path) -> dict[str, dict[str, Any]]:
    """Return the output of ``pitstop plugins``, by group."""
    command = [str(environment / "bin" / "pitstop"), "plugins", "--json"]
    lines = run(command, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}).splitlines()
    return {each["group"]: each for each in map(json.loads, lines)}


def test_it_is_listed(environment: Path) -> None:
    found = listed(environment)
    known = {"name": "webhook", "distribution": "pitstop-webhook", "version": "0.1.0", "status": "ok", "error": None}
    assert found == {
        "pitstop.plugins": {**known, "group": "pitstop.plugins", "hooks": ["pitstop_message_dead"]},
        "pitstop.commands": {**known, "group": "pitstop.commands", "hooks": []},
    }


def test_it_posts_the_messages_that_die_in_a_program_that_does_not_know_it(environment, tmp_path, hook) -> None:
    url, got = hook
    lines, _ = host(environment, tmp_path, PITSTOP_WEBHOOK_URL=url)
    assert lines == ["handled good", "webhook ok 0"]
    assert got == [{"event": "dead", "id": "bad", "kind": "mail", "error": "boom"}]


def test_its_command_is_a_command_of_pitstop(environment, tmp_path, hook) -> None:
    url, got = hook
    host(environment, tmp_path)
    pitstop = str(environment / "bin" / "pitstop")
    said = run([pitstop, "webhook", "--to", url, "--url", f"sqlite:///{tmp_path}/host.db"])
    assert said == '{"posted":1}\n'
    assert [each["id"] for each in got] == ["bad"]
    assert "Post each dead message of the store to a webhook" in run([pitstop, "--help"])


def test_its_own_tests_pass_there(environment, tmp_path) -> None:
    shutil.copytree(ROOT / "examples" / "pitstop-webhook" / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n")
    said = run(
        [str(environment / "bin" / "python"), "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path
    )
    assert " passed" in said


BREAKS = {
    "import": (
        "from pitstop import hookimpl",
        "import no_such_module_of_it",
        "it needs the module 'no_such_module_of_it'",
    ),
    "argument": (
        "self, id: str, kind",
        "self, id: str, kinds",
        (
            "has a pitstop_message_dead that takes 'kinds', which this hook does not have. Did you mean 'kind'? The arguments there are: "
            "id, error, kind."
        ),
    ),
    "hook": (
        "pitstop_message_dead",
        "pitstop_message_died",
        "implements a hook that does not exist: pitstop_message_died.",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_broken_it_is_left_out_and_the_program_goes_on(environment, tmp_path, broken, name) -> None:
    old, new, reason = BREAKS[name]
    broken(old, new)

    lines, log = host(environment, tmp_path)
    assert lines == ["handled good", "webhook broken 0"]
    assert f"pitstop.plugins: Plugin {WHO}" in log
    assert reason in log
    assert "It is left out; PITSTOP_DISABLE_PLUGINS=webhook silences this line." in log

    found = listed(environment)["pitstop.plugins"]
    assert found["status"] == "broken"
    assert found["error"].startswith(f"Plugin {WHO}")
    assert reason in found["error"]

    lines, log = host(environment, tmp_path, PITSTOP_DISABLE_PLUGINS="webhook")
    assert (lines, "pitstop.plugins" in log) == (["handled good", "webhook disabled 0"], False)


def test_if_it_raises_the_log_says_whose_fault_it_is_and_the_program_goes_on(environment, tmp_path, broken) -> None:
    broken('"""Queue the post.', 'raise KeyError("of the plugin")\n        """Queue the post.')
    lines, log = host(environment, tmp_path)
    assert lines == ["handled good", "webhook ok 1"]
    assert (
        f"pitstop.plugins: plugin hook Webhook.pitstop_message_dead of plugin {WHO} raised; the message is not affected"
    ) in log
    assert "KeyError: 'of the plugin'" in log


def test_a_broken_command_says_whose_fault_it_is_and_breaks_no_other(environment, tmp_path, broken) -> None:
    broken('URL_VARIABLE = "PITSTOP_WEBHOOK_URL"', 'URL_NAME = URL_VARIABL = "PITSTOP_WEBHOOK_URL"')
    pitstop = str(environment / "bin" / "pitstop")
    options: dict[str, Any] = {"capture_output": True, "text": True, "cwd": tmp_path}

    done = subprocess.run([pitstop, "webhook", "--dry-run"], check=False, **options)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: Command {WHO} failed to load: ImportError: cannot import name 'URL_VARIABLE'")

    done = subprocess.run([pitstop, "--help"], check=False, **options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(broken, from pitstop-webhook: see 'pitstop plugins')" in " ".join(done.stdout.split())
