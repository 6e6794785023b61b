"""``manage.py remind``: remind customers, until SIGTERM or Ctrl-C."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from shop.reminders import remind
from shop.store import pit


class Command(BaseCommand):
    """Handle the messages that are due."""

    help = "Remind customers of their orders, until SIGTERM or Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        """See the base class."""
        parser.add_argument("--workers", type=int, default=4, help="threads, each with a connection of its own")
        parser.add_argument("--until-idle", action="store_true", help="end when no message is due")

    def handle(self, *_: Any, workers: int, until_idle: bool, **__: Any) -> None:
        """See the base class."""
        with pit() as store:
            self.stdout.write(str(store.consume(remind, workers=workers, until_idle=until_idle)))
