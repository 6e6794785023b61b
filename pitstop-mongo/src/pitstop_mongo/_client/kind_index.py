"""KindIndex: the index ``{kind: 1, due: 1}`` as one process knows it: whether claims may use it, and the thread that makes it.

::

    the first claim of some kinds looks for the index
        there, and in use by the server      claims use it
        missing, or the server builds it     a thread makes it, or waits for the build of another process
    until it is there                        claims use {due: 1}; one claim each minute looks again
    the server refuses to make it            one warning; a thread tries again after ten minutes
    the server does not answer the thread    the next claim tries again
    it is dropped, or a new primary lacks it the claim that notices looks again, and goes on

Threads: any thread that claims looks, several at a time do no harm. The thread ``pitstop-index`` makes the index.
"""

from __future__ import annotations

import logging

from threading import Thread

import attrs

from pitstop import BackendUnavailable
from pitstop.abc import Clock, log_fields
from pitstop_mongo._client.collection import Collection
from pitstop_mongo._client.failures import CAUGHT


__all__ = ["KindIndex", "Ready"]

_log = logging.getLogger("pitstop.mongo")

#: Seconds after which an index that is missing is looked for again: an administrator may have made it.
_LOOK_EVERY = 60.0
#: Seconds after which the server is asked again to make an index that it refused to make. It may read all messages for that.
_MAKE_EVERY = 600.0
#: Seconds for which the answer counts that the server walks the kinds by the index.
_WALK_FOR = 10.0
_NOW = float("-inf")


@attrs.frozen(eq=False)
class Ready:
    """An index that the server uses."""

    #: Claims give its name, because other indexes may have the same fields.
    name: str
    #: The instant of the monotonic clock at which it was found.
    since: float


class KindIndex:
    """The index of the kinds, for one :class:`~pitstop_mongo._client.link.Link`."""

    def __init__(self, clock: Clock, *, lasting: bool) -> None:
        """Return an index that was not looked for.

        :param lasting: whether an answer of the server may be used again for some seconds. Not with the clock of a test.
        """
        self._clock = clock
        self._walk_for = _WALK_FOR if lasting else 0.0
        #: The index, while claims may use it. Threads that look write it, and the thread that makes the index.
        self.ready: Ready | None = None
        # Instants of the monotonic clock.
        self._look_at = self._make_at = _NOW
        self._walks_until = self._crowded_until = _NOW
        self._maker: Thread | None = None
        self._maker_since = _NOW
        # Texts that were logged.
        self._warned: set[str] = set()

    def prepare(self, collection: Collection, patience: float) -> None:
        """Look for the index if it is time to, and let a thread make it if it is missing.

        If the time of an operation runs out, the server gives up an index that it was making. In a large collection the index
        would never be finished. So the thread has no limit.

        :param patience: how many seconds after the start of this thread to wait for the index. As a rule it takes a moment.
        """
        now = self._clock.monotonic()
        if now < self._look_at:
            return
        # Threads that come meanwhile look by themselves. Their claims could be slow without the index.
        name = collection.index_of_kinds()
        self._look_at = now + _LOOK_EVERY
        if name is not None:
            self.ready = Ready(name, now)
        elif now >= self._make_at:
            self._let_make(collection, now, patience)

    def lost(self, ready: Ready) -> None:
        """Note that the server does not know this index. The next claim looks again, unless the index was found just now."""
        if self.ready is ready:
            now = self._clock.monotonic()
            self._look_at = now + _LOOK_EVERY if now - ready.since < _LOOK_EVERY else _NOW
            self._make_at = _NOW
            self._walks_until = _NOW
            self.ready = None

    @property
    def walks(self) -> bool:
        """Whether the server is known to read one key for each kind when it walks the kinds."""
        return self._clock.monotonic() < self._walks_until

    def walks_well(self) -> None:
        """Note that the server reads one key for each kind."""
        self._walks_until = self._clock.monotonic() + self._walk_for

    @property
    def crowded(self) -> bool:
        """Whether claims of the rest leave the index alone for now."""
        return self._clock.monotonic() < self._crowded_until

    def leave_alone(self) -> None:
        """Let claims of the rest leave the index alone for a minute, because it cannot answer them."""
        self._crowded_until = self._clock.monotonic() + _LOOK_EVERY

    def _let_make(self, collection: Collection, now: float, patience: float) -> None:
        maker = self._maker
        if maker is None or not maker.is_alive():
            maker = self._maker = Thread(target=self._make, args=(collection,), name="pitstop-index", daemon=True)
            try:
                maker.start()
            except RuntimeError as error:
                # The limit of threads, or the end of the interpreter.
                self._warn(
                    f"No thread could be started that makes the index of the kinds ({error}). Pitstop tries again soon."
                )
                return
            self._maker_since = now
        # Not each minute again while a build goes on.
        maker.join(max(self._maker_since + patience - now, 0.0))

    def _make(self, collection: Collection) -> None:
        try:
            name = collection.make_index_of_kinds()
        except BackendUnavailable as error:
            self._make_at = self._clock.monotonic() + _MAKE_EVERY
            self._warn(f"{error}")
        except CAUGHT as error:
            # The next claim of some kinds tries again, and finds out whether the server is there.
            self._look_at = _NOW
            extra = log_fields("kind_index_not_made", backend="mongodb")
            _log.debug("the index of the kinds was not made: %s", type(error).__name__, extra=extra)
        else:
            self.ready = Ready(name, self._clock.monotonic())

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s", text, extra=log_fields("kind_index_not_made", backend="mongodb"))
