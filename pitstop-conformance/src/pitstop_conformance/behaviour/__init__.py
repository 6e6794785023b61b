"""What Pitstop promises to its users."""
