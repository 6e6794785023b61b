"""``pitstop backends``: what is installed, and whether it loads."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import attrs
import click

from pitstop import PitstopError
from pitstop._plugins._backends import BACKEND_GROUP, load_backend
from pitstop.cli._output import print_json, print_table
from pitstop.cli._settings import Settings, common_options_but


__all__ = ["backends"]


@attrs.frozen
class _Found:
    name: str
    distribution: str | None
    version: str | None
    error: str | None

    @property
    def status(self) -> str:
        return "ok" if self.error is None else "broken"


@click.command()
@common_options_but("Of no effect: no store is opened.")
@click.pass_obj
def backends(settings: Settings) -> None:
    """List the installed backends, and say which of them do not load.

    A backend's name is its "type" in a configuration and its scheme in a URL.
    """
    installed = entry_points(group=BACKEND_GROUP)
    found = [_look_at(each) for each in sorted(installed, key=lambda each: (each.name, each.value))]
    if settings.json:
        for each in found:
            print_json({**attrs.asdict(each), "status": each.status})
        return
    print_table(
        ("name", "distribution", "version", "status", "error"),
        [(each.name, each.distribution, each.version, each.status, each.error) for each in found],
    )


def _look_at(entry_point: EntryPoint) -> _Found:
    error: str | None = None
    try:
        load_backend(entry_point.name)
    except PitstopError as failure:
        error = str(failure)
    except SystemExit as end:
        # The import of a module is somebody else's code: a script that was registered by mistake would end us.
        error = f"It ends the program when it is imported (exit code {end.code})."
    distribution = entry_point.dist
    if distribution is None:
        return _Found(entry_point.name, None, None, error)
    return _Found(entry_point.name, distribution.name, distribution.version, error)
