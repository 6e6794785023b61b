"""The result of one ``consume``: how many messages it handled, by outcome, and why it ended."""

from __future__ import annotations

from typing import Literal

import attrs


__all__ = ["Reason", "Summary"]

#: Why a ``consume`` ended. ``stopped``: its Pitstop was closed, or the program is at its end. ``max_messages``: that many
#: messages were handled. ``idle``: no message was due. ``signal``: SIGTERM, SIGINT or SIGHUP. ``second signal``: one more signal, so
#: ``consume`` waited for nothing. ``handler``: a handler asked for the end of the program. That exception is raised again, so the
#: caller does not see this summary.
Reason = Literal["stopped", "max_messages", "idle", "signal", "second signal", "handler"]

_ENDS: dict[Reason, str] = {
    "stopped": "it was stopped",
    "max_messages": "max_messages was reached",
    "idle": "nothing was due",
    "signal": "a signal asked for it",
    "second signal": "a second signal asked for it",
    "handler": "a handler asked for it",
}


@attrs.frozen(kw_only=True)
class Summary:
    """The number of messages that were handled, by outcome. Each delivery is counted once."""

    #: Handled successfully, and written to the store.
    acked: int = 0
    #: Failed, and written to the store: they come back, or are dead, as ``retry`` decides.
    nacked: int = 0
    #: Their leases were over before they were settled: they are, or were, handled once more.
    lost: int = 0
    #: Stored anew or removed by their own handlers. The new version stands.
    superseded: int = 0
    #: Handled, but the store did not answer. They come back when their leases run out, unless the store did write it.
    unsettled: int = 0
    #: Handlers that were still running at the end.
    unfinished: int = 0
    #: Claimed ahead, seen by no handler, and given back for other consumers. One message may be counted several times.
    given_back: int = 0
    #: Why ``consume`` ended.
    reason: Reason = "stopped"

    @property
    def handled(self) -> int:
        """The number of deliveries whose handler returned or raised."""
        return self.acked + self.nacked + self.lost + self.superseded + self.unsettled

    def __str__(self) -> str:
        counts = [f"{self.acked:,} acked", f"{self.nacked:,} nacked"]
        if self.lost:
            counts.append(f"{self.lost:,} {'lease' if self.lost == 1 else 'leases'} lost")
        if self.superseded:
            counts.append(f"{self.superseded:,} superseded")
        if self.unsettled:
            counts.append(f"{self.unsettled:,} not settled, because the store did not answer")
        if self.unfinished:
            counts.append(f"{self.unfinished:,} not finished")
        return f"{', '.join(counts)}; ended because {_ENDS[self.reason]}."
