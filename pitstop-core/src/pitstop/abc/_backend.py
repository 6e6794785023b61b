"""The contract of a backend: it stores records, leases them, and applies fenced writes. Nothing else.

What a message, a recurrence or a retry *means* is decided in core, by functions of values; a backend never looks into
``Record.series`` and never computes a time, but for the end of a lease.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Flag, auto
from typing import Any, ClassVar, Protocol

from pitstop._errors import Unsupported
from pitstop._values._entry import State
from pitstop.abc._clock import SystemClock
from pitstop.abc._config import BackendConfig
from pitstop.abc._legacy import Legacy, LegacyPage
from pitstop.abc._record import Damaged, Record, Settlement, Tally


__all__ = ["API_VERSION", "SUITE_VERSION", "Backend", "Capability", "Watch", "Writes"]

#: Seconds for which core waits, at a close, for a backend that says nothing of how long its calls may take.
_PATIENCE = 15.0

#: The version of this contract. A backend states the one it was written for as ``api_version``.
API_VERSION = 1
#: The version of the suite that proves a backend, :class:`pitstop.testing.BackendConformance`: it grows whenever a backend
#: that passed may no longer do so.
SUITE_VERSION = 2


class Capability(Flag):
    """Optional behaviour. A backend declares what it has; core does without the rest, or raises ``Unsupported``."""

    #: What was stored is there after the process and its machine were restarted.
    DURABLE = auto()
    #: Several processes may use one store at the same time.
    MULTI_PROCESS = auto()
    #: :meth:`Backend.watch` notices changes that other handles and other processes make.
    WATCH = auto()
    #: :meth:`Backend.within` writes in a transaction of the user's.
    TRANSACTIONS = auto()
    #: :meth:`Backend.legacy` and :meth:`Backend.adopt` take over what an older library stored in the same place.
    ADOPT = auto()
    #: :meth:`Backend.scratch` gives a namespace of its own to try things in, without touching a message of the store.
    SCRATCH = auto()


class Writes(Protocol):
    """What the user writes: a :class:`Backend` at once, and what :meth:`Backend.within` returns in a transaction."""

    def put(self, records: Sequence[Record]) -> None:
        """See :meth:`Backend.put`."""
        ...

    def delete(self, id: str) -> bool:
        """See :meth:`Backend.delete`."""
        ...


class Watch(Protocol):
    """Notices that a store may have changed. A hint: a change that goes unnoticed costs lateness, nothing else."""

    #: Seconds to wait between two polls; 0 when :meth:`poll` itself waits for the server.
    pause: float

    def poll(self) -> int | None:
        """Tell what others wrote since the last call: the least ``due`` of it, an instant. 0: something may have changed,
        and nobody knows what. None: nothing did.

        May block for some seconds, 10 at most. After the backend was closed it ends as soon, or fails. Only the thread
        that polls closes the watch.
        """
        ...

    def close(self) -> None:
        """Give back what the watch holds."""
        ...


class Backend(ABC):
    """Where messages live. Thread-safe: any method may be called from any thread at any time.

    Methods raise :class:`pitstop.BackendUnavailable` when the store does not do what it should, with a text that holds
    no secret and no message. Times are instants (milliseconds since the epoch).
    """

    #: The version of the contract that the class was written for: say ``api_version = 1`` in the class.
    api_version: ClassVar[int]
    #: The version of the suite, :data:`SUITE_VERSION`, that this release of the backend passed; None: it does not say.
    #: A statement of the author's, shown by ``pitstop backends``. Say the number, as in ``suite_version = 2``, and raise
    #: it when the newer suite was passed.
    suite_version: ClassVar[int | None] = None
    #: The attrs class of the configuration, which validates itself.
    Config: ClassVar[type[BackendConfig]] = BackendConfig
    capabilities: ClassVar[Capability] = Capability(0)

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.clock = config.clock or SystemClock()

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Backend:
        """Make a backend of a user's configuration, less its ``type``.

        :raises pitstop.ConfigError: when an option is unknown or its value is wrong.
        """
        return cls(cls.Config.from_options(options))

    @abstractmethod
    def now(self) -> int:
        """Microseconds since the epoch, by the clock that decides what is due: the server's where there is one."""

    @abstractmethod
    def put(self, records: Sequence[Record]) -> None:
        """Store records with distinct ids, each in place of the one with its id, lease included.

        Each record is stored whole or not at all; when this returns, all are, as durably as the store is configured.
        Records with equal ``due`` are leased in the order in which their ids came in.
        """

    @abstractmethod
    def delete(self, id: str) -> bool:
        """Remove a record, leased or not. True when it was there."""

    @abstractmethod
    def get(self, id: str) -> Record | Damaged | None:
        """Read a record as it is now; None when there is none."""

    @abstractmethod
    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        """Read up to ``limit`` records in the order of ``(due, id)``, those without a ``due`` last.

        :param state: only records in this state: ``dead`` (no ``due``), ``leased`` (a token, ``due`` to come), ``due``
            (``due`` has come), ``scheduled`` (``due`` to come, no token). None: all. A damaged ``due`` counts as none.
        :param after: only records behind this ``(due, id)``. It need not be there any more.
        """

    @abstractmethod
    def tally(self) -> Tally:
        """Count the records by state, as in :meth:`scan`."""

    @abstractmethod
    def lease(self, limit: int, duration: int) -> Sequence[Record | Damaged]:
        """Claim up to ``limit`` records whose ``due`` has come, the oldest ``due`` first, for ``duration`` ms.

        Each is written as :meth:`Progress.leased` says, with one new random token for the whole claim, and returned as
        it is after that. No two claims get the same record while a lease runs. Fewer than ``limit`` may be returned
        although more are due, but not none.

        A record that cannot be read is leased like any other and returned as :class:`Damaged`; core sets it aside. If a record
        cannot even be leased, the backend goes on with the others: it sets that record aside by itself and returns it as
        ``Damaged`` with neither ``due`` nor ``token``, or, if the store lets nobody write it, leaves it out, logs that once,
        and reports it by :meth:`concerns`. An error of the store is no reason to set anything aside.

        :param limit: from 1 to 2**31 - 1, here and in :meth:`scan`.
        """

    @abstractmethod
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        """Apply fenced writes for distinct ids; say for each whether it was applied.

        A settlement applies when the record carries its token and either ``due`` is still to come (the lease runs) or
        is None (dead). Else nothing is changed: not created, not updated, not deleted. Each is atomic, the batch need
        not be. Applying one again after its reply was lost does no harm. Of several deletes in a batch, one whose record
        is not there any more, because somebody else removed it, may be told as applied: it is gone either way. A single
        delete is told as it is.
        """

    @abstractmethod
    def next_due(self) -> int | None:
        """The least ``due`` of all records, leased ones included; None when there is none.

        May be somewhat old, but for the first answer of a new handle, which is exact. What was written through a handle,
        its own answers take account of within a second of its clock: listeners sleep, and wake up, by them.
        """

    def within(self, session: object) -> Writes:
        """Write in the transaction that ``session`` is in: what is written counts if that commits, and from then on.

        Nobody else sees it before. To look at ``session`` is all that this does; only the writes use the store.

        :param session: what the driver of the backend calls a session; as the user gave it, so of any type.
        :raises pitstop.Unsupported: without :attr:`Capability.TRANSACTIONS`.
        :raises pitstop.PitstopError: when ``session`` cannot be used; the text says why, and what can.
        """
        raise Unsupported(
            f"{type(self).__name__} ({self.location}) has not got the capability TRANSACTIONS, which session= needs. "
            f"Leave session out, or use a backend that has it: 'mongo', on a replica set and with client= given to init."
        )

    def ping(self) -> None:
        """Ask the store for something small, to see whether it does what it should.

        :raises pitstop.BackendUnavailable: when it does not; the text says why.
        """
        self.next_due()

    def concerns(self) -> Sequence[str]:
        """Return what an operator of this store should know about, in one sentence or two for each concern; most urgent first.

        ``pitstop check`` shows each text as a warning. A concern breaks no promise by itself: a file that other users can
        read, or a document that can be neither read nor set aside. A text says what was found and what to do. It holds no
        secret and nothing of a message but its id. The method may read the store; it changes nothing.

        :raises pitstop.BackendUnavailable: when the store does not answer.
        """
        return ()

    def watch(self) -> Watch | None:
        """Begin to notice changes by others; None without :attr:`Capability.WATCH`.

        None too where this store, or this user of it, cannot: then nobody asks again, and ``loop_time`` decides how late
        a message of others is noticed. Whoever returns None for such a reason warns of it, once.
        """
        return None

    def legacy(self, after: Any = None, *, locked_after: int | None = None) -> LegacyPage:
        """Look through a part of the store for documents of an older library, whether sound or not.

        Bounded in time and memory, however large the store is. What is Pitstop's, or nobody's, is passed over.

        :param after: where to go on: :attr:`LegacyPage.after` of the page before. None: at the beginning.
        :param locked_after: only documents that are locked beyond this instant.
        :raises pitstop.Unsupported: without :attr:`Capability.ADOPT`.
        """
        raise self._lacks_adopt()

    def adopt(self, items: Sequence[tuple[Legacy, Record]]) -> Sequence[bool]:
        """Put each record in the place of its document; say for each whether that was done.

        Done only while the document is what was read, and never over another one that has the record's id. When a
        document and its record have different ids, the record is not claimed before the document is gone; an adoption
        that is cut short in between is found again by :meth:`legacy`. The record's message is the document's, less the id.

        :raises pitstop.Unsupported: without :attr:`Capability.ADOPT`.
        """
        raise self._lacks_adopt()

    def scratch(self) -> AbstractContextManager[Backend]:
        """A handle on an empty namespace of its own in the same place as the store, with the same settings; gone with all
        it holds at the end.

        For ``pitstop check``, which tries what this contract promises on a store that is in use: nothing that is done
        there touches a message of the store, leases one, or is seen by a listener; and the other way round. Each call
        gives another one. The end closes the handle. What a process leaves that is killed in between does no harm, and
        can be told by its name.

        :raises pitstop.Unsupported: without :attr:`Capability.SCRATCH`.
        :raises pitstop.BackendUnavailable: when it cannot be made, or not be taken away; the text says what to do. At
            the beginning of the context, or at its end.
        """
        raise Unsupported(
            f"{type(self).__name__} at {self.location} has not got the capability SCRATCH, so nothing can be tried there "
            f"beside the messages. Try it on an empty store of its own instead; its author tests it with "
            f"pitstop.testing.BackendConformance."
        )

    def _lacks_adopt(self) -> Unsupported:
        return Unsupported(
            f"{type(self).__name__} at {self.location} has not got the capability ADOPT: no older library stored anything "
            f"there. Name the MongoDB collection of the Clojure library, as in mongo://host/database?coll=name."
        )

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        """For who tries again by itself, or is about to leave: in its body the calls of this thread have one time, all
        together, and what fails is not tried again for longer than that.

        A backend that may be away bounds each call, and tries some again. Of what listeners write, core does that too, and
        tells; a close is not to take as long as all that follows one another. Entered again inside, the outer one still
        holds. A call that is made after the end of that time gets a moment all the same: the store may answer.

        :param seconds: how long. None: as long as one call may take that is not tried again.
        :return: gives, when it is entered, how many seconds that are: for how long to wait for calls of other threads.
        """
        return nullcontext(_PATIENCE if seconds is None else seconds)

    def close(self) -> None:  # noqa: B027 - nothing to give back is fine
        """Give back what the backend holds. Again is harmless. Nothing else is called afterwards."""

    @property
    def location(self) -> str:
        """Where the messages are, for logs and errors; without secrets."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.location}>"
