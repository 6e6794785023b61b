"""For authors of commands: a distribution adds a command to ``pitstop`` by an entry point of the group ``pitstop.commands``.

The entry point names a :class:`click.Command`. ::

    @click.command()
    @common_options
    @pass_settings
    def count(settings):
        with settings.open_existing() as pit:
            print_json({"messages": pit.stats().total})

This module needs the extra ``[cli]``. Import it only in the module of the command, which is not imported otherwise.
"""

from __future__ import annotations

import click

from pitstop.cli._output import print_json, print_table, warn
from pitstop.cli._settings import Settings, common_options


__all__ = ["Settings", "common_options", "pass_settings", "print_json", "print_table", "warn"]

#: Decorates a command that takes its :class:`Settings` as the first argument: ``settings.json``, ``settings.open()`` and
#: ``settings.open_existing()``.
pass_settings = click.make_pass_decorator(Settings, ensure=True)
