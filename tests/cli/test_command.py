"""The command of ``listen --exec``, and signals that come while it begins."""

from __future__ import annotations

import subprocess

import pytest

import pitstop

from pitstop.cli._command import CommandFailed, run_command
from pitstop.cli._signals import Urgency


def test_a_command_counts_as_running_before_it_begins(monkeypatch):
    """A second signal at that moment ends the command, and not this program."""
    urgency, seen = Urgency(), []

    def begin(*arguments, **options):
        seen.append(len(urgency.commanding))
        urgency.asked = 1
        urgency.ask()
        raise OSError(11, "no process is left")

    monkeypatch.setattr(subprocess, "Popen", begin)
    with pitstop.init("memory://") as pit, pit.listen() as listener:
        pit.store({"id": "a"})
        delivery = listener.get(timeout=0)
        with pytest.raises(CommandFailed):
            run_command("true", delivery, pit=pit, listener=listener, urgency=urgency, stdout=None)
    assert (seen, len(urgency.commanding)) == ([1], 0)
