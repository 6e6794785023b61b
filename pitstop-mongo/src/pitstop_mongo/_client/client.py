"""The client that Pitstop makes for itself, from its configuration."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pymongo

from pymongo.driver_info import DriverInfo
from pymongo.errors import PyMongoError

from pitstop import ConfigError
from pitstop_mongo._client.config import MongoConfig
from pitstop_mongo._client.failures import in_dns, is_wrong_in_dns, translate


__all__ = ["open_client"]

#: Defaults of Pitstop's own client, unless the URI gives others. PyMongo's are 30 s, 20 s, and no limit.
_PATIENCE = {"serverSelectionTimeoutMS": 5000, "connectTimeoutMS": 5000, "waitQueueTimeoutMS": 5000}


def open_client(config: MongoConfig, location: str) -> pymongo.MongoClient[Any]:
    """Make a client. It connects at its first use.

    :param location: for errors.
    :raises ConfigError: if PyMongo refuses the configuration.
    :raises BackendUnavailable: if PyMongo asks DNS at once, and does not get an answer.
    """
    try:
        return pymongo.MongoClient(**_options(config))
    except (PyMongoError, ValueError, TypeError, OSError) as error:
        if in_dns(error) or is_wrong_in_dns(error):
            # Some versions of PyMongo ask DNS at once.
            raise translate(error, location) from None
        # PyMongo's text may quote a value, and a value may be a secret.
        keys = ", ".join(["user", "pass", "replica_set", "tls", *config.driver_options])
        raise ConfigError(
            f"PyMongo refuses the configuration for {location} ({type(error).__name__}). "
            f"Check the options of the URI, the files that are named, and whether these go together: {keys}."
        ) from None


def _version() -> str | None:
    """Return the version for the server's log; None in a program that was frozen without the metadata of its packages."""
    try:
        return version("pitstop-mongo")
    except PackageNotFoundError:
        return None


def _options(config: MongoConfig) -> dict[str, Any]:
    copied = config.copied_options
    if copied is not None:
        return {**copied, "connect": False}
    given = {name.lower() for name in config.driver_options}
    if config.target is not None:
        given |= config.target.options
    defaults = {**_PATIENCE, "appName": "pitstop"}
    options: dict[str, Any] = {name: value for name, value in defaults.items() if name.lower() not in given}
    keys = {
        "username": config.user,
        "password": config.password,
        "authSource": config.auth_source,
        "replicaSet": config.replica_set,
        "tls": config.tls,
    }
    options |= {name: value for name, value in keys.items() if value is not None}
    options |= config.driver_options
    host: Any = config.uri if config.uri is not None else list(config.addresses)
    return {"host": host, "driver": DriverInfo("pitstop", _version()), "connect": False, **options}
