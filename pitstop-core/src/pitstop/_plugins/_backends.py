"""Find backends by name among the entry points of ``pitstop.backends``. Only the requested backend is loaded."""

from __future__ import annotations

import inspect
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
#: The distributions of the project's own backends, for programs in which they are not found.
_DISTRIBUTIONS = {
    "memory": "pitstop-memory",
    "mongo": "pitstop-mongo",
    "mongodb": "pitstop-mongo",
    "mongodb+srv": "pitstop-mongo",
    "postgres": "pitstop-postgres",
    "postgresql": "pitstop-postgres",
    "sqlite": "pitstop-sqlite",
}
#: The backend classes, for programs that give the class because names are not found.
_CLASSES = {
    "pitstop-memory": "pitstop_memory.MemoryBackend",
    "pitstop-mongo": "pitstop_mongo.MongoBackend",
    "pitstop-postgres": "pitstop_postgres.PostgresBackend",
    "pitstop-sqlite": "pitstop_sqlite.SqliteBackend",
}
#: The methods that core calls with kinds, and their arguments, if the backend has the capability KINDS.
_WITH_KINDS = {"lease": ("limit", "duration", "kinds"), "next_due": ("kinds",)}


class EntryPointResolver:
    """The last implementation of ``pitstop_create_backend``: the installed backend with that name."""

    @hookimpl(trylast=True)
    def pitstop_create_backend(self, type: str, options: Mapping[str, Any]) -> Backend:
        return load_backend(type).from_options(options)


def load_backend(name: str) -> type[Backend]:
    """Return the class of the installed backend called ``name``.

    :raises UnknownBackend: if there is none.
    :raises BackendLoadError: if it does not load or is not a backend of this version.
    :raises PluginConflict: if two distributions provide it.
    """
    candidates = installed(BACKEND_GROUP)
    named = [each for each in candidates if each.name == name]
    if not named:
        raise _unknown(name, candidates)
    entry_point = by_name(BACKEND_GROUP, named)[name]
    where = f"Backend {quoted(name)} from {origin(entry_point)}"
    return backend_class(load(entry_point, where), where, remedy(entry_point))


def are_different(name: str, other: str) -> bool:
    """Whether two names belong to two installed backends, rather than to one with an alias. Neither is loaded."""
    values = [{each.value for each in installed(BACKEND_GROUP) if each.name == given} for given in (name, other)]
    return all(values) and not values[0] & values[1]


def backend_class(candidate: object, where: str, otherwise: str) -> type[Backend]:
    """Return ``candidate`` if it is a backend class written for this version of the contract.

    :param otherwise: what to do if it is not.
    :raises BackendLoadError: if it is not; the text begins with ``where``.
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
            f"{where} does not state its capabilities: they are a {type(capabilities).__name__}, and no "
            f"pitstop.abc.Capability. Its class {candidate.__qualname__} must state capabilities = Capability(0) if it "
            f"has none, else for example Capability.DURABLE | Capability.WATCH. {otherwise}"
        )
    for method, arguments in _WITH_KINDS.items() if Capability.KINDS in capabilities else ():
        if not _takes(getattr(candidate, method), *arguments):
            raise BackendLoadError(
                f"{where} has the capability KINDS, but {_owner(candidate, method)}.{method}() takes no kinds. The signature "
                f"must be {method}({', '.join(['self', *arguments])}=None). A class that claims without kinds must state its "
                f"capabilities without Capability.KINDS. {otherwise}"
            )
    return candidate


def _takes(method: Any, *arguments: str) -> bool:
    """Whether a method can be called with these arguments by position. True if Python does not know its signature."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind("self", *arguments)
    except TypeError:
        return False
    return True


def _owner(cls: type, name: str) -> str:
    """Return the name of the class that defines an attribute of ``cls``."""
    return next(each.__qualname__ for each in cls.__mro__ if name in vars(each))


def _other_version(version: object, where: str, otherwise: str) -> str:
    ours = f"this pitstop-core has version {API_VERSION}."
    if type(version) is not int:
        return (
            f"{where} does not state the version of the backend API for which it is written: its api_version is {quoted(version)}; "
            f"{ours} {otherwise}"
        )
    if version > API_VERSION:
        otherwise = "Upgrade pitstop-core (pip install --upgrade pitstop-core)."
    return f"{where} is written for version {version} of the backend API; {ours} {otherwise}"


def suite_note(backend: type[Backend]) -> str | None:
    """Return a remark about the suite that a backend states it passed; None if there is none."""
    stated: object = backend.suite_version
    if stated is None:
        return "it does not state which version of the suite it passed (suite_version)"
    if type(stated) is not int:
        return f"its suite_version is a {type(stated).__name__}, and not a number such as {SUITE_VERSION}"
    if stated < SUITE_VERSION:
        return f"passed suite {stated}, this pitstop-core has {SUITE_VERSION}: run the suite again"
    return None


def _unknown(name: str, candidates: Any) -> PitstopError:
    if "://" in name or "@" in name:
        # Not quoted: a text that looks like a URL may hold a password.
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
    """Whether the package can be imported although no metadata names its distribution. Nothing is imported."""
    package = _package(distribution)
    # Imported modules come first, because a module that was made by hand has no spec.
    there = sys.modules[package] is not None if package in sys.modules else find_spec(package) is not None
    return there and not has_metadata(distribution)


def _package(distribution: str) -> str:
    return _CLASSES[distribution].partition(".")[0]


def missing_backends() -> str:
    """Return the reason why no backend at all is found, and the remedy."""
    if not has_metadata(_CORE):
        return _without_metadata()
    return f"Install one, such as: pip install {_DISTRIBUTIONS['sqlite']}"


def _without_metadata(distribution: str | None = None) -> str:
    """Return the fault of a program that was frozen or zipped without metadata, and its remedy.

    :param distribution: the distribution of the wanted backend, if it is one of the project's own.
    """
    distribution = distribution or "pitstop-sqlite"
    return (
        f"There is no metadata of the installed packages here, as in a program that was frozen or zipped without them, and "
        f"names are found by metadata. Give the class, as in {{'type': {_CLASSES[distribution]}}}; or pack the metadata and the "
        f"package (PyInstaller: --copy-metadata {distribution} --hidden-import {_package(distribution)})."
    )


def primary_names(candidates: Any) -> list[str]:
    """Return the names of backends, each backend once, under the first of its names without the aliases."""
    primary: dict[str, str] = {}
    for each in sorted(candidates, key=_name):
        primary.setdefault(each.value, each.name)
    return sorted(primary.values())


def _name(entry_point: EntryPoint) -> str:
    return entry_point.name
