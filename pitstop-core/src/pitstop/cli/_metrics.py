"""``--metrics HOST:PORT``: a plugin that counts, and a server that Prometheus scrapes."""

from __future__ import annotations

import re

from collections.abc import Iterator
from contextlib import contextmanager

import click

from pitstop import PitstopError
from pitstop.metrics import Metrics


__all__ = ["address", "served"]

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+)):(?P<port>\d{1,5})")


def address(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, int] | None:
    """Return the host and the port of an option's value."""
    if value is None:
        return None
    match = _ADDRESS.fullmatch(value)
    if match is None or int(match["port"]) > 65_535:
        raise click.BadParameter(
            f"{value!r} is no address. Give a host and a port, as in 127.0.0.1:9464 or [::1]:9464."
        )
    return match["six"] or match["host"], int(match["port"])


@contextmanager
def served(where: tuple[str, int] | None) -> Iterator[list[Metrics]]:
    """Serve metrics inside of this. Yield the plugins for ``init``.

    :raises ConfigError: if prometheus-client is not installed.
    :raises PitstopError: if the address cannot be used.
    """
    if where is None:
        yield []
        return
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        # It raises the error that names the extra.
        Metrics.prometheus()
        raise
    registry = CollectorRegistry()
    metrics = Metrics.prometheus(registry)
    ProcessCollector(registry=registry)
    host, port = where
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise PitstopError(
            f"--metrics cannot listen on {host}:{port}: {error.strerror or error}. Give another address."
        ) from error
    try:
        yield [metrics]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
