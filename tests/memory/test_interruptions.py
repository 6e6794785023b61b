"""The shelf of the memory backend, interrupted by Ctrl-C at each step: no record is lost to claims, with kinds or without."""

from __future__ import annotations

import copy
import sys

import attrs
import pytest

import pitstop_memory._lines
import pitstop_memory._shelf

from pitstop.abc import AllBut, Progress, Record
from pitstop_memory._shelf import Shelf


_FILES = {pitstop_memory._shelf.__file__, pitstop_memory._lines.__file__}


def record(number: int, kind: str = "", id: str = "a") -> Record:
    return Record(id, {"n": number}, None, f"r{number}", Progress(100 + number, 100 + number), kind, {"n": number})


def put_again(shelf: Shelf, number: int) -> None:
    shelf.put(record(number))


def put_as_another_kind(shelf: Shelf, number: int) -> None:
    shelf.put(record(number, "mail"))


def change(shelf: Shelf, number: int) -> None:
    shelf.change("a", record(number).progress)


def put_another(shelf: Shelf, number: int) -> None:
    shelf.put(Record(f"b{number}", {}, None, "r", Progress(0, 0)))


def claim(shelf: Shelf, _: int) -> None:
    shelf.lease(3, "token", 1000, 2000)


def claim_some(shelf: Shelf, _: int) -> None:
    shelf.lease_of(["", "mail", "none"], 3, lambda: "token", 1000, 2000)


def claim_all_but_some(shelf: Shelf, _: int) -> None:
    shelf.lease_of(AllBut(["bulk"]), 3, lambda: "token", 1000, 2000)


def look(shelf: Shelf, _: int) -> None:
    shelf.first()
    shelf.first_of(AllBut(["none"]))


def interrupted(write, *arguments: object, step: int) -> bool:
    """Call ``write`` with an interruption at a step of the shelf's code. Return whether it has that many steps."""
    left = [step]

    def trace(frame, event, _):
        if frame.f_code.co_filename not in _FILES:
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


def assert_that_claims_find_all(shelf: Shelf, now: int) -> None:
    """Each record that is due comes in its order to a claim without kinds, and to the claims of its kind."""
    due = sorted(
        ((slot.progress.due, slot.order, slot.record) for slot in shelf._slots.values() if slot.progress.due <= now),
        key=lambda place: place[:2],
    )

    def found(claimed: list[Record]) -> list[tuple]:
        return [(each.id, each.message, each.revision, each.kind, each.policy) for each in claimed]

    expected = found([record for *_, record in due])
    assert found(copy.deepcopy(shelf).lease(100, "later", now, now + 9)) == expected
    later = copy.deepcopy(shelf)
    assert found(later.lease_of(AllBut(["none"]), 100, lambda: "later", now, now + 9)) == expected
    assert later.lease(100, "again", now, now + 9) == [], "a claim of kinds takes the records from claims without kinds"
    for kind in {each[3] for each in expected}:
        claimed = found(copy.deepcopy(shelf).lease_of([kind], 100, lambda: "later", now, now + 9))
        assert claimed == [each for each in expected if each[3] == kind]


@pytest.mark.parametrize("lines", [False, True], ids=["before_a_claim_of_kinds", "after_one"])
@pytest.mark.parametrize("write", [put_again, put_as_another_kind, change, put_another])
def test_a_write_that_is_interrupted_leaves_each_record_to_claims(write, lines: bool):
    # Each write beside the first leaves an item in the heap, so that the shelf also sweeps its heap in between.
    for writes in (1, 66):
        step, more = 0, True
        while more:
            shelf = Shelf()
            shelf.put(record(writes))
            if lines:
                shelf.first_of(["mail"])
            for number in range(1, writes):
                shelf.change("a", record(number).progress)
            before = shelf.copy("a")
            more = interrupted(write, shelf, writes + 1, step=step)

            assert_that_claims_find_all(shelf, 1000)
            after = shelf.copy("a")
            number = after.message["n"]
            if write in {put_again, put_as_another_kind}:
                assert after in (before, record(writes + 1, "mail" if write is put_as_another_kind else "")), step
            assert after.policy == {"n": number}, step
            step += 1
        assert step > 5, "the write was interrupted at several steps"


@pytest.mark.parametrize("before", [None, claim, claim_some], ids=["new", "claimed", "claimed_of_kinds"])
@pytest.mark.parametrize("call", [claim, claim_some, claim_all_but_some, look])
def test_a_claim_that_is_interrupted_leaves_each_record_to_claims(call, before):
    """Records that it has leased come back at the end of the lease, and the others at once, to claims of both sorts."""
    step, more = 0, True
    while more:
        shelf = Shelf()
        for number, kind in enumerate(["bulk", "mail", "", "mail", "bulk", "", "mail"]):
            shelf.put(record(number, kind, id=f"{number}"))
        if before is not None:
            # At the time of the claim below, these leases have run out. Bunches and items of them are still there.
            before(shelf, 0)
            shelf.change("0", Progress(150, 150))
            shelf.put(attrs.evolve(record(3, "bulk", id="3"), revision="again"))
            shelf.delete("1")
        now = 1000 if before is None else 2000
        claimed_before = [slot.progress for slot in shelf._slots.values()]
        more = interrupted(_at(call, now), shelf, 0, step=step)

        assert_that_claims_find_all(shelf, now)
        assert_that_claims_find_all(shelf, now + 1000)
        changed = sum(a is not b.progress for a, b in zip(claimed_before, shelf._slots.values(), strict=True))
        assert changed <= 3, step
        step += 1
    assert step > 5, "the claim was interrupted at several steps"
    assert changed == (0 if call is look else 3)


def _at(call, now: int):
    calls = {
        claim: lambda shelf, _: shelf.lease(3, "token", now, now + 1000),
        claim_some: lambda shelf, _: shelf.lease_of(["", "mail", "none"], 3, lambda: "token", now, now + 1000),
        claim_all_but_some: lambda shelf, _: shelf.lease_of(AllBut(["bulk"]), 3, lambda: "token", now, now + 1000),
    }
    return calls.get(call, call)
