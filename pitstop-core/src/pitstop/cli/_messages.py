"""Messages as JSON: the same form in arguments, on stdin and in everything that is printed.

It is the form of :func:`pitstop.abc.dump_message`: JSON, and for what JSON has not got ``{"$bytes": "aGk="}``,
``{"$time": 1700000000000}``; a mapping that only looks like one of these is ``{"$map": [[key, value]]}``.
"""

from __future__ import annotations

import json
import re

from collections.abc import Mapping
from typing import Any

from pitstop import MessageError
from pitstop._values._message import copy_message
from pitstop.abc import dump_message, load_message


__all__ = ["json_text", "read_message"]

#: DEL and the C1 controls, which JSON leaves as they are and a terminal may obey.
_CONTROL = re.compile("[\x7f-\x9f]")


def read_message(text: str | bytes, id: str | None = None) -> dict[str, Any]:
    """Read a message from JSON, check it, and give it the id ``id`` if there is one.

    :raises pitstop.MessageError: when it is no JSON or no message, or has another id. Never quotes the message.
    """
    message = _load(text)
    copy_message(message)  # raises when it cannot be stored
    if id is None:
        return dict(message)
    if message.get("id", id) != id:
        raise MessageError(f"The message has an 'id' of its own, and --id gives {id!r}. Leave out one of the two.")
    return {**message, "id": id}


def _load(text: str | bytes) -> Any:
    try:
        return load_message(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError:
        raise MessageError("The message is no UTF-8 text. Convert it, or give bytes as {'$bytes': base64}.") from None
    except json.JSONDecodeError as error:
        place = f"column {error.colno}" if error.lineno == 1 else f"line {error.lineno}, column {error.colno}"
        raise MessageError(
            f'The message is no JSON: {error.msg} at {place}. Write it as in \'{{"msg": "object"}}\'.'
        ) from None
    except (ValueError, RecursionError) as error:
        what = (
            "it is too deep" if isinstance(error, RecursionError) else str(error).removesuffix(" in a stored message")
        )
        raise MessageError(f"The message cannot be read: {what}.") from None


def json_text(document: Mapping[str, Any]) -> str:
    """A document as one line of JSON, messages in it in their JSON form."""
    text = dump_message(dict(document))
    return text if text.isascii() else _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
