"""Pitstop on PostgreSQL: durable, for many processes, in one transaction with the application's own tables."""

from __future__ import annotations

from pitstop_postgres._backend import PostgresBackend
from pitstop_postgres._config import PostgresConfig


__all__ = ["PostgresBackend", "PostgresConfig"]
