"""The promises of :class:`pitstop.abc.Backend` to core."""
