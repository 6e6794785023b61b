"""The errors of calls that need a capability which a backend does not have."""

from __future__ import annotations

from pitstop._errors import Unsupported


__all__ = ["lacks_pauses"]


def lacks_pauses(backend: object, location: str) -> Unsupported:
    """Return the error of a pause of a kind, for a backend without :attr:`Capability.PAUSES`."""
    return Unsupported(
        f"{type(backend).__name__} ({location}) does not have the capability PAUSES, which pause(kind=), resume(kind=) and "
        f"paused_kinds() need. Pause single messages, or use a backend that has it: 'memory', 'sqlite' or 'mongo'."
    )
