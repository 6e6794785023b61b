"""``pitstop adopt``: turn the documents of the Clojure library into Pitstop's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import attrs
import click

from rich.progress import Progress

from pitstop import Entry, Pitstop, PitstopError
from pitstop._decisions._adopt import Adoption
from pitstop._decisions._describe import describe
from pitstop._engine import _adoption as engine
from pitstop._pitstop import session_of
from pitstop._values._instant import from_instant
from pitstop.cli._entries import every_document, every_text
from pitstop.cli._output import print_json, print_table, progress, say
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._streams import though_unread
from pitstop.cli._times import iso


__all__ = ["adopt"]

_COLUMNS = ("id", "becomes", "when", "every", "end", "note")
#: Rows of one table. More rows, as for a million damaged documents, become several tables.
_ROWS = 1000


@click.command()
@click.option("--write", is_flag=True, help="Make the changes. Without it, they are only shown.")
@click.option("--locked", is_flag=True, help="Adopt locked documents too: each comes when its lock ends.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="The most adoptable documents to show."
)
@common_options
@click.pass_obj
def adopt(settings: Settings, write: bool, locked: bool, limit: int) -> None:
    """Turn documents of the Clojure library into Pitstop's, in the same collection.

    Shows the changes, and makes none without --write. Documents that cannot be adopted are left as they are, and shown with
    the reason. The command can be interrupted at any point, and run again.

    \b
    pitstop adopt --url mongo://host/app?coll=messages
    pitstop adopt --url mongo://host/app?coll=messages --write
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    with settings.open_existing() as pit, progress() as bar:
        locks = _look_for_locks(pit, bar)
        refusal = None if locked or not locks.locked else _refusal(locks)
        if write and refusal is not None:
            raise click.ClickException(refusal)
        report = _Report(settings, write, 0 if write else limit)
        with _telling_how_far(report):
            _run(pit, bar, report, locks.seen, locked=locked)
    report.finish(pit.location)
    if refusal is not None:
        raise click.ClickException(refusal)
    if report.open:
        raise click.ClickException(report.open)


def _look_for_locks(pit: Pitstop, bar: Progress) -> engine.Locks:
    locks = engine.Locks()
    task = bar.add_task("looking for locks", total=None, count=0)
    for locks in engine.look_for_locks(session_of(pit)):
        bar.update(task, count=locks.seen)
    bar.remove_task(task)
    return locks


def _refusal(locks: engine.Locks) -> str:
    one = locks.locked == 1
    return (
        f"{_counted(locks.locked)} {'is' if one else 'are'} locked, {'' if one else 'the last '}until "
        f"{iso(from_instant(locks.until))}: an old listener may be working on {'it' if one else 'them'}. Stop the old "
        f"listeners and wait until then, or give --locked: a locked document then comes when its lock ends."
    )


def _run(pit: Pitstop, bar: Progress, report: _Report, total: int, *, locked: bool) -> None:
    task = bar.add_task("adopting" if report.write else "looking", total=total, count=0)
    for page in engine.adopt(session_of(pit), write=report.write, locked=locked):
        report.add(page.fates)
        bar.update(task, advance=page.seen, count=sum(report.counts.values()))


@contextmanager
def _telling_how_far(report: _Report) -> Iterator[None]:
    try:
        yield
    except PitstopError as error:
        if not report.write:
            raise
        raise type(error)(f"{error} {report.so_far}") from error
    except KeyboardInterrupt:
        report.flush()
        if report.write:
            say(report.so_far)
        raise


@attrs.define
class _Report:
    """Prints the outcome for each document, and counts the outcomes."""

    settings: Settings
    write: bool
    #: The most adoptable documents to show.
    limit: int
    counts: Counter[engine.Fate] = attrs.field(factory=Counter)
    recurring: int = 0
    shown: int = 0
    _rows: list[Sequence[str | None]] = attrs.field(factory=list)

    def add(self, fates: Sequence[tuple[Adoption, engine.Fate]]) -> None:
        # Counted first: the documents are adopted, even if Ctrl-C interrupts the printing.
        self.counts.update(fate for _, fate in fates)
        for adoption, fate in fates:
            entry = None if adoption.record is None else describe(adoption.record, 0)
            if entry is not None and entry.every is not None and fate != "changed":
                self.recurring += 1
            if self.settings.json:
                with though_unread():
                    print_json(_document(adoption, fate, entry))
            elif fate in {"left", "changed"}:
                self._show(adoption, fate, entry)
            elif self.shown < self.limit:
                self.shown += 1
                self._show(adoption, fate, entry)

    def flush(self) -> None:
        if self._rows:
            with though_unread():
                print_table(_COLUMNS, self._rows)
        self._rows.clear()

    def finish(self, location: str) -> None:
        """Print the rows that are not printed yet, and the summary."""
        self.flush()
        if not self.counts:
            say(f"There is no document of the Clojure library in {location}.")
            return
        if self.write:
            say(f"Adopted {self._adopted}.")
            return
        hidden = not self.settings.json and self.counts["adoptable"] > self.shown
        say(f"Would adopt {self._adopted}.{' Not all are shown; see --limit.' if hidden else ''}")
        say("Nothing was changed. Give --write to do it.")

    @property
    def open(self) -> str:
        """The work that is left for a person; empty: none."""
        left, changed = self.counts["left"], self.counts["changed"]
        said = []
        if left:
            said.append(
                f"{_counted(left)} cannot be adopted and {'is' if left == 1 else 'are'} left as "
                f"{'it is' if left == 1 else 'they are'}. Mend or remove {'it' if left == 1 else 'them'}, and run this again."
            )
        if changed:
            said.append(f"{_counted(changed)} changed meanwhile. Stop the old listeners, and run this again.")
        return " ".join(said)

    @property
    def so_far(self) -> str:
        adopted = self.counts["adopted"]
        return f"Before that, {_counted(adopted)} {'was' if adopted == 1 else 'were'} adopted. Run the command again to go on."

    @property
    def _adopted(self) -> str:
        count = self.counts["adopted"] + self.counts["adoptable"]
        return f"{_counted(count)} ({self.recurring:,} recurring)"

    def _show(self, adoption: Adoption, fate: engine.Fate, entry: Entry | None) -> None:
        self._rows.append(_row(adoption, fate, entry))
        if len(self._rows) >= _ROWS:
            self.flush()


def _row(adoption: Adoption, fate: engine.Fate, entry: Entry | None) -> Sequence[str | None]:
    legacy = adoption.legacy
    if entry is None:
        return (legacy.name, None, None, None, None, f"LEFT: {adoption.problem}")
    notes = ["CHANGED meanwhile, so left"] if fate == "changed" else list(adoption.notes)
    becomes = entry.id if entry.id != legacy.name else "the same"
    return (legacy.name, becomes, iso(entry.scheduled_for), every_text(entry.every), iso(entry.end), "; ".join(notes))


def _document(adoption: Adoption, fate: engine.Fate, entry: Entry | None) -> dict[str, object]:
    return {
        "old_id": adoption.legacy.name,
        "id": None if entry is None else entry.id,
        "outcome": fate,
        "due": None if entry is None else iso(entry.due),
        "scheduled_for": None if entry is None else iso(entry.scheduled_for),
        "every": None if entry is None else every_document(entry.every),
        "end": None if entry is None else iso(entry.end),
        "notes": list(adoption.notes),
        "problem": adoption.problem,
    }


def _counted(count: int) -> str:
    return "1 document" if count == 1 else f"{count:,} documents"
