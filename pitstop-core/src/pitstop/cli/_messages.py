"""Messages as JSON: the same form in arguments, on stdin and in all output.

It is the form of :func:`pitstop.abc.dump_message`: JSON, with ``{"$bytes": "aGk="}`` and ``{"$time": 1700000000000}`` for
values that JSON does not have. A mapping that only looks like one of these is ``{"$map": [[key, value]]}``.
"""

from __future__ import annotations

import json

from collections.abc import Mapping
from typing import Any

import click

from pitstop import MessageError
from pitstop._values._message import copy_message
from pitstop._values._text_codec import load_written
from pitstop.abc import dump_message
from pitstop.cli._plain import plain_json


__all__ = ["BYTE_ORDER_MARK", "NoMessage", "json_text", "read_message"]

#: Many programs on Windows write this mark at the beginning of UTF-8 text. It is invisible and not part of the text.
BYTE_ORDER_MARK = "\ufeff"


class NoMessage(click.ClickException):
    """The argument is no message: the command is used wrongly. The error is one line, because it is not about the options."""

    exit_code = 2


def read_message(text: str | bytes, id: str | None = None) -> dict[str, Any]:
    """Return the message that a JSON text holds, checked, and with the id ``id`` if one is given.

    :raises pitstop.MessageError: if the text is not JSON or not a message, or has another id. The error never quotes the message.
    """
    message = _load(text)
    copy_message(message)  # raises if the message cannot be stored
    if id is None:
        return dict(message)
    if message.get("id", id) != id:
        raise MessageError(f"The message has an 'id' of its own, and --id gives {id!r}. Leave out one of the two.")
    return {**message, "id": id}


def _load(text: str | bytes) -> Any:
    try:
        decoded = text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError:
        raise MessageError("The message is no UTF-8 text. Convert it, or give bytes as {'$bytes': base64}.") from None
    if "\0" in decoded:
        raise MessageError("The message holds NUL bytes, as UTF-16 and binary data do. Convert it to UTF-8 text.")
    try:
        return load_written(decoded)
    except json.JSONDecodeError as error:
        raise MessageError(_no_json(error)) from None
    except ValueError as error:
        raise MessageError(f"The message cannot be read: {str(error).removesuffix(' in a stored message')}.") from None


def _no_json(error: json.JSONDecodeError) -> str:
    place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
    if error.doc.startswith(BYTE_ORDER_MARK, error.pos):
        return f"The message is no JSON: there is a byte order mark (U+FEFF) at {place}. Remove it."
    if error.msg == "Extra data":
        return f"The message is no JSON: there is more after its end, at {place}. Give one JSON object per line."
    return f'The message is no JSON: {error.msg} at {place}. Write it as in \'{{"msg": "object"}}\'.'


def json_text(document: Mapping[str, Any]) -> str:
    """Return a document as one line of JSON, with messages in their JSON form.

    Characters that a terminal would obey or not show are escaped, and so are characters at which some readers end a line.
    """
    return plain_json(dump_message(dict(document)))
