"""The file of an export: JSON lines in ASCII, in pages with a digest each.

::

    {"line":"export","version":1,"from":"sqlite:///pitstop.db","at":1764547200000}
    {"line":"paused_kind","kind":"mail","until":null}
    {"line":"page","number":1,"messages":0,"digest":"..."}
    {"line":"message","id":"...","kind":"","revision":"...","due":...,...,"message":{...}}
    {"line":"page","number":2,"messages":1,"digest":"..."}
    {"line":"end","messages":1,"pages":2}

A digest covers all lines since the last page line, each with a line feed. The first page has no messages: paused kinds come before
the messages that they hold back. Values that JSON does not have are written as :func:`pitstop.abc.dump_message` writes them.
"""

from __future__ import annotations

import codecs
import json

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import attrs

from pitstop._decisions._portable import from_plain, to_plain
from pitstop._errors import MessageError, PitstopError
from pitstop._values._text_codec import dump_ascii, load_written
from pitstop.abc import LAST_INSTANT, Record


__all__ = ["VERSION", "Page", "lines_of", "pages_of"]

#: The version of the file. A reader refuses a later one.
VERSION = 1
#: The most messages of a page, and about the most bytes of all its lines. An export writes smaller pages.
_MOST_MESSAGES = 1000
_MOST_BYTES = 256 * 1024 * 1024
_DIGEST = 16


@attrs.frozen
class Page:
    """A page that was read, with the digest that its writer gave it."""

    #: The paused kinds, with the ends of their pauses. Only the first page may have some.
    pauses: Mapping[str, int | None]
    records: Sequence[Record]


def lines_of(
    location: str, now: int, pauses: Mapping[str, int | None], pages: Iterable[Sequence[Record]]
) -> Iterator[bytes]:
    """Yield the lines of an export, each with its line feed.

    :param location: the place of the store, without secrets.
    :param now: the instant of the export.
    """
    writer = _Writer()
    yield writer.line({"line": "export", "version": VERSION, "from": location, "at": now})
    for kind, until in sorted(pauses.items()):
        yield writer.line({"line": "paused_kind", "kind": kind, "until": until})
    yield writer.page(0)
    for page in pages:
        for record in page:
            yield writer.line({"line": "message", **to_plain(record)})
        yield writer.page(len(page))
    yield writer.line({"line": "end", "messages": writer.messages, "pages": writer.pages})


class _Writer:
    def __init__(self) -> None:
        self.messages = 0
        self.pages = 0
        self._digest = _new_digest()

    def line(self, values: dict[str, Any]) -> bytes:
        written = dump_ascii(values).encode("ascii") + b"\n"
        self._digest.update(written)
        return written

    def page(self, messages: int) -> bytes:
        self.messages += messages
        self.pages += 1
        values = {"line": "page", "number": self.pages, "messages": messages, "digest": self._digest.hexdigest()}
        self._digest = _new_digest()
        return dump_ascii(values).encode("ascii") + b"\n"


def pages_of(lines: Iterable[bytes | str]) -> Iterator[Page]:
    """Yield the pages of an export, each as soon as its digest was compared.

    :param lines: with or without their line ends; CRLF is fine. Empty lines are skipped.
    :raises PitstopError: if the lines are not those of an export, were changed, or end too early. The text names the line. It
        holds no value of a message.
    """
    reader = _Reader()
    rest = iter(lines)
    for given in rest:
        try:
            page = reader.read(given)
        except _NoJson as error:
            if any(_content(each) for each in rest):
                raise PitstopError(error.text) from None
            # The last line is cut off.
            break
        if page is not None:
            yield page
    reader.finish()


class _NoJson(Exception):
    """A line that is no JSON. It may be the last one of an export that was cut off."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _Reader:
    """Reads the lines of an export one by one, and checks them."""

    def __init__(self) -> None:
        self._number = 0
        self._begun = False
        self._ended = False
        self._pages = 0
        self._messages = 0
        self._begin_page()

    def read(self, given: bytes | str) -> Page | None:
        """Read a line. Return the page that ends with it; None if none ends.

        :raises _NoJson: if it is no JSON.
        :raises PitstopError: if it must not stand here.
        """
        self._number += 1
        content = _content(given)
        if self._number == 1:
            content = content.removeprefix(codecs.BOM_UTF8)
        if not content:
            return None
        if self._ended:
            raise self._wrong("There are more lines after the end of the export. Import one export at a time.")
        values = self._parse(content)
        kind = values.pop("line", None)
        if not self._begun:
            self._begin(kind, values)
        elif kind == "page":
            return self._end_page(values)
        elif kind == "end":
            self._end(values)
            return None
        elif kind == "message":
            self._add_message(values)
        elif kind == "paused_kind" and not self._pages:
            self._add_pause(values)
        else:
            raise self._wrong(
                f"The line is of the kind {_shown(kind)}, which no export has here. Export the store again."
            )
        self._digest.update(content + b"\n")
        self._bytes += len(content)
        if len(self._records) > _MOST_MESSAGES or self._bytes > _MOST_BYTES:
            raise self._wrong("The page is larger than any that 'pitstop export' writes. Export the store again.")
        return None

    def finish(self) -> None:
        """Check that the export is whole.

        :raises PitstopError: if it ends too early.
        """
        if not self._begun:
            raise PitstopError("There is no export to import: the input is empty. Give the output of 'pitstop export'.")
        if not self._ended:
            raise PitstopError(
                f"The export is cut off after line {self._number}. The {_counted(self._messages)} of its whole pages were imported, and "
                f"no others. Export the store again and import it: messages that are there already are not changed."
            )

    def _begin(self, kind: object, values: dict[str, Any]) -> None:
        version = values.get("version")
        if kind != "export" or type(version) is not int:
            raise self._wrong(
                "This is no export of Pitstop. Give the output of 'pitstop export'; 'pitstop store' reads plain messages."
            )
        if version > VERSION:
            raise self._wrong(
                f"The export has the version {version}, and this release of pitstop reads version {VERSION}. Upgrade pitstop here."
            )
        self._begun = True

    def _begin_page(self) -> None:
        self._digest = _new_digest()
        self._bytes = 0
        self._pauses: dict[str, int | None] = {}
        self._records: list[Record] = []

    def _end_page(self, values: dict[str, Any]) -> Page:
        if values.get("number") != self._pages + 1:
            raise self._wrong(
                f"This is the end of page {_shown(values.get('number'))}, and page {self._pages + 1} was expected: lines are missing."
            )
        if values.get("messages") != len(self._records) or values.get("digest") != self._digest.hexdigest():
            raise self._wrong(
                f"The lines of page {self._pages + 1} are not as they were written: they were changed, or lines are missing. No "
                f"message of this page and after it was imported. Export the store again."
            )
        page = Page(self._pauses, self._records)
        self._pages += 1
        self._messages += len(page.records)
        self._begin_page()
        return page

    def _end(self, values: dict[str, Any]) -> None:
        if self._bytes or values.get("messages") != self._messages or values.get("pages") != self._pages:
            raise self._wrong(
                "The export ends with another number of messages or pages than it has. Export the store again."
            )
        self._ended = True

    def _add_message(self, values: dict[str, Any]) -> None:
        try:
            self._records.append(from_plain(values))
        except MessageError as error:
            raise self._wrong(str(error)) from None

    def _add_pause(self, values: dict[str, Any]) -> None:
        kind, until = values.get("kind"), values.get("until")
        fine = type(kind) is str and (until is None or (type(until) is int and 0 <= until <= LAST_INSTANT))
        if not fine or values.keys() != {"kind", "until"}:
            raise self._wrong("The paused kind is malformed. Export the store again.")
        self._pauses[str(kind)] = until

    def _parse(self, content: bytes) -> dict[str, Any]:
        try:
            values = load_written(content.decode())
        except (UnicodeDecodeError, json.JSONDecodeError):
            raise _NoJson(f"Line {self._number} is no JSON. {_ADVICE}") from None
        except ValueError as error:
            raise self._wrong(f"The line cannot be read: {error}.") from None
        if not isinstance(values, dict):
            raise self._wrong(f"The line is no JSON object. {_ADVICE}")
        return values

    def _wrong(self, text: str) -> PitstopError:
        return PitstopError(f"Line {self._number}: {text}")


_ADVICE = "Give the output of 'pitstop export', unchanged."


def _new_digest() -> blake2b:
    return blake2b(digest_size=_DIGEST)


def _content(line: bytes | str) -> bytes:
    if isinstance(line, str):
        line = line.encode("utf-8", "surrogatepass")
    if not isinstance(line, bytes):
        raise PitstopError("The lines of an export are bytes or text. Give a file that is opened in binary mode.")
    return line.rstrip(b"\r\n")


def _shown(value: object) -> str:
    return f"{value!r:.40}" if isinstance(value, str | int | None) else "of another type"


def _counted(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
