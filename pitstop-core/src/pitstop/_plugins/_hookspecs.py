"""The hooks that a plugin may implement. An implementation declares those of a hook's arguments that it needs.

All hooks but :meth:`HookSpecs.pitstop_create_backend` and :meth:`HookSpecs.pitstop_handling` are observers: their return value
is ignored, and their exceptions are logged and counted, and affect nothing else. They run in the thread that did the work,
after it was written to the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pluggy


if TYPE_CHECKING:
    from pitstop._engine._delivery import Delivery
    from pitstop._errors import BackendUnavailable
    from pitstop._values._entry import Entry
    from pitstop.abc import Backend

__all__ = ["PROJECT", "HookSpecs", "hookimpl"]

PROJECT = "pitstop"

#: Marks a method of a plugin as the implementation of the hook with its name.
hookimpl = pluggy.HookimplMarker(PROJECT)
_hookspec = pluggy.HookspecMarker(PROJECT)


class HookSpecs:
    """The hooks, by name. See the module's text for the rules."""

    @_hookspec(firstresult=True)
    def pitstop_create_backend(self, type: str, options: Mapping[str, Any]) -> Backend | None:
        """Return the backend for a ``type`` and the rest of the configuration, or None to leave it to other plugins."""

    @_hookspec
    def pitstop_message_stored(self, entry: Entry, id: str, kind: str) -> None:
        """Called when a message was stored, for the first time or anew, and when it was moved in time.

        With a ``session`` it may still be rolled back. The entry holds a copy of the message: take ``id`` or ``kind`` alone if they
        are enough.
        """

    @_hookspec
    def pitstop_message_leased(self, delivery: Delivery, lateness: timedelta | None) -> None:
        """Called when a message is about to be handed out.

        ``lateness`` is the time since the occurrence was due, by the store's clock. None: this is not its first attempt.
        """

    @_hookspec
    def pitstop_message_acked(self, delivery: Delivery) -> None:
        """Called when a delivery was acknowledged."""

    @_hookspec
    def pitstop_message_settled(self, id: str, kind: str, outcome: str) -> None:
        """Called when the fate of a claimed message is written, beside the hooks that are about one outcome.

        ``outcome`` is ``acked``, ``nacked`` (it comes back, or its series goes on without it), ``dead``, ``expired`` or ``lost``.
        """

    @_hookspec
    def pitstop_message_retried(self, delivery: Delivery, error: str | None, due: datetime) -> None:
        """Called when a delivery was nacked and comes back at ``due``."""

    @_hookspec
    def pitstop_message_dead(self, id: str, error: str | None, kind: str | None) -> None:
        """Called when a message was set aside: it failed too often, or cannot be read. Then its ``kind`` is None."""

    @_hookspec
    def pitstop_message_expired(self, entry: Entry) -> None:
        """Called when an occurrence was not emitted because it was later than ``expires``: the entry as it was claimed.

        ``entry.scheduled_for`` is the time of the occurrence. A one-shot message is gone. A series goes on, and its next
        :meth:`pitstop_recurrence_advanced` follows.
        """

    @_hookspec
    def pitstop_lease_lost(self, delivery: Delivery) -> None:
        """Called when an ack, nack or extension came too late, and changed nothing: at most once per delivery."""

    @_hookspec
    def pitstop_recurrence_advanced(
        self, id: str, scheduled_for: datetime, last_error: str | None, kind: str | None
    ) -> None:
        """Called when a series goes on to its occurrence at ``scheduled_for``; with an error, the one before was given up."""

    @_hookspec
    def pitstop_opened(self, pit: Any) -> None:
        """Called when a Pitstop was made; for an AsyncPitstop, when it opens its store, with the Pitstop behind it."""

    @_hookspec
    def pitstop_store_failed(self, error: BackendUnavailable) -> None:
        """Called when the store did not do what it was asked to do, whether the call is tried again or not."""

    @_hookspec
    def pitstop_handling(self, delivery: Delivery) -> AbstractContextManager[Any]:  # type: ignore[empty-body]
        """Return a context in which ``with delivery:`` runs its body. It is left before the ack or nack."""
