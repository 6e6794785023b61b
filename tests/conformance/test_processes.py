"""The processes that the conformance suite forks: their reports, their ends, and the text of a test whose process fails."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from pitstop_conformance._kit import Handles
from pitstop_conformance.races import _processes
from pitstop_conformance.races._processes import Forking, Processes
from pitstop_memory import MemoryBackend


class TestProcesses(Forking):
    @pytest.fixture
    def make_backend(self):
        name = uuid.uuid4().hex
        return lambda **options: MemoryBackend.from_options({"name": name, **options})

    def test_a_process_tells_values_and_returns_one(self, processes: Processes):
        def work(backend, say):
            say({"a": [1, None]})
            say("ü\n")
            return [backend.now() > 0, os.getpid()]

        child = processes.start(work)

        ahead, pid = child.result()
        assert child.said == [{"a": [1, None]}, "ü\n"]
        assert (ahead, pid != os.getpid()) == (True, True)

    def test_processes_are_released_when_all_have_opened_their_handles(self, processes: Processes):
        told, opened = os.pipe()

        def work(backend, say):
            os.write(opened, b".")
            # No process can read this many values before all have begun, and none begins before all are ready.
            return len(os.read(told, 1))

        assert processes.together(*[work] * 5) == [1] * 5
        os.close(told)
        os.close(opened)

    def test_what_fails_in_a_process_fails_the_test_with_its_traceback(self, processes: Processes):
        def work(backend, say):
            numbers = [1, 2]
            assert numbers == [1, 3], "the results differ"

        for have in (lambda: processes.start(work).result(), lambda: processes.together(work, work)):
            with pytest.raises(pytest.fail.Exception, match=r"(?s)started failed:.*in work.*the results differ"):
                have()

    def test_a_failure_is_told_while_something_else_is_waited_for(self, processes: Processes):
        child = processes.start(lambda backend, say: pytest.fail("no"))

        with pytest.raises(pytest.fail.Exception, match=r"(?s)Traceback.*Failed: no"):
            child.hear(1)

    @pytest.mark.parametrize("wait", ["hear", "result"])
    def test_a_process_that_dies_is_told(self, processes: Processes, wait: str):
        def work(backend, say):
            say("so far")
            os._exit(7)

        child = processes.start(work)

        with pytest.raises(pytest.fail.Exception, match=r"ended with 7\. Its last report: 'so far'"):
            child.hear(2) if wait == "hear" else child.result()

    @pytest.mark.parametrize("wait", ["hear", "result"])
    def test_a_process_that_hangs_is_told_in_bounded_time(self, processes: Processes, monkeypatch, wait: str):
        child = processes.start(lambda backend, say: threading.Event().wait())
        monkeypatch.setattr(_processes, "_PATIENCE", 0.2)

        with pytest.raises(pytest.fail.Exception, match=r"and still runs\. It reported nothing"):
            child.hear(1) if wait == "hear" else child.result()

        monkeypatch.undo()
        child.kill()

    def test_what_was_told_is_heard_although_the_process_is_killed_and_nothing_of_half_a_line(
        self, processes: Processes
    ):
        def work(backend, say):
            for n in range(3):
                say(n)
            say("more than a pipe holds, so that it has to wait for the reader" * 10_000)

        child = processes.start(work)
        child.hear(3)
        child.kill()

        assert child.said == [0, 1, 2]

    def test_nothing_of_the_parents_is_ended_in_the_child(self, processes: Processes, tmp_path):
        ended = tmp_path / "ended"

        class Held:
            def __del__(self):
                ended.write_text(f"{os.getpid()}")

        held = [Held()]
        held.append(held)
        del held  # garbage in a cycle, not yet collected

        def work(backend, say):
            import gc

            gc.collect()
            return os.getpid()

        pid = processes.start(work).result()

        assert not ended.exists() or ended.read_text() != str(pid)

    def test_each_has_a_handle_of_its_own_by_the_machines_clock(self, open_backend: Handles, processes: Processes):
        mine = open_backend()

        def work(backend, say):
            return [backend is not mine, backend.config.clock is None, backend.config.lock_time.total_seconds()]

        assert mine.config.clock is not None
        open_backend(lock_time="7s")
        assert processes.start(work).result() == [True, True, 7.0]

    def test_a_process_that_the_test_forgot_is_ended_with_it(self, open_backend: Handles):
        processes = Processes(open_backend)
        child = processes.start(lambda backend, say: (say(os.getpid()), threading.Event().wait()))
        child.hear(1)

        processes.close()

        with pytest.raises(ProcessLookupError):
            os.kill(child.said[0], 0)

    def test_where_there_is_no_fork_that_is_the_reason(self, request, monkeypatch):
        monkeypatch.setattr(_processes.multiprocessing, "get_all_start_methods", lambda: ["spawn"])

        with pytest.raises(pytest.xfail.Exception, match="not shown: the test forks processes"):
            request.getfixturevalue("processes")
