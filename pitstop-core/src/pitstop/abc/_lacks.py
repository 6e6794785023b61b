"""The errors of calls that need a capability which a backend does not have."""

from __future__ import annotations

from pitstop._errors import Unsupported


__all__ = ["lacks_notes", "lacks_pauses"]


def lacks_pauses(backend: object, location: str) -> Unsupported:
    """Return the error of a pause of a kind, for a backend without :attr:`Capability.PAUSES`."""
    return Unsupported(
        f"{type(backend).__name__} ({location}) does not have the capability PAUSES, which pause(kind=), resume(kind=) and "
        f"paused_kinds() need. Pause single messages, or use a backend that has it: 'memory', 'sqlite' or 'mongo'."
    )


def lacks_notes(backend: object, location: str) -> Unsupported:
    """Return the error of a question for the consumers of a store, for a backend without :attr:`Capability.NOTES`."""
    return Unsupported(
        f"{type(backend).__name__} ({location}) does not have the capability NOTES, so that the consumers of other processes cannot "
        f"be seen. Ask each process for its own pit.consumers, or use a backend that has it: 'sqlite', 'mongo' or 'postgres'."
    )
