"""Quote values in errors: with a bounded length, and without a secret.

There are two safeguards. :func:`quoted` decides for a single value whether an error may show it. :func:`masked` removes
credentials from a finished text, for errors of backends and plugins that do not use :func:`quoted`.
"""

from __future__ import annotations

import os
import re

from collections.abc import Iterable, Iterator


__all__ = ["has_credentials", "masked", "may_hold_secret", "quoted"]

#: The most characters of a quoted value, and of a text in it. An error is a line for people.
_LONGEST, _LONGEST_TEXT = 300, 120
#: Characters of a value that are searched for a secret. The part behind them is not shown.
_SEARCHED = 4096
#: The most bits of an ``int`` that is shown digit by digit. Python refuses to print very large ones.
_MOST_BITS = 512
#: The most items and levels of a container that are shown.
_MOST_ITEMS, _MOST_LEVELS = 8, 3
#: How often a text may be percent-encoded and still be searched.
_MOST_DECODED = 3

_NOT_SHOWN = "not shown: it may hold a password"

_NAMES_A_SECRET = re.compile(
    r"""(?ix)
    (?: pass(?:word|wd|phrase|code)? | pwd | secret | token | credentials? | signature
      | (?:api|access|account|private|secret)[-_]?key | mechanism[-_]?properties )
    # The comma is for pairs, as in the repr of an OrderedDict.
    (?: ["'\s]* [=:] | ["'] \s* , )
    """
)
_IS_A_SECRET = re.compile(
    r"""(?x)
    -----BEGIN[ ]
    | \b (?:AKIA|ASIA)[0-9A-Z]{16} \b
    | \b gh[opsur]_[0-9A-Za-z]{20,}
    | \b eyJ[\w-]{8,}\.[\w-]{8,}
    """
)
_ESCAPE = re.compile("%([0-9A-Fa-f]{2})")
_DRIVE = re.compile(r"\A[A-Za-z]:(?=[\\/])")
_ABSOLUTE = re.compile(r"/[^/]")
_URL = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/")

#: User and password in any URL, also a malformed one. The words ``user:password@`` are excluded: errors use them to show how a
#: URL is written.
_CREDENTIALS = re.compile(r"(?<=://)(?!user:password@[^\s@]*(?:\s|$))\S*@")
_ASSIGNED = re.compile(
    r"""(?ix)
    ( (?<= [?&;] ) (?: pass(?:word|wd)? | pwd | secret | token | key )
    | \b (?: password | passwd | AWS_SESSION_TOKEN | AWS_SECRET_ACCESS_KEY ) )
    ( [=:] ) (?!\s) [^&;,\s'"]+
    """
)


def quoted(value: object) -> str:
    """Return the ``repr`` of a value for an error: cut to a bounded length, and left out if it may hold a secret.

    A URL, a text with a user and a password (``user:password@host``), and a text or a container that names a secret
    (``password=…``) are described and not shown. The function never raises, whatever the ``repr`` of the value does.
    """
    try:
        text = _shown(value, 0)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything; an error about a value must not fail itself
        text = f"<{type(value).__name__} whose repr() raised {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def may_hold_secret(text: str) -> bool:
    """Whether a text is a URL, or has credentials in it: see :func:`has_credentials`. ``C:/x`` is not a URL.

    Some URLs are a secret as a whole, such as those of webhooks.
    """
    text = text[:_SEARCHED]
    return _URL.match(text) is not None or any("://" in each for each in _decoded(text)) or has_credentials(text)


def has_credentials(text: str) -> bool:
    """Whether a text has a user and a password in it (``user:password@host``, also in a URL), or names a secret.

    An absolute path has no user: ``/srv/app:v1@site/x.db``.
    """
    text = _DRIVE.sub("", text[:_SEARCHED])
    is_path = _ABSOLUTE.match(text) is not None and "://" not in text
    # A single pattern would try each colon with the rest of the text.
    return any(
        (not is_path and 0 <= each.find(":") < each.rfind("@")) or _names_secret(each) for each in _decoded(text)
    )


def masked(text: str) -> str:
    """Return ``text`` with ``***`` in place of the user and password of each URL, and of values that are named as secrets."""
    if "://" in text:
        text = _CREDENTIALS.sub("***@", text)
    if "=" in text or ":" in text:
        text = _ASSIGNED.sub(r"\1\2***", text)
    return text


def _shown(value: object, level: int) -> str:
    # Judged by the type itself, because an object may pretend to have another one. Read as the base class reads it, because a
    # subclass may override the methods.
    kind = type(value)
    if issubclass(kind, str) and isinstance(value, str):
        text = str.__str__(value)
        return _shown_text(text, text, f"text of {len(text)} characters")
    if issubclass(kind, bytes | bytearray) and isinstance(value, bytes | bytearray):
        raw = bytes(memoryview(value))
        return _shown_text(raw.decode("latin-1"), raw, f"{len(raw)} bytes")
    if issubclass(kind, int) and isinstance(value, int) and (bits := int.bit_length(value)) > _MOST_BITS:
        return f"<an int of {bits} bits>"
    if type(value) is dict:
        return _shown_items(value, "{", (_pair(key, item, level) for key, item in value.items()), "}", level)
    if type(value) is list or type(value) is tuple:
        opening, closing = ("[", "]") if type(value) is list else ("(", ",)" if len(value) == 1 else ")")
        return _shown_items(value, opening, (_shown(item, level + 1) for item in value), closing, level)
    return _shown_object(value)


def _pair(key: object, item: object, level: int) -> str:
    return f"{_shown(key, level + 1)}: {_shown(item, level + 1)}"


def _shown_items(
    value: dict[object, object] | list[object] | tuple[object, ...],
    opening: str,
    items: Iterable[str],
    closing: str,
    level: int,
) -> str:
    if level >= _MOST_LEVELS:
        return f"{opening}…{closing}"
    text = opening + ", ".join(_first(items, len(value))) + closing
    # The items together may name a secret: {'pass': 'x'}.
    return f"<a {type(value).__name__}, {_NOT_SHOWN}>" if may_hold_secret(text) else text


def _first(items: Iterable[str], count: int) -> Iterator[str]:
    for index, item in enumerate(items):
        if index == _MOST_ITEMS:
            yield f"… ({count} in all)"
            return
        yield item


def _shown_text(searched: str, value: str | bytes, what: str) -> str:
    if may_hold_secret(searched):
        return f"<{what}, {_NOT_SHOWN}>"
    return repr(value) if len(value) <= _LONGEST_TEXT else f"{value[:_LONGEST_TEXT]!r}… ({what})"


def _shown_object(value: object) -> str:
    text = str.__str__(repr(value))
    told = os.fspath(value) if isinstance(value, os.PathLike) else text
    if may_hold_secret(text) or (isinstance(told, str) and may_hold_secret(told)):
        return f"<a {type(value).__name__}, {_NOT_SHOWN}>"
    return text


def _names_secret(text: str) -> bool:
    return _NAMES_A_SECRET.search(text) is not None or _IS_A_SECRET.search(text) is not None


def _decoded(text: str) -> Iterator[str]:
    """Yield the text, and then the text that it encodes by percent signs."""
    for _ in range(_MOST_DECODED):
        yield text
        decoded = _ESCAPE.sub(lambda code: chr(int(code[1], 16)), text)
        if decoded == text:
            return
        text = decoded
