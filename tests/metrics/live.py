"""A real ``pitstop listen --metrics``, and its scrapes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client.parser import text_string_to_metric_families


#: Samples by name and labels, as in ``name{label="value"}``.
Samples = dict[str, float]


def scrape(text: str) -> Samples:
    """Return the samples of a scrape, parsed by the parser of prometheus-client."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for each in family.samples:
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(each.labels.items()))
            samples[f"{each.name}{{{labels}}}" if labels else each.name] = each.value
    return samples


class Reader:
    """Scrapes an address."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}/metrics"

    def __call__(self, until: Callable[[Samples], bool], seconds: float = 60) -> Samples:
        """Scrape until the samples are as they are to be."""
        ends = time.monotonic() + seconds
        samples: Samples = {}
        while time.monotonic() < ends:
            assert self._process.poll() is None, "the command has ended"
            try:
                with urllib.request.urlopen(self.url, timeout=10) as answer:
                    samples = scrape(answer.read().decode())
            except ConnectionRefusedError:
                pass
            except urllib.error.URLError as error:
                if not isinstance(error.reason, ConnectionRefusedError):
                    raise
            else:
                if until(samples):
                    return samples
            time.sleep(0.05)
        raise AssertionError(f"not in {seconds} s: {samples}")


@contextmanager
def listening(url: str, *options: str) -> Iterator[tuple[subprocess.Popen[bytes], Reader]]:
    """Run the command, and yield its process and a reader of its metrics."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pitstop", "--url", url, "listen", "--metrics", f"127.0.0.1:{port}", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield process, Reader(process, port)
        finally:
            process.kill()
