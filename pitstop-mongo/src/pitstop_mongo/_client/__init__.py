"""The connection to the server: configuration, client, errors, and the collection."""
