"""The contract of ``put_if``: a record is stored if the expected record is there, and otherwise nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest

from pitstop.abc import Backend, Damaged, Progress, Record
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import (
    MINUTE,
    SERIES,
    START,
    complete,
    ids,
    lease_all,
    lease_only,
    make_record,
    put_due,
)
from pitstop_conformance._values import IDS


#: Each changes one value of a progress.
_CHANGES: dict[str, Callable[[Progress], Progress]] = {
    "due": lambda progress: attrs.evolve(progress, due=START + 7 * MINUTE),
    "dead": lambda progress: attrs.evolve(progress, due=None),
    "scheduled_for": lambda progress: attrs.evolve(progress, scheduled_for=START - 1),
    "attempts": lambda progress: attrs.evolve(progress, attempts=progress.attempts + 1),
    "first_leased": lambda progress: attrs.evolve(progress, first_leased=START + 1),
    "never_leased": lambda progress: attrs.evolve(progress, first_leased=None),
    "last_error": lambda progress: attrs.evolve(progress, last_error="another"),
    "no_error": lambda progress: attrs.evolve(progress, last_error=None),
    "token": lambda progress: attrs.evolve(progress, token="another"),
    "no_token": lambda progress: attrs.evolve(progress, token=None),
    "unsettled": lambda progress: attrs.evolve(progress, unsettled=0),
    "ahead": lambda progress: attrs.evolve(progress, ahead=2),
    "excused": lambda progress: attrs.evolve(progress, excused=1),
}

#: Progress of each kind of record.
_PROGRESS = {
    "new": Progress(START + MINUTE, START + MINUTE),
    "leased": Progress(START + MINUTE, START, 3, START, "failed: ü '$x'", "token", 2, 1),
    "waiting": Progress(START + MINUTE, START, 2, START, "failed", None, 0, 0, 1),
    "dead": Progress(None, START, 5, START, "gave up", "token"),
}


class PutIf(Kit):
    """A record is stored only in the place of the expected record."""

    rule = "pitstop.abc.Backend.put_if"

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("series", [None, SERIES], ids=["one_shot", "series"])
    def test_put_if_none_stores_a_record_that_is_not_there(
        self, backend: Backend, open_backend: Handles, series: dict[str, object] | None
    ) -> None:
        record = make_record(series=series, message={"list": [1]})

        assert backend.put_if(record, None) is True

        assert backend.get("a") == open_backend.peer().get("a") == record
        leased = lease_only(backend)
        assert (leased.revision, leased.message) == (record.revision, {"list": [1]})
        assert list(backend.settle([complete(leased)])) == [True]

    @pytest.mark.usefixtures("conditional")
    def test_put_if_none_changes_nothing_if_the_id_is_there(self, backend: Backend) -> None:
        put_due(backend, "a")
        before = backend.get("a")

        assert backend.put_if(make_record(due=START - 1), None) is False

        assert backend.get("a") == before
        assert ids(lease_all(backend)) == ["a"]

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("kind", _PROGRESS)
    def test_put_if_none_leaves_a_record_in_any_state(self, backend: Backend, kind: str) -> None:
        before = attrs.evolve(make_record(), progress=_PROGRESS[kind])
        backend.put([before])

        assert backend.put_if(make_record(), None) is False

        assert backend.get("a") == before

    @pytest.mark.usefixtures("conditional")
    def test_put_if_stores_a_removed_id_anew(self, backend: Backend) -> None:
        put_due(backend, "a")
        backend.delete("a")

        assert backend.put_if(make_record(), None) is True

        assert ids(lease_all(backend)) == ["a"]

    @pytest.mark.usefixtures("conditional")
    def test_put_if_replaces_the_record_with_the_revision(self, backend: Backend, open_backend: Handles) -> None:
        backend.put([make_record(revision="1", message={"old": 1, "both": 1}, series=SERIES, attempts=3)])
        record = make_record(revision="2", message={"new": 2, "both": 2}, due=START + 1)

        assert backend.put_if(record, "1") is True

        assert backend.get("a") == open_backend.peer().get("a") == record
        assert backend.put_if(make_record(revision="3"), "1") is False
        assert backend.get("a") == record

    @pytest.mark.usefixtures("conditional")
    def test_put_if_changes_nothing_under_another_revision(self, backend: Backend) -> None:
        """Lease and token stay as well: the holder settles the record."""
        put_due(backend, "a")
        leased = lease_only(backend)

        assert backend.put_if(make_record(), "another") is False
        assert backend.put_if(make_record(), "another", leased.progress) is False

        assert backend.get("a") == leased
        assert list(backend.settle([complete(leased)])) == [True]

    @pytest.mark.usefixtures("conditional")
    def test_put_if_with_a_revision_stores_nothing_if_the_record_is_not_there(self, backend: Backend) -> None:
        assert backend.put_if(make_record(revision="2"), "1") is False

        assert backend.get("a") is None
        assert list(backend.scan(None, 10, None)) == []

    @pytest.mark.usefixtures("conditional")
    def test_put_if_ends_a_lease(self, backend: Backend) -> None:
        put_due(backend, "a")
        leased = lease_only(backend)
        record = make_record()

        assert backend.put_if(record, leased.revision) is True

        assert list(backend.settle([complete(leased)])) == [False]
        assert backend.get("a") == record
        assert lease_only(backend).revision == record.revision

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("kind", _PROGRESS)
    def test_put_if_with_a_progress_replaces_the_record_that_has_it(self, backend: Backend, kind: str) -> None:
        before = attrs.evolve(make_record(), progress=_PROGRESS[kind])
        after = attrs.evolve(before, message={"new": 1}, revision="2")
        backend.put([before])

        assert backend.put_if(after, before.revision, before.progress) is True

        assert backend.get("a") == after

    @pytest.mark.usefixtures("conditional")
    def test_put_if_can_leave_a_lease_to_its_holder(
        self, backend: Backend, open_backend: Handles, clock: ManualClock
    ) -> None:
        """The record is stored with the progress that it had. Its token then still settles it."""
        put_due(backend, "a")
        leased = lease_only(backend)
        after = attrs.evolve(leased, message={"new": 1}, revision="2")

        assert open_backend.peer().put_if(after, leased.revision, leased.progress) is True

        assert backend.get("a") == after
        assert list(backend.lease(1, MINUTE)) == []
        assert list(backend.settle([complete(leased)])) == [True]
        assert backend.get("a") is None

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("kind", ["leased", "waiting"])
    @pytest.mark.parametrize("value", _CHANGES)
    def test_put_if_changes_nothing_if_the_progress_has_moved_on(self, backend: Backend, kind: str, value: str) -> None:
        before = attrs.evolve(make_record(), progress=_PROGRESS[kind])
        expected = _CHANGES[value](before.progress)
        backend.put([before])

        stored = backend.put_if(attrs.evolve(before, revision="2"), before.revision, expected)

        assert stored is (expected == before.progress)
        assert backend.get("a") == (attrs.evolve(before, revision="2") if stored else before)

    @pytest.mark.usefixtures("conditional")
    def test_put_if_changes_nothing_if_the_record_was_claimed_meanwhile(
        self, backend: Backend, open_backend: Handles
    ) -> None:
        put_due(backend, "a")
        before = backend.get("a")
        assert isinstance(before, Record)
        leased = lease_only(open_backend.peer())

        assert backend.put_if(attrs.evolve(before, revision="2"), before.revision, before.progress) is False

        assert backend.get("a") == leased

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("revision", [None, "1", "2"])
    def test_put_if_leaves_a_damaged_record_or_replaces_it_whole(self, backend: Backend, revision: str | None) -> None:
        """No damaged record counts as absent. If its revision can be read, that decides."""
        backend.put([make_record(revision="1")])
        self.damage(backend, "a")
        record = make_record(revision="3")

        stored = backend.put_if(record, revision)

        assert stored is False or revision == "1"
        left = backend.get("a")
        assert left == record if stored else isinstance(left, Damaged)

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("id", IDS, ids=range(len(IDS)))
    def test_put_if_takes_an_id_as_data(self, backend: Backend, id: str) -> None:
        others = {each: make_record(each, revision="1") for each in IDS if each != id}
        backend.put(list(others.values()))

        assert backend.put_if(make_record(id, revision="2"), "1") is False
        assert backend.put_if(make_record(id, revision="2"), None) is True
        assert backend.put_if(make_record(id, revision="3"), "2") is True
        assert backend.put_if(make_record(id, revision="4"), None) is False

        stored = {each.id: each for each in backend.scan(None, 100, None)}
        assert stored.pop(id) == make_record(id, revision="3")
        assert stored == others

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("revision", ["", "$ne", "a.b", "' OR 1=1 --"])
    def test_put_if_takes_a_revision_as_data(self, backend: Backend, revision: str) -> None:
        backend.put([make_record(revision="1")])
        assert backend.put_if(make_record(revision="2"), revision) is False

        backend.put([make_record(revision=revision)])
        assert backend.put_if(make_record(revision="2"), revision) is True

    @pytest.mark.usefixtures("conditional")
    def test_put_if_keeps_the_place_among_ties(self, backend: Backend) -> None:
        put_due(backend, "b", "a", "c")

        for id in ("c", "b"):
            before = backend.get(id)
            assert isinstance(before, Record)
            assert backend.put_if(make_record(id), before.revision) is True
        assert backend.put_if(make_record("0"), None) is True

        assert ids(lease_all(backend)) == ["b", "a", "c", "0"]

    @pytest.mark.usefixtures("conditional")
    def test_put_if_shows_in_the_own_next_due(self, backend: Backend) -> None:
        assert backend.next_due() is None
        assert backend.put_if(make_record(due=START + MINUTE), None) is True

        assert backend.next_due() == START + MINUTE

    @pytest.mark.usefixtures("conditional")
    def test_what_was_put_if_does_not_change_with_the_callers_object(self, backend: Backend) -> None:
        message = {"list": [1]}
        assert backend.put_if(make_record(message=message), None) is True

        message["list"].append(2)

        stored = backend.get("a")
        assert isinstance(stored, Record)
        assert stored.message == {"list": [1]}
