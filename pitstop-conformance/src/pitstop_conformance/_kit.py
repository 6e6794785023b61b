"""The base of every part of the suite: its fixtures, and the checks of the classes that subclass it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NoReturn, TypeGuard

import pytest

import pitstop

from pitstop.abc import Backend, Capability, did_you_mean
from pitstop.testing import ManualClock
from pitstop_conformance import _matrix
from pitstop_conformance._limit import limited
from pitstop_conformance._records import make_record
from pitstop_conformance._shifting import shifted_clock
from pitstop_conformance._sockets import connections, left_open
from pitstop_conformance._wire import Wire


__all__ = ["Handles", "Kit", "kit_tests", "needs"]

_PACKAGE = __name__.rpartition(".")[0]
#: The names that the author of a backend may define. A subclass must not redefine any other name of the suite.
_AUTHORS = (
    *("make_backend", "damage", "damage_kind", "transaction", "known_failures"),
    *("has_server", "through", "server_time", "shift_clock", "traces", "protected", "time_limit"),
)


class Handles:
    """Open handles on the store of a test, and close them when the test ends."""

    def __init__(self, make_backend: Callable[..., Backend], clock: ManualClock) -> None:
        self._make_backend = make_backend
        self._clock = clock
        self._options: dict[str, Any] = {}
        self._opened: list[Backend] = []

    def __call__(self, **options: Any) -> Backend:
        """Open a handle on the store with these options of the configuration."""
        self._options = options
        return self.keep(self._make_backend(**{"clock": self._clock, **options}))

    def peer(self, **options: Any) -> Backend:
        """Open another handle on the same store. The options of the last handle hold unless others are given."""
        make = getattr(self._make_backend, "peer", self._make_backend)
        return self.keep(make(**{"clock": self._clock, **self._options, **options}))

    def close(self) -> None:
        """Close all handles, even if some raise. Then raise the first error."""
        raised: list[Exception] = []
        for each in reversed(self._opened):
            try:
                each.close()
            except Exception as error:  # noqa: BLE001 - it is raised below, after the other handles are closed
                raised.append(error)
        if raised:
            raise raised[0]

    def keep(self, backend: Backend) -> Backend:
        """Close this handle with the others, at the end of the test."""
        if not isinstance(backend, Backend):
            pytest.fail(
                f"Expected a pitstop.abc.Backend from make_backend(), got a value of type {type(backend).__name__}. Return the opened "
                f"backend."
            )
        self._opened.append(backend)
        return backend


class Kit:
    """The fixtures that the tests of the suite use.

    The author of a backend gives ``make_backend``; see :class:`pitstop_conformance.BackendConformance`.
    """

    #: Tests of the suite that this backend fails: ``{reason: {names of tests}}``. They run all the same, and the table shows
    #: their results with the reason, also when one passes. There is no other way to leave a test out: a class that overrides
    #: a test is refused unless the test is listed here.
    known_failures: ClassVar[Mapping[str, Collection[str]]] = {}
    #: False: the backend has no server. Its process and its files are all that there is, so there is one clock, and no
    #: connection that can be lost. The suite checks that such a backend opens no connection. None: not stated.
    has_server: ClassVar[bool | None] = None
    #: Seconds for each test of the suite. A test that takes longer fails with the places of all threads, and the run goes on. Where
    #: another limit is set, such as that of pytest-timeout, that one holds.
    time_limit: ClassVar[float] = 120.0
    #: The place of the rules that a part of the suite tests. The report of a failure names it.
    rule: ClassVar[str] = "docs/writing-a-backend.md"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        tests = kit_tests(cls)
        _check_known_failures(cls)
        for name in sorted(_listed(cls) - tests.keys()):
            if not _is_kit(cls):
                hint = did_you_mean(name, tests)
                raise TypeError(
                    f"{cls.__name__}.known_failures lists {name!r}, which is no test of the suite. {hint or 'Remove it.'}".strip()
                )
        _check_overrides(cls, tests)

    @classmethod
    def part_of(cls, test: str) -> str | None:
        """Return the part of the suite that a test belongs to, or None if it is a test of the author's own."""
        part = kit_tests(cls).get(test)
        return None if part is None else part.__name__

    @classmethod
    def rule_of(cls, test: str) -> str:
        """Return the place of the rules that a test of the suite checks."""
        rule: str = kit_tests(cls)[test].rule
        return rule

    @pytest.fixture
    def make_backend(self) -> Callable[..., Backend]:
        pytest.fail(
            f"{type(self).__name__} has no fixture make_backend. Give one. It returns a function of options (keyword arguments) "
            f"that opens a handle. The store is new in each test, and every call within one test opens the same store."
        )

    def damage(self, backend: Backend, id: str) -> None:
        """Make the stored message of ``id`` unreadable behind the backend's back. Leave its due time and its token alone.

        A class without this method does not show how its backend treats documents that another program wrote.
        """
        _matrix.end(
            f"not shown: {type(self).__name__} has no damage(backend, id) that makes a stored message unreadable"
        )

    def damage_kind(self, backend: Backend, id: str) -> None:
        """Replace the stored kind of ``id`` by a value that is no text, behind the backend's back. Leave all else alone.

        Choose a value that a search for the kind might find, such as the kind in a list. A class without this method does not
        show how its backend chooses among kinds that another program wrote.
        """
        _matrix.end(
            f"not shown: {type(self).__name__} has no damage_kind(backend, id) that makes a stored kind unreadable"
        )

    def through(self, wire: Wire, **options: Any) -> Backend:
        """Open a handle on the store of the test. All its connections go through ``wire`` to the server.

        ``wire.to(host, port)`` returns the host and the port to connect to, in place of the server's. For example::

            def through(self, wire, **options):
                host, port = wire.to("127.0.0.1", 5432)
                return MyBackend.from_options({"uri": f"my://{host}:{port}/db", "table": self.table, **options})

        If the backend has a time-out that is an option, give it here a value of a few seconds.
        """
        self._not_shown("through(wire, **options) that opens a handle through a proxy, so that connections can be cut")

    def server_time(self, backend: Backend) -> int:
        """Return the microseconds since the epoch by the clock of the server. Ask the server past the backend."""
        self._not_shown("server_time(backend) that asks the server for its time past the backend")

    def shift_clock(self, seconds: float) -> AbstractContextManager[object]:
        """Return a context manager in which the clock of this process is wrong by ``seconds``, and the server's is right.

        The default shifts the functions of the module ``time``, and with them :class:`pitstop.abc.SystemClock`. Override it if
        the backend or its driver reads the clock in another way.
        """
        return shifted_clock(seconds)

    def traces(self, backend: Backend) -> Collection[str]:
        """Return names of the things that the backend may leave behind in its store. Look for them past the backend.

        These are the tables, collections or files in the place where the store and its scratches are, and each transaction
        that a connection of the backend has open. No record belongs to them.
        """
        _matrix.end(
            f"not shown: {type(self).__name__} has no traces(backend) that names the tables or files and the open transactions"
        )

    def protected(self, password: str, **options: Any) -> Backend:
        """Open a handle that is configured with this password in each way that the backend knows, and with a user.

        The server need not accept the password, and need not ask for it.
        """
        self._not_shown("protected(password, **options) that opens a handle with a password")

    def _not_shown(self, hook: str) -> NoReturn:
        if self.has_server is False:
            _matrix.end("not declared: a server (has_server = False)")
        _matrix.end(f"not shown: {type(self).__name__} has neither has_server = False nor {hook}")

    @pytest.fixture(autouse=True)
    def _in_time(self, request: pytest.FixtureRequest) -> Iterator[None]:
        before = connections()
        with limited(self.time_limit, request.node):
            yield
            # The handles are closed.
            if left := left_open(before):
                request.node.user_properties.append((_matrix.LEFT_PROPERTY, left))

    @pytest.fixture(autouse=True)
    def _known_failures(self, request: pytest.FixtureRequest, _in_time: None) -> None:
        test = request.node.originalname
        part = kit_tests(type(self)).get(test)
        if part is None:
            return
        _matrix.take_part(request.node, listed=test in _listed(type(self)))
        try:
            # Checked again, because attributes may have been set after the class was made.
            _check_overrides(type(self), kit_tests(type(self)))
        except TypeError as error:
            pytest.fail(str(error))
        for reason, names in self.known_failures.items():
            if test in names:
                if any(name == test for _, name in _overrides(type(self), {test: part})):
                    _matrix.end(f"known failure, and overridden: {reason}")
                # Not strict, because a race may be won by chance. The summary lists the known failures that passed.
                request.node.add_marker(pytest.mark.xfail(reason=f"known failure: {reason}", strict=False))

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of all handles of a test. Only the test moves it."""
        return ManualClock()

    @pytest.fixture
    def open_backend(self, make_backend: Callable[..., Backend], clock: ManualClock) -> Iterator[Handles]:
        handles = Handles(make_backend, clock)
        yield handles
        handles.close()

    @pytest.fixture
    def backend(self, open_backend: Handles) -> Backend:
        return open_backend()

    @pytest.fixture
    def wire(self) -> Iterator[Wire]:
        """A proxy in front of servers."""
        wire = Wire()
        yield wire
        wire.close()

    @pytest.fixture
    def conditional(self, backend: Backend) -> None:
        """End the test if the backend cannot store on a condition."""
        needs(backend, Capability.CONDITIONAL)

    @pytest.fixture
    def make_pit(self, open_backend: Handles) -> Iterator[Callable[..., pitstop.Pitstop]]:
        """A function that makes a Pitstop on the store of the test, with options of the backend's configuration."""
        made: list[pitstop.Pitstop] = []

        def make(**options: Any) -> pitstop.Pitstop:
            made.append(pitstop.init({"type": open_backend(**options)}))
            return made[-1]

        yield make
        for each in reversed(made):
            each.close()

    @pytest.fixture
    def pit(self, make_pit: Callable[..., pitstop.Pitstop]) -> pitstop.Pitstop:
        return make_pit()

    @pytest.fixture
    def listener(self, pit: pitstop.Pitstop) -> Iterator[pitstop.Listener]:
        with pit.listen() as listener:
            yield listener


def kit_tests(cls: type) -> dict[str, type[Kit]]:
    """Return the tests of the suite that a class inherits, each with the part of the suite that it belongs to."""
    found: dict[str, type[Kit]] = {}
    for owner in cls.__mro__:
        for name in vars(owner) if _is_kit(owner) else ():
            if name.startswith("test_") and found.setdefault(name, owner) is not owner:
                raise TypeError(f"The suite defines {name}() twice: in {found[name].__name__} and {owner.__name__}.")
    return found


def needs(backend: Backend, capability: Capability) -> None:
    """End the test if the backend does not declare this capability. The backend must then refuse to use it."""
    if capability in backend.capabilities:
        return
    name = capability.name
    refused = is_refused(backend, capability)
    assert refused is not False, (
        f"{type(backend).__name__} does not declare {name}, but does not refuse it either. Declare it, or raise pitstop.Unsupported."
    )
    _matrix.end(f"not declared: {name}" + (" (refused)" if refused else ""))


def is_refused(backend: Backend, capability: Capability) -> bool | None:
    """Whether the backend refuses to use this capability; None if no call needs the capability."""
    if capability is Capability.WATCH:
        # None and not Unsupported: core does without a watch, and polls each loop_time.
        return backend.watch() is None
    asked: dict[Capability, list[Callable[[], object]]] = {
        Capability.TRANSACTIONS: [lambda: backend.within(object())],
        Capability.SCRATCH: [backend.scratch],
        Capability.ADOPT: [backend.legacy, lambda: backend.adopt([])],
        # Records without kinds and policies are stored by any backend, and core refuses the others.
        Capability.CONDITIONAL: [lambda: backend.put_if(make_record(), None)],
    }
    return all(map(_unsupported, asked[capability])) if capability in asked else None


def _unsupported(call: Callable[[], object]) -> bool:
    try:
        call()
    except pitstop.Unsupported:
        return True
    return False


def _check_known_failures(cls: type[Kit]) -> None:
    listed: object = cls.known_failures
    if not isinstance(listed, Mapping) or not all(
        isinstance(reason, str) and reason.strip() and isinstance(names, Collection) and not isinstance(names, str)
        for reason, names in listed.items()
    ):
        raise TypeError(
            f"{cls.__name__}.known_failures={listed!r} cannot be used. Map each reason to names of tests, as in "
            "{'reason': {'test_...'}}."
        )


def _listed(cls: type[Kit]) -> set[str]:
    return {name for names in cls.known_failures.values() for name in names}


def _check_overrides(cls: type[Kit], tests: Mapping[str, type]) -> None:
    """Refuse a class that overrides a test without listing it, or that overrides a helper of the suite.

    :raises TypeError: naming the test or the helper.
    """
    for owner, name in _overrides(cls, tests):
        if name not in _listed(cls):
            raise TypeError(
                f"{owner.__name__} overrides {name}() of the suite. If the backend cannot pass this test, list it with the "
                f"reason: known_failures = {{'reason': {{{name!r}}}}}."
            )
    for owner, name in _overrides(cls, _helpers(cls)):
        raise TypeError(
            f"{owner.__name__} overrides {name}, which the tests of the suite use. Choose another name. You may define "
            f"{', '.join(_AUTHORS)}."
        )


def _helpers(cls: type) -> dict[str, type]:
    """Return the fixtures and methods of the suite that are no tests and that an author must not define."""
    return {
        name: owner
        for owner in cls.__mro__
        for name in (vars(owner) if _is_kit(owner) else ())
        if not name.startswith(("test_", "__")) and name not in _AUTHORS
    }


def _overrides(cls: type, names: Mapping[str, type]) -> list[tuple[type, str]]:
    """Return each of these names that a class, or a base outside of the suite, defines, with that class."""
    return [(owner, name) for owner in cls.__mro__ if not _is_kit(owner) for name in sorted(names.keys() & vars(owner))]


def _is_kit(cls: type) -> TypeGuard[type[Kit]]:
    return cls.__module__.startswith(f"{_PACKAGE}.") or cls.__module__ == _PACKAGE
