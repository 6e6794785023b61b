"""Text for terminals: invisible characters, and characters that steer a terminal, are written as escapes."""

from __future__ import annotations

import json
import re


__all__ = ["plain", "plain_json"]

#: Runs of all characters but printable ASCII. Most texts have no such run, and most runs are printable.
_RUN = re.compile(r"[^\x20-\x7e]+")
#: Invisible although ``str.isprintable`` accepts them: the combining grapheme joiner, fillers of Hangul, inherent vowels
#: of Khmer, and variation selectors. ``isprintable`` refuses controls and the other invisible ones (zero-width, bidi, tags).
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def plain(text: str) -> str:
    r"""Return ``text`` with escapes for controls, bidi marks, zero-width and other invisible characters.

    >>> plain("café \u202edrowssap\u200b")
    'café \\u202edrowssap\\u200b'
    """
    return _RUN.sub(_spelled, text)


def plain_json(text: str) -> str:
    """Return JSON text with the same characters as escapes of JSON, so that its readers get the same values."""
    return text if text.isascii() and text.isprintable() else _RUN.sub(_spelled_in_json, text)


def _spelled(run: re.Match[str]) -> str:
    text = run[0]
    if _is_seen(text):
        return text
    return "".join(each if _is_seen(each) else each.encode("unicode_escape").decode("ascii") for each in text)


def _spelled_in_json(run: re.Match[str]) -> str:
    text = run[0]
    return text if _is_seen(text) else "".join(each if _is_seen(each) else json.dumps(each)[1:-1] for each in text)


def _is_seen(text: str) -> bool:
    return text.isprintable() and _INVISIBLE.search(text) is None
