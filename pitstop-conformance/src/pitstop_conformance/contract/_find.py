"""The contract of ``find`` and ``tally_by_kind``: searches in the order of an index, page by page."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from pitstop.abc import PAUSED, Backend, Capability, Damaged, Outcome, Progress, Query, Record, Tally
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import MINUTE, START, ids, lease_all, lease_only, make_record, records, settlement


#: Ids that one prefix tells apart: characters that are operators elsewhere, neighbours in the order of code points, the last
#: characters of their planes, and the longest id.
_IDS = [
    "A",
    "a",
    "a%b",
    "a*",
    "a.b",
    "a_b",
    "ab",
    "ac",
    "b",
    "$gt",
    "'",
    "e\u0301",
    "\u00e9",
    "\u00e9a",
    "\u00ea",
    "\ud7ff",
    "\ud7ffz",
    "\ue000",
    "\uffff",
    "\uffff\uffff",
    "\U00010000",
    "\U0010ffff",
    "\U0010ffff\U0010ffff",
    "\U0010ffffz",
    "x" * 512,
    "x" * 511,
]
_PREFIXES = [
    "",
    "A",
    "a",
    "a%",
    "a_",
    "a.",
    "a*",
    "aa",
    "$",
    "'",
    "e",
    "\u00e9",
    "\ud7ff",
    "\ue000",
    "\uffff",
    "\U00010000",
    "\U0010ffff",
    "\U0010ffff" * 2,
    "x" * 512,
    "x" * 600,
]


_FAILING = {"retry", "retried", "both", "crashed", "dead", "aside", "paused_retry", "resting_retry"}


def _read_all(backend: Backend, query: Query, size: int) -> list[Any]:
    """Read all pages of a search."""
    seen: list[Any] = []
    while True:
        last = seen[-1] if seen else None
        place = None if last is None else (_due(last), last.id)
        page = list(backend.find(query, size, place))
        places = [(_due(each), each.id) for each in page]
        assert list(backend.find_places(query, size, place)) == places, "both find the same records"
        assert len(page) <= size, "a page has at most `limit` records"
        assert set(ids(page)).isdisjoint(ids(seen)), "no page repeats a record of an earlier page"
        seen += page
        if not page:
            return seen


def _due(each: Record | Damaged) -> int | None:
    return each.due if isinstance(each, Damaged) else each.progress.due


def _by_due(record: Record) -> tuple[bool, int, bytes]:
    due = record.progress.due
    return (due is None, due or 0, record.id.encode())


def _zoo(backend: Backend, *, kinds: bool) -> list[Record]:
    """Store records that differ in state, time, kind, and in what happened to them. Return them as they are stored."""
    names = ["", "mail", "bulk"] if kinds else [""]
    fates: list[tuple[str, int | None, dict[str, Any]]] = [
        ("scheduled", START + 5, {}),
        ("later", START + 9, {}),
        ("due", START, {}),
        ("early", START - 9, {}),
        # A retry that is to come, and one whose time has come.
        ("retry", START + 5, {"attempts": 2, "first_leased": START - 99, "last_error": "boom"}),
        ("retried", START - 5, {"attempts": 1, "first_leased": START - 99, "last_error": "boom"}),
        # A program has ended while its handler had the message: an attempt that is not held against it.
        ("excused", START, {"attempts": 1, "first_leased": START - 99, "excused": 1}),
        ("both", START, {"attempts": 3, "first_leased": START - 99, "excused": 2, "last_error": "boom"}),
        # Leases that ran out: in a handler, and perhaps in a listener.
        ("crashed", START - 1, {"attempts": 1, "first_leased": START - 99, "token": "t", "unsettled": 1}),
        ("ahead", START - 1, {"attempts": 1, "first_leased": START - 99, "token": "t", "unsettled": 1, "ahead": 1}),
        # A lease that runs, of a message that has failed before.
        ("leased", START + 7, {"attempts": 3, "first_leased": START - 99, "token": "t", "unsettled": 1}),
        ("dead", None, {"attempts": 3, "first_leased": START - 99, "token": "t", "last_error": "boom"}),
        ("aside", None, {"token": "t", "last_error": "bad rule"}),
        # Pauses, with and without an end, also of a message that waits for a retry.
        ("paused", None, {"token": PAUSED}),
        ("paused_until", START + 6, {"token": PAUSED}),
        ("paused_retry", None, {"attempts": 1, "first_leased": START - 99, "last_error": "boom", "token": PAUSED}),
        ("resting_retry", START + 8, {"attempts": 1, "first_leased": START - 99, "token": PAUSED}),
        ("rested", START - 2, {"token": PAUSED}),
    ]
    stored = [
        make_record(f"{name}:{kind}{n}", due, kind=kind, **fate)
        for kind in names
        for name, due, fate in fates
        for n in (1, 2)
    ]
    # Not in the order of any index.
    backend.put(sorted(stored, key=lambda each: each.id[::-1]))
    return stored


def _states(record: Record) -> str:
    due, token = record.progress.due, record.progress.token
    if due is not None and due <= START:
        return "due"
    if token == PAUSED:
        return "paused"
    return "dead" if due is None else "scheduled" if token is None else "leased"


def _fails(record: Record) -> bool:
    return record.id.partition(":")[0] in _FAILING


class Find(Kit):
    """Searches change nothing, and show the records that match, each once."""

    rule = "pitstop.abc.Backend.find and tally_by_kind"

    def test_a_search_of_an_empty_store_finds_nothing(self, backend: Backend) -> None:
        assert list(backend.find(Query(prefix="a"), 10, None)) == []
        assert list(backend.find(Query(failing=True), 10, None)) == []
        assert list(backend.find(Query(due_before=START), 10, None)) == []
        assert dict(backend.tally_by_kind()) == {}

    @pytest.mark.parametrize("prefix", _PREFIXES)
    def test_a_search_by_prefix_finds_the_ids_that_begin_with_it(self, backend: Backend, prefix: str) -> None:
        backend.put([make_record(id) for id in reversed(_IDS)])

        found = backend.find(Query(prefix=prefix), 100, None)

        assert ids(found) == sorted(id for id in _IDS if id.startswith(prefix))

    @pytest.mark.parametrize("prefix", ["", "a", "\u00e9", "\ud7ff", "\uffff", "\U0010ffff"])
    @pytest.mark.parametrize("size", [1, 2, 7])
    def test_pages_of_a_prefix_are_in_the_order_of_the_ids(self, backend: Backend, prefix: str, size: int) -> None:
        dues = [START + 3, START, None, START + 1]
        backend.put([make_record(id, dues[n % 4], token="t") for n, id in enumerate(_IDS)])

        assert ids(_read_all(backend, Query(prefix=prefix), size)) == sorted(id for id in _IDS if id.startswith(prefix))

    def test_a_page_of_a_prefix_goes_on_behind_any_id(self, backend: Backend) -> None:
        backend.put([make_record(id, token="t") for id in ("a1", "a2", "a3", "b1")])
        backend.delete("a2")
        query = Query(prefix="a")

        assert ids(backend.find(query, 10, (START, "a2"))) == ["a3"]
        assert ids(backend.find(query, 10, (None, "a2"))) == ["a3"], "the order is by id, whatever the due is"
        assert ids(backend.find(query, 10, (START, "A"))) == ["a1", "a3"]
        assert ids(backend.find(query, 10, (START, "a3"))) == []
        assert ids(backend.find(query, 10, (START, "b"))) == []

    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_a_search_of_a_time_finds_from_its_beginning_to_before_its_end(self, backend: Backend, size: int) -> None:
        backend.put([make_record(f"{n % 3}-{n}", START + n // 2, token="t") for n in range(20)])
        backend.put([make_record("dead", None, token="t")])

        def found(**bounds: Any) -> list[int]:
            return [(_due(each) or 0) - START for each in _read_all(backend, Query(**bounds), size)]

        assert found(due_from=START + 2, due_before=START + 4) == [2, 2, 3, 3]
        assert found(due_before=START + 1) == [0, 0]
        assert found(due_from=START + 9) == [9, 9]
        assert found(due_from=START + 4, due_before=START + 4) == []
        assert found(due_before=0) == []
        assert len(found(due_from=0)) == 20

    @pytest.mark.parametrize("size", [1, 4, 100])
    @pytest.mark.parametrize("state", [None, "scheduled", "due", "leased", "dead", "paused"])
    @pytest.mark.parametrize("failing", [None, True, False])
    @pytest.mark.parametrize(
        "bounds", [{}, {"due_from": START}, {"due_before": START + 6}], ids=["ever", "from", "before"]
    )
    def test_a_search_finds_what_matches_all_of_it(
        self, backend: Backend, state: Any, failing: bool | None, bounds: dict[str, Any], size: int
    ) -> None:
        stored = _zoo(backend, kinds=False)
        first, end = bounds.get("due_from", 0), bounds.get("due_before", 2**60)
        wanted = [
            each
            for each in stored
            if (state is None or _states(each) == state)
            and (failing is None or _fails(each) is failing)
            and (not bounds or (each.progress.due is not None and first <= each.progress.due < end))
        ]

        found = _read_all(backend, Query(state=state, failing=failing, **bounds), size)
        among = _read_all(backend, Query(state=state, failing=failing, prefix="d", **bounds), size)

        assert found == sorted(wanted, key=_by_due)
        assert among == sorted((each for each in wanted if each.id.startswith("d")), key=lambda each: each.id)

    @pytest.mark.parametrize("claimed", [False, True], ids=["no_claim_of_a_kind", "a_claim_of_a_kind"])
    @pytest.mark.parametrize("size", [1, 5, 100])
    def test_a_search_of_a_kind(self, backend: Backend, size: int, claimed: bool) -> None:
        needs(backend, Capability.KINDS)
        stored = _zoo(backend, kinds=True)
        if claimed:
            # Makes the index of the kinds, where there is one.
            assert list(backend.lease(1, MINUTE, ["none"])) == []

        for kind, state, failing in product(
            ["", "mail", "bulk", "Mail", "none", "$ne"], [None, "due", "dead", "paused"], [None, True]
        ):
            wanted = [
                each
                for each in stored
                if each.kind == kind
                and (state is None or _states(each) == state)
                and (failing is None or _fails(each) is failing)
            ]
            query = Query(kind=kind, state=state, failing=failing)  # type: ignore[arg-type]
            assert _read_all(backend, query, size) == sorted(wanted, key=_by_due)
            query = Query(kind=kind, state=state, failing=failing, prefix="a")  # type: ignore[arg-type]
            assert _read_all(backend, query, size) == sorted(
                (each for each in wanted if each.id.startswith("a")), key=lambda each: each.id
            )

    def test_a_search_shows_records_as_get_does(self, backend: Backend) -> None:
        _zoo(backend, kinds=False)

        for query in (Query(failing=True), Query(prefix="d"), Query(due_before=START)):
            found = backend.find(query, 100, None)
            assert found
            assert [backend.get(each.id) for each in found] == list(found)

    def test_a_search_goes_by_the_clock_of_the_store(self, backend: Backend, clock: ManualClock) -> None:
        backend.put([make_record("a", START + 1)])
        lease_all(backend)
        backend.put([make_record("b")])
        leased = lease_only(backend, duration=10)
        failed = Progress(START + 20, START, attempts=1, first_leased=START, last_error="boom")
        assert list(backend.settle([settlement(leased, Outcome.RELEASE, failed)])) == [True]

        assert ids(backend.find(Query(state="due", prefix=""), 10, None)) == []
        assert ids(backend.find(Query(state="scheduled", failing=True), 10, None)) == ["b"]
        clock.advance(0.001)
        assert ids(backend.find(Query(state="due", prefix=""), 10, None)) == ["a"]
        clock.advance(0.019)
        assert ids(backend.find(Query(state="due", failing=True), 10, None)) == ["b"]

    def test_a_lease_that_runs_is_no_failure_until_it_has_run_out(self, backend: Backend, clock: ManualClock) -> None:
        backend.put([make_record("a")])
        lease_only(backend, duration=10)
        assert ids(backend.find(Query(failing=True), 10, None)) == []
        assert ids(backend.find(Query(failing=False), 10, None)) == ["a"]

        clock.advance(0.01)

        assert ids(backend.find(Query(failing=True), 10, None)) == ["a"]
        assert ids(backend.find(Query(failing=False), 10, None)) == []

    def test_a_damaged_record_is_found_by_what_can_be_read_of_it(self, backend: Backend) -> None:
        kinds = Capability.KINDS in backend.capabilities
        backend.put([make_record(f"a{n}", START - n, kind="mail" if kinds else "") for n in range(4)])
        self.damage(backend, "a2")

        assert ids(backend.find(Query(prefix="a"), 10, None)) == ["a0", "a1", "a2", "a3"]
        assert ids(backend.find(Query(due_before=START - 1), 10, None)) == ["a3", "a2"]
        assert ids(backend.find(Query(state="due", failing=False), 2, None)) == ["a3", "a2"]
        assert ids(backend.find(Query(failing=True), 10, None)) == []
        if kinds:
            assert ids(_read_all(backend, Query(kind="mail"), 1)) == ["a3", "a2", "a1", "a0"]
        assert isinstance(backend.find(Query(prefix="a2"), 1, None)[0], Damaged)

    def test_a_record_whose_kind_cannot_be_read_is_of_no_kind(self, backend: Backend) -> None:
        needs(backend, Capability.KINDS)
        backend.put([make_record("a", kind="mail"), make_record("b", kind="mail"), make_record("c")])
        self.damage_kind(backend, "b")

        assert ids(backend.find(Query(kind="mail"), 10, None)) == ["a"]
        assert ids(backend.find(Query(kind=""), 10, None)) == ["c"]
        assert ids(backend.find(Query(prefix="b"), 10, None)) == ["b"]
        assert {kind: tally.due for kind, tally in backend.tally_by_kind().items()} == {"mail": 1, "": 1}

    def test_a_tally_by_kind_counts_each_kind_by_itself(self, backend: Backend) -> None:
        needs(backend, Capability.KINDS)
        _zoo(backend, kinds=True)
        backend.put([make_record("only", START + 1, kind="Mail"), make_record("é", START - 99, kind="é")])

        found = dict(backend.tally_by_kind())

        each = Tally(scheduled=6, due=16, leased=2, dead=4, oldest_due=START - 9, paused=8)
        assert found == {
            "": each,
            "mail": each,
            "bulk": each,
            "Mail": Tally(1, 0, 0, 0, None),
            "é": Tally(0, 1, 0, 0, START - 99),
        }

    def test_a_tally_by_kind_of_a_store_without_kinds_is_the_tally(self, backend: Backend) -> None:
        _zoo(backend, kinds=False)

        assert dict(backend.tally_by_kind()) == {"": backend.tally()}

    def test_a_search_leaves_the_store_as_it_is(self, backend: Backend) -> None:
        stored = _zoo(backend, kinds=False)
        backend.find(Query(failing=True), 100, None)
        backend.find(Query(prefix="a"), 1, None)

        assert records(backend.scan(None, 100, None)) == sorted(stored, key=_by_due)
