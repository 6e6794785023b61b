"""Pledge: an ack that was written in a transaction of the user. It counts if and when the transaction commits. No I/O.

Threads: any; a pledge is immutable.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from pitstop._decisions._settle import was_applied
from pitstop._errors import PitstopError
from pitstop.abc import Damaged, Record, Settlement


__all__ = ["NOT_COMMITTED", "Pledge"]

#: The error of a message whose handler returned, although the transaction of its ack did not commit.
NOT_COMMITTED = "The handler returned, but the transaction in which it acknowledged the message did not commit."


@attrs.frozen
class Pledge:
    """An ack in a transaction of the user.

    A pledge that failed keeps the end of the handler from a second ack all the same.
    """

    settlement: Settlement
    #: Whether the transaction may still commit. As long as it may, other writes to the message would wait for its end.
    is_open: Callable[[], bool]
    #: Whether the driver raised an error for the ack, as for a conflict. As a rule the transaction is aborted then.
    failed: bool = False

    def check_over(self, id: str, participle: str) -> None:
        """Refuse another write for the message while the transaction is open: it would wait for the end of the transaction.

        :param participle: the refused call, as a participle.
        :raises PitstopError: if the transaction is open. Nothing was changed.
        """
        if not self.failed and self.is_open():
            raise PitstopError(
                f"{id!r} was not {participle}: it was acknowledged in a transaction that is open. Commit the transaction, or roll "
                f"it back, first."
            )

    def was_kept(self, leased: Record, stored: Record | Damaged | None) -> bool | None:
        """Whether the transaction has committed, by the record that is stored now. None: that cannot be said."""
        return False if self.failed else was_applied(self.settlement, leased, stored)
