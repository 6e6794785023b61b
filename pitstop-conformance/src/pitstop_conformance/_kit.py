"""What the suite stands on: handles that close themselves, a clock in the hand, and no way to opt out in silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

import pytest

import pitstop

from pitstop.abc import Backend, Capability, did_you_mean
from pitstop.testing import ManualClock
from pitstop_conformance import _matrix


__all__ = ["Handles", "Kit", "kit_tests", "needs"]

_PACKAGE = __name__.rpartition(".")[0]
#: What the author of a backend has to say; everything else of the suite's is as it is.
_AUTHORS = ("make_backend", "damage", "transaction", "known_failures")


class Handles:
    """Opens handles on the one store of a test, and closes them when it ends."""

    def __init__(self, make_backend: Callable[..., Backend], clock: ManualClock) -> None:
        self._make_backend = make_backend
        self._clock = clock
        self._options: dict[str, Any] = {}
        self._opened: list[Backend] = []

    def __call__(self, **options: Any) -> Backend:
        """A handle on the store, with these options of its configuration."""
        self._options = options
        return self._keep(self._make_backend(**{"clock": self._clock, **options}))

    def peer(self, **options: Any) -> Backend:
        """A second handle on the same store; the options of the first one hold unless others are given."""
        make = getattr(self._make_backend, "peer", self._make_backend)
        return self._keep(make(**{"clock": self._clock, **self._options, **options}))

    def close(self) -> None:
        """Close all of them, also when one raises; then raise the first that was raised."""
        raised: list[Exception] = []
        for each in reversed(self._opened):
            try:
                each.close()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is raised below
                raised.append(error)
        if raised:
            raise raised[0]

    def _keep(self, backend: Backend) -> Backend:
        if not isinstance(backend, Backend):
            pytest.fail(f"make_backend() made a {type(backend).__name__}. Let it return a pitstop.abc.Backend.")
        self._opened.append(backend)
        return backend


class Kit:
    """Fixtures that every test of the suite may ask for.

    ``make_backend`` is the one that the author of a backend gives; see :class:`pitstop.testing.BackendConformance`.
    """

    #: Tests of the suite that this backend fails: ``{reason: {names of tests}}``. They run, and what they show is told
    #: with the reason; one that passes is told, too. There is no other way to leave a test out: a class that overrides
    #: one is refused, unless it lists it here.
    known_failures: ClassVar[Mapping[str, Collection[str]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        tests = kit_tests(cls)
        _check_known_failures(cls)
        for name in sorted(_listed(cls) - tests.keys()):
            if not _is_kit(cls):
                hint = did_you_mean(name, tests)
                raise TypeError(
                    f"{cls.__name__}.known_failures lists {name!r}, which is no test of the suite. {hint}".strip()
                )
        _check_overrides(cls, tests)

    @classmethod
    def part_of(cls, test: str) -> str | None:
        """The part of the suite that a test is from; None: it is one of the author's own."""
        part = kit_tests(cls).get(test)
        return None if part is None else part.__name__

    @pytest.fixture
    def make_backend(self) -> Callable[..., Backend]:
        pytest.fail(
            f"{type(self).__name__} has no fixture make_backend. Give one that returns a function of options (keyword "
            f"arguments) which opens a handle on a store that is new in each test: every call in one test, the same store."
        )

    def damage(self, backend: Backend, id: str) -> None:
        """Make the stored message of ``id`` unreadable behind the backend's back; leave its due time and token alone.

        A class without one does not show what its backend does with documents that somebody else wrote into its store.
        """
        _matrix.end(
            f"not shown: {type(self).__name__} has no damage(backend, id) that makes a stored message unreadable"
        )

    @pytest.fixture(autouse=True)
    def _known_failures(self, request: pytest.FixtureRequest) -> None:
        test = request.node.originalname
        part = kit_tests(type(self)).get(test)
        if part is None:
            return
        _matrix.take_part(request.node, listed=test in _listed(type(self)))
        try:
            # Again: what the class was given after it was made is seen here alone.
            _check_overrides(type(self), kit_tests(type(self)))
        except TypeError as error:
            pytest.fail(str(error))
        for reason, names in self.known_failures.items():
            if test in names:
                if any(name == test for _, name in _overrides(type(self), {test: part})):
                    _matrix.end(f"known failure, and overridden: {reason}")
                # Not strict: a race may be won. The summary tells which of them passed.
                request.node.add_marker(pytest.mark.xfail(reason=f"known failure: {reason}", strict=False))

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The clock of all handles of a test. It stands still until the test moves it."""
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
    def make_pit(self, open_backend: Handles) -> Iterator[Callable[..., pitstop.Pitstop]]:
        """Makes a Pitstop on the store of the test, with these options of the backend's configuration."""
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


def kit_tests(cls: type) -> dict[str, type]:
    """The tests of the suite that a class inherits, each with the part of the suite that it is from."""
    found: dict[str, type] = {}
    for owner in cls.__mro__:
        for name in vars(owner) if _is_kit(owner) else ():
            if name.startswith("test_") and found.setdefault(name, owner) is not owner:
                raise TypeError(f"{name}() stands twice in the suite: in {found[name].__name__} and {owner.__name__}.")
    return found


def needs(backend: Backend, capability: Capability) -> None:
    """End a test of a capability that the backend does not declare, once it was seen to refuse what it is asked for."""
    if capability in backend.capabilities:
        return
    name = capability.name
    refused = is_refused(backend, capability)
    assert refused is not False, f"{type(backend).__name__} does not declare {name}, but does not refuse it either."
    _matrix.end(f"not declared: {name}" + (" (refused)" if refused else ""))


def is_refused(backend: Backend, capability: Capability) -> bool | None:
    """Whether the backend refuses what this capability is about; None when there is nothing to ask it for."""
    if capability is Capability.WATCH:
        # None and not Unsupported: nobody asks for it, core does without and looks each loop_time.
        return backend.watch() is None
    asked: dict[Capability, list[Callable[[], object]]] = {
        Capability.TRANSACTIONS: [lambda: backend.within(object())],
        Capability.SCRATCH: [backend.scratch],
        Capability.ADOPT: [backend.legacy, lambda: backend.adopt([])],
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
            f"{cls.__name__}.known_failures={listed!r} cannot be used. Give reasons with the names of tests, as in "
            "{'reason': {'test_...'}}."
        )


def _listed(cls: type[Kit]) -> set[str]:
    return {name for names in cls.known_failures.values() for name in names}


def _check_overrides(cls: type[Kit], tests: Mapping[str, type]) -> None:
    """Refuse a class that has something else in the place of a test that it does not list, or of a part of the suite.

    :raises TypeError: naming what it is.
    """
    for owner, name in _overrides(cls, tests):
        if name not in _listed(cls):
            raise TypeError(
                f"{owner.__name__} overrides {name}() of the suite. If the backend cannot pass it, list it with the "
                f"reason: known_failures = {{'reason': {{{name!r}}}}}."
            )
    for owner, name in _overrides(cls, _helpers(cls)):
        raise TypeError(
            f"{owner.__name__} overrides {name}, which the tests of the suite stand on. Give it another name; what is yours "
            f"to give is {', '.join(_AUTHORS)}."
        )


def _helpers(cls: type) -> dict[str, type]:
    """Fixtures and methods of the suite that are no tests, and not the author's to give."""
    return {
        name: owner
        for owner in cls.__mro__
        for name in (vars(owner) if _is_kit(owner) else ())
        if not name.startswith(("test_", "__")) and name not in _AUTHORS
    }


def _overrides(cls: type, names: Mapping[str, type]) -> list[tuple[type, str]]:
    """Where a class, or one of its bases outside of the suite, has something else under one of these names."""
    return [(owner, name) for owner in cls.__mro__ if not _is_kit(owner) for name in sorted(names.keys() & vars(owner))]


def _is_kit(cls: type) -> bool:
    return cls.__module__.startswith(f"{_PACKAGE}.") or cls.__module__ == _PACKAGE
