"""The suite that every backend of Pitstop has to pass.

The author of a backend subclasses :class:`BackendConformance` and gives one fixture::

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def make_backend(self, tmp_path):
            return lambda **options: MyBackend.from_options({"path": tmp_path / "store", **options})

The fixture returns a function that opens a handle. The store is new in each test, and every call within one test opens
the same store. The suite closes the handles. The options that the suite passes (a ``clock`` among them) are options of
every backend's configuration.

The class may have more:

* ``known_failures = {"reason": {"test_...", ...}}`` lists the tests that the backend fails. A class that overrides a test
  without listing it is refused.
* The method ``damage(backend, id)`` makes a stored message unreadable behind the backend's back.
* The method ``damage_kind(backend, id)`` makes a stored kind unreadable, for a backend that declares ``KINDS``.
* The method ``transaction(backend)`` begins a transaction, for a backend that declares ``TRANSACTIONS``.
* ``has_server = False`` states that the backend has no server. With a server, the method ``through(wire, **options)`` opens a
  handle behind a :class:`Wire`, ``server_time(backend)`` asks the server for its time, and ``protected(password, **options)``
  opens a handle with a password.
* The method ``traces(backend)`` names the things that the backend may leave behind.

The author of a recurrence subclasses :class:`RecurrenceSuite` and gives some rules.

The run ends with a table: for each part of the suite and each class, how many tests passed, and how many were not declared
(the backend lacks the capability), not shown, or known failures.

PYTEST_DONT_REWRITE: this module has no assertion. Below it asks pytest to rewrite those of all other modules, before they are
imported.
"""

from __future__ import annotations

import pytest

from pitstop_conformance._core import SUITE_VERSION, __version__, check_core


check_core()
pytest.register_assert_rewrite(__name__)

from pitstop_conformance._kit import Handles, Kit, kit_tests
from pitstop_conformance._recurrence import RecurrenceSuite
from pitstop_conformance._wire import Wire
from pitstop_conformance.behaviour._batches import Batches
from pitstop_conformance.behaviour._catching_up import CatchingUp
from pitstop_conformance.behaviour._consume import Consuming
from pitstop_conformance.behaviour._delivery import Deliveries
from pitstop_conformance.behaviour._failures import Failures
from pitstop_conformance.behaviour._finding import Finding
from pitstop_conformance.behaviour._if_exists import IfExists
from pitstop_conformance.behaviour._if_revision import IfRevision
from pitstop_conformance.behaviour._listener import Listening
from pitstop_conformance.behaviour._look import Look
from pitstop_conformance.behaviour._many import ManyMessages
from pitstop_conformance.behaviour._moving import Moving
from pitstop_conformance.behaviour._of_kinds import OfKinds
from pitstop_conformance.behaviour._paused_kinds import PausedKinds
from pitstop_conformance.behaviour._pausing import Pausing
from pitstop_conformance.behaviour._policies import Policies
from pitstop_conformance.behaviour._recurring import Recurring
from pitstop_conformance.behaviour._refusals import Refusals
from pitstop_conformance.behaviour._store import Store
from pitstop_conformance.behaviour._transfer import Moves
from pitstop_conformance.contract._config import Configuration
from pitstop_conformance.contract._connections import Connections
from pitstop_conformance.contract._counts import Counts
from pitstop_conformance.contract._damaged import DamagedAmongOthers
from pitstop_conformance.contract._find import Find
from pitstop_conformance.contract._handle import Handle
from pitstop_conformance.contract._kinds import Kinds
from pitstop_conformance.contract._lease import Lease
from pitstop_conformance.contract._many import ManyRecords
from pitstop_conformance.contract._notes import Notes
from pitstop_conformance.contract._paused import Paused
from pitstop_conformance.contract._pauses import Pauses
from pitstop_conformance.contract._policies import KeptPolicies
from pitstop_conformance.contract._put import PutGetDelete
from pitstop_conformance.contract._put_if import PutIf
from pitstop_conformance.contract._read import Read
from pitstop_conformance.contract._scratch import Scratch
from pitstop_conformance.contract._settle import Settle
from pitstop_conformance.contract._time import Time
from pitstop_conformance.contract._traces import Traces
from pitstop_conformance.contract._transactions import Transactions
from pitstop_conformance.contract._watch import Watching
from pitstop_conformance.model._tests import Model
from pitstop_conformance.races._crash import Crash
from pitstop_conformance.races._orders import Orders
from pitstop_conformance.races._process_races import ProcessRaces
from pitstop_conformance.races._thread_races import Races


__all__ = [
    "SUITE_VERSION",
    "BackendConformance",
    "BackendContract",
    "Connections",
    "Crash",
    "Handles",
    "Kit",
    "Model",
    "PitstopBehaviour",
    "ProcessRaces",
    "Races",
    "RecurrenceSuite",
    "Scratch",
    "Transactions",
    "Wire",
    "__version__",
    "kit_tests",
]


# pytest runs the tests of the last base first. The contract comes before the behaviour that is built on it, because its
# failures are the easiest to understand.
class BackendContract(
    Connections,
    Time,
    Watching,
    Traces,
    Scratch,
    Transactions,
    Configuration,
    DamagedAmongOthers,
    Handle,
    Pauses,
    Notes,
    Paused,
    Kinds,
    KeptPolicies,
    Counts,
    Settle,
    Lease,
    ManyRecords,
    Find,
    Read,
    PutIf,
    PutGetDelete,
):
    """The promises of :class:`pitstop.abc.Backend` to core."""


class PitstopBehaviour(
    Consuming,
    PausedKinds,
    Pausing,
    Policies,
    OfKinds,
    Batches,
    Listening,
    Moves,
    ManyMessages,
    Finding,
    Look,
    Moving,
    IfRevision,
    IfExists,
    CatchingUp,
    Recurring,
    Failures,
    Deliveries,
    Refusals,
    Store,
):
    """The promises of Pitstop to its users, on the backend."""


class BackendConformance(Crash, ProcessRaces, Orders, Races, Model, PitstopBehaviour, BackendContract):
    """The whole suite, in the version :data:`SUITE_VERSION`. Subclass it and give one fixture.

    The fixture ``make_backend`` returns a function of options (keyword arguments, a ``clock`` among them) that opens a handle.
    The store is new in each test, and every call within one test opens the same store. The suite closes the handles.
    Optional: ``make_backend.peer``, the methods ``damage(backend, id)``, ``damage_kind(backend, id)`` and
    ``transaction(backend)``, and ``known_failures = {"reason": {"test_..."}}``. See docs/writing-a-backend.md.
    """
