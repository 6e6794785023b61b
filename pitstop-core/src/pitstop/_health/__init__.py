"""The health of running consumers, for probes: over HTTP, or by the time of a file. Loaded when a consumer is to show it."""
