"""Commands of plugins: the entry points of the group ``pitstop.commands``. A command is loaded when it is used or listed."""

from __future__ import annotations

import traceback

from collections.abc import Collection
from pathlib import Path
from typing import Any

import attrs
import click

from pitstop import PluginLoadError
from pitstop._plugins._discovery import installed
from pitstop._plugins._survey import Found, disabled_names, is_disabled, survey


__all__ = ["COMMAND_GROUP", "OfAPlugin", "command_names", "find_commands", "load_command"]

COMMAND_GROUP = "pitstop.commands"


@attrs.define
class OfAPlugin:
    """A command of a plugin that runs."""

    found: Found

    def blame(self, error: Exception) -> str:
        """Return a line that blames the plugin for an error that its command let out."""
        frames = traceback.extract_tb(error.__traceback__)
        place = f" (at {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
        # The text of an error may hold anything, also contents of a message.
        return (
            f"{self.found.where} let an error out, which is a fault in it: {type(error).__name__}{place}. "
            f"Report it to its author."
        )


class _Broken(click.Command):
    """Stands for a command that cannot be loaded: it is listed, and raises its error when it is used."""

    def __init__(self, found: Found) -> None:
        super().__init__(
            found.name,
            short_help=f"(broken, from {found.distribution}: see 'pitstop plugins')",
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        )
        self._error = found.error

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        assert self._error is not None, "it is broken"
        raise self._error


def command_names(own: Collection[str]) -> list[str]:
    """Return the names of the commands of plugins that are not disabled. None is loaded."""
    names = disabled_names()
    found = {each.name for each in installed(COMMAND_GROUP)}
    return sorted(each for each in found if each not in own and not is_disabled(each, names))


def load_command(name: str, own: Collection[str]) -> tuple[click.Command, Found] | None:
    """Return the command of a plugin; None if no plugin that is enabled has one of this name."""
    if name not in command_names(own):
        return None
    found = next(each for each in find_commands(own, only=name) if each.name == name)
    command = found.plugin
    return (command if isinstance(command, click.Command) else _Broken(found)), found


def find_commands(own: Collection[str], *, only: str | None = None) -> list[Found]:
    """Return the commands of plugins, those that cannot be used included.

    :param own: the names of Pitstop's own commands.
    :param only: the name of the only command to load. None: all.
    """

    def accept(command: object, where: str) -> tuple[str, ...]:
        if not isinstance(command, click.Command):
            raise PluginLoadError(
                f"{where} is no command: it is a {type(command).__name__}, and no click.Command. Put @click.command() before it."
            )
        return ()

    found = survey(COMMAND_GROUP, "Command", accept, only=only)
    for each in found:
        if each.name in own and each.status == "ok":
            each.status, each.plugin = "broken", None
            each.error = PluginLoadError(
                f"{each.where} has the name of a command of Pitstop's own, which is used instead. Its author must rename it."
            )
    return found
