"""The shelf of the memory backend, interrupted by Ctrl-C at each step of a write: no record is lost to claims."""

from __future__ import annotations

import sys

import attrs
import pytest

import pitstop_memory._shelf

from pitstop.abc import Progress, Record
from pitstop_memory._shelf import Shelf


def record(number: int) -> Record:
    return Record("a", {"n": number}, None, f"r{number}", Progress(100 + number, 100 + number))


def put_again(shelf: Shelf, number: int) -> None:
    shelf.put(record(number))


def put_as_another_kind(shelf: Shelf, number: int) -> None:
    shelf.put(attrs.evolve(record(number), kind="mail"))


def change(shelf: Shelf, number: int) -> None:
    shelf.change("a", record(number).progress)


def put_another(shelf: Shelf, number: int) -> None:
    shelf.put(Record(f"b{number}", {}, None, "r", Progress(0, 0)))


def interrupted(write, *arguments: object, step: int) -> bool:
    """Call ``write`` with an interruption at a step of the shelf's code. Return whether it has that many steps."""
    left = [step]

    def trace(frame, event, _):
        if frame.f_code.co_filename != pitstop_memory._shelf.__file__:
            return None
        if event in {"call", "line"}:
            if not left[0]:
                sys.settrace(None)
                raise KeyboardInterrupt
            left[0] -= 1
        return trace

    sys.settrace(trace)
    try:
        write(*arguments)
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return False


@pytest.mark.parametrize("write", [put_again, put_as_another_kind, change, put_another])
def test_a_write_that_is_interrupted_leaves_each_record_to_claims(write):
    # Each write beside the first leaves an item in the heap, so that the shelf also sweeps its heap in between.
    for writes in (1, 66):
        step, more = 0, True
        while more:
            shelf = Shelf()
            shelf.put(record(writes))
            for number in range(1, writes):
                shelf.change("a", record(number).progress)
            more = interrupted(write, shelf, writes + 1, step=step)
            leased = {each.id for each in shelf.lease(5, "token", 1000, 2000)}
            assert leased == {id for id, _ in shelf.progress()}, step
            step += 1
        assert step > 5, "the write was interrupted at several steps"
