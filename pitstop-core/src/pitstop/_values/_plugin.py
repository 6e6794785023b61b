"""Plugin: the state of one plugin, for people and programs."""

from __future__ import annotations

from typing import Literal

import attrs


__all__ = ["Plugin", "PluginStatus"]

#: ``ok``: it is in use. ``broken``: it failed to load, or does not fit, and was left out. ``disabled``: ``PITSTOP_DISABLE_PLUGINS``
#: names it.
PluginStatus = Literal["ok", "broken", "disabled"]


@attrs.frozen(kw_only=True)
class Plugin:
    """One plugin of a Pitstop. It is a snapshot: read ``pit.plugins`` again for later values."""

    #: The name of its entry point; for a plugin that was given to ``init``, its repr.
    name: str
    #: The distribution that installed it. None: it was given to ``init``, or its distribution is only half installed.
    distribution: str | None
    #: The version of the distribution. None: as above.
    version: str | None
    #: Whether it is in use.
    status: PluginStatus
    #: The names of the hooks that it implements. Empty unless the status is ``ok``.
    hooks: tuple[str, ...] = ()
    #: The reason why it was left out, and the remedy. None: it was not left out as broken.
    error: str | None = None
    #: How often its hooks have raised an exception since ``init``.
    raised: int = 0
