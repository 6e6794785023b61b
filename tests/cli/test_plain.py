"""Texts of messages on a terminal: no text steers the terminal, hides, or looks like another text."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

from datetime import timedelta

import pytest

import pitstop

from pitstop.cli._plain import plain, plain_json


NOW = timedelta(0)

#: One character of each kind that a terminal obeys, or that is invisible.
UNSEEN = {
    "C0": "\x1b",
    "newline": "\n",
    "DEL": "\x7f",
    "C1": "\x9b",
    "bidi embedding": "\u202a",
    "bidi override": "\u202e",
    "bidi isolate": "\u2066",
    "end of isolate": "\u2069",
    "left-to-right mark": "\u200e",
    "right-to-left mark": "\u200f",
    "Arabic letter mark": "\u061c",
    "zero width space": "\u200b",
    "zero width non-joiner": "\u200c",
    "zero width joiner": "\u200d",
    "word joiner": "\u2060",
    "invisible times": "\u2062",
    "byte order mark": "\ufeff",
    "soft hyphen": "\xad",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "no-break space": "\xa0",
    "grapheme joiner": "\u034f",
    "Hangul filler": "\u3164",
    "halfwidth Hangul filler": "\uffa0",
    "Mongolian selector": "\u180b",
    "variation selector 1": "\ufe00",
    "variation selector 16": "\ufe0f",
    "variation selector 17": "\U000e0100",
    "tag": "\U000e0041",
    "private use": "\ue000",
    "not assigned": "\U000e0fff",
    "lone surrogate": "\udcff",
}
SEEN = "plain text, Zoë, 日本語, العربية, 한국어, 🎉, e\u0301, [red]x[/] :smile: %s {0} \\x1b"


@pytest.mark.parametrize("unseen", UNSEEN.values(), ids=UNSEEN)
def test_invisible_characters_are_spelled_out(unseen):
    shown = plain(f"é{unseen}b{unseen}")
    assert shown.isprintable()
    assert unseen not in shown
    assert shown == f"é{unseen.encode('unicode_escape').decode()}b{unseen.encode('unicode_escape').decode()}"


@pytest.mark.parametrize("unseen", UNSEEN.values(), ids=UNSEEN)
def test_json_spells_it_as_json_does_and_says_the_same(unseen):
    value = {"é": f"a{unseen}"}
    shown = plain_json(json.dumps(value, ensure_ascii=False))
    assert shown.isprintable()
    assert unseen not in shown
    assert json.loads(shown) == value


def test_visible_characters_stay_as_they_are():
    assert plain(SEEN) == SEEN
    assert plain_json(json.dumps(SEEN, ensure_ascii=False)) == json.dumps(SEEN, ensure_ascii=False)


#: In arguments, a lone surrogate stands for bytes that are not UTF-8. So no other test uses it.
NASTY = "".join(each for each in UNSEEN.values() if each != "\udcff")
#: A path must not hold control characters and the ends of lines.
FILE = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "", f"there{NASTY}.db")
#: The colours of the command's own output.
COLOURS = re.compile("\x1b\\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
def on_a_terminal(spawn, url):
    """Run the command with all its streams on a terminal. Return the terminal's input."""

    def run(*arguments, **environment):
        terminal, ours = pty.openpty()
        process = spawn(
            *arguments,
            stdin=ours,
            stdout=ours,
            stderr=ours,
            env={**os.environ, "PITSTOP_URL": url, "TERM": "xterm-256color", "COLUMNS": "200", **environment},
        )
        os.close(ours)
        seen = b""
        try:
            while chunk := os.read(terminal, 1 << 16):
                seen += chunk
        except OSError:  # Linux raises EIO if the other side of a terminal is closed
            pass
        os.close(terminal)
        process.wait()
        return seen.decode()

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        ("store", "{}", "--id", f"new{NASTY}"),
        ("list",),
        ("list", "--json"),
        ("show", f"id{NASTY}"),
        ("show", f"id{NASTY}", "--json"),
        ("show", f"wrong{NASTY}"),
        ("listen", "--once"),
        ("listen", "--once", "--json"),
        ("listen", "--once", "--exec", "exit 3"),
        ("listen", "--once", "--json", "--exec", "exit 3"),
        ("remove", f"id{NASTY}", f"other{NASTY}", f"more{NASTY}"),
        ("redrive", f"dead{NASTY}", f"id{NASTY}"),
        ("redrive", "--all"),
        ("stats", f"argument{NASTY}"),
        (f"command{NASTY}",),
        (f"--option{NASTY}",),
        ("list", "--state", f"state{NASTY}"),
        ("list", "--limit", f"limit{NASTY}"),
        ("store", f"no JSON{NASTY}"),
        ("store", "{}", "--in", f"now{NASTY}"),
        ("stats", "--url", f"scheme{NASTY}://"),
        ("stats", "--url", "sqlite:///{folder}/gone/" + FILE),
        ("stats", "--url", f"sqlite:///{{folder}}/refused{NASTY}.db"),
        ("ping", "--url", "sqlite:///{folder}/" + FILE),
        ("demo", "--url", "sqlite:///{folder}/" + FILE),
        ("check", "--url", "sqlite:///{folder}/" + FILE),
    ],
    ids=lambda arguments: plain(" ".join(arguments))[:30],
)
def test_no_command_lets_a_terminal_be_steered(on_a_terminal, pit, url, tmp_path, arguments):
    """Ids, messages, errors, file names and arguments are shown with escapes, in all places."""
    with pitstop.init({"type": "sqlite", "path": f"{tmp_path}/{FILE}"}) as other:
        other.store({"id": f"id{NASTY}"}, NOW)
    with pitstop.init(f"{url}?retry.max_attempts=1") as other, other.listen() as listener:
        other.store({"id": f"dead{NASTY}"}, NOW)
        listener.get().nack(f"error{NASTY}")
    pit.store({"id": f"id{NASTY}", f"key{NASTY}": f"text{NASTY} {SEEN}"}, NOW)
    seen = on_a_terminal(*(each.format(folder=tmp_path) if "{folder}" in each else each for each in arguments))
    assert "Traceback" not in seen
    text = COLOURS.sub("", seen).replace("\r\n", "")
    assert {each for each in text if not each.isprintable()} <= {"\r"}
    assert not {each for each in text if plain(each) != each and each != "\r"}
    assert text


@pytest.mark.parametrize("command", ["list", "show", "listen"])
def test_markup_and_emoji_codes_of_rich_are_text(on_a_terminal, pit, command):
    pit.store({"id": "[red]x[/] :smile:", "text": "[/nothing] :boom: [link=x]"}, NOW)
    seen = on_a_terminal(*{"list": ("list",), "show": ("show", "[red]x[/] :smile:")}.get(command, ("listen", "--once")))
    text = COLOURS.sub("", seen)
    assert "[red]x[/] :smile:" in text
    if command != "list":
        assert '"[/nothing] :boom: [link=x]"' in text


def test_wide_characters_keep_their_columns(on_a_terminal, pit):
    """Each takes two columns of a terminal's line."""
    pit.store({"id": "日本語"}, NOW)
    pit.store({"id": "abcdef"}, NOW)
    seen = on_a_terminal("list", NO_COLOR="1", TERM="dumb")
    lines = [line for line in seen.splitlines() if " due " in line and "state" not in line]
    wide, narrow = sorted(lines, key=lambda line: line.startswith("abc"))
    assert wide.index("due") + 3 == narrow.index("due")


def test_a_warning_of_the_library_is_spelled_out_too():
    code = (
        "import logging\n"
        "from pitstop.cli._app import _log_on_stderr\n"
        "from pitstop.cli._settings import Settings\n"
        "with _log_on_stderr(Settings()):\n"
        "    logging.getLogger('pitstop').warning('%s is odd', '\\u202e\\ufe0f\\x1b')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "Warning: \\u202e\\ufe0f\\x1b is odd\n"
