"""The revision of an entry: text that names a stored record in the state in which it was read.

A claim, a settlement or a redrive changes the progress of a record and not its own revision. An edit must notice these too,
because the message may have been emitted meanwhile. So the revision that a user sees covers both.
"""

from __future__ import annotations

from hashlib import blake2b

from pitstop.abc import Damaged, Record


__all__ = ["revision_of"]

#: The revision of each damaged document. No sound record has it.
_DAMAGED = "damaged"
#: Bytes of the digest. The revision of the record is part of the text, so only states of one version are told apart by it.
_SIZE = 8


def revision_of(stored: Record | Damaged) -> str:
    """Return the text that is another one after each store, claim, settlement, extension, redrive and reschedule."""
    if isinstance(stored, Damaged):
        return _DAMAGED
    progress = stored.progress
    # Not repr(), whose escapes depend on the release of Python: processes of several releases may share one store.
    values = (
        f"{progress.due} {progress.scheduled_for} {progress.attempts} {progress.first_leased} "
        f"{progress.unsettled} {progress.ahead} {progress.excused} {progress.token}\n{progress.last_error}"
    )
    digest = blake2b(values.encode("utf-8", "surrogatepass"), digest_size=_SIZE)
    return f"{stored.revision}-{digest.hexdigest()}"
