"""The script finds sentences without a noun as their subject, and lets plain ones pass."""

from __future__ import annotations

from pathlib import Path

import plain_english
import pytest


BEFORE_AND_AFTER = [
    (
        "Nobody tries again to write it: tell, if its outcome is not known after all. Its user may try again.",
        "Give up on this delivery: raise the error unless its outcome became known meanwhile. The caller may settle it again.",
        "Nobody",
    ),
    (
        "Let go of what nobody is going to wait for, without a warning that nobody did.",
        'Close an awaitable that will never be awaited, so that Python does not warn "was never awaited".',
        "nobody",
    ),
    (
        "For who tries again by itself, or is about to leave: in its body the calls of this thread have one time.",
        (
            "All backend calls that this thread makes inside the context share one time budget. Callers that retry by "
            "themselves, or are shutting down, use it."
        ),
        "who",
    ),
    (
        "Give less than whoever stops your program gives it.",
        "Choose a shorter time than your process manager waits before it kills the process.",
        "whoever",
    ),
    (
        "Two signals within half a second are one: who starts programs may pass Ctrl-C on.",
        (
            "Two signals within half a second count as one, because some launchers forward Ctrl-C to a child that already "
            "received it."
        ),
        "who",
    ),
    ("ended because so many were wanted", "stopped after max_messages", "so many"),
    (
        "What the first emission of an occurrence chose holds for its retries.",
        "Retries keep the `scheduled_for` that the first emission chose.",
        "What",
    ),
]


def words(text: str) -> list[str]:
    return [finding.word for finding in plain_english.findings(text)]


@pytest.mark.parametrize(("before", "after", "word"), BEFORE_AND_AFTER)
def test_a_sentence_that_must_be_decoded_is_found_and_the_plain_one_is_not(before: str, after: str, word: str) -> None:
    assert word in words(before)
    assert words(after) == []


@pytest.mark.parametrize(
    "text",
    [
        "It waits; what is due is emitted.",
        "It waits: who comes first is served.",
        "It waits, because what is due is emitted.",
        "If the store is away, what is pending stays.",
        "It is written, and somebody reads it.",
        "The one who polls wakes the others.",
        "It returns that which was stored.",
        ":param ids: what was claimed.",
        "| option | what it does |",
        "- a list\n- what is due",
    ],
)
def test_a_clause_is_found_wherever_it_begins(text: str) -> None:
    assert len(words(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "## What is this?",
        "Users who store a message own it.",
        "The log says what happened.",
        "The table says what to do.",
        "There are so many messages that a page is shown.",
        'The word "nobody" is quoted, and `whoever` is code.',
        "See :meth:`nobody` and [a page](what.md).",
        "Callers that wait, and what they wait for, are in one list.",
    ],
)
def test_questions_quoted_words_code_and_objects_are_let_through(text: str) -> None:
    assert words(text) == []


def test_comments_docstrings_and_the_texts_of_errors_logs_asserts_and_options_are_read() -> None:
    source = '''
"""Nobody."""
# A comment of two lines, and
# nobody reads it.
x = "nobody"  # a trailing one: nobody
def f():
    """Return.

    >>> f("nobody")
    """
    log.warning("nobody %s", x)
    assert x, f"{x}: nobody"
    option("--x", help="nobody")
    raise ValueError(f"nobody: {x}")
'''

    found = plain_english.of_python(source)

    assert sorted(finding.line for finding in found) == [2, 4, 5, 11, 12, 13, 14]


def test_code_in_markdown_is_not_read() -> None:
    page = "Some text.\n\n```python\n# nobody\n```\n\nNobody.\n"

    assert [finding.line for finding in plain_english.of_markdown(page)] == [7]


def test_each_exception_has_a_reason() -> None:
    assert all(pattern and reason for pattern, reason in plain_english.EXCEPTIONS)


def test_each_package_is_read_and_so_are_the_docs_and_the_tests() -> None:
    packages = {path.parent.name for path in plain_english.ROOT.glob("pitstop-*/pyproject.toml")}

    assert packages | {"docs", "examples", "tests", "tools", "README.md", "CHANGELOG.md"} <= set(plain_english.CLEAN)


def test_the_files_that_are_clean_stay_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain_english.main([]) == 0, capsys.readouterr().out


def test_a_finding_is_printed_with_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("One.\n\nNobody waits.\n")

    assert plain_english.main([str(page)]) == 1
    assert capsys.readouterr().out == f"{page}:3: 'Nobody' is no subject: Nobody waits.\n"
