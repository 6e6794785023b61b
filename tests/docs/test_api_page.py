"""The API page names everything public."""

from __future__ import annotations

import inspect
import re

from pathlib import Path

import attrs
import pytest

import pitstop
import pitstop.testing


PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
#: Methods of a listener that only the engine and the handling of forks call.
INTERNAL = {(pitstop.Listener, name) for name in ("notice", "after_fork", "forget", "flush", "at_exit", "end_soon")}
#: Methods of a clock that only the engine calls.
FOR_THE_ENGINE = {"time_us", "monotonic", "wait", "move_to", "after_fork"}


def section(heading: str) -> str:
    """Return the text under this heading, up to the next heading of its level."""
    (found,) = re.findall(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def names_in_code(text: str) -> set[str]:
    """Return each name at the start of a code span: ``stop`` for `stop()`, but not for `listener.stop()`."""
    return {name for code in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"^(\w+)", code)}


def public(kind: type) -> list[str]:
    # The facade is one class for its users, and two modules for its authors.
    parts = kind.__mro__[:-1] if kind is pitstop.Pitstop else (kind,)
    own = {name for part in parts for name in vars(part) if not name.startswith("_")}
    return sorted(name for name in own if (kind, name) not in INTERNAL)


@pytest.mark.parametrize("name", pitstop.__all__)
def test_every_public_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", PAGE), name


@pytest.mark.parametrize(
    ("heading", "kind", "name"),
    [
        pytest.param(f"`{kind.__name__}`", kind, name, id=f"{kind.__name__}.{name}")
        for kind in (pitstop.Pitstop, pitstop.Listener, pitstop.Delivery)
        for name in public(kind)
    ],
)
def test_every_public_member_is_in_its_section(heading: str, kind: type, name: str) -> None:
    assert name in names_in_code(section(heading)), f"{kind.__name__}.{name}"


@pytest.mark.parametrize("kind", [pitstop.Entry, pitstop.Stats])
def test_every_field_is_on_the_page(kind: type) -> None:
    named = names_in_code(section("`Entry` and `Stats`"))
    assert {field.name for field in attrs.fields(kind)} <= named


def test_every_option_of_consume_and_every_field_of_its_summary_is_in_its_section() -> None:
    named = names_in_code(section("`consume`"))
    options = inspect.signature(pitstop.Pitstop.consume).parameters.keys() - {"self", "handler"}
    assert options | {field.name for field in attrs.fields(pitstop.Summary)} | {"handled"} <= named


def test_every_method_of_the_clock_for_tests_is_on_the_page() -> None:
    named = names_in_code(section("Testing with `pitstop.testing.ManualClock`"))
    assert set(public(pitstop.testing.ManualClock)) - FOR_THE_ENGINE <= named


def test_every_error_is_drawn_in_the_tree() -> None:
    tree = section("Errors")
    for name in pitstop.__all__:
        kind = getattr(pitstop, name)
        if isinstance(kind, type) and issubclass(kind, pitstop.PitstopError):
            assert re.search(rf"\b{name}\b", tree), name


def test_the_page_is_short() -> None:
    assert len(PAGE.splitlines()) < 400


def test_a_cell_of_a_table_holds_a_phrase() -> None:
    cells = [cell for line in PAGE.splitlines() if line.startswith("|") for cell in line.split("|")]
    assert [cell for cell in cells if len(cell.strip()) > 160] == []
