"""Policy: the retry, the lock time and the limit of age that a single message has.

The stored form has plain values, with durations in milliseconds, and only the policies that were given. With ``expires``, it may
also have ``moved``: the ``scheduled_for`` of an occurrence, and the later time that a person has chosen for this occurrence. A paused
message has ``paused``: see :mod:`pitstop._decisions._pause`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import lru_cache
from typing import Any

import attrs

from pitstop._errors import ConfigError, ScheduleError
from pitstop._values._instant import LAST_INSTANT
from pitstop._values._plain import type_name
from pitstop._values._quoting import quoted
from pitstop._values._schedule import span_of
from pitstop.abc._config import Retry, from_mapping


__all__ = [
    "PAUSED_POLICY",
    "NewerPolicy",
    "Pause",
    "Policy",
    "check_jitter",
    "has_policies",
    "moved_policy",
    "plain_policy",
    "with_moved",
]

_MILLISECOND = timedelta(milliseconds=1)
_MOVED = "moved"
#: The part of the stored form that has the pause of the message.
PAUSED_POLICY = "paused"
_FIELDS = frozenset({"retry", "lock_time", "expires", _MOVED, PAUSED_POLICY})
#: The parts that a caller of ``store`` does not give.
_UNGIVEN = frozenset({_MOVED, PAUSED_POLICY})
_SPANS = ("delay", "max_delay")
_RETRY_FIELDS = frozenset(each.name for each in attrs.fields(Retry))


class NewerPolicy(ScheduleError):
    """A stored policy has a field that this release does not know: a later release has written it."""


@attrs.frozen
class Pause:
    """The pause of one message."""

    #: The instant at which the pause ends by itself. None: it lasts until a person ends it.
    until: int | None
    #: The later instant at which the message is due when the pause ends. None: its time has come, or it was with a listener.
    due: int | None

    @staticmethod
    def from_plain(plain: object) -> Pause | None:
        """Return the pause of a stored form; None if there is none, or if it is malformed."""
        if not isinstance(plain, Mapping) or not plain.keys() <= {"until", "due"}:
            return None
        until, due = plain.get("until"), plain.get("due")
        return Pause(until, due) if _is_instant(until) and _is_instant(due) else None

    def to_plain(self) -> dict[str, Any]:
        """Return the stored form."""
        return attrs.asdict(self)

    def lasts(self, now: int) -> bool:
        """Whether the pause has not ended by itself."""
        return self.until is None or self.until > now


@attrs.frozen
class Policy:
    """The policies of one message. None: the configured one holds."""

    #: The fields of a :class:`Retry` that were given, durations as ``timedelta``.
    retry: tuple[tuple[str, Any], ...] | None = None
    #: How long the message is leased, in milliseconds.
    lock_time: int | None = None
    #: How many milliseconds after its nominal time an occurrence may still be emitted.
    expires: int | None = None
    #: The ``scheduled_for`` of an occurrence, and the later instant from which ``expires`` counts for it.
    moved: tuple[int, int] | None = None

    @staticmethod
    def from_plain(plain: Mapping[str, Any]) -> Policy:
        """Return the policy of a stored form.

        :raises NewerPolicy: if it has a field that this release does not know.
        :raises ScheduleError: if it is malformed.
        """
        if not plain.keys() <= _FIELDS:
            raise _newer(plain.keys() - _FIELDS)
        retry, lock_time, expires = plain.get("retry"), plain.get("lock_time"), plain.get("expires")
        moved = plain.get(_MOVED)
        fine = _is_span(lock_time) and _is_span(expires) and _is_moved(moved)
        fine = fine and (PAUSED_POLICY not in plain or Pause.from_plain(plain[PAUSED_POLICY]) is not None)
        moved = None if moved is None or not fine else (moved[0], moved[1])
        if fine and retry is None:
            return Policy(None, lock_time, expires, moved)
        try:
            if fine and isinstance(retry, Mapping):
                if not retry.keys() <= _RETRY_FIELDS:
                    raise _newer(retry.keys() - _RETRY_FIELDS)
                given = {name: _read(name, value) for name, value in retry.items()}
                made = from_mapping(Retry, given, "retry")
                # Not the stored values: None may stand for a default, as that of max_delay.
                return Policy(tuple((name, getattr(made, name)) for name in given), lock_time, expires, moved)
        except (ConfigError, TypeError, OverflowError):
            pass
        raise ScheduleError("The stored policy is malformed. Store the message again, or remove it.")

    def retry_over(self, configured: Retry) -> Retry:
        """Return the retry of this message: the fields that it has, and the configured ones for the others."""
        return configured if self.retry is None else _merged(configured, self.retry)

    def given_retry(self) -> dict[str, Any] | None:
        """Return the retry as it may be given to ``store``; None if none was given."""
        return None if self.retry is None else dict(self.retry)

    def last_instant(self, scheduled_for: int, occurrence: int) -> int | None:
        """Return the last instant at which an occurrence may be emitted; None if there is none.

        :param scheduled_for: the one of the stored record. A claim may choose a later occurrence of the series.
        """
        if self.expires is None:
            return None
        if self.moved is not None and self.moved[0] == scheduled_for:
            occurrence = max(occurrence, self.moved[1])
        return occurrence + self.expires


def plain_policy(retry: object, lock_time: object, expires: object, jitter: object = None) -> dict[str, Any] | None:
    """Return the stored form of the policies that were given to ``store``; None if none was given.

    :raises ScheduleError: if one of them cannot be used; the text names it.
    """
    if retry is None and lock_time is None and expires is None:
        return None
    plain: dict[str, Any] = {}
    if retry is not None:
        plain["retry"] = _plain_retry(retry)
    for name, value in (("lock_time", lock_time), ("expires", expires)):
        if value is not None:
            plain[name] = min(span_of(value, name, least=_MILLISECOND) // _MILLISECOND, LAST_INSTANT)
    if expires is not None and jitter is not None:
        check_jitter(plain, span_of(jitter, "jitter") // _MILLISECOND)
    return plain


def check_jitter(policy: Mapping[str, Any] | None, jitter: object) -> None:
    """Check the policies of a message in a series with this jitter, in milliseconds. None: it has none.

    :raises ScheduleError: if ``expires`` is not longer than the jitter.
    """
    expires = None if policy is None else policy.get("expires")
    if expires is not None and type(jitter) is int and jitter >= expires:
        raise ScheduleError(
            "expires is not longer than jitter, so some occurrences could never be emitted. Give a longer one."
        )


def moved_policy(policy: Mapping[str, Any] | None, scheduled_for: int, at: int) -> Mapping[str, Any] | None:
    """Return the stored policies of a message whose current occurrence a person lets come at ``at``.

    ``expires`` counts from there for this occurrence, if that is later than its nominal time.
    """
    if policy is None or policy.get("expires") is None:
        return policy
    others = {name: value for name, value in policy.items() if name != _MOVED}
    return {**others, _MOVED: [scheduled_for, at]} if at > scheduled_for else others


def with_moved(policy: Mapping[str, Any] | None, stored: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the policies of a new message that keeps the times of the stored one, whose occurrence may have been moved."""
    if policy is None or stored is None or _MOVED not in stored or "expires" not in policy:
        return policy
    return {**policy, _MOVED: stored[_MOVED]}


def has_policies(stored: Mapping[str, Any] | None, given: Mapping[str, Any] | None) -> bool:
    """Whether a stored message has these policies already."""
    return ({name: value for name, value in (stored or {}).items() if name not in _UNGIVEN} or None) == given


def _plain_retry(retry: object) -> dict[str, Any]:
    if isinstance(retry, Retry):
        given, made = attrs.asdict(retry), retry
    elif isinstance(retry, Mapping):
        # Read once, because the mapping may be of another library's class.
        given = dict(retry)
        try:
            made = from_mapping(Retry, given, "retry")
        except ConfigError as error:
            raise ScheduleError(f"retry: {error}") from None
    else:
        raise ScheduleError(
            f"retry must be a mapping, not {type_name(retry)}. Give one, as in {{'delay': '5s', 'max_attempts': 20}}."
        )
    return {name: _written(getattr(made, name)) for name in given}


def _written(value: Any) -> Any:
    return value // _MILLISECOND if isinstance(value, timedelta) else value


def _newer(unknown: Iterable[str]) -> NewerPolicy:
    return NewerPolicy(
        f"A later release of pitstop has stored a policy with the field {quoted(min(unknown, key=str))}, which this release "
        f"does not know. Upgrade this process, or store the message again."
    )


def _read(name: str, value: Any) -> Any:
    if name not in _SPANS or value is None:
        return value
    if type(value) is not int or value < 0:
        raise TypeError
    return timedelta(milliseconds=value)


def _is_span(value: object) -> bool:
    return value is None or (type(value) is int and 0 < value <= LAST_INSTANT)


def _is_instant(value: object) -> bool:
    return value is None or (type(value) is int and 0 <= value <= LAST_INSTANT)


def _is_moved(value: object) -> bool:
    return value is None or (
        isinstance(value, list | tuple) and len(value) == 2 and all(type(each) is int for each in value)
    )


@lru_cache(maxsize=256)
def _merged(configured: Retry, given: tuple[tuple[str, Any], ...]) -> Retry:
    values = {**attrs.asdict(configured), **dict(given)}
    delay, names = values["delay"], dict(given)
    if delay is not None and delay > values["max_delay"]:
        # The two come from two places. The one that the message has counts.
        if "delay" in names and "max_delay" not in names:
            values["max_delay"] = delay
        else:
            values["delay"] = values["max_delay"]
    return Retry(**values)
