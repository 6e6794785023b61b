"""Load the object that an entry point names. If that fails, the error says where the fault is and what to do."""

from __future__ import annotations

from functools import reduce
from importlib import import_module
from typing import TYPE_CHECKING

from pitstop._errors import BackendLoadError, ConfigError
from pitstop._plugins._discovery import name_of
from pitstop.abc import did_you_mean


if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

__all__ = ["load", "remedy"]


def load(
    entry_point: EntryPoint, where: str, *, error: type[ConfigError] = BackendLoadError, noun: str = "backend"
) -> object:
    """Return the object that the entry point names.

    The entry point's own ``load()`` is not used. From its error it is not clear whether the module is missing, a part of it is
    missing, or the module itself raised.

    :param error: the class of the error.
    :param noun: the thing that the entry point offers.
    :raises ConfigError: of the class ``error``, if the object cannot be loaded; the text begins with ``where``.
    """
    cannot = f"{where} failed to load:"
    try:
        name, path = entry_point.module, entry_point.attr or ""
    except (AttributeError, ValueError, AssertionError):
        # The version of Python decides which of these is raised.
        raise error(
            f"{cannot} its entry point is {entry_point.value!r}, and not of the form 'module:Class'. {remedy(entry_point)}"
        ) from None
    module = None
    try:
        module = import_module(name)
        # A lazy module may import only here.
        return reduce(getattr, filter(None, path.split(".")), module)
    except ModuleNotFoundError as raised:
        raise error(f"{cannot} {_what_is_missing(raised, name, entry_point, noun)}") from raised
    except SystemExit as end:
        # A script that was registered by mistake, for example, must not end the program.
        raise error(
            f"{cannot} it ends the program when it is imported (exit code {end.code!r}). {remedy(entry_point)}"
        ) from end
    except Exception as raised:
        if module is not None and isinstance(raised, AttributeError):
            raise error(
                f"{cannot} its module {name!r} has no {path!r}, which the entry point names. "
                f"{did_you_mean(path, [each for each in vars(module) if not each.startswith('_')])}{remedy(entry_point)}"
            ) from raised
        raise error(f"{cannot} {type(raised).__name__}: {raised}. {remedy(entry_point)}") from raised


def remedy(entry_point: EntryPoint) -> str:
    """Return what a user can do about a faulty distribution."""
    if entry_point.dist is not None and name_of(entry_point.dist) is None:
        # pip can neither upgrade nor uninstall it.
        return "Remove what is left of it, and install it anew."
    return f"Upgrade it{_pip('install --upgrade', entry_point)}, or report it to its author."


def _what_is_missing(error: ModuleNotFoundError, name: str, entry_point: EntryPoint, noun: str) -> str:
    missing = error.name
    if missing is None:
        return f"{type(error).__name__}: {error}. {remedy(entry_point)}"
    again = _pip("install --force-reinstall", entry_point)
    if name == missing or name.startswith(f"{missing}."):
        return (
            f"there is no module {missing!r}, which its entry point names. Install it anew{again}, or report it to its "
            f"author."
        )
    return (
        f"it needs the module {missing!r}, which is not installed. Install that, or install the {noun} anew with all "
        f"its dependencies{again}."
    )


def _pip(command: str, entry_point: EntryPoint) -> str:
    name = None if entry_point.dist is None else name_of(entry_point.dist)
    return "" if name is None else f" (pip {command} {name})"
