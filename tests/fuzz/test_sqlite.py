"""Rows that another program damaged, among sound ones: any number in each column of numbers, any bytes in each text."""

from __future__ import annotations

import sqlite3
import tempfile

from contextlib import closing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fuzz.judging import OPTIONS, WAYS, fill, fuzzed, judge
from pitstop.testing import ManualClock
from pitstop_sqlite import SqliteBackend


_START = ManualClock().time_us() // 1000
_TEXTS = ("revision", "series", "last_error", "msg", "token")
_NULLABLE = {"series", "last_error", "token", "due", "first_leased"}
texts = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"{", b"null", b"[1]", b'{"a":{"$time":1e99}}', b'{"a":{"$bytes":7}}', b"[" * 5000, b'{"start":1}', b"\xff"]
    ),
)
numbers = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, -1, _START, _START - 1000, _START + 10**10, 253402300800000, 2**63 - 1]),
)
damages = st.one_of(
    st.tuples(st.sampled_from(_TEXTS), texts),
    st.tuples(st.sampled_from(["due", "scheduled_for", "attempts", "first_leased"]), numbers),
    st.tuples(st.sampled_from(sorted(_NULLABLE)), st.none()),
    st.tuples(st.just("id"), st.binary(min_size=1, max_size=4).map(lambda value: b"o" + value)),
)


def _stored(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.text_factory = bytes
        return {
            id.decode("utf-8", "surrogateescape") for (id,) in connection.execute("SELECT id FROM pitstop_messages")
        }


@given(
    odd=st.lists(st.lists(damages, min_size=1, max_size=3), min_size=1, max_size=6),
    way=st.sampled_from(WAYS),
)
def any_rows(odd, way):
    clock, opened = ManualClock(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pitstop.db")

        def open_backend():
            opened.append(
                SqliteBackend.from_options({"path": str(path), "clock": clock, "synchronous": "normal", **OPTIONS})
            )
            return opened[-1]

        sound = {f"g{number}" for number in range(5)}
        fill(open_backend, sound, len(odd))
        with closing(sqlite3.connect(path)) as connection:
            for number, damage in enumerate(odd):
                # The id comes last, because the other columns are found by it.
                for column, value in sorted(damage, key=lambda each: each[0] == "id"):
                    written = "CAST(? AS TEXT)" if isinstance(value, bytes) else "?"
                    connection.execute(
                        f"UPDATE OR IGNORE pitstop_messages SET {column} = {written} WHERE id = ?",
                        (value, f"evil{number}"),
                    )
            connection.commit()
        try:
            judge(open_backend, clock, way, sound, lambda: _stored(path))
        finally:
            for each in opened:
                each.close()


test_any_rows_do_not_keep_sound_messages_from_being_handled = fuzzed(any_rows, 60)
