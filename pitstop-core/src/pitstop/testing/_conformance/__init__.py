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
behind the backend's back. The end of the run tells what became of each part on each class: passed, not declared (a
capability that the backend has not got), not shown, known failure.
"""

from __future__ import annotations

from pitstop.testing._conformance._behaviour_delivery import Deliveries
from pitstop.testing._conformance._behaviour_listener import Listening
from pitstop.testing._conformance._behaviour_look import Look
from pitstop.testing._conformance._behaviour_recurring import Recurring
from pitstop.testing._conformance._behaviour_store import Store
from pitstop.testing._conformance._contract_handle import Handle
from pitstop.testing._conformance._contract_lease import Lease
from pitstop.testing._conformance._contract_put import PutGetDelete
from pitstop.testing._conformance._contract_read import Read
from pitstop.testing._conformance._contract_settle import Settle
from pitstop.testing._conformance._kit import Handles, Kit, kit_tests
from pitstop.testing._conformance._races import Races


__all__ = ["BackendConformance", "BackendContract", "Handles", "Kit", "PitstopBehaviour", "Races", "kit_tests"]


class BackendContract(PutGetDelete, Read, Lease, Settle, Handle):
    """What :class:`pitstop.abc.Backend` promises to core."""


class PitstopBehaviour(Store, Deliveries, Recurring, Look, Listening):
    """What Pitstop promises to its users, on that backend."""


class BackendConformance(BackendContract, PitstopBehaviour, Races):
    """All of it, in the version :data:`pitstop.abc.SUITE_VERSION`."""
