"""The result of a copy or an import: how many messages there are now, and what became of the others."""

from __future__ import annotations

from typing import Literal

import attrs


__all__ = ["IfOther", "Transfer"]

#: The treatment of a message that the target has under the id, and that is another one, or in another state.
IfOther = Literal["keep", "replace"]


@attrs.frozen(kw_only=True)
class Transfer:
    """The number of messages that were copied or imported, by outcome."""

    #: All messages that were read from the source.
    messages: int = 0
    #: Written to the target, which had no message with the id.
    written: int = 0
    #: The target had them already, equal in all fields.
    unchanged: int = 0
    #: The target had another message with the id, or the message in another state. It was replaced.
    replaced: int = 0
    #: The same, and the target's message was kept.
    kept: int = 0
    #: Documents that the source could not read. The target has a dead message with the reason in the place of each, and without
    #: the body. They also count as ``written``, ``unchanged``, ``replaced`` or ``kept``.
    damaged: int = 0
    #: Not written, because no backend of this release has to accept them: another program has stored them.
    refused: int = 0
    #: Written, and changed or handled by a consumer of the target before they could be compared. Only with ``live=True``.
    overtaken: int = 0
    #: Kinds that are paused in the source.
    paused_kinds: int = 0
    #: The ids and the reasons of the first 100 messages that were kept, damaged or refused.
    problems: tuple[tuple[str, str], ...] = ()

    @property
    def complete(self) -> bool:
        """Whether the target has each message as the source has it, or had it until a consumer of the target took it."""
        return not (self.kept or self.damaged or self.refused)
