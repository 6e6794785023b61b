"""The checker finds each fault, in histories that are made by hand with one fault each."""

from __future__ import annotations

import pytest

from torture.checker import check
from torture.history import Event, History, read


LOCK = 5000


def event(kind, at, took=0.01, outcome="ok", **fields):
    """Return an event that began at ``at`` seconds by both clocks."""
    ended = {} if took is None else {"ended": at + took, "ended_wall": at + took}
    values = {"process": "p", "id": "a", "version": "a.0", **fields}
    return Event(kind=kind, begun=at, begun_wall=at, outcome=outcome, **ended, **values)


def stored(at, due=10_000, version="a.0", **fields):
    return event("store", at, version=version, process="producer", due=due, **fields)


def emitted(at, version="a.0", by="one", attempt=1, scheduled_for=10_000, claimed=None, **fields):
    until = (round(at * 1000) if claimed is None else claimed) + LOCK
    lease = {"leased_until": until, "lock": LOCK, "attempt": attempt, "scheduled_for": scheduled_for}
    return event("emit", at, 0, version=version, process=by, key=f"a:{scheduled_for}", **lease, **fields)


def settled(kind, emission, at, outcome="ok", took=0.01):
    lease = {name: getattr(emission, name) for name in ("leased_until", "lock", "attempt", "scheduled_for", "key")}
    return event(kind, at, took, outcome, version=emission.version, process=emission.process, id=emission.id, **lease)


def acked(emission, at, outcome="ok", took=0.01):
    return settled("ack", emission, at, outcome, took)


def rules(verdict):
    return sorted(each.rule for each in verdict.violations)


def test_a_message_that_is_stored_emitted_and_acked_is_ok():
    emission = emitted(10)
    verdict = check([stored(1), emission, acked(emission, 10.1)])
    assert (verdict.stored, verdict.ok, verdict.emissions) == (1, 1, 1)
    assert (verdict.lost, verdict.unexpected, verdict.recovered) == ([], [], 0)
    assert not verdict.duplicated
    assert rules(verdict) == []


def test_a_message_that_is_stored_and_never_emitted_is_lost():
    verdict = check([stored(1)])
    assert verdict.lost == ["a.0"]
    assert rules(verdict) == ["S1"]


def test_a_message_that_is_still_there_is_late_but_not_lost():
    verdict = check([stored(1)], left=["a.0"])
    assert verdict.lost == []
    assert rules(verdict) == ["L1"]


@pytest.mark.parametrize("outcome", ["unknown", "fail"])
def test_a_message_that_was_perhaps_not_stored_may_be_missing(outcome):
    assert rules(check([stored(1, outcome=outcome)])) == []


def test_a_message_that_was_perhaps_stored_and_is_emitted_is_recovered():
    verdict = check([stored(1, took=None, outcome="unknown"), emitted(10)])
    assert (verdict.ok, verdict.recovered) == (0, 1)
    assert rules(verdict) == []


@pytest.mark.parametrize("store", [[], [stored(1, outcome="fail")], [stored(1, version="a.1", id="b")]])
def test_a_message_that_was_never_stored_is_unexpected(store):
    verdict = check([*store, emitted(10)])
    assert verdict.unexpected == ["a.0"]
    assert "S2" in rules(verdict)


def test_replaced_before_it_was_emitted_it_need_not_be():
    verdict = check([stored(1), stored(2, version="a.1"), emitted(10, version="a.1")])
    assert (verdict.stored, verdict.ok) == (2, 1)
    assert rules(verdict) == []


def test_of_a_message_that_was_perhaps_replaced_one_version_is_enough():
    perhaps = stored(2, version="a.1", outcome="unknown")
    assert rules(check([stored(1), perhaps, emitted(10)])) == []
    assert rules(check([stored(1), perhaps, emitted(10, version="a.1")])) == []
    assert rules(check([stored(1), perhaps])) == ["S1"]


def test_the_older_version_does_not_make_up_for_the_newer():
    verdict = check([stored(1), emitted(10), stored(10.5, version="a.1")])
    assert verdict.lost == ["a.1"]


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_removed_it_need_not_be_emitted(outcome):
    remove = event("remove", 2, process="producer", version="", outcome=outcome)
    assert rules(check([stored(1), remove])) == []


def test_removed_in_vain_it_must_be_emitted():
    remove = event("remove", 2, process="producer", version="", outcome="fail")
    assert rules(check([stored(1), remove])) == ["S1"]


def test_an_early_emission_is_seen():
    assert rules(check([stored(1), emitted(9.9)])) == ["S3"]
    # It was handed out in time, but leased before that.
    assert rules(check([stored(1), emitted(10, claimed=9_999)])) == ["S3"]


def test_two_live_leases_are_seen():
    first = emitted(10)
    verdict = check([stored(1), first, emitted(14.999, by="two", attempt=2)])
    assert rules(verdict) == ["S4"]
    assert "leased by two 1 ms before one's lease ended" in str(verdict.violations[0])
    assert verdict.duplicated == {"no reason": 1}


def test_an_emission_after_an_ack_is_seen_also_when_the_lease_is_over():
    first = emitted(10)
    verdict = check([stored(1), first, acked(first, 10.1), emitted(16, by="two", attempt=2)])
    assert rules(verdict) == ["S4"]
    assert "after its ack" in str(verdict.violations[0])


def test_a_delivery_that_is_handed_out_after_its_lease_is_seen():
    assert rules(check([stored(1), emitted(15.5, claimed=10_000)])) == ["S4"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (lambda first: [], "lease expired"),
        (lambda first: [acked(first, 15.5, "fail")], "lease expired"),
        (lambda first: [acked(first, 10.1, "unknown")], "ack unknown"),
        (lambda first: [event("death", 11, process="one")], "consumer died"),
        (lambda first: [acked(first, 10.1, "unknown", None), event("death", 11, process="one")], "consumer died"),
        (lambda first: [event("death", 9, process="one")], "lease expired"),
    ],
)
def test_after_the_lease_a_duplicate_has_a_reason(more, reason):
    first = emitted(10)
    events = [stored(1), first, *more(first), emitted(15.2, by="two", attempt=2)]
    verdict = check(events)
    assert rules(verdict) == []
    assert verdict.duplicated == {reason: 1}


def test_an_ack_that_was_under_way_when_the_lease_ended_is_a_reason():
    first, second = emitted(10), emitted(15.2, by="two", attempt=2)
    verdict = check([stored(1), first, acked(first, 14.9, took=1.0), second])
    assert rules(verdict) == []
    assert verdict.duplicated == {"ack unknown": 1}
    assert rules(check([stored(1), first, acked(first, 14.9, took=0.2), second])) == ["S4"]


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_after_a_nack_it_may_come_back_before_the_lease_ends(outcome):
    first = emitted(10)
    verdict = check([stored(1), first, settled("nack", first, 10.1, outcome), emitted(10.5, by="two", attempt=2)])
    assert rules(verdict) == []
    assert verdict.duplicated == {"nack": 1}


def test_before_its_nack_it_may_not():
    first = emitted(10)
    assert rules(check([stored(1), first, settled("nack", first, 11), emitted(10.5, by="two", attempt=2)])) == ["S4"]


def test_a_nack_that_lost_its_lease_explains_nothing():
    first = emitted(10)
    events = [stored(1), first, settled("nack", first, 10.1, "fail"), emitted(10.5, by="two", attempt=2)]
    assert rules(check(events)) == ["S4"]


def test_a_nack_that_failed_after_the_message_had_come_back_does():
    first = emitted(10)
    nack = settled("nack", first, 10.1, "fail", took=0.5)
    verdict = check([stored(1), first, nack, emitted(10.5, by="two", attempt=2)])
    assert rules(verdict) == []
    assert verdict.duplicated == {"nack": 1}


def test_a_store_that_was_tried_again_meanwhile_is_a_reason():
    first = emitted(10)
    again = [first, acked(first, 10.1), emitted(11, by="two")]
    assert check([stored(9, took=5.0, outcome="ok"), *again]).duplicated == {"store unknown": 1}
    assert check([stored(9, took=None, outcome="unknown"), *again]).duplicated == {"store unknown": 1}
    assert check([stored(9), *again]).duplicated == {"no reason": 1}


def test_an_ack_by_a_zombie_is_seen():
    first = emitted(10)
    second = emitted(15.1, by="two", attempt=2)
    verdict = check([stored(1), first, second, acked(first, 15.3)])
    assert rules(verdict) == ["S6"]
    assert "acked by one after two had got it" in str(verdict.violations[0])
    assert rules(check([stored(1), first, second, acked(first, 15.3, "fail")])) == []


def test_an_ack_of_a_replaced_message_is_seen():
    first = emitted(10)
    events = [stored(1), first, stored(11, version="a.1", due=20_000), acked(first, 12)]
    assert rules(check(events, left=["a.1"])) == ["L1", "S6"]
    events[-1] = acked(first, 12, "fail")
    assert rules(check(events, left=["a.1"])) == ["L1"]


@pytest.mark.parametrize("outcome", ["ok", "fail"])
def test_an_ack_of_a_message_that_is_gone_changes_nothing(outcome):
    first = emitted(10)
    assert rules(check([stored(1), first, event("remove", 11, version=""), acked(first, 12, outcome)])) == []


def test_a_lease_of_a_message_that_was_removed_before_is_seen():
    assert rules(check([stored(1), event("remove", 9, version=""), emitted(10)])) == ["S6"]


def test_a_lease_of_a_version_that_was_replaced_before_is_seen():
    events = [stored(1), stored(9, version="a.1"), emitted(10), emitted(10.2, version="a.1")]
    assert rules(check(events)) == ["S6"]
    # It was leased before that, and handed out afterwards, as a message that was claimed ahead.
    waited = emitted(10.5, claimed=10_100)
    assert rules(check([stored(1), stored(10.2, version="a.1"), waited, emitted(11, version="a.1")])) == []


def test_attempts_that_do_not_count_up_are_seen():
    assert rules(check([stored(1), emitted(10), emitted(15.1, by="two", attempt=1)])) == ["S8"]


def test_each_occurrence_of_a_series_is_emitted_and_no_other():
    series = stored(1, occurrences=3, every=1000)
    each = [emitted(10), emitted(11, scheduled_for=11_000), emitted(12, scheduled_for=12_000)]
    assert rules(check([series, *each])) == []
    assert rules(check([series, each[0], each[2]])) == ["S7"]
    assert rules(check([series, each[0]], left=["a.0"])) == ["L1"]
    assert rules(check([series, *each, emitted(13, scheduled_for=13_000)])) == ["S7"]


def test_the_longest_gap_is_measured_while_messages_are_stored():
    stores = [stored(at, version=f"a.{at}") for at in (1, 2, 7, 8)]
    emissions = [emitted(at, version=f"a.{at}", claimed=10_000) for at in (2, 4, 9)]
    gaps = check([*stores, *emissions, emitted(60)]).gaps
    assert gaps == {"store": pytest.approx(5), "emit": pytest.approx(5), "ack": 0.0}


def test_a_lease_that_is_reported_as_lost_while_it_runs():
    emission, again = emitted(10), emitted(15.1, by="two", attempt=2)
    verdict = check([stored(1), emission, acked(emission, 10.1, "fail"), again, acked(again, 15.2)])
    assert rules(verdict) == ["S9"]


def test_an_ack_that_is_reported_as_late_though_it_was_done():
    emission = emitted(10)
    lost = acked(emission, 10.1, "fail", took=6)
    assert rules(check([stored(1), emission, lost])) == ["S9"]
    assert rules(check([stored(1), emission, lost], left=["a.0"])) == []


def test_a_late_ack_whose_message_comes_again_is_right():
    emission, again = emitted(10), emitted(15.1, by="two", attempt=2)
    verdict = check([stored(1), emission, acked(emission, 15.2, "fail"), again, acked(again, 15.2)])
    assert rules(verdict) == []


def test_an_ack_in_doubt_of_a_series_that_went_on_cannot_be_told_from_a_late_one():
    series = stored(1, occurrences=2, every=1000)
    first, second = emitted(10), emitted(11, scheduled_for=11_000)
    history = [series, first, second, acked(second, 11.1)]
    assert rules(check([*history, acked(first, 10.1, "fail", took=1.2)])) == []
    # Before the series went on there is no doubt.
    assert "S9" in rules(check([*history, acked(first, 10.1, "fail")]))


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_a_store_meanwhile_ends_the_lease(outcome):
    emission = emitted(10)
    anew = stored(10.05, version="a.1", due=10_100, took=0.01 if outcome == "ok" else None, outcome=outcome)
    last = emitted(10.2, version="a.1", scheduled_for=10_100)
    verdict = check([stored(1), emission, anew, acked(emission, 10.1, "fail"), last, acked(last, 10.3)])
    assert rules(verdict) == []


def test_a_removal_of_a_message_that_was_claimed_ahead_ends_the_lease():
    emission = emitted(10.1, claimed=10_000)
    removed = event("remove", 10.03, process="producer")
    assert rules(check([stored(1), removed, emission, acked(emission, 10.2, "fail")])) == []


def test_a_line_that_is_being_written_is_read_when_it_is_complete(tmp_path):
    history = History(tmp_path / "one.jsonl", "one")
    history.note("death")
    history.note("death")
    history.close()
    whole = (tmp_path / "one.jsonl").read_bytes()
    for end in range(len(whole) + 1):
        (tmp_path / "one.jsonl").write_bytes(whole[:end])
        begun = sum(b'"kind"' in line for line in whole[:end].splitlines(keepends=True) if line.endswith(b"\n"))
        assert len(read(tmp_path)) == begun
    assert len(read(tmp_path)) == 2
