"""The command group: how commands are found, and how they fail."""

from __future__ import annotations

import logging
import sys

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from pitstop import PitstopError, __version__
from pitstop.abc import did_you_mean
from pitstop.cli._adopt import adopt
from pitstop.cli._backends import backends
from pitstop.cli._changes import emit_now, release, reschedule
from pitstop.cli._check import check
from pitstop.cli._consumers import consumers
from pitstop.cli._demo import demo
from pitstop.cli._entries import list_, redrive, remove, show
from pitstop.cli._explain import explain
from pitstop.cli._listen import listen
from pitstop.cli._messages import NoMessage
from pitstop.cli._migrate import migrate
from pitstop.cli._pauses import pause, resume
from pitstop.cli._ping import ping
from pitstop.cli._plain import plain
from pitstop.cli._plugin_commands import OfAPlugin, command_names, load_command
from pitstop.cli._plugins import plugins
from pitstop.cli._preview import preview
from pitstop.cli._settings import Settings, common_options, masked
from pitstop.cli._stats import stats
from pitstop.cli._store import store
from pitstop.cli._streams import StdoutFailed, discard_stdout, unwritten
from pitstop.cli._tail import tail
from pitstop.cli._transfer import copy, export, import_
from pitstop.cli._upcoming import upcoming


__all__ = ["app", "run"]

#: The key under which a context keeps the command of a plugin that runs.
_PLUGIN = "pitstop.cli.plugin"
#: Raised for a command without arguments, with the help as its text. Older versions of click exit instead.
_HELP: type[Exception] = getattr(click.exceptions, "NoArgsIsHelpError", click.exceptions.Exit)


class _App(click.Group):
    """Commands in the order in which a user meets them. Each failure is printed in one line, without a secret."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.commands, *command_names(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        loaded = load_command(cmd_name, self.commands)
        if loaded is None:
            return None
        command, found = loaded
        ctx.meta[_PLUGIN] = OfAPlugin(found)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            hint = did_you_mean(args[0], known)
            ctx.fail(f"No such command {args[0]!r}. {hint}Known: {', '.join(known)}.")
        return super().resolve_command(ctx, args)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        with _told_in_one_line(None):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _told_in_one_line(ctx.find_object(Settings), ctx):
            result = super().invoke(ctx)
            _complain_of(unwritten())
            return result


@click.group(cls=_App, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pitstop")
@common_options
@click.pass_context
def app(context: click.Context) -> None:
    """Store messages now, get them back later, at least once.

    Begin with: pitstop demo
    """
    context.with_resource(_log_on_stderr(context.ensure_object(Settings)))


_COMMANDS: tuple[click.Command, ...] = (
    *(
        demo,
        store,
        preview,
        listen,
        list_,
        show,
        explain,
        remove,
        redrive,
        reschedule,
        emit_now,
        release,
        pause,
        resume,
    ),
    *(stats, upcoming, tail, consumers, ping, check, export, import_, copy, migrate, adopt, backends, plugins),
)
for _command in _COMMANDS:
    app.add_command(_command)


def run() -> int:
    """Run the command line in ``sys.argv``. Return the exit code."""
    try:
        app.main(prog_name="pitstop")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    finally:
        try:
            sys.stdout.flush()
        except StdoutFailed:
            # The command has complained already. Python would write the rest again at its end, and complain too.
            discard_stdout()
    return 0


@contextmanager
def _told_in_one_line(settings: Settings | None, context: click.Context | None = None) -> Iterator[None]:
    try:
        yield
    except PitstopError as error:
        raise click.ClickException(_in_one_line(str(error), settings)) from error
    except (click.exceptions.Exit, click.Abort, _HELP):
        raise
    except click.ClickException as error:
        text = error.format_message()
        line = _in_one_line(text, settings)
        if line == text:
            raise
        raise _with_text(error, line) from None
    except StdoutFailed as failure:
        if failure.unread:
            # The reader wants no more.
            raise click.exceptions.Exit(0) from None
        raise click.ClickException(str(failure)) from failure
    except Exception as error:
        said = _blame(error, settings, context)
        if said is None:
            # A bug of Pitstop's own, for which the traceback is the report.
            raise
        raise click.ClickException(_in_one_line(said, settings)) from error


def _blame(error: Exception, settings: Settings | None, context: click.Context | None) -> str | None:
    """Return a line about a foreign error: it blames a backend, a plugin or the system. None: it is a bug of Pitstop's own."""
    said = None if settings is None else settings.blame(error)
    of_a_plugin = None if context is None else context.meta.get(_PLUGIN)
    if said is None and isinstance(of_a_plugin, OfAPlugin):
        said = of_a_plugin.blame(error)
    if said is None and isinstance(error, OSError):
        # An error of the system, such as a full folder for temporary files.
        said = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return said


def _with_text(error: click.ClickException, line: str) -> click.ClickException:
    """Return an error with another text, and with the same exit code."""
    if isinstance(error, NoMessage):
        return NoMessage(line)
    context = error.ctx if isinstance(error, click.UsageError) else None
    return click.ClickException(line) if context is None else click.UsageError(line, context)


def _complain_of(unwritten: StdoutFailed | None) -> None:
    if unwritten is not None:
        raise click.ClickException(f"{unwritten} All else was done.")


def _in_one_line(text: str, settings: Settings | None) -> str:
    return plain(masked(" ".join(text.split()), settings))


@contextmanager
def _log_on_stderr(settings: Settings) -> Iterator[None]:
    logger, handler = logging.getLogger("pitstop"), _StderrHandler(settings)
    # A user who read that the store is away must also read that it is back. That line is not a warning.
    listener = logging.getLogger("pitstop.listener")
    level = listener.level
    listener.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        listener.setLevel(level)


class _StderrHandler(logging.Handler):
    """Prints warnings of the library, and lines of the listener, each in one line like the errors."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(logging.INFO)
        self._settings = settings

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
        line = _in_one_line(text, self._settings)
        click.echo(click.style(f"{record.levelname.capitalize()}: {line}", fg="yellow"), err=True)
