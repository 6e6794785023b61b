"""Draw the map of the modules from the code: lines, imports, threads; and find what makes it a tangle.

    python tools/modules.py                 # a table for each distribution, in Markdown
    python tools/modules.py pitstop-core    # one of them
    python tools/modules.py --reads         # each place that reads a private member of another object
    python tools/modules.py --check         # fail on circles, private reads, long modules, missing lines about threads

A module in one of the folders ``THREADED`` says which threads run it in a line of its docstring:

    Threads: the listener's background thread calls `run`, any thread calls `wake`.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parents[1]
DISTRIBUTIONS = (
    "pitstop-core",
    "pitstop-memory",
    "pitstop-sqlite",
    "pitstop-mongo",
    "pitstop-postgres",
    "pitstop-conformance",
)

#: Folders in which threads meet, so that each module names those that run it.
THREADED = ("pitstop._engine", "pitstop._consume", "pitstop._aio", "pitstop._health")
#: The longest module of core, in lines.
LONGEST = 400

#: Private members that may be read of other objects: a pattern of the code, and the reason.
ALLOWED: tuple[tuple[str, str], ...] = (
    (r"os\._exit", "the function of the standard library has this name"),
    (
        r"getattr\(threading, '_register_atexit', None\)",
        "the standard library offers no public hook before its own wait",
    ),
    (
        r"getattr\(self\.client, '_init_kwargs', None\)",
        "PyMongo offers no other way to make a client with the options of another; without it an address is asked for",
    ),
    (
        r"getattr\(self\._session, '_transaction_id', None\)",
        "PyMongo offers no other way to tell two transactions of a session apart; without it both count as one",
    ),
)

# Where the code stands. A number may only go down; the aim is that the three tables are empty.
#: Reads of private members of other objects, by file.
READS: dict[str, int] = {}
#: Lines of modules that are too long.
LONG: dict[str, int] = {}
#: Modules without a line about threads, by folder.
SILENT: dict[str, int] = {
    "pitstop._engine": 0,
}
#: Modules that are part of a circle of imports, by distribution.
CIRCLING: dict[str, int] = {
    "pitstop-core": 0,
}


class Read(NamedTuple):
    """A place that reads a private member of another object."""

    line: int
    code: str


class Module(NamedTuple):
    """A module, as its code describes it."""

    name: str
    path: Path
    lines: int
    #: Imports of the same distribution, those under TYPE_CHECKING and in functions included.
    imports: frozenset[str]
    threads: str
    reads: tuple[Read, ...]

    @property
    def place(self) -> str:
        return self.path.as_posix()


def modules(folder: Path) -> dict[str, Module]:
    """Return the modules of a distribution by their names, in the order of the names."""
    source = folder / "src"
    paths = {_name(path.relative_to(source)): path for path in sorted(source.rglob("*.py"))}
    return {name: _module(name, path, folder.parent, paths) for name, path in sorted(paths.items())}


def circles(found: dict[str, Module]) -> list[list[str]]:
    """Return the groups of modules that import each other, each one sorted (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(found[name].imports):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            group, stack[at:] = sorted(stack[at:]), []
            if len(group) > 1:
                groups.append(group)

    for name in found:
        if name not in index:
            visit(name)
    return sorted(groups)


def table(found: dict[str, Module]) -> str:
    """Return the map of a distribution as a Markdown table."""
    rows = ["| module | lines | imports | threads |", "|---|---:|---|---|"]
    for name, module in found.items():
        if not module.lines:
            continue
        imports = " ".join(f"`{each}`" for each in sorted(module.imports))
        rows.append(f"| `{name}` | {module.lines} | {imports} | {module.threads} |")
    return "\n".join(rows)


def faults(found: dict[str, Module]) -> Iterator[str]:
    """Yield each breach of the rules in a distribution."""
    groups = circles(found)
    if sum(map(len, groups)) > CIRCLING.get(_distribution(found), 0):
        yield from (f"these modules import each other: {', '.join(group)}" for group in groups)
    for module in found.values():
        if len(module.reads) > READS.get(module.place, 0):
            for read in module.reads:
                yield f"{module.place}:{read.line}: reads a private member of another object: {read.code}"
        most = LONG.get(module.place, LONGEST)
        if module.place.startswith("pitstop-core/") and module.lines > most:
            yield f"{module.place}: has {module.lines} lines, {most} at most"
    for folder, silent in _silent(found).items():
        if len(silent) > SILENT.get(folder, 0):
            yield f"these modules have no line `Threads: ...` in their docstring: {', '.join(silent)}"


def stale(found: dict[str, Module]) -> Iterator[str]:
    """Yield the numbers of the tables above that can go down."""
    by_place = {module.place: module for module in found.values()}
    for place, count in READS.items():
        module = by_place.get(place)
        if module and len(module.reads) < count:
            yield f"READS: {place} has {len(module.reads)} of {count}"
    for place, count in LONG.items():
        module = by_place.get(place)
        if module and module.lines < count:
            yield f"LONG: {place} has {module.lines} of {count}"
    circling = sum(map(len, circles(found)))
    if circling < CIRCLING.get(_distribution(found), 0):
        yield f"CIRCLING: {_distribution(found)} has {circling} of {CIRCLING[_distribution(found)]}"
    for folder, silent in _silent(found).items():
        if len(silent) < SILENT.get(folder, 0):
            yield f"SILENT: {folder} has {len(silent)} of {SILENT[folder]}"


def _distribution(found: dict[str, Module]) -> str:
    return next(iter(found.values())).path.parts[0]


def _silent(found: dict[str, Module]) -> dict[str, list[str]]:
    """Return the modules without a line about threads, by the folders that want one."""
    return {
        folder: [name for name, module in found.items() if name.startswith(f"{folder}.") and not module.threads]
        for folder in THREADED
        if folder in found
    }


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _module(name: str, path: Path, root: Path, paths: dict[str, Path]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    threads = re.search(r"^Threads: (.+(?:\n.+)*)", ast.get_docstring(tree) or "", re.MULTILINE)
    return Module(
        name=name,
        path=path.relative_to(root),
        lines=text.count("\n"),
        imports=frozenset(_imports(tree, name, paths)) - {name},
        threads=" ".join(threads[1].split()) if threads else "",
        reads=tuple(private_reads(tree)),
    )


def _imports(tree: ast.Module, name: str, paths: dict[str, Path]) -> Iterator[str]:
    package = name if paths[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in paths)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f"{source}.{alias.name}"
                if whole in paths:
                    yield whole
                elif source in paths:
                    yield source


def private_reads(tree: ast.Module) -> Iterator[Read]:
    """Yield the places that read, write or delete a private member of an object other than their own.

    Own is ``self``, ``cls``, ``super()``, ``type(self)``, the class itself, and another object of the class that is being
    defined, as its annotation or the call that made it shows. A function at the level of the module belongs to the classes
    of its module.
    """
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    yield from _reads_in(tree, "|".join(classes) or "(?!)", frozenset())


def _reads_in(node: ast.AST, owner: str, own: frozenset[str]) -> Iterator[Read]:
    if isinstance(node, ast.ClassDef):
        owner, own = node.name, frozenset({node.name})
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        own |= {"self", "cls", *_of_own_class(node, owner)}
    target = _private(node)
    if target is not None and ast.unparse(target) not in own | {"super()", "type(self)"}:
        code = ast.unparse(node)
        if not any(re.fullmatch(pattern, code) for pattern, _ in ALLOWED):
            yield Read(getattr(node, "lineno", 0), code)
    for child in ast.iter_child_nodes(node):
        yield from _reads_in(child, owner, own)


def _private(node: ast.AST) -> ast.expr | None:
    """Return the object whose private member is read here; None if no such member is."""
    if isinstance(node, ast.Attribute) and re.match(r"_(?!_)|__\w*(?<!__)$", node.attr):
        return node.value
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"getattr", "setattr", "delattr"}
    ):
        match node.args:
            case [target, ast.Constant(value=str(name)), *_] if re.match(r"_(?!_)", name):
                return target
    return None


def _of_own_class(function: ast.FunctionDef | ast.AsyncFunctionDef, owner: str) -> Iterator[str]:
    """Yield the names in a function that hold an object of its class."""
    annotated = re.compile(rf"'?(?:{owner}|Self)(?: \| None)?'?")
    made = re.compile(
        rf"(?:closing\()?(?:(?:{owner}|object|cls|super\(\))\.__new__|{owner}|cls|type\(self\))\(.*", re.DOTALL
    )
    arguments = function.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        if argument.annotation and annotated.fullmatch(ast.unparse(argument.annotation)):
            yield argument.arg
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if made.fullmatch(ast.unparse(value)):
                yield name
            case ast.withitem(context_expr=value, optional_vars=ast.Name(id=name)) if made.fullmatch(
                ast.unparse(value)
            ):
                yield name
            case ast.Call(func=ast.Name(id="isinstance"), args=[ast.Name(id=name), kind]) if re.fullmatch(
                rf"{owner}|type\(self\)", ast.unparse(kind)
            ):
                yield name


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the map, or the faults; return 1 if there are faults."""
    parser = argparse.ArgumentParser(description="Draw the map of the modules, and find what makes it a tangle.")
    parser.add_argument("distributions", nargs="*", help="folders of distributions; all of them, if none")
    parser.add_argument("--check", action="store_true", help="fail on circles, private reads and long modules")
    parser.add_argument("--reads", action="store_true", help="list the reads of private members of other objects")
    options = parser.parse_args(arguments)
    wrong = 0
    for name in options.distributions or [each for each in DISTRIBUTIONS if (ROOT / each).is_dir()]:
        found = modules(ROOT / name)
        if options.check:
            for fault in faults(found):
                wrong += 1
                print(fault)
            for number in stale(found):
                print(f"note: this number can go down in tools/modules.py: {number}")
        elif options.reads:
            for module in found.values():
                for read in module.reads:
                    print(f"{module.place}:{read.line}: {read.code}")
        else:
            lines = sum(module.lines for module in found.values())
            print(f"## {name}: {len(found)} modules, {lines} lines\n\n{table(found)}\n")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
