"""The promises of Pitstop to its users."""
