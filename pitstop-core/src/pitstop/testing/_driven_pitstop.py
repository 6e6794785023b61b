"""The methods of a test's Pitstop that drive it: the functions of ``_driving``, as methods."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from pitstop._pitstop import Pitstop
from pitstop.testing import _driving
from pitstop.testing._driving import MAX_JUMPS, MAX_STEPS, Handlers
from pitstop.testing._report import Report


__all__ = ["DrivenPitstop"]


class DrivenPitstop(Pitstop):
    """A Pitstop whose messages a test has handled, in its own thread."""

    def run_until_idle(
        self,
        handler: Handlers,
        *,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.run_until_idle`."""
        __tracebackhide__ = True
        return _driving.run_until_idle(
            self,
            handler,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    def run_for(
        self,
        delta: timedelta | float | str,
        handler: Handlers,
        *,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.run_for`."""
        __tracebackhide__ = True
        return _driving.run_for(
            self,
            delta,
            handler,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    def run_until(
        self,
        when: datetime,
        handler: Handlers,
        *,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.run_until`."""
        __tracebackhide__ = True
        return _driving.run_until(
            self,
            when,
            handler,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    def drain(
        self,
        handler: Handlers,
        *,
        max_jumps: int = MAX_JUMPS,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.drain`."""
        __tracebackhide__ = True
        return _driving.drain(
            self,
            handler,
            max_jumps=max_jumps,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    async def arun_until_idle(
        self,
        handler: Handlers,
        *,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.arun_until_idle`."""
        __tracebackhide__ = True
        return await _driving.arun_until_idle(
            self,
            handler,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    async def arun_for(
        self,
        delta: timedelta | float | str,
        handler: Handlers,
        *,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.arun_for`."""
        __tracebackhide__ = True
        return await _driving.arun_for(
            self,
            delta,
            handler,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    async def arun_until(
        self,
        when: datetime,
        handler: Handlers,
        *,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.arun_until`."""
        __tracebackhide__ = True
        return await _driving.arun_until(
            self,
            when,
            handler,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )

    async def adrain(
        self,
        handler: Handlers,
        *,
        max_jumps: int = MAX_JUMPS,
        deliveries: bool | None = None,
        kinds: Collection[str] | None = None,
        batch: int | None = None,
        raise_errors: bool = True,
        max_steps: int = MAX_STEPS,
    ) -> Report:
        """See :func:`pitstop.testing.adrain`."""
        __tracebackhide__ = True
        return await _driving.adrain(
            self,
            handler,
            max_jumps=max_jumps,
            deliveries=deliveries,
            kinds=kinds,
            batch=batch,
            raise_errors=raise_errors,
            max_steps=max_steps,
        )
