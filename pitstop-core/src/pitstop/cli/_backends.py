"""``pitstop backends``: the installed backends, whether they load, and their own statements."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import attrs
import click

from pitstop import PitstopError
from pitstop._plugins._backends import BACKEND_GROUP, load_backend, missing_backends, suite_note
from pitstop._plugins._discovery import installed, name_of, version_of
from pitstop.abc import Capability
from pitstop.cli._output import needs_stdout, print_json, print_table, warn
from pitstop.cli._settings import Settings, common_options_but


__all__ = ["backends"]


@attrs.frozen
class _Found:
    name: str
    distribution: str | None
    version: str | None
    #: The names of its capabilities.
    capabilities: list[str] = attrs.field(factory=list)
    #: The version of the suite that the backend states it passed.
    suite_version: int | None = None
    error: str | None = None
    #: A remark about a backend that loads.
    hint: str | None = None

    @property
    def status(self) -> str:
        return "ok" if self.error is None else "broken"


@click.command()
@common_options_but("No effect: no store is opened.")
@click.pass_obj
def backends(settings: Settings) -> None:
    """List the installed backends: their capabilities, and why a backend does not load.

    A backend's name is its "type" in a configuration and its scheme in a URL. "suite" is the version of the conformance
    suite that the backend states it passed.
    """
    needs_stdout("backends")
    found = [_look_at(each) for each in sorted(installed(BACKEND_GROUP), key=lambda each: (each.name, each.value))]
    if not found:
        warn(f"No backend is found. {missing_backends()}")
    if settings.json:
        for each in found:
            print_json({**attrs.asdict(each), "status": each.status})
        return
    print_table(
        ("name", "distribution", "version", "status", "suite", "capabilities", "error or hint"),
        [
            (
                *(each.name, each.distribution, each.version, each.status),
                None if each.suite_version is None else str(each.suite_version),
                ", ".join(each.capabilities),
                each.error or each.hint,
            )
            for each in found
        ],
    )


def _look_at(entry_point: EntryPoint) -> _Found:
    distribution = entry_point.dist
    name, version = (None, None) if distribution is None else (name_of(distribution), version_of(distribution))
    found = _Found(entry_point.name, name, version)
    try:
        backend = load_backend(entry_point.name)
    except PitstopError as failure:
        return attrs.evolve(found, error=" ".join(str(failure).split()))
    # Any value is possible here, and a careless class must not hide the others.
    suite: object = backend.suite_version
    return attrs.evolve(
        found,
        capabilities=[str(each.name) for each in Capability if each in backend.capabilities],
        suite_version=suite if type(suite) is int else None,
        hint=suite_note(backend),
    )
