"""The test runner of the project."""

from __future__ import annotations

from typing import Any

from django.test.runner import DiscoverRunner

from shop.store import pit


class Runner(DiscoverRunner):
    """Closes the store before the test database is dropped. PostgreSQL refuses to drop a database that has connections."""

    def teardown_databases(self, old_config: Any, **options: Any) -> None:
        """See the base class."""
        pit().close()
        super().teardown_databases(old_config, **options)
