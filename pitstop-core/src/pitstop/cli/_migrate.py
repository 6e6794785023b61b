"""``pitstop migrate``: make the tables of a store, or print the statements for an administrator."""

from __future__ import annotations

import click

from pitstop._pitstop import session_of
from pitstop.cli._output import print_json, print_line
from pitstop.cli._settings import Settings, common_options


__all__ = ["migrate"]


@click.command()
@click.option("--print", "printed", is_flag=True, help="Print the statements, and execute nothing.")
@common_options
@click.pass_obj
def migrate(settings: Settings, printed: bool) -> None:
    """Make the store, or the parts of it that are missing. Messages that are there stay as they are.

    A store is also made at its first use, unless the option create is false.
    """
    with settings.open() as pit:
        backend = session_of(pit).backend
        if not printed:
            backend.migrate()
            done = {"location": pit.location, "schema": None}
        else:
            done = {"location": pit.location, "schema": backend.schema()}
    if settings.json:
        print_json(done)
    elif not printed:
        print_line(f"{done['location']} is ready.")
    else:
        print_line(done["schema"] or f"-- {done['location']} needs no statements.")
