"""The result of a driven run, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Literal

import attrs


__all__ = ["Report", "Step", "StepOutcome", "clock_text", "table"]

#: The outcome of one emission.
#:
#: ``acked``: done. ``nacked``: it comes back. ``given up``: it failed for the last time, and the series goes on with its
#: next occurrence. ``dead``: it failed for the last time, or cannot be read. ``skipped``: it was never emitted, because it was
#: older than its grace. ``expired``: the same, because it was later than its ``expires``. ``lost``: the lease was over before the settlement. ``superseded``: the handler itself stored the
#: message anew, or removed it. ``given back``: the run was interrupted, or the handler asked for the end of the program. ``unsettled``: the
#: store failed the ack or nack. The message comes back when its lease runs out, unless the
#: store did apply it. ``crashed``: the handler died with :class:`pitstop.testing.Crash`.
StepOutcome = Literal[
    "acked",
    "nacked",
    "given up",
    "dead",
    "skipped",
    "expired",
    "lost",
    "superseded",
    "given back",
    "unsettled",
    "crashed",
]

#: The most rows of a table.
_MOST_ROWS = 40


@attrs.frozen
class Step:
    """One emission and its outcome; or one message that was settled without being emitted."""

    id: str
    #: When the message was handed out, by the clock of the test.
    at: datetime
    #: The nominal time of the occurrence. None: the stored document is damaged.
    scheduled_for: datetime | None
    #: 1 at the first emission of the occurrence.
    attempt: int
    #: Earlier occurrences that were skipped in favour of this one; with ``skipped``, before this one.
    missed: int
    outcome: StepOutcome
    #: The error of the handler or of the store, as it is kept with the message. None: no error.
    error: str | None
    #: When the message comes next: again, or its next occurrence. None: never, or unknown.
    due: datetime | None
    #: The message as it was emitted, with its ``"id"``. None: it was never emitted.
    msg: dict[str, Any] | None = attrs.field(repr=False)

    @property
    def emitted(self) -> bool:
        """Whether the message was handed out."""
        return self.msg is not None


@attrs.frozen(repr=False, str=False)
class Report:
    """The result of a driven run. ``str(report)`` is a table of it, and ``report[0]`` its first step."""

    #: All steps, in order.
    steps: tuple[Step, ...] = ()
    #: The number of acknowledged emissions.
    acked: int = 0
    #: The number of failed emissions that come back, or gave way to the next occurrence.
    nacked: int = 0
    #: The number of messages that died.
    dead: int = 0
    #: The number of occurrences that were never emitted: skipped in favour of a later one (``missed``), older than their
    #: grace, or expired. Each counts once, however often the later one was tried. An occurrence that was too old is not counted if the
    #: store's answer to its settlement got lost.
    skipped: int = 0

    @classmethod
    def of(cls, steps: Sequence[Step]) -> Report:
        """Return the report of these steps."""
        counts: dict[str, int] = {}
        # Each attempt at an occurrence reports anew how many were skipped for it.
        missed: dict[tuple[str, datetime | None], int] = {}
        for step in steps:
            counts[step.outcome] = counts.get(step.outcome, 0) + 1
            occurrence = step.id, step.scheduled_for
            missed[occurrence] = max(step.missed, missed.get(occurrence, 0))
        return cls(
            steps=tuple(steps),
            acked=counts.get("acked", 0),
            nacked=counts.get("nacked", 0) + counts.get("given up", 0),
            dead=counts.get("dead", 0),
            skipped=sum(missed.values()) + counts.get("skipped", 0) + counts.get("expired", 0),
        )

    @property
    def ids(self) -> list[str]:
        """The ids of the emitted messages, in order."""
        return [step.id for step in self.steps if step.emitted]

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The emitted messages, in order."""
        return [step.msg for step in self.steps if step.msg is not None]

    @property
    def outcomes(self) -> list[StepOutcome]:
        """The outcomes of the emissions, in order."""
        return [step.outcome for step in self.steps if step.emitted]

    @property
    def times(self) -> list[datetime]:
        """The times of the emissions, in order."""
        return [step.at for step in self.steps if step.emitted]

    def __add__(self, other: Report) -> Report:
        """Return the report of two runs, one after the other."""
        if not isinstance(other, Report):
            return NotImplemented
        return Report.of((*self.steps, *other.steps))

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Step:
        return self.steps[index]

    def __repr__(self) -> str:
        return f"<Report {self._summary()}>"

    def __str__(self) -> str:
        rows = [
            (
                clock_text(step.at),
                step.id,
                clock_text(step.scheduled_for),
                str(step.attempt),
                step.outcome,
                clock_text(step.due),
                step.error or "",
            )
            for step in self.steps[-_MOST_ROWS:]
        ]
        left_out = len(self.steps) - len(rows)
        head = f"{self._summary()}{f' (the last {len(rows)} of {len(self.steps)})' if left_out else ''}"
        return table(head, ("at", "id", "scheduled for", "attempt", "outcome", "next", "error"), rows)

    def _summary(self) -> str:
        others: dict[str, int] = {}
        for step in self.steps:
            if step.outcome in {"lost", "superseded", "given back", "unsettled", "crashed"}:
                others[step.outcome] = others.get(step.outcome, 0) + 1
        counts: dict[str, int] = {
            "acked": self.acked,
            "nacked": self.nacked,
            "dead": self.dead,
            "skipped": self.skipped,
            **others,
        }
        return ", ".join(f"{count} {name}" for name, count in counts.items())


def clock_text(when: datetime | None) -> str:
    """Return a time for a table: in UTC, with milliseconds only if there are any."""
    if when is None:
        return "-"
    text = f"{when:%Y-%m-%d %H:%M:%S}"
    return f"{text}.{when.microsecond // 1000:03}" if when.microsecond else text


def table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a small table for people, with a line above it."""
    if not rows:
        return head
    cells = [tuple(columns), *(tuple(_short(cell) for cell in row) for row in rows)]
    widths = [max(len(row[n]) for row in cells) for n in range(len(columns))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join([head, *lines])


def _short(text: str) -> str:
    line = text.replace("\n", " ")
    return line if len(line) <= 80 else f"{line[:79]}…"
