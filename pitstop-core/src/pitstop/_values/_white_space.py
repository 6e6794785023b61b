"""White space in a URL or a name that comes from a file or a secret: dropped at the ends of a URL, refused within.

Such white space is invisible, and it would name another store. The process would use a store of its own, and no error
would show it.
"""

from __future__ import annotations

import re

from pitstop._errors import ConfigError
from pitstop._values._quoting import quoted


__all__ = ["checked_url", "refuse_in_name"]

#: White space as ``str.isspace`` defines it, and marks without width: the byte order mark (U+FEFF) and spaces of no width.
_BLANK = r"\s\u200b\u2060\ufeff"
_ENDS = re.compile(rf"\A[{_BLANK}]+|[{_BLANK}]+\Z")
_ANYWHERE = re.compile(rf"[{_BLANK}]")
#: Line breaks, tabs and other control characters. ``urllib`` silently drops some of them from a URL.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NAME = re.compile(r"[A-Za-z_.]{1,40}")


def _flaw(text: str) -> str | None:
    """Return the flaw in the white space of a name or a path; None if there is none. A blank within belongs to the name."""
    if _CONTROL.search(text):
        return "a line break, a tab or another control character"
    if _ENDS.search(text):
        return "white space at its end" if _ANYWHERE.match(text) is None else "white space at its beginning"
    return None


def checked_url(url: str, what: str = "The URL") -> str:
    """Return the URL without the white space at its ends.

    :param what: how an error names the URL.
    :raises ConfigError: if there is white space at the end of a part, or in the part with the host and the user. The
        text names the part. It never quotes the URL, which may hold a password.
    """
    url = _ENDS.sub("", url)
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"{what} has no scheme. Write it as in 'sqlite:///pitstop.db' or 'mongo://localhost/app'.")
    if _ANYWHERE.search(scheme):
        raise _refused(what, "in its scheme", "")
    main, _, query = rest.partition("?")
    authority, slash, path = main.partition("/")
    path, _, fragment = path.partition("#")
    if _ANYWHERE.search(authority):
        raise _refused(what, "in its part with the host and the user", "")
    if slash and (_CONTROL.search(path) or _ENDS.search(path.removeprefix("/")) or _ENDS.search(path)):
        raise _refused(what, "in its path", " A blank that belongs to the path is written as %20.")
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if _ANYWHERE.search(name) or _ENDS.search(value) or _CONTROL.search(value):
            shown = _ENDS.sub("", name)
            raise _refused(what, f"in {shown if _NAME.fullmatch(shown) else 'its part'} behind the '?'", "")
    if _ANYWHERE.search(fragment):
        raise _refused(what, "in its part behind the '#'", "")
    return url


def _refused(what: str, where: str, hint: str) -> ConfigError:
    return ConfigError(
        f"{what} has white space or a control character {where}. Remove it: it would name another store.{hint}"
    )


def refuse_in_name(text: str, field: str, *, secret: bool = False) -> None:
    """Refuse a name or a path that has white space at its ends, or a control character.

    :param secret: whether the text may be a secret. Then the error does not quote it.
    :raises ConfigError: if there is; the text names the field.
    """
    flaw = _flaw(text)
    if flaw is not None:
        given = field if secret else f"{field}={quoted(text)}"
        raise ConfigError(
            f"{given} has {flaw}, so that it would name another store. Remove it; environment variables and "
            f"files of secrets often have some."
        )
