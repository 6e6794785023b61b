"""Messages in the collection: stored, claimed, settled and read."""
