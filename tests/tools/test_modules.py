"""The map of the modules is drawn from the code, and names each thing that makes it a tangle."""

from __future__ import annotations

import ast

from pathlib import Path

import modules
import pytest


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution of core with one module in its engine, which has nothing wrong."""
    for table in ("READS", "LONG", "SILENT", "CIRCLING"):
        monkeypatch.setattr(modules, table, {})
    engine = tmp_path / "pitstop-core" / "src" / "pitstop" / "_engine"
    engine.mkdir(parents=True)
    for folder in (engine, engine.parent):
        (folder / "__init__.py").touch()
    (engine / "_buffer.py").write_text(
        '"""A buffer.\n\nThreads: any thread calls `put`,\nthe worker calls `pop`.\n"""\n'
    )
    return engine


def faults(engine: Path) -> list[str]:
    return list(modules.faults(modules.modules(engine.parents[2])))


def test_a_module_says_which_threads_run_it(package: Path) -> None:
    found = modules.modules(package.parents[2])

    assert found["pitstop._engine._buffer"].threads == "any thread calls `put`, the worker calls `pop`."
    assert "| `pitstop._engine._buffer` | 5 |  | any thread calls" in modules.table(found)
    assert faults(package) == []


def test_a_module_of_the_engine_without_a_line_about_threads_is_named(package: Path) -> None:
    (package / "_pace.py").write_text("")

    (fault,) = faults(package)
    assert "pitstop._engine._pace" in fault


@pytest.mark.parametrize(
    "imported",
    [
        "from pitstop import _b",
        "from pitstop._b import x",
        "import pitstop._b",
        "from ._b import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pitstop._b import x",
        "def f():\n    from pitstop._b import x",
    ],
)
def test_a_circle_of_imports_is_named(package: Path, imported: str) -> None:
    (package.parent / "_a.py").write_text(f"{imported}\n")
    (package.parent / "_b.py").write_text("from pitstop._a import y\n")

    assert faults(package) == ["these modules import each other: pitstop._a, pitstop._b"]


def test_a_long_module_of_core_is_named(package: Path) -> None:
    (package.parent / "_long.py").write_text("x = 1\n" * 401)

    (fault,) = faults(package)
    assert fault == "pitstop-core/src/pitstop/_long.py: has 401 lines, 400 at most"


def test_a_file_may_not_get_worse_than_it_was(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = "pitstop-core/src/pitstop/_a.py"
    (package.parent / "_a.py").write_text("x._y\nx._z\n")
    monkeypatch.setattr(modules, "READS", {place: 1})
    assert [fault.partition(" ")[0] for fault in faults(package)] == [f"{place}:1:", f"{place}:2:"]

    monkeypatch.setattr(modules, "READS", {place: 3})
    assert faults(package) == []
    assert list(modules.stale(modules.modules(package.parents[2]))) == [f"READS: {place} has 2 of 3"]


@pytest.mark.parametrize(
    "code",
    [
        "x._y",
        "x._y = 1",
        "del x._y",
        "def f(self): return self._x._y",
        "x.y._z",
        "x.__y",
        "getattr(x, '_y')",
        "setattr(x, '_y', 1)",
        "class A:\n    def f(self, other): return other._x",
        "class A:\n    def f(self, other: B): return other._x",
        "class B: ...\nclass A:\n    def f(self, other: B): return other._x",
    ],
)
def test_a_read_of_a_private_member_of_another_object_is_found(code: str) -> None:
    assert len(list(modules.private_reads(ast.parse(code)))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "class A:\n    def f(self): return self._x, super()._x, type(self)._x, A._x, self.__class__",
        "class A:\n    @classmethod\n    def f(cls): return cls._x",
        "class A:\n    def f(self, other: A | None): return other._x",
        "class A:\n    def f(self, other: object): return isinstance(other, A) and other._x",
        "class A:\n    def f(self):\n        new = type(self)()\n        new._x = 1",
        "class A: ...\ndef f(a: A): return a._x",
        "class A: ...\ndef f():\n    a = A(1)\n    return a._x",
        "def decorated(self): return self._x",
        "import os\nos._exit(1)",
    ],
)
def test_a_read_of_an_own_private_member_is_none(code: str) -> None:
    assert list(modules.private_reads(ast.parse(code))) == []


def test_the_repository_is_no_worse_than_its_tables_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert modules.main(["--check"]) == 0, capsys.readouterr().out


def test_each_allowed_read_has_a_reason() -> None:
    assert all(pattern and reason for pattern, reason in modules.ALLOWED)


def test_the_table_and_the_reads_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert modules.main(["pitstop-memory"]) == 0
    assert modules.main(["--reads", "pitstop-memory"]) == 0
    assert capsys.readouterr().out.startswith("## pitstop-memory: ")
