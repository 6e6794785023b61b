"""The cost of hooks for each message, by the calls that are made. ``benchmarks/hooks.py`` measures the time."""

from __future__ import annotations

import sys

from collections import Counter

import pytest

import pitstop

from pitstop import hookimpl


MESSAGES = 50


class Observer:
    @hookimpl
    def pitstop_message_stored(self, kind): ...

    @hookimpl
    def pitstop_message_leased(self, delivery): ...

    @hookimpl
    def pitstop_message_acked(self, delivery): ...


class WithEntry:
    @hookimpl
    def pitstop_message_stored(self, entry): ...


def calls(*plugins: object) -> Counter[str]:
    """Return how often functions of hooks, and of entries, were called for each message that was stored and handled."""
    counted: Counter[str] = Counter()

    def profile(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename.endswith(
            ("_plugins/_hooks.py", "_decisions/_describe.py", "test_hook_cost.py")
        ):
            counted[code.co_name] += 1

    with pitstop.init("memory://", plugins=plugins) as pit, pit.listen(prefetch=1) as listener:
        sys.setprofile(profile)
        try:
            for _ in range(MESSAGES):
                pit.store({})
            for _ in range(MESSAGES):
                listener.get().ack()
        finally:
            sys.setprofile(None)
    assert all(count % MESSAGES == 0 for count in counted.values()), counted
    return Counter({name: count // MESSAGES for name, count in counted.items() if not name.startswith("<")})


def test_without_a_plugin_no_hook_is_called():
    assert calls() == {}


@pytest.mark.parametrize("plugins", [1, 3])
def test_each_event_is_one_call_and_one_for_each_observer(plugins):
    assert calls(*[Observer() for _ in range(plugins)]) == {
        "notify": 3,
        "pitstop_message_stored": plugins,
        "pitstop_message_leased": plugins,
        "pitstop_message_acked": plugins,
    }


def test_an_entry_is_made_once_if_an_observer_takes_it():
    found = calls(Observer(), WithEntry(), WithEntry())
    assert (found["describe"], found["pitstop_message_stored"]) == (1, 3)
