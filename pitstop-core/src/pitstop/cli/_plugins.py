"""``pitstop plugins``: the installed plugins, whether they can be used, and whose fault it is if not."""

from __future__ import annotations

import click

from pitstop._plugins._fit import check_fit
from pitstop._plugins._hooks import PLUGIN_GROUP
from pitstop._plugins._survey import ALL, DISABLE_VARIABLE, disabled_names, survey
from pitstop.cli._output import needs_stdout, print_json, print_table, warn
from pitstop.cli._plugin_commands import COMMAND_GROUP, find_commands
from pitstop.cli._settings import Settings, common_options_but


__all__ = ["plugins"]


@click.command()
@common_options_but("No effect: no store is opened.")
@click.pass_context
def plugins(context: click.Context) -> None:
    """List the installed plugins: their distributions, and why a plugin cannot be used.

    The observers are listed in the order in which they are registered; an event is reported to the last one first. Plugins that a
    program gives to init() are not listed.
    """
    needs_stdout("plugins")
    settings = context.ensure_object(Settings)
    parent = context.parent
    own = parent.command.commands if parent is not None and isinstance(parent.command, click.Group) else {}
    found = [
        *((PLUGIN_GROUP, each) for each in survey(PLUGIN_GROUP, "Plugin", check_fit)),
        *((COMMAND_GROUP, each) for each in find_commands(own)),
    ]
    unknown = sorted(disabled_names() - {ALL} - {each.name for _, each in found})
    if unknown:
        warn(f"{DISABLE_VARIABLE} names plugins that are not installed: {', '.join(unknown)}.")
    if not found:
        warn("No plugin is installed. Distributions offer plugins as entry points of the group pitstop.plugins.")
    rows = [(group, each.told()) for group, each in found]
    if settings.json:
        for group, each in rows:
            print_json(
                {
                    "name": each.name,
                    "group": group,
                    "distribution": each.distribution,
                    "version": each.version,
                    "status": each.status,
                    "hooks": list(each.hooks),
                    "error": each.error,
                }
            )
        return
    print_table(
        ("name", "distribution", "version", "status", "offers", "error"),
        [
            (
                *(each.name, each.distribution, each.version, each.status),
                f"command {each.name}" if group == COMMAND_GROUP else ", ".join(each.hooks),
                each.error,
            )
            for group, each in rows
        ],
    )
