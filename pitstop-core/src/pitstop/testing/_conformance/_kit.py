"""What the suite stands on: handles that close themselves, a clock in the hand, and no way to opt out in silence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar

import pytest

import pitstop

from pitstop.abc import Backend, Capability, did_you_mean
from pitstop.testing import ManualClock


__all__ = ["Handles", "Kit", "kit_tests", "needs"]

_PACKAGE = __name__.rpartition(".")[0]


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
        for each in reversed(self._opened):
            each.close()

    def _keep(self, backend: Backend) -> Backend:
        if not isinstance(backend, Backend):
            pytest.fail(f"make_backend() made a {type(backend).__name__}. Let it return a pitstop.abc.Backend.")
        self._opened.append(backend)
        return backend


class Kit:
    """Fixtures that every test of the suite may ask for.

    ``make_backend`` is the one that the author of a backend gives; see :class:`pitstop.testing._conformance.BackendConformance`.
    """

    #: Tests of the suite that this backend cannot show: ``{reason: {names of tests}}``. They are reported with the
    #: reason. There is no other way to leave one out: a class that overrides a test of the suite is refused.
    not_shown: ClassVar[Mapping[str, Collection[str]]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        tests = kit_tests(cls)
        listed = [name for names in cls.not_shown.values() for name in names]
        for name in listed:
            if name not in tests and not _is_kit(cls):
                hint = did_you_mean(name, tests)
                raise TypeError(
                    f"{cls.__name__}.not_shown lists {name!r}, which is no test of the suite. {hint}".strip()
                )
        for owner in cls.__mro__:
            if _is_kit(owner):
                continue
            for name in sorted(tests.keys() & vars(owner).keys()):
                raise TypeError(
                    f"{owner.__name__} overrides {name}() of the suite. If the backend cannot show it, list it with the "
                    f"reason: not_shown = {{'reason': {{{name!r}}}}}."
                )

    @pytest.fixture
    def make_backend(self) -> Callable[..., Backend]:
        pytest.fail(
            f"{type(self).__name__} has no fixture make_backend. Give one that returns a function of options (keyword "
            f"arguments) which opens a handle on a store that is new in each test: every call in one test, the same store."
        )

    def damage(self, backend: Backend, id: str) -> None:
        """Make the stored message of ``id`` unreadable behind the backend's back; leave its due time and token alone."""
        pytest.fail(
            f"{type(self).__name__} has no damage(backend, id). Write one that makes the stored message unreadable; or list "
            f"{self._test_name}() in not_shown, with the reason why nobody can damage what this backend stores."
        )

    @pytest.fixture(autouse=True)
    def _shown_or_reason(self, request: pytest.FixtureRequest) -> None:
        self._test_name: str = request.node.originalname
        for reason, names in self.not_shown.items():
            if self._test_name in names:
                pytest.xfail(f"not shown: {reason}")

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
    """End a test of a capability that the backend does not declare."""
    if capability not in backend.capabilities:
        pytest.xfail(f"not declared: {capability.name}")


def _is_kit(cls: type) -> bool:
    return cls.__module__.startswith(f"{_PACKAGE}.") or cls.__module__ == _PACKAGE
