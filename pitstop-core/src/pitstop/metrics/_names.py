"""The metrics: their names, labels and help texts, the same for Prometheus and OpenTelemetry."""

from __future__ import annotations

import attrs


__all__ = [
    "BUCKETS",
    "CLAIMED_AHEAD",
    "CLOCK_SKEW",
    "DELIVERED",
    "HANDLING",
    "IN_FLIGHT",
    "LAST_POLL",
    "LATENESS",
    "MESSAGES",
    "OLDEST_DUE",
    "SETTLED",
    "STORED",
    "STORE_ERRORS",
    "Metric",
]

#: The upper bounds of the histograms, in seconds: from 1 ms to 1 h.
BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)


# Compared by identity, because each update looks it up.
@attrs.frozen(eq=False)
class Metric:
    """One metric."""

    #: The name in OpenTelemetry. Exporters for Prometheus make the other name of it.
    dotted: str
    help: str
    labels: tuple[str, ...] = ()
    #: In the notation of UCUM, as OpenTelemetry has it.
    unit: str = ""

    @property
    def name(self) -> str:
        """The name in Prometheus, without the ``_total`` of a counter."""
        return self.dotted.replace(".", "_") + ("_seconds" if self.unit == "s" else "")


STORED = Metric("pitstop.messages.stored", "Messages that were stored, or moved in time.", ("kind",))
DELIVERED = Metric("pitstop.messages.delivered", "Messages that were handed out.", ("kind", "attempt"))
SETTLED = Metric("pitstop.messages.settled", "Messages whose fate was written.", ("kind", "outcome"))
STORE_ERRORS = Metric("pitstop.store.errors", "Calls of the store that failed.")
LATENESS = Metric("pitstop.delivery.lateness", "Time from due to handed out, of first attempts.", unit="s")
HANDLING = Metric("pitstop.handling.duration", "Time that handlers take.", unit="s")
IN_FLIGHT = Metric("pitstop.in_flight", "Messages that handlers of this process have.")
CLAIMED_AHEAD = Metric("pitstop.claimed_ahead", "Messages that this process has claimed and not handed out.")
MESSAGES = Metric("pitstop.messages", "Messages in the store.", ("state",))
OLDEST_DUE = Metric("pitstop.oldest_due_age", "For how long the oldest due message has been due; 0: none is.", unit="s")
CLOCK_SKEW = Metric("pitstop.clock_skew", "The clock of the store less that of this machine.", unit="s")
LAST_POLL = Metric("pitstop.listener.last_poll_timestamp", "When the store last answered a claim.", unit="s")
