"""The conversion of a document of the Clojure library: only the decision, without a store."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

import pitstop

from pitstop._decisions._adopt import decide_adoption, locked_until
from pitstop.abc import Capability, Legacy


NOW = 1_577_836_800_000  # 2020-01-01T00:00Z
HOUR = 3_600_000


def at(instant):
    return datetime.fromtimestamp(instant / 1000, UTC)


def decide(**fields):
    given = {name.replace("_", "-"): value for name, value in fields.items()}
    legacy = Legacy("a", "a", {"_id": "a", "ready": at(NOW), "msg": {"n": 1}, **given}, None)
    return decide_adoption(legacy, NOW * 1000, "revision", locked=False)


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"ready": at(NOW + 1)}, None),
        ({"ready": at(NOW)}, "its time is past: due at once"),
        ({"ready": at(NOW - 1)}, "its time is past: due at once"),
        ({"ready": at(NOW - HOUR), "recur": 2 * HOUR}, "its time is past: one occurrence comes at once"),
        ({"ready": at(NOW - HOUR), "recur": HOUR}, "its time is past: the last of 2 occurrences comes at once"),
        (
            {"ready": at(NOW - 3 * HOUR), "recur": HOUR, "expire": at(NOW - HOUR)},
            "its end is past: the last of 2 occurrences comes at once, and no more",
        ),
        (
            {"ready": at(NOW - 3 * HOUR), "recur": HOUR, "expire": at(NOW + 1)},
            "its end is past: the last of 4 occurrences comes at once, and no more",
        ),
    ],
)
def test_what_is_overdue_is_due_at_once_with_its_own_time(fields, note):
    adoption = decide(**fields)
    progress = adoption.record.progress
    assert at(progress.due) == at(progress.scheduled_for) == fields["ready"]
    assert adoption.notes == (() if note is None else (note,))


@pytest.mark.parametrize("recur", [HOUR, float(HOUR)])
@pytest.mark.parametrize("end", [None, at(NOW + 3 * HOUR)])
def test_a_series_is_anchored_at_ready_and_ends_before_expire(recur, end):
    record = decide(recur=recur, expire=end).record
    assert record.series == {
        "start": NOW,
        "end": None if end is None else NOW + 3 * HOUR,
        "every": {"v": 1, "kind": "every", "ms": HOUR},
        "catch_up": "latest",
        "grace": None,
    }


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (None, None),
        ("boom", "boom"),
        ({"error": "boom"}, "boom"),
        ({"error": "boom", "code": 5}, '{"error": "boom", "code": 5}'),
        ({"at": at(NOW)}, '{"at": "2020-01-01 00:00:00+00:00"}'),
        (5, "5"),
        ("x" * 3000, "x" * 1999 + "…"),
    ],
)
def test_the_last_error_is_kept_as_text(error, kept):
    assert decide(last_error=error).record.progress.last_error == kept
    assert decide(last_error=error).record.progress.attempts == 0


def test_a_lock_that_is_to_end_is_a_reason_to_leave_it_or_a_later_due():
    lock = at(NOW + HOUR)
    fields = {"_id": "a", "ready": at(NOW), "msg": {}, "locked": lock}
    legacy = Legacy("a", "a", fields, None)
    left = decide_adoption(legacy, NOW * 1000, "r", locked=False)
    assert (left.record, left.problem) == (
        None,
        "It is locked until 2020-01-01T01:00:00.000Z: an old listener may be working on it.",
    )
    told = decide_adoption(legacy, NOW * 1000, "r", locked=True)
    assert (told.record.progress.due, told.record.progress.scheduled_for) == (NOW + HOUR, NOW)
    assert told.notes == ("locked: due when its lock ends, 2020-01-01T01:00:00.000Z",)
    ended = decide_adoption(legacy, (NOW + HOUR) * 1000, "r", locked=False)
    assert ended.record.progress.due == NOW
    assert locked_until(legacy) == NOW + HOUR


def test_a_lock_that_ends_before_it_is_ready_does_not_hold_it():
    fields = {"_id": "a", "ready": at(NOW + 2 * HOUR), "msg": {}, "locked": at(NOW + HOUR)}
    told = decide_adoption(Legacy("a", "a", fields, None), NOW * 1000, "r", locked=True)
    assert told.record.progress.due == NOW + 2 * HOUR


@pytest.mark.parametrize("id", [None, False, "a"])
def test_the_id_in_the_message_may_be_missing_or_none_or_the_documents(id):
    adoption = decide(msg={"id": id, "n": 1})
    assert (adoption.record.id, adoption.record.message) == ("a", {"n": 1})


def test_the_problem_tells_no_value_of_the_message():
    for message in ({"a": object()}, "secret", {"id": "secret"}, {"a": {1: "secret"}}):
        adoption = decide(msg=message)
        assert adoption.record is None
        assert "secret" not in adoption.problem
        assert "secret" not in repr(adoption)


def test_the_id_may_be_one_that_is_too_long():
    legacy = Legacy("x" * 513, "x" * 513, {"_id": "x" * 513, "ready": at(NOW), "msg": {}}, None)
    assert "at most 512" in decide_adoption(legacy, NOW * 1000, "r", locked=False).problem


def test_a_backend_without_the_capability_says_so_by_name():
    with pitstop.init({"type": "memory"}) as pit:
        backend = pit._session.backend
        assert Capability.ADOPT not in backend.capabilities
        for call in (backend.legacy, lambda: backend.adopt([])):
            with pytest.raises(pitstop.Unsupported, match=r"MemoryBackend at .* does not have the capability ADOPT"):
                call()
