"""The ids of messages in tests, the same in each run.

Threads: any; the functions share no state, and a maker is called by the threads that store.
"""

from __future__ import annotations

import random
import uuid

from collections.abc import Callable, Iterable, Iterator, Mapping

from pitstop._errors import ConfigError
from pitstop._values._quoting import quoted


__all__ = ["id_maker", "ids_of"]


def ids_of(items: Iterable[object]) -> Iterator[str]:
    """Yield the ids that items of ``store_many`` have."""
    for item in items:
        try:
            message = item[0] if isinstance(item, tuple | list) and item else None
            id = message.get("id") if isinstance(message, Mapping) else None
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - code of another library's class; the store reports what is wrong with it
            continue
        if isinstance(id, str):
            yield str.__str__(id)


def id_maker(ids: object, seed: object) -> Callable[[int], str] | None:
    """Return a function that makes an id from a number; None if nothing was chosen.

    :param ids: as for :func:`pitstop.testing.init`; also ``seed``.
    :raises ConfigError: if one of them cannot be used.
    """
    if seed is not None and type(seed) is not int:
        raise ConfigError(f"seed={quoted(seed)} is a {type(seed).__name__}. Give a whole number.")
    if ids is None:
        return None if seed is None else _drawn_ids(seed)
    if isinstance(ids, str):
        template = ids
        if "{n}" not in template:
            raise ConfigError(
                f"ids={quoted(ids)} has no '{{n}}' in it, so all ids would be the same. Write it as 'msg-{{n}}'."
            )
        return lambda number: template.replace("{n}", str(number))
    if callable(ids):
        return ids
    raise ConfigError(
        f"ids={quoted(ids)} is a {type(ids).__name__}. Give text such as 'msg-{{n}}', or a function of a number."
    )


def _drawn_ids(seed: int) -> Callable[[int], str]:
    dice = random.Random(seed)  # noqa: S311 - the ids must be the same in each run
    return lambda _: str(uuid.UUID(int=dice.getrandbits(128), version=4))
