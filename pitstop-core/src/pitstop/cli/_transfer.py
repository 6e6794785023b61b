"""``pitstop export``, ``import`` and ``copy``: move all messages of a store to a file or to another store."""

from __future__ import annotations

import sys

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import attrs
import click

from pitstop import PitstopError, Transfer
from pitstop._values._transfer import IfOther
from pitstop.cli._lines import batches, size_of
from pitstop.cli._output import needs_stdout, print_json, print_line, progress, say, warn
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._streams import is_closed, though_unread


__all__ = ["copy", "export", "import_"]

#: The URL of the store that ``copy`` writes to, for a URL with a password.
TARGET_VARIABLE = "PITSTOP_TO_URL"
#: How many messages with a problem are named.
_SHOWN = 10

_live = click.option(
    "--live", is_flag=True, help="Go on although consumers have messages. Some may then be handled twice."
)
_if_exists = click.option(
    "--if-exists",
    type=click.Choice(get_args(IfOther)),
    help="If the target has another message with an id, or the message in another state: keep it, or replace it. "
    "Without this option it is kept, and the exit code is 1.",
)


@click.command()
@_live
@common_options
@click.pass_obj
def export(settings: Settings, live: bool) -> None:
    """Print all messages of a store as JSON lines, for 'pitstop import'. The store is not changed.

    \b
    pitstop export --url sqlite:///pitstop.db > messages.export
    pitstop export | gzip > messages.export.gz
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    needs_stdout("export")
    count = 0
    with settings.open_existing() as pit, _in_terms_of_options(), progress() as bar:
        task = bar.add_task("exporting", total=None, count=0)
        stream = sys.stdout.buffer
        for line in pit.export_lines(live=live):
            stream.write(line)
            if line.startswith(_MESSAGE):
                count += 1
                bar.update(task, count=count)
        stream.flush()
    say(f"Exported {_counted(count)}.")


#: How a line of a message begins: see :mod:`pitstop._transfer._lines`.
_MESSAGE = b'{"line":"message"'


@click.command("import")
@_if_exists
@_live
@common_options
@click.pass_obj
def import_(settings: Settings, if_exists: IfOther | None, live: bool) -> None:
    """Store the messages that 'pitstop export' has printed, from stdin. Messages keep their ids, times, attempts and errors.

    A second import changes nothing. If the command is interrupted, run it again to go on.

    \b
    pitstop import --url mongo://localhost/app < messages.export
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    if is_closed("stdin"):
        raise click.UsageError(
            "stdin is closed, so there is no export to read. Give one, as in 'pitstop import < messages.export'."
        )
    stdin = sys.stdin.buffer
    if stdin.isatty():
        raise click.UsageError("There is no export on stdin. Give one, as in 'pitstop import < messages.export'.")
    report = _Report("imported", if_exists)
    with settings.open() as pit, report.telling_how_far(), progress() as bar:
        task = bar.add_task("importing", total=size_of(stdin), count=0)

        def lines() -> Iterator[bytes]:
            for some, size in batches(stdin):
                yield from some
                bar.update(task, advance=size)

        def note(count: int) -> None:
            report.count = count
            bar.update(task, count=count)

        done = pit.import_lines(lines(), if_exists=if_exists or "keep", live=live, progress=note)
    report.finish(settings, done)


@click.command()
@click.option("--from", "source", metavar="URL", help="The store to copy. Default: that of the other commands.")
@click.option(
    "--to",
    "target",
    metavar="URL",
    envvar=TARGET_VARIABLE,
    help=f"The store to write to. Default: {TARGET_VARIABLE} of the environment (better for a password).",
)
@_if_exists
@_live
@common_options
@click.pass_obj
def copy(settings: Settings, source: str | None, target: str | None, if_exists: IfOther | None, live: bool) -> None:
    """Copy all messages of a store to another one. Messages keep their ids, times, attempts and errors.

    Stop all consumers before, and start them on the new store when the command has exited with 0. A second copy changes nothing. If
    the command is interrupted, run it again to go on.

    \b
    pitstop copy --from sqlite:///pitstop.db --to mongo://localhost/app
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    if source is not None:
        settings.url = source
    if not target:
        raise click.UsageError(f"Give the store to write to by --to, or by {TARGET_VARIABLE}.")
    settings.hide(target)
    report = _Report("copied", if_exists)
    with (
        settings.open_existing() as pit,
        settings.open_other(target) as other,
        report.telling_how_far(),
        progress() as bar,
    ):
        task = bar.add_task("copying", total=None, count=0)

        def note(count: int) -> None:
            report.count = count
            bar.update(task, count=count)

        done = pit.copy_to(other, if_exists=if_exists or "keep", live=live, progress=note)
    report.finish(settings, done)


@attrs.define
class _Report:
    """Prints the outcome of an import or a copy."""

    participle: str
    if_exists: IfOther | None
    #: The messages so far.
    count: int = 0

    @contextmanager
    def telling_how_far(self) -> Iterator[None]:
        """Say how many messages were done before an error or Ctrl-C."""
        try:
            with _in_terms_of_options():
                yield
        except (PitstopError, KeyboardInterrupt):
            if self.count:
                be = "was" if self.count == 1 else "were"
                say(f"Before that, {_counted(self.count)} {be} {self.participle}. Run the command again to go on.")
            raise

    def finish(self, settings: Settings, done: Transfer) -> None:
        """Print the outcome.

        :raises click.ClickException: if the target does not have each message as the source has it.
        """
        if not settings.json:
            for id, reason in done.problems[:_SHOWN]:
                warn(f"{id}: {reason}")
        with though_unread():
            if settings.json:
                print_json({**attrs.asdict(done), "problems": [{"id": id, "reason": why} for id, why in done.problems]})
            else:
                print_line(f"{self.participle.capitalize()} {_counted(done.messages)}: {_parts(done)}.")
        lost = self._lost(done)
        if lost:
            raise click.ClickException(" ".join(lost))

    def _lost(self, done: Transfer) -> list[str]:
        lost = []
        if done.kept and self.if_exists is None:
            lost.append(
                f"{_counted(done.kept)} of the target {'differs' if done.kept == 1 else 'differ'} from the source, and nothing was changed "
                f"there. Give --if-exists replace to overwrite, or --if-exists keep to accept this."
            )
        if done.damaged:
            lost.append(
                f"{_counted(done.damaged)} cannot be read in the source: only the id and the reason were {self.participle}. Mend or remove them "
                f"there, and run this again with --if-exists replace; or keep the source."
            )
        if done.refused:
            lost.append(
                f"{_counted(done.refused)} cannot be stored by Pitstop, and {'was' if done.refused == 1 else 'were'} left out."
            )
        return lost


def _parts(done: Transfer) -> str:
    named = [
        (done.written, "written"),
        (done.unchanged, "there already"),
        (done.replaced, "replaced"),
        (done.kept, "kept as they are in the target"),
        (done.refused, "left out"),
        (done.overtaken, "taken by a consumer since"),
        (done.paused_kinds, "paused kinds"),
    ]
    return ", ".join(f"{count:,} {what}" for count, what in named if count) or "nothing to do"


@contextmanager
def _in_terms_of_options() -> Iterator[None]:
    """Reword errors so that they name the command's options."""
    try:
        yield
    except PitstopError as error:
        text = str(error).replace("live=True", "--live").replace("by release()", "by 'pitstop release'")
        if text == str(error) or type(error) is not PitstopError:
            raise
        raise PitstopError(text) from error


def _counted(count: int) -> str:
    return "1 message" if count == 1 else f"{count:,} messages"
