"""Find sentences without a noun as their subject: "what is due", "who waits", "nobody", "whoever", "so many were wanted".

The script reads comments, docstrings, the texts of errors, logs, asserts and command lines, and Markdown outside of code.
Without paths it reads all files of the repository (``CLEAN``), so that no such sentence comes back:

    python tools/plain_english.py                    # all files
    python tools/plain_english.py docs README.md     # these
    python tools/plain_english.py --all              # a count for each folder of the repository
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).parents[1]

#: Files and folders without such a sentence: all of the repository. Add each new folder of its root here.
CLEAN: tuple[str, ...] = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "README.md",
    "benchmarks",
    "docs",
    "examples",
    "noxfile.py",
    "pitstop-conformance",
    "pitstop-core",
    "pitstop-memory",
    "pitstop-mongo",
    "pitstop-postgres",
    "pitstop-sqlite",
    "pitstop-postgres",
    "tests",
    "tools",
)

#: Phrases that look like such a subject and are none. Each entry: a pattern at the place of the finding, and the reason.
EXCEPTIONS: tuple[tuple[str, str], ...] = (
    (r"[^.!;|]*\?(\W|$)", "a question asks for its subject: `What is this?`"),
    (r"what to\b", "an infinitive names a task: `what to do`"),
)

_OPENING = r"(?:(?:and|but|so|then|or|also|only|here|there|still|now|yet)\s+)?"
_CONJUNCTION = r"(?:that|while|because|since|if|unless|whether|when|once|until|where|so)"
_PREPOSITION = r"(?:for|of|by|to|with|from|in|than|as|before|after|like|at|on|but|without)"
_FRONTED = r"(?:after|at|before|by|from|for|if|in|inside|of|on|once|since|to|until|when|while|with|without)\b"
#: Where a clause begins that such a word must not open.
SUBJECTS = re.compile(
    rf"""
    ^\W*{_OPENING}(?P<first>what|who)\b                                    # What is due is emitted.
    | \b{_CONJUNCTION}\s+(?P<clause>what|who)\b(?!\s+to\b)   # ... because what is due is emitted.
    | \b{_PREPOSITION}\s+(?P<after>who)\b                    # For who waits ...
    | ^\W*{_FRONTED}(?:(?!\bwhat\b)[^,])*,\s+(?P<main>what|who)\s  # If it is late, what is due is emitted.
    | \b(?P<anywhere>whoever|somebody|nobody|someone|no\s+one(?=\s+(?:is|was|has|had|can|may|will|else|waits|who))
        |that\s+which|ones?\s+who)\b
    | \b(?P<many>so\s+many)(?=\s+(?:are|were|is|was|have|had|may|as|of|at|in|that)\b|\s*[,.;:)]|\s*$)
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: Code, links and quoted words are names of things: they count as nouns.
_NOUNS = re.compile(r":[\w:]+:`[^`]*`|(`+)(?!`).+?\1|<?https?://\S+|\"[^\"]{1,90}\"|“[^”]*”|\]\([^)]*\)", re.DOTALL)
_ENDS = re.compile(
    r"(?<=[.!?])[\"')*_]*\s+(?=[^a-z])|[:;](?=\s)|\n[ \t>]*\n|\n\s*(?:[-*+]|\d+\.)\s|[|]|\s[-–—]\s|\n(?=\s*[#:])|^\s*:[^:\n]+:",
    re.MULTILINE,
)
_FENCE = re.compile(r"^([ \t]*)(```+|~~~+).*?^\1\2[ \t]*$", re.MULTILINE | re.DOTALL)
_DOCTEST = re.compile(r"^[ \t]*>>> .*(?:\n[ \t]*\S.*)*", re.MULTILINE)
_PRAGMA = re.compile(r"#\s*(?:noqa|type:|fmt:|pragma|pylint|mypy)")
#: Calls whose words are read by people.
_SPOKEN = {
    "critical", "debug", "echo", "error", "exception", "fail", "info", "log", "print", "secho", "warn", "warning",
}  # fmt: skip


class Finding(NamedTuple):
    """A sentence without a noun as its subject."""

    line: int
    word: str
    sentence: str


def findings(text: str, line: int = 1) -> Iterator[Finding]:
    """Yield the findings in a text that begins at this line."""
    masked = _NOUNS.sub(lambda match: re.sub(r"\S", "x", match[0]), text)
    begin = 0
    for end in [*_ENDS.finditer(masked), None]:
        stop = end.start() if end else len(masked)
        # With the mark that ends it: a question is one by its mark.
        clause = masked[begin : end.start() + 1 if end else stop]
        for match in SUBJECTS.finditer(clause):
            at = match.start(str(match.lastgroup))
            if not any(re.match(pattern, clause[at:], re.IGNORECASE) for pattern, _ in EXCEPTIONS):
                sentence = " ".join(text[begin:stop].split())
                yield Finding(
                    line + masked.count("\n", 0, begin + at), " ".join(match[match.lastgroup or 0].split()), sentence
                )
        begin = end.end() if end else stop


def of_markdown(text: str) -> Iterator[Finding]:
    """Yield the findings of a page, without its blocks of code."""
    text = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    # A heading ends at its line, as a cell does at its bar.
    yield from findings(re.sub(r"^(#+ .*)$", r"\1|", text, flags=re.MULTILINE))


def of_python(source: str) -> Iterator[Finding]:
    """Yield the findings of a module: comments, docstrings, and strings that people read."""
    for line, text in _comments(source):
        yield from findings(text, line)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.body and isinstance(node.body[0], ast.Expr) and ast.get_docstring(node, clean=False):
                text = str(ast.get_docstring(node, clean=False))
                yield from findings(_DOCTEST.sub(lambda match: "\n" * match[0].count("\n"), text), node.body[0].lineno)
        else:
            for each in _spoken(node):
                for line, text in _strings(each):
                    yield from findings(text, line)


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield each comment with its first line. Lines that follow each other in one column are one comment."""
    lines: list[str] = []
    first, below, column = 0, 0, -1
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT or _PRAGMA.match(token.string):
            continue
        if token.start != (below, column) and lines:
            yield first, "\n".join(lines)
            lines = []
        if not lines:
            first = token.start[0]
        lines.append(token.string.lstrip("#:! "))
        below, column = token.start[0] + 1, token.start[1]
    if lines:
        yield first, "\n".join(lines)


def _spoken(node: ast.AST) -> list[ast.expr]:
    """Return the expressions of a node that hold words for people."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc.args
    if isinstance(node, ast.Assert) and node.msg is not None:
        return [node.msg]
    if isinstance(node, ast.Call):
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        helps = [keyword.value for keyword in node.keywords if keyword.arg in {"help", "reason"}]
        return helps + (node.args if name in _SPOKEN else [])
    return []


def _strings(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings within an expression. The values in an f-string count as nouns."""
    if isinstance(node, ast.JoinedStr):
        yield node.lineno, "".join(str(each.value) if isinstance(each, ast.Constant) else "x" for each in node.values)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
    elif not isinstance(node, ast.Call):
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


def of_file(path: Path) -> list[Finding]:
    """Return the findings of a file, in the order of their lines."""
    return sorted((of_python if path.suffix == ".py" else of_markdown)(path.read_text(encoding="utf-8")))


def files(paths: list[Path]) -> Iterator[Path]:
    """Yield the Python and Markdown files at and below these paths."""
    for path in paths:
        below = path.rglob("*") if path.is_dir() else [path]
        for each in sorted(below):
            if each.suffix in {".py", ".md"} and not any(part.startswith(".") for part in each.relative_to(path).parts):
                yield each


def main(arguments: list[str] | None = None) -> int:
    """Print the findings; return 1 if there are any."""
    parser = argparse.ArgumentParser(
        description="Find sentences whose subject is a bare what, who, nobody and the like."
    )
    parser.add_argument("paths", nargs="*", type=Path, help="files and folders; all of the repository, if none")
    parser.add_argument("--all", action="store_true", help="count the findings of each folder of the repository")
    options = parser.parse_args(arguments)
    if options.all:
        counts: Counter[str] = Counter()
        for path in files([ROOT]):
            found = len(of_file(path))
            if found:
                counts[str(path.parent.relative_to(ROOT))] += found
        for folder, count in sorted(counts.items()):
            print(f"{count:5}  {folder}")
        print(f"{sum(counts.values()):5}  in all")
        return 0
    total = 0
    for path in files(options.paths or [ROOT / each for each in CLEAN]):
        for finding in of_file(path):
            total += 1
            print(f"{path}:{finding.line}: {finding.word!r} is no subject: {finding.sentence}")
    return int(total > 0)


if __name__ == "__main__":
    sys.exit(main())
