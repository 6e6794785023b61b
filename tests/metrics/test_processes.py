"""Metrics of several processes: the multi-process mode of prometheus-client, and a live ``pitstop listen --metrics``."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from metrics.live import listening, scrape


WORKER = """
import sys
import pitstop
from pitstop.metrics import Metrics
with pitstop.init(sys.argv[1], plugins=[Metrics.prometheus()]) as pit:
    pit.store({}, kind="mail")
    pit.consume(lambda msg: None, until_idle=True)
"""
SCRAPE = """
import sys
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
import pitstop
from pitstop.metrics import Metrics
registry = CollectorRegistry()
MultiProcessCollector(registry)
metrics = Metrics.prometheus()
registry.register(metrics.collector)
with pitstop.init(sys.argv[1], plugins=[metrics]) as pit:
    sys.stdout.write(generate_latest(registry).decode())
"""


def test_in_multi_process_mode_the_numbers_of_all_processes_are_added(tmp_path):
    url = f"sqlite:///{tmp_path}/test.db"
    shared = tmp_path / "shared"
    shared.mkdir()
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(shared)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", WORKER, url], env=env, check=True, timeout=60)
    command = [sys.executable, "-c", SCRAPE, url]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True, timeout=60)
    samples = scrape(done.stdout)
    assert samples['pitstop_messages_stored_total{kind="mail"}'] == 2
    assert samples['pitstop_messages_settled_total{kind="mail",outcome="acked"}'] == 2
    assert samples["pitstop_handling_duration_seconds_count"] == 2
    assert samples['pitstop_messages{state="dead"}'] == 0
    assert "pitstop_clock_skew_seconds" in samples


def test_a_live_listener_is_scraped(tmp_path):
    url = f"sqlite:///{tmp_path}/test.db"
    with listening(url, "--exec", "true") as (process, read):
        subprocess.run(
            [sys.executable, "-m", "pitstop", "--url", url, "store", '{"id": "hunter2"}', "--kind", "mail"], check=True
        )
        samples = read(
            until=lambda found: found.get('pitstop_messages_settled_total{kind="mail",outcome="acked"}') == 1
        )
        assert samples['pitstop_messages_delivered_total{attempt="first",kind="mail"}'] == 1
        assert samples["pitstop_delivery_lateness_seconds_count"] == 1
        assert samples["pitstop_handling_duration_seconds_count"] == 1
        assert samples["pitstop_in_flight"] == 0
        assert samples["pitstop_store_errors_total"] == 0
        assert samples["process_start_time_seconds"] > 0
        assert "hunter2" not in str(samples)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_several_workers_are_scraped(tmp_path):
    url = f"sqlite:///{tmp_path}/test.db"
    with listening(url, "--exec", "true", "--workers", "2") as (_, read):
        for n in range(3):
            subprocess.run([sys.executable, "-m", "pitstop", "--url", url, "store", f'{{"id": "{n}"}}'], check=True)
        samples = read(until=lambda found: found.get('pitstop_messages_settled_total{kind="",outcome="acked"}') == 3)
        assert samples["pitstop_handling_duration_seconds_count"] == 3


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pitstop", "--url", "memory://", "listen", "--once", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("value", ["9464", "localhost", "[::1]", "a b:1", "x:99999", ":1"])
def test_a_wrong_address_is_refused(value):
    done = run("--metrics", value)
    assert done.returncode == 2
    assert "is no address. Give a host and a port, as in 127.0.0.1:9464 or [::1]:9464." in " ".join(done.stderr.split())


def test_an_address_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("--metrics", where)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(
        rf"--metrics cannot listen on {where}: Address already in use\. Give another address\.", done.stderr
    )


def test_without_the_extra_the_error_names_it(tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError('gone', name='prometheus_client')")
    command = [sys.executable, "-m", "pitstop", "--url", "memory://", "listen", "--once", "--metrics", "127.0.0.1:1"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    assert (done.returncode, done.stderr) == (
        1,
        'Error: These metrics need prometheus_client. Install it with: pip install "pitstop-core[prometheus]"\n',
    )


def test_the_server_ends_with_the_command(tmp_path):
    with listening(f"sqlite:///{tmp_path}/test.db") as (process, read):
        # By then its signal handlers are in place.
        read(until=lambda found: "pitstop_listener_last_poll_timestamp_seconds" in found)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(read.url, timeout=5)
