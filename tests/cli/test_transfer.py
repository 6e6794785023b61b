"""``pitstop export``, ``import`` and ``copy``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

from datetime import timedelta

import pytest

import pitstop

from pitstop.cli._transfer import TARGET_VARIABLE


@pytest.fixture
def shop(pit):
    pit.store_many([({"id": f"order-{n:02}", "secret": "body"}, timedelta(hours=n + 1)) for n in range(12)])
    pit.store({"id": "mail"}, "1h", None, "1h", kind="mail")
    pit.pause(kind="mail")
    return pit


@pytest.fixture
def target(tmp_path):
    return f"sqlite:///{tmp_path}/target.db"


@pytest.fixture
def other(target):
    with pitstop.init(target) as other:
        yield other


def entries(pit):
    return sorted(pit.entries(limit=1000), key=lambda each: each.id)


def exported(invoke):
    result = invoke("export")
    assert result.exit_code == 0
    return result.stdout_bytes


def test_an_export_is_imported(invoke, shop, target, other):
    result = invoke("export")
    assert (result.exit_code, result.stderr) == (0, "Exported 13 messages.\n")
    assert result.stdout.isascii()
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[0]["line"] == "export"
    assert lines[0]["version"] == 1
    assert [each["line"] for each in lines].count("message") == 13
    assert lines[-1] == {"line": "end", "messages": 13, "pages": 2}

    done = invoke("import", "--url", target, input=result.stdout_bytes)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "Imported 13 messages: 13 written, 1 paused kinds.\n"
    assert entries(other) == entries(shop)
    assert other.paused_kinds() == {"mail": None}

    again = invoke("import", "--url", target, "--json", input=result.stdout_bytes)
    assert again.exit_code == 0
    assert json.loads(again.stdout) == {
        "messages": 13,
        "written": 0,
        "unchanged": 13,
        "replaced": 0,
        "kept": 0,
        "damaged": 0,
        "refused": 0,
        "overtaken": 0,
        "paused_kinds": 1,
        "problems": [],
    }


def test_a_store_is_copied(invoke, shop, url, target, other):
    done = invoke("copy", "--from", url, "--to", target)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "Copied 13 messages: 13 written, 1 paused kinds.\n"
    assert entries(other) == entries(shop)
    assert invoke("copy", "--to", target).stdout == "Copied 13 messages: 13 there already, 1 paused kinds.\n"
    assert invoke("copy", "--to", url).exit_code == 1
    assert "Both stores are" in invoke("copy", "--to", url).stderr


def test_an_empty_store_is_moved(invoke, pit, target):
    assert pit.entries() == []
    assert invoke("import", "--url", target, input=exported(invoke)).stdout == "Imported 0 messages: nothing to do.\n"


def test_a_message_that_differs_is_kept_and_told(invoke, shop, target, other):
    assert invoke("copy", "--to", target).exit_code == 0
    other.store({"id": "order-03", "new": 1}, "9h")

    told = invoke("copy", "--to", target)
    assert told.exit_code == 1
    assert "1 message of the target differs from the source" in told.stderr
    assert "--if-exists replace" in told.stderr
    assert "order-03: " in told.stderr
    assert other.get("order-03").message["new"] == 1

    assert invoke("copy", "--to", target, "--if-exists", "keep").exit_code == 0
    assert other.get("order-03").message["new"] == 1
    assert invoke("copy", "--to", target, "--if-exists", "replace").exit_code == 0
    assert entries(other) == entries(shop)


def test_stores_in_use_are_refused(invoke, shop, target, other):
    shop.store({"id": "now"})
    with shop.listen() as listener:
        listener.get()
        for command in (("export",), ("copy", "--to", target)):
            refused = invoke(*command)
            assert refused.exit_code == 1
            assert "1 message is leased ('now')" in refused.stderr
            assert "--live" in refused.stderr
            assert "live=True" not in refused.stderr
        assert entries(other) == []
        assert invoke("copy", "--to", target, "--live").exit_code == 0
    assert other.get("now").state == "scheduled"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: b"", "the input is empty"),
        (lambda text: b"\n\n", "the input is empty"),
        (lambda text: b'{"id": "a"}\n', "Line 1: This is no export of Pitstop"),
        (lambda text: b"PGDMP\x01\x00\xff\n" * 3, "Line 1 is no JSON"),
        (lambda text: b"[1]\n", "Line 1: The line is no JSON object"),
        (
            lambda text: text.replace(b'"version":1', b'"version":2', 1),
            "version 2, and this release of pitstop reads version 1",
        ),
        (lambda text: text.replace(b"order-05", b"order-55", 1), "not as they were written"),
        (
            lambda text: b"".join(each for each in text.splitlines(True) if b"order-05" not in each),
            "not as they were written",
        ),
        (lambda text: text.replace(b'"attempts":0', b'"attempts":-1', 1), "attempts cannot be read"),
        (lambda text: text.replace(b'"unsettled":0', b'"unsettled":0,"newer":1', 1), "the unknown field 'newer'"),
        (lambda text: text.replace(b'"excused":0,', b"", 1), "lacks the field 'excused'"),
        (lambda text: text + text, "more lines after the end"),
        (lambda text: text[:-3], "cut off after line"),
        (lambda text: text[: len(text) // 2], "cut off after line"),
        (lambda text: text.rpartition(b'{"line":"end"')[0], "cut off after line"),
        (lambda text: text.replace(b'{"line":"page","number":1', b'{"line":"page","number":2', 1), "lines are missing"),
        (lambda text: text.replace(b'{"line":"end","messages":13', b'{"line":"end","messages":14'), "another number"),
        (lambda text: text.replace(b'{"line":"message"', b'{"line":"tombstone"', 1), "of the kind 'tombstone'"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(invoke, shop, target, other, change, told):
    result = invoke("import", "--url", target, input=change(exported(invoke)))
    assert result.exit_code == 1
    assert told in result.stderr
    assert "body" not in result.stderr, "no error holds a value of a message"
    assert len(result.stderr.splitlines()) <= 2
    assert entries(other) in ([], entries(shop)), "a page is imported whole or not at all"


def test_line_ends_and_a_mark_of_windows_do_no_harm(invoke, shop, target, other):
    text = b"\xef\xbb\xbf" + exported(invoke).replace(b"\n", b"\r\n")
    assert invoke("import", "--url", target, input=text).exit_code == 0
    assert entries(other) == entries(shop)


def test_a_message_of_another_program_is_left_out_and_told(invoke, pit, target, url):
    """Its id holds a character that some stores cannot keep."""
    from pitstop._pitstop import session_of
    from pitstop_conformance._records import make_record

    session_of(pit).backend.put([make_record("a\0b"), make_record("fine")])
    result = invoke("copy", "--to", target)
    assert result.exit_code == 1
    assert "1 message cannot be stored by Pitstop, and was left out" in result.stderr
    assert r"a\x00b: The id 'a\x00b' holds NUL" in result.stderr
    with pitstop.init(target) as other:
        assert [each.id for each in other.entries()] == ["fine"]


def test_wrong_use_exits_with_2(invoke, shop):
    assert invoke("copy").exit_code == 2
    assert TARGET_VARIABLE in invoke("copy").stderr
    assert invoke("copy", "--to", "x:", "--if-exists", "error").exit_code == 2
    assert invoke("copy", "--to", "nothing://here").exit_code == 1


def test_no_password_of_either_store_is_shown(invoke, shop):
    to = "mongo://me:hunter%40two@127.0.0.1:1/app?operation_timeout=1s"
    for args, env in ((("--to", to), {}), ((), {TARGET_VARIABLE: to})):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            result = invoke("copy", *args)
        assert result.exit_code == 1
        assert "hunter" not in result.output


def test_closed_streams(spawn, shop, target):
    process = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pitstop export >&-"], capture_output=True, text=True, check=False
    )
    assert process.returncode == 1
    assert "stdout is closed" in process.stderr
    process = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pitstop import --url {target} <&-"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert "stdin is closed" in process.stderr


def test_a_pipe_moves_a_store(shop, url, target, other):
    pitstop_ = f"{sys.executable} -m pitstop"
    done = subprocess.run(
        ["sh", "-c", f"{pitstop_} export --url '{url}' | {pitstop_} import --url '{target}'"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert entries(other) == entries(shop)


def test_a_reader_that_goes_away_is_no_error(spawn, shop):
    process = spawn("export")
    process.stdout.close()
    assert process.wait(60) == 0
    assert "Traceback" not in process.stderr.read()


def test_ctrl_c_tells_how_far_an_import_came(spawn, invoke, shop, target):
    text = exported(invoke)
    process = spawn("import", "--url", target, stdin=subprocess.PIPE, text=False)
    # All pages, without the end: the command waits for more.
    process.stdin.write(text.rpartition(b'{"line":"end"')[0])
    process.stdin.flush()
    with pitstop.init(target) as other:
        from consume.kit import until

        until(lambda: len(other.entries()) == 13)
        # The lines of the page are compared after they were written.
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
    assert b"Aborted!" in process.stderr.read()


def test_a_copy_to_mongodb_by_the_command(invoke, shop, mongo_uri, mongo_dbname):
    to = f"{mongo_uri}/{mongo_dbname}"
    assert invoke("copy", "--to", to).exit_code == 0
    with pitstop.init(to) as other:
        assert entries(other) == entries(shop)
