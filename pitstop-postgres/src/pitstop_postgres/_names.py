"""Names: the table and the objects beside it, quoted for statements. Ids and kinds are never names: they are values."""

from __future__ import annotations

import hashlib

import attrs

from psycopg import sql

from pitstop_postgres._config import PostgresConfig


__all__ = ["Names"]


@attrs.frozen
class Names:
    """The names of one store."""

    schema: str | None
    name: str

    @classmethod
    def of(cls, config: PostgresConfig) -> Names:
        """Return the names that a configuration gives."""
        return cls(config.schema, config.table)

    @property
    def table(self) -> str:
        """The table of the messages, for a statement."""
        return self._quoted(self.name)

    @property
    def meta(self) -> str:
        """The table of the version and the paused kinds, for a statement."""
        return self._quoted(f"{self.name}_meta")

    def index(self, suffix: str) -> str:
        """Return an index of the table, for the statement that makes it. It is in the schema of its table."""
        return _quote(f"{self.name}_{suffix}")

    @property
    def regclass(self) -> str:
        """The table, as a value of ``to_regclass``."""
        return self.table.replace("%%", "%")

    @property
    def regclass_of_meta(self) -> str:
        """The table beside it, as a value of ``to_regclass``."""
        return self.meta.replace("%%", "%")

    @property
    def channel(self) -> str:
        """The channel of the notifications. Its name is short, whatever the name of the table is."""
        return f"pitstop_{hashlib.sha256(self.table.encode()).hexdigest()[:24]}"

    def _quoted(self, name: str) -> str:
        return _quote(name) if self.schema is None else _quote(self.schema, name)


def _quote(*names: str) -> str:
    # A percent sign would begin a placeholder of the driver.
    return sql.Identifier(*names).as_string(None).replace("%", "%%")
