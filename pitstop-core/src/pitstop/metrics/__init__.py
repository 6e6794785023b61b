"""Metrics for Prometheus and OpenTelemetry: a plugin for :func:`pitstop.init`.

::

    from pitstop.metrics import Metrics
    pit = pitstop.init(url, plugins=[Metrics.prometheus()])       # pip install "pitstop-core[prometheus]"
    pit = pitstop.init(url, plugins=[Metrics.opentelemetry()])    # pip install "pitstop-core[otel]"
"""

from __future__ import annotations

from pitstop.metrics._observer import Metrics


__all__ = ["Metrics"]
