"""Backends by name: the entry points of ``pitstop.backends``, of which only the one that is asked for is loaded."""

from __future__ import annotations

import sys

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pitstop._errors import BackendLoadError, PitstopError, UnknownBackend
from pitstop._plugins._discovery import by_name, has_metadata, installed, origin
from pitstop._plugins._hookspecs import hookimpl
from pitstop._plugins._loading import load, remedy
from pitstop._values._quoting import quoted
from pitstop.abc import API_VERSION, SUITE_VERSION, Backend, Capability, did_you_mean


if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = [
    "BACKEND_GROUP",
    "EntryPointResolver",
    "are_different",
    "backend_class",
    "load_backend",
    "missing_backends",
    "suite_note",
]

BACKEND_GROUP = "pitstop.backends"

_CORE = "pitstop-core"
#: Where the backends of the project itself come from, for programs in which they are not found.
_DISTRIBUTIONS = {
    "memory": "pitstop-memory",
    "mongo": "pitstop-mongo",
    "mongodb": "pitstop-mongo",
    "mongodb+srv": "pitstop-mongo",
    "sqlite": "pitstop-sqlite",
}
#: The class of each, for programs that give it because names are not found.
_CLASSES = {
    "pitstop-memory": "pitstop_memory.MemoryBackend",
    "pitstop-mongo": "pitstop_mongo.MongoBackend",
    "pitstop-sqlite": "pitstop_sqlite.SqliteBackend",
}


class EntryPointResolver:
    """The last implementation of ``pitstop_create_backend``: the installed backend with that name."""

    @hookimpl(trylast=True)
    def pitstop_create_backend(self, type: str, options: Mapping[str, Any]) -> Backend:
        return load_backend(type).from_options(options)


def load_backend(name: str) -> type[Backend]:
    """The class of the installed backend called ``name``.

    :raises UnknownBackend: when there is none.
    :raises BackendLoadError: when it does not load or is no backend of this version.
    :raises PluginConflict: when two distributions provide it.
    """
    candidates = installed(BACKEND_GROUP)
    named = [each for each in candidates if each.name == name]
    if not named:
        raise _unknown(name, candidates)
    entry_point = by_name(BACKEND_GROUP, named)[name]
    where = f"Backend {quoted(name)} from {origin(entry_point)}"
    return backend_class(load(entry_point, where), where, remedy(entry_point))


def are_different(name: str, other: str) -> bool:
    """Whether two names are those of two installed backends, not aliases of one. Loads neither."""
    values = [{each.value for each in installed(BACKEND_GROUP) if each.name == given} for given in (name, other)]
    return all(values) and not values[0] & values[1]


def backend_class(candidate: object, where: str, otherwise: str) -> type[Backend]:
    """Check that ``candidate`` is a backend class written for this version of the contract.

    :param otherwise: what to do about it when it is not.
    :raises BackendLoadError: when it is not; the text begins with ``where``.
    """
    if not isinstance(candidate, type):
        raise BackendLoadError(
            f"{where} is no backend: a {type(candidate).__name__} is no subclass of pitstop.abc.Backend. {otherwise}"
        )
    if not issubclass(candidate, Backend):
        raise BackendLoadError(
            f"{where} is no backend: the class {candidate.__qualname__} is no subclass of pitstop.abc.Backend. {otherwise}"
        )
    version = getattr(candidate, "api_version", None)
    if version != API_VERSION:
        raise BackendLoadError(_other_version(version, where, otherwise))
    missing = sorted(candidate.__abstractmethods__)
    if missing:
        raise BackendLoadError(
            f"{where} is not finished: the class {candidate.__qualname__} lacks {', '.join(missing)}. {otherwise}"
        )
    capabilities: object = candidate.capabilities
    if not isinstance(capabilities, Capability):
        raise BackendLoadError(
            f"{where} does not say what it can do: its capabilities are a {type(capabilities).__name__}, and no "
            f"pitstop.abc.Capability. Its class {candidate.__qualname__} is to say capabilities = Capability(0) when it "
            f"has none, else such as Capability.DURABLE | Capability.WATCH. {otherwise}"
        )
    return candidate


def _other_version(version: object, where: str, otherwise: str) -> str:
    ours = f"this pitstop-core has version {API_VERSION}."
    if type(version) is not int:
        return (
            f"{where} does not say for which version of the backend API it is written: its api_version is {quoted(version)}; "
            f"{ours} {otherwise}"
        )
    if version > API_VERSION:
        otherwise = "Upgrade pitstop-core (pip install --upgrade pitstop-core)."
    return f"{where} is written for version {version} of the backend API; {ours} {otherwise}"


def suite_note(backend: type[Backend]) -> str | None:
    """What somebody should know about the suite that a backend says it passed; None: nothing."""
    stated: object = backend.suite_version
    if stated is None:
        return "it does not say which version of the suite it passed (suite_version)"
    if type(stated) is not int:
        return f"its suite_version is a {type(stated).__name__}, and not a number such as {SUITE_VERSION}"
    if stated < SUITE_VERSION:
        return f"passed suite {stated}, this pitstop-core has {SUITE_VERSION}: run the suite again"
    return None


def _unknown(name: str, candidates: Any) -> PitstopError:
    if "://" in name or "@" in name:
        # Not quoted: what looks like a URL may hold a password.
        return UnknownBackend(
            "The type is no name of a backend; it looks like a URL. Give it as 'url', or in place of the mapping."
        )
    distribution = _DISTRIBUTIONS.get(name)
    without = not has_metadata(_CORE)
    if (without and not candidates) or (distribution is not None and (without or _is_without_metadata(distribution))):
        return UnknownBackend(f"Backend {quoted(name)} cannot be found by its name. {_without_metadata(distribution)}")
    if distribution is not None:
        return UnknownBackend(f"Backend {quoted(name)} is not installed. Install it with: pip install {distribution}")
    names = {each.name for each in candidates}
    hint = did_you_mean(name, names | _DISTRIBUTIONS.keys())
    return UnknownBackend(
        f"Unknown backend type {quoted(name)}. {hint}Installed: {', '.join(primary_names(candidates)) or 'none'}."
    )


def _is_without_metadata(distribution: str) -> bool:
    """Whether the package can be imported, and nothing says from which distribution it is. Imports nothing."""
    package = _package(distribution)
    # First what is imported: a module that was made by hand has no spec.
    there = sys.modules[package] is not None if package in sys.modules else find_spec(package) is not None
    return there and not has_metadata(distribution)


def _package(distribution: str) -> str:
    return _CLASSES[distribution].partition(".")[0]


def missing_backends() -> str:
    """Explain why no backend at all is found, and give the remedy."""
    if not has_metadata(_CORE):
        return _without_metadata()
    return f"Install one, such as: pip install {_DISTRIBUTIONS['sqlite']}"


def _without_metadata(distribution: str | None = None) -> str:
    """Explain the fault of a program that was frozen or zipped without metadata, and its remedy.

    :param distribution: that of the wanted backend, if it is one of the project's own.
    """
    distribution = distribution or "pitstop-sqlite"
    return (
        f"There is no metadata of the installed packages here, as in a program that was frozen or zipped without them, and "
        f"a name is found by them. Give the class, as in {{'type': {_CLASSES[distribution]}}}; or pack the metadata and the "
        f"package (PyInstaller: --copy-metadata {distribution} --hidden-import {_package(distribution)})."
    )


def primary_names(candidates: Any) -> list[str]:
    """The names of backends, each backend once: under the first of its names, aliases left out."""
    primary: dict[str, str] = {}
    for each in sorted(candidates, key=_name):
        primary.setdefault(each.value, each.name)
    return sorted(primary.values())


def _name(entry_point: EntryPoint) -> str:
    return entry_point.name
