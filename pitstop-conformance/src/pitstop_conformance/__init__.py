"""The suite that a backend has to pass, the same for all of them.

The author of a backend subclasses :class:`BackendConformance` and gives one fixture::

    class TestMyBackend(BackendConformance):
        @pytest.fixture
        def make_backend(self, tmp_path):
            return lambda **options: MyBackend.from_options({"path": tmp_path / "store", **options})

It returns a function that opens a handle on a store which is new in each test: every call within one test opens the
same store. Handles are closed by the suite. The options that the suite gives (a ``clock`` among them) are those of
every backend's configuration.

What a backend fails is listed on the class with the reason, ``known_failures = {"reason": {"test_...", ...}}``;
overriding a test that is not listed is refused. ``damage(backend, id)``, a method, makes a stored message unreadable
behind the backend's back; ``transaction(backend)``, another one, begins a transaction for a backend that declares
``TRANSACTIONS``. The end of the run tells what became of each part on each class: passed, not declared (a
capability that the backend has not got), not shown, known failure.

PYTEST_DONT_REWRITE: this module alone has no assertion. Those of all other modules are rewritten by pytest, which is asked
for it below, before they are imported.
"""

from __future__ import annotations

import pytest

from pitstop_conformance._core import SUITE_VERSION, __version__, check_core


check_core()
pytest.register_assert_rewrite(__name__)

from pitstop_conformance._kit import Handles, Kit, kit_tests
from pitstop_conformance.behaviour._batches import Batches
from pitstop_conformance.behaviour._consume import Consuming
from pitstop_conformance.behaviour._delivery import Deliveries
from pitstop_conformance.behaviour._listener import Listening
from pitstop_conformance.behaviour._look import Look
from pitstop_conformance.behaviour._recurring import Recurring
from pitstop_conformance.behaviour._store import Store
from pitstop_conformance.contract._config import Configuration
from pitstop_conformance.contract._counts import Counts
from pitstop_conformance.contract._damaged import DamagedAmongOthers
from pitstop_conformance.contract._handle import Handle
from pitstop_conformance.contract._lease import Lease
from pitstop_conformance.contract._put import PutGetDelete
from pitstop_conformance.contract._read import Read
from pitstop_conformance.contract._scratch import Scratch
from pitstop_conformance.contract._settle import Settle
from pitstop_conformance.contract._transactions import Transactions
from pitstop_conformance.model._tests import Model
from pitstop_conformance.races._crash import Crash
from pitstop_conformance.races._process_races import ProcessRaces
from pitstop_conformance.races._thread_races import Races


__all__ = [
    "SUITE_VERSION",
    "BackendConformance",
    "BackendContract",
    "Crash",
    "Handles",
    "Kit",
    "Model",
    "PitstopBehaviour",
    "ProcessRaces",
    "Races",
    "Scratch",
    "Transactions",
    "__version__",
    "kit_tests",
]


# pytest begins with the last base: the contract goes before what is built on it, so that the first failures say most.
class BackendContract(
    Scratch, Transactions, Configuration, DamagedAmongOthers, Handle, Counts, Settle, Lease, Read, PutGetDelete
):
    """What :class:`pitstop.abc.Backend` promises to core."""


class PitstopBehaviour(Consuming, Batches, Listening, Look, Recurring, Deliveries, Store):
    """What Pitstop promises to its users, on that backend."""


class BackendConformance(Crash, ProcessRaces, Races, Model, PitstopBehaviour, BackendContract):
    """All of it, in the version :data:`SUITE_VERSION`: subclass it, and give one fixture.

    ``make_backend`` returns a function of options (keyword arguments, a ``clock`` among them) that opens a handle on a store
    which is new in each test: every call within one test, the same store. Handles are closed by the suite. Optional:
    ``make_backend.peer``, the methods ``damage(backend, id)`` and ``transaction(backend)``, and
    ``known_failures = {"reason": {"test_..."}}``. docs/writing-a-backend.md tells the rest.
    """
