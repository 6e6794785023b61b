"""The contract of a backend: it stores records, leases them, and applies fenced writes. Nothing else.

Core decides what a message, a recurrence or a retry *means*, by functions of values. A backend never looks into
``Record.series``, and computes no time but the end of a lease.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from enum import Flag, auto
from typing import Any, ClassVar

from pitstop._errors import Unsupported
from pitstop._values._entry import State
from pitstop.abc._clock import SystemClock
from pitstop.abc._config import BackendConfig
from pitstop.abc._lacks import lacks_pauses
from pitstop.abc._legacy import Legacy, LegacyPage
from pitstop.abc._many import Many
from pitstop.abc._notes import Notes
from pitstop.abc._record import Damaged, Progress, Record, Settlement, Tally
from pitstop.abc._watch import Watch
from pitstop.abc._writes import Writes


__all__ = ["API_VERSION", "SUITE_VERSION", "Backend", "Capability"]

#: Seconds for which core waits at a close, if the backend does not state how long its calls may take.
_PATIENCE = 15.0
_UNBOUNDED = nullcontext(_PATIENCE)

#: The version of this contract. A backend states the version it was written for as ``api_version``.
API_VERSION = 1
#: The version of the suite that proves a backend, :class:`pitstop.testing.BackendConformance`. It grows whenever a backend
#: that passed before may no longer pass.
SUITE_VERSION = 6


class Capability(Flag):
    """Optional behaviour. A backend declares what it has. Core does without the rest, or raises ``Unsupported``."""

    #: Stored messages are still there after a restart of the process and its machine.
    DURABLE = auto()
    #: Several processes may use one store at the same time.
    MULTI_PROCESS = auto()
    #: :meth:`Backend.watch` notices changes that other handles and other processes make.
    WATCH = auto()
    #: :meth:`Backend.within` writes in the user's transaction.
    TRANSACTIONS = auto()
    #: :meth:`Backend.legacy` and :meth:`Backend.adopt` take over messages that an older library stored in the same place.
    ADOPT = auto()
    #: :meth:`Backend.scratch` gives a namespace of its own to try things in, without touching any message of the store.
    SCRATCH = auto()
    #: :meth:`Backend.put_if` stores a record only in the place of the expected one.
    CONDITIONAL = auto()
    #: Records keep their ``kind``, and :meth:`Backend.lease` and :meth:`Backend.next_due` choose by it.
    KINDS = auto()
    #: Records keep their ``policy``.
    POLICIES = auto()
    #: :meth:`Backend.find` reads about as many records as it returns. Without it a search walks through all records.
    FIND = auto()
    #: :meth:`Backend.get_many`, :meth:`Backend.delete_many`, :meth:`Backend.put_many_if` and :meth:`Backend.put_new` take a few
    #: round trips for a batch. Without it they take a few for each record.
    BULK = auto()
    #: :meth:`Backend.pause_kind`, :meth:`Backend.resume_kind` and :meth:`Backend.paused_kinds` keep the paused kinds of the
    #: store. Needs :attr:`KINDS`.
    PAUSES = auto()
    #: :meth:`Backend.note`, :meth:`Backend.forget_note` and :meth:`Backend.notes` keep a few short texts beside the records.
    NOTES = auto()


class Backend(Many, Notes, ABC):
    """Where messages live. Thread-safe: any method may be called from any thread at any time.

    Methods raise :class:`pitstop.BackendUnavailable` if the store does not do what it should. The text holds no secret and
    no message. Times are instants (milliseconds since the epoch).
    """

    #: The version of the contract that the class was written for. State it in the class: ``api_version = 1``.
    api_version: ClassVar[int]
    #: The version of the suite, :data:`SUITE_VERSION`, that this release of the backend passed; None: not stated.
    #: The author states it, and ``pitstop backends`` shows it. Write the number, as in ``suite_version = 6``, and raise it
    #: when the backend has passed the newer suite.
    suite_version: ClassVar[int | None] = None
    #: The attrs class of the configuration. It validates itself.
    Config: ClassVar[type[BackendConfig]] = BackendConfig
    capabilities: ClassVar[Capability] = Capability(0)

    def __init__(self, config: BackendConfig) -> None:
        self.config = config
        self.clock = config.clock or SystemClock()

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Backend:
        """Return a backend with a user's configuration, without its ``type``.

        :raises pitstop.ConfigError: if an option is unknown or its value is wrong.
        """
        return cls(cls.Config.from_options(options))

    @abstractmethod
    def now(self) -> int:
        """Return microseconds since the epoch, by the clock that decides what is due: the server's where there is one.

        :meth:`lease`, :meth:`settle` and the states of :meth:`scan` go by the same clock. Where the server's time is measured
        instead of asked for, the answer may be wrong by the error of the measurement, and not by whole seconds.
        """

    @abstractmethod
    def put(self, records: Sequence[Record]) -> None:
        """Store records with distinct ids. Each replaces the record with its id, lease included.

        Each record is stored whole or not at all. When the method returns, all are stored, as durably as the store is
        configured. Records with equal ``due`` are leased in the order in which their ids came in.
        """

    def put_if(self, record: Record, revision: str | None, progress: Progress | None = None) -> bool:
        """Store a record if the stored record with its id is the expected one. Return whether it was stored.

        This is one atomic step, also against other processes. If it returns True, the record is stored as :meth:`put` stores
        it. If it returns False, nothing was changed. A stored record whose revision cannot be read is never the expected one.

        If the reply of the store gets lost, the method finds out whether the record is stored, by its own revision. It raises
        :class:`pitstop.OutcomeUnknown` with the id if it cannot find that out.

        :param revision: the revision of the expected record. None: no record with the id is expected, not even a damaged one.
        :param progress: the progress of the expected record, with all its values. None: any progress.
        :raises pitstop.Unsupported: without :attr:`Capability.CONDITIONAL`.
        """
        raise lacks_conditional(self)

    @abstractmethod
    def delete(self, id: str) -> bool:
        """Remove a record, leased or not. Return True if it was there."""

    @abstractmethod
    def get(self, id: str) -> Record | Damaged | None:
        """Return a record as it is now; None if there is none."""

    @abstractmethod
    def scan(self, state: State | None, limit: int, after: tuple[int | None, str] | None) -> Sequence[Record | Damaged]:
        """Return up to ``limit`` records in the order of ``(due, id)``, those without a ``due`` last.

        :param state: only records in this state: ``dead`` (no ``due``), ``leased`` (a token, ``due`` to come), ``due``
            (``due`` has come), ``scheduled`` (``due`` to come, no token), ``paused`` (the token :data:`PAUSED`, ``due`` to come or
            none; such a record is neither leased nor dead). None: all. A damaged ``due`` counts as none.
        :param after: only records behind this ``(due, id)``. The record with it need not exist any more.
        """

    @abstractmethod
    def tally(self) -> Tally:
        """Return the number of records in each state, as in :meth:`scan`."""

    @abstractmethod
    def lease(self, limit: int, duration: int, kinds: Collection[str] | None = None) -> Sequence[Record | Damaged]:
        """Claim up to ``limit`` records whose ``due`` has come, the oldest ``due`` first, for ``duration`` ms.

        Each is written as :meth:`Progress.leased` returns it for this ``limit``, with one new random token for the whole claim.
        The records are returned as they are after the claim. No two claims get the same record while a lease runs. If more than
        ``limit`` records are due, fewer than ``limit`` may be returned, but not none. A claim that finds all rows that it looks at
        locked by other claims looks further. It may return none if all due records are locked: the others then get them.

        An unreadable record is leased like any other and returned as :class:`Damaged`; core sets it aside. If a record cannot
        even be leased, the backend goes on with the others. It sets that record aside by itself and returns it as ``Damaged``
        with neither ``due`` nor ``token``. If the store allows no write to the record, the backend leaves the record out, logs
        that once, and reports it by :meth:`concerns`. An error of the store is no reason to set any record aside.

        :param limit: from 1 to 2**31 - 1, here and in :meth:`scan`.
        :param kinds: only records of these kinds, at least one; or of all kinds but those of an :class:`AllBut`. None: of all
            kinds. Records of other kinds are neither changed nor in the way, however many are due. A record whose kind cannot be
            read is of no kind: an :class:`AllBut` includes it, and core sets it aside. A claim that names kinds never returns it.
            Core gives the argument to backends with :attr:`Capability.KINDS` only.
        """

    @abstractmethod
    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool | None]:
        """Apply fenced writes for distinct pairs of id and token. Return for each whether it was applied, or None if that cannot be known.

        An id may come twice, with different tokens: at most one of them applies, because the record carries one token.

        A settlement applies if the record carries its token, and ``due`` is still to come (the lease runs) or None (dead).
        Else nothing is changed: the record is not created, not updated, not deleted. Each settlement is atomic; the batch
        need not be. It does no harm to apply a settlement again after its reply was lost. In a batch, a delete may be
        reported as applied although another user had removed its record before: the record is gone either way. A single
        delete is reported exactly.

        None is the answer if a settlement may have been applied, and another user has changed or removed the record before
        the store could be asked. The other answers of the batch stand. An extension (:attr:`Outcome.EXTEND`) is answered with
        False then, because its lease is over in either case.

        :raises pitstop.OutcomeUnknown: if the reply was lost and the store cannot be asked. Any of the batch may have been
            applied. Core then reads the records, or settles again. False in its place would report a lease as lost that was
            settled.
        """

    @abstractmethod
    def next_due(self, kinds: Collection[str] | None = None) -> int | None:
        """Return the least ``due`` of all records, leased records included; None if there is none.

        The answer may be somewhat old, but the first answer of a new handle is exact. A write through a handle shows in that
        handle's own answers within a second of its clock. Listeners sleep and wake up by these answers.

        :param kinds: only records of these kinds, as in :meth:`lease`.
        """

    def pause_kind(self, kind: str, until: int | None) -> None:
        """Store that a kind is paused, in the place of an earlier pause of the kind. Core leaves paused kinds out of its claims.

        This changes no record, and no claim of the backend: :meth:`lease` gets the kinds that it is to claim.

        :param until: the instant at which the pause ends by itself. None: there is none.
        :raises pitstop.Unsupported: without :attr:`Capability.PAUSES`.
        """
        raise lacks_pauses(self, self.location)

    def resume_kind(self, kind: str) -> bool:
        """Remove the pause of a kind. Return True if the kind was paused, and the pause had not ended.

        :raises pitstop.Unsupported: without :attr:`Capability.PAUSES`.
        """
        raise lacks_pauses(self, self.location)

    def paused_kinds(self) -> Mapping[str, int | None]:
        """Return the paused kinds with the ends of their pauses, without those that have ended by :meth:`now`.

        Every pause and resume is visible at once, through all handles. A listener calls this once per ``loop_time``.

        :raises pitstop.Unsupported: without :attr:`Capability.PAUSES`.
        """
        raise lacks_pauses(self, self.location)

    def within(self, session: object) -> Writes:
        """Return the writes of the transaction that ``session`` is in. They count once that transaction commits.

        Until then they are invisible to all other users. The method only inspects ``session``; only the writes use the store.

        :param session: the object that the backend's driver calls a session. It is passed on as the user gave it, so it may
            have any type.
        :raises pitstop.Unsupported: without :attr:`Capability.TRANSACTIONS`.
        :raises pitstop.PitstopError: if ``session`` cannot be used; the text gives the reason and names the sessions that can be used.
        """
        raise Unsupported(
            f"{type(self).__name__} ({self.location}) does not have the capability TRANSACTIONS, which session= needs. "
            f"Leave session out, or use a backend that has it: 'sqlite', or 'mongo' on a replica set with client= given to init."
        )

    def ping(self) -> None:
        """Ask the store for something small, to see whether it does what it should.

        :raises pitstop.BackendUnavailable: if it does not; the text gives the reason.
        """
        self.next_due()

    def schema(self) -> str | None:
        """Return the statements that make the store, for an administrator who executes them; None if there are none.

        ``pitstop migrate --print`` shows them. The method does not use the store.
        """
        return None

    def migrate(self) -> None:
        """Make the parts of the store that are missing, also with ``create=False``. ``pitstop migrate`` calls it.

        If nothing is missing, it changes nothing. A backend that makes its store when it is opened needs no method of its own.

        :raises pitstop.BackendUnavailable: if they cannot be made; the text gives the reason.
        """
        self.next_due()

    def concerns(self) -> Sequence[str]:
        """Return what an operator of this store should know, in a sentence or two for each concern, the most urgent first.

        ``pitstop check`` shows each text as a warning. A concern breaks no promise by itself. Examples are a file that other
        users can read, and a document that can be neither read nor set aside. A text says what was found and what to do. It
        holds no secret, and of a message nothing but the id. The method may read the store; it changes nothing.

        :raises pitstop.BackendUnavailable: if the store does not answer.
        """
        return ()

    def watch(self) -> Watch | None:
        """Return a new watch for changes by others; None without :attr:`Capability.WATCH`.

        Also return None if this store, or this user of it, cannot watch. Core does not ask again then, and ``loop_time``
        decides how late a message of another process is noticed. A backend that returns None for such a reason logs one
        warning.
        """
        return None

    def legacy(self, after: Any = None, *, locked_after: int | None = None) -> LegacyPage:
        """Search a part of the store for documents of an older library, sound or not.

        The search is bounded in time and memory, however large the store is. It skips documents of Pitstop and of any other
        origin.

        :param after: where to go on: :attr:`LegacyPage.after` of the page before. None: at the beginning.
        :param locked_after: only documents that are locked beyond this instant.
        :raises pitstop.Unsupported: without :attr:`Capability.ADOPT`.
        """
        raise self._lacks_adopt()

    def adopt(self, items: Sequence[tuple[Legacy, Record]]) -> Sequence[bool]:
        """Put each record in the place of its document. Return for each whether that was done.

        A document is replaced only if it is still as it was read, and never if another document has the record's id. If a
        document and its record have different ids, the record cannot be claimed before the document is gone. An adoption that
        was cut short in between is found again by :meth:`legacy`. The record's message is the document's, without the id.

        :raises pitstop.Unsupported: without :attr:`Capability.ADOPT`.
        """
        raise self._lacks_adopt()

    def scratch(self) -> AbstractContextManager[Backend]:
        """Return a context manager with a handle on an empty namespace in the same place as the store, with the same settings.

        At the end of the context the namespace is gone, with all its messages, and the handle is closed. Each call gives a new
        namespace.

        ``pitstop check`` uses it to try the promises of this contract on a store that is in use. Nothing that is done in the
        namespace touches a message of the store, leases one, or is seen by a listener of the store; and the other way round.
        If the process is killed in between, its leftovers do no harm and can be recognised by their name.

        :raises pitstop.Unsupported: without :attr:`Capability.SCRATCH`.
        :raises pitstop.BackendUnavailable: at the beginning of the context if the namespace cannot be made, or at its end if
            the namespace cannot be removed; the text says what to do.
        """
        raise Unsupported(
            f"{type(self).__name__} at {self.location} does not have the capability SCRATCH, so nothing can be tried there "
            f"beside the messages. Try it on an empty store of its own instead; its author tests it with "
            f"pitstop.testing.BackendConformance."
        )

    def _lacks_adopt(self) -> Unsupported:
        return Unsupported(
            f"{type(self).__name__} at {self.location} does not have the capability ADOPT: no older library stored anything "
            f"there. Name the MongoDB collection of the Clojure library, as in mongo://host/database?coll=name."
        )

    def bounded(self, seconds: float | None = None) -> AbstractContextManager[float]:
        """Return a context manager in which all backend calls of this thread share one time budget.

        Callers that retry by themselves, or are shutting down, use it. A backend that may be away bounds each call and retries
        some of them; inside the context it retries none for longer than the budget. For the writes of listeners, core
        retries as well, and logs the failures. A close must not take as long as all its calls after one another. In a nested
        context the outer budget still holds. A call that is made after the end of the budget still gets a moment,
        because the store may answer.

        :param seconds: the budget. None: as long as one call without a retry may take.
        :return: gives, on entry, the budget in seconds: the caller waits that long for calls of other threads.
        """
        return _UNBOUNDED if seconds is None else nullcontext(seconds)

    def close(self) -> None:
        """Release the backend's resources. A second call does nothing. No other method is called after it."""

    @property
    def location(self) -> str:
        """The place where the messages are, for logs and errors, without secrets."""
        return type(self).__name__

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.location}>"


def lacks_kinds(backend: Backend) -> Unsupported:
    """Return the error of a kind, for a backend without :attr:`Capability.KINDS`."""
    return Unsupported(
        f"{type(backend).__name__} ({backend.location}) does not have the capability KINDS, which kind= and kinds= need. "
        f"Leave them out, or use a backend that has it: 'memory', 'sqlite' or 'mongo'."
    )


def lacks_policies(backend: Backend) -> Unsupported:
    """Return the error of a policy of one message, for a backend without :attr:`Capability.POLICIES`."""
    return Unsupported(
        f"{type(backend).__name__} ({backend.location}) does not have the capability POLICIES, which retry=, lock_time= and "
        f"expires= of a message and pause() need. Leave them out, or use a backend that has it: 'memory', 'sqlite' or 'mongo'."
    )


def lacks_conditional(backend: Backend) -> Unsupported:
    """Return the error of a store on a condition, for a backend without :attr:`Capability.CONDITIONAL`."""
    return Unsupported(
        f"{type(backend).__name__} ({backend.location}) does not have the capability CONDITIONAL, which if_exists=, if_revision=, "
        f"keep_schedule=, reschedule(), emit_now() and pause() need. Do without, or use a backend that has it: 'memory', 'sqlite' or 'mongo'."
    )
