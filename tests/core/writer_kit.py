"""Helpers that the tests of the writer share."""

from __future__ import annotations

import sys

from datetime import timedelta

from core.kit import take
from pitstop import BackendUnavailable, OutcomeUnknown
from pitstop._engine import _settler, _writer


DUE = timedelta(0)


def fill(pit, count):
    pit.store_many([({"id": f"{number:04}"}, DUE) for number in range(count)])


def held(listener, count, claimed):
    """So many deliveries, of so many messages that were claimed: the rest is in hand."""
    first = take(listener, claimed)
    return [first, *(take(listener) for _ in range(count - 1))]


def settled(store):
    """How many messages each call of settle was about."""
    return store.batches


def interrupt():
    raise KeyboardInterrupt


def away(*_):
    raise BackendUnavailable("The test took the store away.")


def lose_reply(store, *, then_away=False):
    """The next settlement is done, and its reply gets lost."""
    settle = store.settle

    def lost(settlements):
        store.settle = settle
        ids = tuple(each.id for each in settlements)
        settle(settlements)
        store.down = then_away
        raise OutcomeUnknown("The test lost the reply.", ids=ids)

    store.settle = lost


def forget_outcome(store, id, *, then=lambda: None):
    """The next settlement of this message is done, and the store cannot say so: another user has done ``then`` meanwhile."""
    settle = store.settle

    def unsure(settlements):
        store.settle = settle
        answers = settle(settlements)
        then()
        return [None if each.id == id else done for each, done in zip(settlements, answers, strict=True)]

    store.settle = unsure


def interrupted_at(step, function):
    """Run it, and interrupt it at that line of the writer that it comes to; whether it came so far."""
    left = [step]

    def trace(frame, event, _):
        if frame.f_code.co_filename not in (_writer.__file__, _settler.__file__) or frame.f_code.co_name not in (
            "_write_all",
            "write",
        ):
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False
