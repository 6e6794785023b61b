"""Pitstop on MongoDB: atomic leases, for production."""

from __future__ import annotations

from pitstop_mongo._backend import MongoBackend
from pitstop_mongo._client.config import MongoConfig


__all__ = ["MongoBackend", "MongoConfig"]
