"""``pitstop store < file``: files as other programs write them, well or badly."""

from __future__ import annotations

import codecs
import subprocess

import pytest


BOM = codecs.BOM_UTF8


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (BOM + b'{"id": "a"}\n{"id": "b"}\n', ["a", "b"]),
        (BOM + b'{"id": "a"}', ["a"]),
        (BOM + b'\r\n{"id": "a"}\r\n', ["a"]),
        (BOM, []),
        (BOM + b"\n", []),
        (b'{"id": "a"}\r\n{"id": "b"}\r\n', ["a", "b"]),
        (b'\n\n{"id": "a"}\n\n \t\n{"id": "b"}\n\n', ["a", "b"]),
        (b' {"id": "a"} \n', ["a"]),
        ('{"id": "\ufeffa"}'.encode(), ["\ufeffa"]),
    ],
)
def test_files_as_they_come_are_read(invoke, pit, content, ids):
    """The files have a byte order mark, as PowerShell, Excel and Notepad write it; or CRLF; or empty lines."""
    result = invoke("store", "--json", input=content)
    assert result.exit_code == 0, result.stderr
    assert sorted(entry.id for entry in pit.entries()) == ids


def test_a_byte_order_mark_that_comes_byte_by_byte_is_one(spawn, pit):
    process = spawn("store", "--json", stdin=subprocess.PIPE, text=False, bufsize=0)
    for byte in BOM + b'{"id": "a"}\n':
        process.stdin.write(bytes([byte]))
    assert process.stdout.readline() == b'{"id":"a"}\n'
    assert process.communicate()[1].startswith(b"Stored 1 message in")


def test_a_message_in_an_argument_may_begin_with_a_byte_order_mark(invoke, pit):
    """``pitstop store "$(cat message.json)"``."""
    assert invoke("store", '\ufeff{"id": "a"}').stdout == "a\n"


def test_a_line_of_twenty_megabytes_is_refused_by_its_size_and_one_of_fourteen_is_stored(invoke, pit):
    result = invoke("store", input=b'{"id": "a"}\n{"id": "b", "x": "%s"}\n' % (b"x" * 20_000_000))
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Line 2: The message ")
    assert result.stderr.count("\n") == 1
    assert invoke("store", input=b'{"id": "b", "x": "%s"}\n' % (b"x" * 14_000_000)).exit_code == 0
    assert pit.stats().due == 2


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (BOM + b'{"id": "b"}', "there is a byte order mark (U+FEFF) at column 1. Remove it."),
        (b'{"id": "b"} {"id": "c"}', "there is more after its end, at column 13. Give one JSON object per line."),
        (b'{"id": "b"}\r{"id": "c"}', "there is more after its end, at column 13. Give one JSON object per line."),
        (b'{"id": "b", "x": 1, "id": "c"}', "the key 'id' stands twice in one object."),
        (b'{"id": "b", "x": [{"y": 1, "y": 1}]}', "the key 'y' stands twice in one object."),
        (b'{"id": "b", "x": {"$map": [["$time", 1], ["$time", 2]]}}', "the key '$time' stands twice in one $map."),
        (b'{"id": "b", "x": %s}' % (b"9" * 5_000), "a number is beyond 64 bits. Write it as text, in quotes."),
        (b'{"id": "b", "x": -%s}' % (b"9" * 5_000), "a number is beyond 64 bits. Write it as text, in quotes."),
        (b'{"id": "b", "x": [%s]}' % (b"9" * 50), "msg['x'][0] is an int beyond 64 bits. Store it as text"),
        (b'{"id": "b", "x": 1e999}', "a number is beyond the range of float. Write it as text, in quotes."),
        (b'{"id": "b", "x": ' + b"[" * 100_000 + b"}", "nested too deeply"),
        (b'{"id": "b\x00"}', "holds NUL bytes, as UTF-16 and binary data do. Convert it to UTF-8 text."),
        ('{"id": "b"}'.encode("utf-16-le"), "holds NUL bytes, as UTF-16 and binary data do. Convert it to UTF-8 text."),
        (b'{"id": "b\xff"}', "The message is no UTF-8 text. Convert it"),
        (b'{"id": "b\\u0000"}', "holds NUL or a lone surrogate"),
        (b'"b"', "must be a mapping"),
        (b"{'id': 'b'}", "no JSON: Expecting property name enclosed in double quotes at column 2. Write it as in"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_with_what_to_do(invoke, pit, bad, said):
    """All lines before it are stored, and no line from it on. Text that JSON readers change silently is refused, too."""
    result = invoke("store", input=b'{"id": "a"}\n' + bad + b'\n{"id": "after"}\n')
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: Line 2: The message ") or said.startswith(("msg", "holds NUL or", "must"))
    assert "Line 2: " in result.stderr
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert [entry.id for entry in pit.entries()] == ["a"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_file_in_another_unicode_encoding_says_so(invoke, pit, encoding):
    """The ``>`` of Windows PowerShell writes such files."""
    mark = "" if encoding in {"utf-16", "utf-32"} else "\ufeff"
    result = invoke("store", input=f'{mark}{{"id": "a"}}\r\n'.encode(encoding))
    name = encoding[:6].upper()
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: Line 1: stdin is {name} text: it begins with that byte order mark. Convert it to UTF-8, as with "
        f"'iconv -f {name} -t UTF-8'. Before it, 0 messages were stored. No message from this line on was stored.\n"
    )


def test_numbers_that_json_has_not_got_are_read_as_documented(invoke, pit):
    assert invoke("store", '{"id": "a", "x": [NaN, Infinity, -Infinity, 1e308, -0.0]}').exit_code == 0
    assert str(pit.get("a").message["x"]) == "[nan, inf, -inf, 1e+308, -0.0]"
