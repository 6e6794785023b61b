"""Jitter: a delay that spreads messages with one schedule, always the same for one occurrence of one message."""

from __future__ import annotations

from hashlib import blake2b


__all__ = ["spread"]


def spread(id: str, occurrence: int, jitter: int) -> int:
    """Return the milliseconds from 0 to ``jitter`` by which an occurrence comes later.

    Each consumer and each retry computes the same number, so the jitter needs no place in the store.
    """
    if not jitter:
        return 0
    # Surrogates pass, because an id may come from another program's document.
    key = f"{id}:{occurrence}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big") % (jitter + 1)
