"""What became of the messages of one ``consume``."""

from __future__ import annotations

from typing import Literal

import attrs


__all__ = ["Reason", "Summary"]

#: Why a ``consume`` ended. ``stopped``: its Pitstop was closed, or the program is at its end. ``max_messages``: so many were
#: handled. ``idle``: nothing was due. ``signal``: SIGTERM, SIGINT or SIGHUP. ``second signal``: one more, so that nothing was waited
#: for. ``handler``: a handler asked for the end of the program, which is raised once more, so that nobody sees this.
Reason = Literal["stopped", "max_messages", "idle", "signal", "second signal", "handler"]

_ENDS: dict[Reason, str] = {
    "stopped": "it was stopped",
    "max_messages": "so many were wanted",
    "idle": "nothing was due",
    "signal": "a signal asked for it",
    "second signal": "a second signal asked for it",
    "handler": "a handler asked for it",
}


@attrs.frozen(kw_only=True)
class Summary:
    """How many messages were handled, and what became of them. Each delivery is counted once."""

    #: Done, and the store knows.
    acked: int = 0
    #: Failed, and the store knows: they come back, or are dead, as ``retry`` says.
    nacked: int = 0
    #: Their leases were over before they were settled: they are, or were, handled once more.
    lost: int = 0
    #: Stored anew or removed by their own handlers: the new version stands.
    superseded: int = 0
    #: Handled, but the store did not answer: they come back when their leases run out, if it did not do it all the same.
    unsettled: int = 0
    #: Handlers that were still running when it ended.
    unfinished: int = 0
    #: Claimed ahead, seen by no handler, and given back for others to take. The same message may be among them often.
    given_back: int = 0
    #: Why it ended.
    reason: Reason = "stopped"

    @property
    def handled(self) -> int:
        """Deliveries whose handler returned or raised."""
        return self.acked + self.nacked + self.lost + self.superseded + self.unsettled

    def __str__(self) -> str:
        counts = [f"{self.acked:,} acked", f"{self.nacked:,} nacked"]
        if self.lost:
            counts.append(f"{self.lost:,} {'lease' if self.lost == 1 else 'leases'} lost")
        if self.superseded:
            counts.append(f"{self.superseded:,} superseded")
        if self.unsettled:
            counts.append(f"{self.unsettled:,} not settled, for the store did not answer")
        if self.unfinished:
            counts.append(f"{self.unfinished:,} not finished")
        return f"{', '.join(counts)}; ended because {_ENDS[self.reason]}."
