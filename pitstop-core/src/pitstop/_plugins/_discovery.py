"""Entry points of installed distributions: find them by name, distinguish them, and name them in errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pitstop._errors import PluginConflict


if TYPE_CHECKING:
    from importlib.metadata import Distribution, EntryPoint, EntryPoints, PackageMetadata

__all__ = ["by_name", "has_metadata", "installed", "name_of", "origin", "version_of"]


def installed(group: str) -> EntryPoints:
    """Return the entry points of a group, of all installed distributions. None of them is loaded."""
    # The module imports email, socket and zipfile, which would take a fifth of the time of `import pitstop`.
    from importlib.metadata import entry_points  # noqa: PLC0415 - see above

    return entry_points(group=group)


def has_metadata(distribution: str) -> bool:
    """Whether the metadata of a distribution can be found. Frozen and zipped programs often lack it."""
    from importlib.metadata import Distribution, PackageNotFoundError  # noqa: PLC0415 - see installed

    try:
        # The metadata is found but not read: later Pythons raise if METADATA itself is missing.
        Distribution.from_name(distribution)
    except PackageNotFoundError:
        return False
    return True


def by_name(group: str, found: Iterable[EntryPoint]) -> dict[str, EntryPoint]:
    """Return entry points by their names.

    :raises PluginConflict: if two distributions claim one name for different objects.
    """
    named: dict[str, EntryPoint] = {}
    for entry_point in found:
        other = named.setdefault(entry_point.name, entry_point)
        # A distribution that stands on sys.path twice (an editable install beside its wheel) is no conflict.
        if other.value != entry_point.value:
            raise PluginConflict(
                f"Two distributions provide {entry_point.name!r} in {group}: {origin(other)} and {origin(entry_point)}. "
                f"Uninstall one of them (pip uninstall NAME)."
            )
    return named


def origin(entry_point: EntryPoint) -> str:
    """Return the distribution and version of an entry point, for people."""
    distribution = entry_point.dist
    if distribution is None:
        return entry_point.value
    name = name_of(distribution)
    if name is None:
        return f"{entry_point.value!r}, of a distribution that is only half installed (its METADATA has no name)"
    return f"{name} {version_of(distribution) or 'of no version'}"


def name_of(distribution: Distribution) -> str | None:
    """Return the name of a distribution; None if its METADATA is missing or cut short."""
    return _field(distribution, "Name")


def version_of(distribution: Distribution) -> str | None:
    """Return the version of a distribution; None if its METADATA is missing or cut short."""
    return _field(distribution, "Version")


def _field(distribution: Distribution, field: str) -> str | None:
    # If METADATA is missing altogether, later Pythons return None or raise.
    try:
        metadata: PackageMetadata | None = distribution.metadata
    except FileNotFoundError:
        metadata = None
    # Python 3.12 and later warn if a missing field is read, and later versions will raise.
    return metadata[field] if metadata is not None and field in metadata else None
