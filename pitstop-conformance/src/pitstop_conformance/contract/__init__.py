"""What :class:`pitstop.abc.Backend` promises to core."""
