"""Any sequence of operations, compared with a plain model."""
