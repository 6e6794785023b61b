"""A process that is killed at any line of the writing code leaves each message whole: in its old form, or in its new one."""

from __future__ import annotations

import itertools
import os
import sys

import pytest

from pitstop.abc import Outcome, Progress, Record, Settlement
from pitstop_filesystem import FilesystemBackend
from pitstop_filesystem._folder import Folder


def record(id, version, due=1):
    return Record(id, {"version": version, "pad": "x" * 100_000}, None, f"{id}-{version}", Progress(due, 1))


def put_anew(backend):
    backend.put([record("a", 2, due=5), record("b", 2, due=0)])


def put_more(backend):
    backend.put([record("c", 1), record("d", 1)])


def lease(backend):
    backend.lease(2, 1000)


def settle(backend):
    leased = backend.lease(2, 60_000)
    (a, b) = [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased]
    backend.settle([a, Settlement("b", b.token, Outcome.RESCHEDULE, Progress(9, 9))])


def delete(backend):
    backend.delete("a")


#: The allowed forms of the messages after each operation: message ids to pairs of version and attempts.
ALLOWED = {
    put_anew: {"a": {(1, 0), (2, 0)}, "b": {(1, 0), (2, 0)}},
    put_more: {"a": {(1, 0)}, "b": {(1, 0)}, "c": {None, (1, 0)}, "d": {None, (1, 0)}},
    lease: {"a": {(1, 0), (1, 1)}, "b": {(1, 0), (1, 1)}},
    # 0 attempts are those of b before the operation, and those of b's next occurrence.
    settle: {"a": {(1, 0), (1, 1), None}, "b": {(1, 0), (1, 1)}},
    delete: {"a": {(1, 0), None}, "b": {(1, 0)}},
}


@pytest.mark.parametrize("operation", ALLOWED, ids=lambda each: each.__name__)
def test_killed_at_any_line_it_leaves_each_message_old_or_new(tmp_path, operation):
    for line in itertools.count(1):
        path = tmp_path / str(line)
        backend = FilesystemBackend.from_options({"path": path, "sync": False})
        backend.put([record("a", 1), record("b", 1)])

        killed = in_a_child_killed_at(line, operation, path)

        again = FilesystemBackend.from_options({"path": path, "sync": False, "busy_timeout": "1s"})
        for id, allowed in ALLOWED[operation].items():
            stored = again.get(id)
            seen = None if stored is None else (stored.message["version"], stored.progress.attempts)
            assert seen in allowed, f"{id} after a kill at line {line}"
            assert stored is None or stored.message == record(id, seen[0]).message
        there = again.scan(None, 10, None)
        assert len({each.id for each in there}) == len(there) == len(list((path / "messages").iterdir()))
        again.put([record("a", 3)])
        assert again.get("a") == record("a", 3)
        if not killed:
            assert line > 5, "the operation was killed at the lines before"
            return


def in_a_child_killed_at(line, operation, path):
    """Run an operation in a forked child. The child dies at once, buffers and all, at the n-th line of the writing code."""
    child = os.fork()
    if child == 0:
        left = line

        def trace(frame, event, _):
            nonlocal left
            if frame.f_code is not Folder.commit.__code__:
                return None
            left -= event == "line"
            if not left:
                os._exit(9)
            return trace

        code = 1
        try:
            backend = FilesystemBackend.from_options({"path": path, "sync": False})
            sys.settrace(trace)
            operation(backend)
            sys.settrace(None)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 9}
    return code == 9
