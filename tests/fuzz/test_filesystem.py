"""Files that another program damaged, among sound ones, in the example of a backend by another author."""

from __future__ import annotations

import json
import tempfile

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fuzz.judging import OPTIONS, WAYS, fill, fuzzed, judge
from pitstop.testing import ManualClock
from pitstop_filesystem import FilesystemBackend


_HEADER = ("revision", "series", "scheduled_for", "attempts", "first_leased", "last_error", "token")
plain = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
#: The id is left alone: the backend moves away a file from which the id cannot be read.
damages = st.one_of(
    st.tuples(st.just("header"), st.tuples(st.sampled_from(_HEADER), plain)),
    st.tuples(
        st.just("message"), st.binary(max_size=8) | st.sampled_from([b"[" * 5000, b"null", b'{"a":{"$time":"x"}}'])
    ),
)


def _files(path):
    return sorted((path / "messages").iterdir())


def _header(content):
    return json.loads(content.partition(b"\n")[0])


def _stored(path):
    return {_header(file.read_bytes())["id"] for file in _files(path)}


def _damage(file, damage):
    for how, value in damage:
        first, _, message = file.read_bytes().partition(b"\n")
        if how == "message":
            file.write_bytes(first + b"\n" + value)
        else:
            file.write_bytes(json.dumps(json.loads(first) | {value[0]: value[1]}).encode() + b"\n" + message)


@given(
    odd=st.lists(st.lists(damages, min_size=1, max_size=3), min_size=1, max_size=5),
    way=st.sampled_from(WAYS),
)
def any_files(odd, way):
    clock, opened = ManualClock(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "store")

        def open_backend():
            opened.append(FilesystemBackend.from_options({"path": str(path), "clock": clock, "sync": False, **OPTIONS}))
            return opened[-1]

        sound = {f"g{number}" for number in range(4)}
        fill(open_backend, sound, len(odd))
        by_id = {_header(file.read_bytes())["id"]: file for file in _files(path)}
        for number, damage in enumerate(odd):
            _damage(by_id[f"evil{number}"], damage)
        try:
            judge(open_backend, clock, way, sound, lambda: _stored(path))
        finally:
            for each in opened:
                each.close()


test_any_files_do_not_keep_sound_messages_from_being_handled = fuzzed(any_files, 40)
