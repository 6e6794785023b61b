"""Mutants that give back another value than was stored."""

from __future__ import annotations

import math

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

import attrs

from conformance.mutants.registry import mutant
from pitstop.abc import Record, Settlement, dump_message
from pitstop_memory import MemoryBackend


class _Codec(MemoryBackend):
    """Changes the values of a message on their way into the store."""

    change: ClassVar[Callable[[Any], Any]]

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, message=_each(each.message, type(self).change)) for each in records])


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """``value`` with everything in it changed, from the inside out."""
    if isinstance(value, dict):
        return change({key: _each(item, change) for key, item in value.items()})
    if isinstance(value, list):
        return change([_each(item, change) for item in value])
    return change(value)


@mutant(
    "test_a_record_with_any_value_comes_back_the_same[double_exact_edge]",
    "test_every_value_comes_back_the_same[double_exact_edge]",
)
class IntsAreFloats(_Codec):
    """Writes whole numbers as JavaScript knows them: beyond 2^53 they are others."""

    change = staticmethod(lambda value: int(float(value)) if type(value) is int else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[true]")
class BoolsAreInts(_Codec):
    """Writes True as 1. To Python they are equal, to a handler that looks at the type they are not."""

    change = staticmethod(lambda value: int(value) if type(value) is bool else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[float_whole]")
class WholeFloatsAreInts(_Codec):
    """Writes 1.0 as 1, and -0.0 as 0. Some encoders save the byte."""

    change = staticmethod(
        lambda value: int(value) if type(value) is float and math.isfinite(value) and value == int(value) else value
    )


@mutant("test_a_record_with_any_value_comes_back_the_same[float_minus_zero]")
class MinusZeroIsZero(_Codec):
    """Loses the sign of -0.0. Adding 0.0 does that."""

    change = staticmethod(lambda value: value + 0.0 if type(value) is float else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[nan]")
class NanIsNull(_Codec):
    """Writes NaN and the infinities as null, as JSON has it."""

    change = staticmethod(lambda value: None if type(value) is float and not math.isfinite(value) else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[bytes_all]")
class BytesAreText(_Codec):
    """Writes bytes as text, and never turns them back. ``json.dumps(default=...)`` without an ``object_hook``."""

    change = staticmethod(lambda value: value.decode("latin-1") if isinstance(value, bytes) else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[list_mixed]")
class ListsAreTuples(_Codec):
    """Gives lists back as tuples. A decoder's default."""

    change = staticmethod(lambda value: tuple(value) if isinstance(value, list) else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[date]")
class DatesAreNaive(_Codec):
    """Gives datetimes back without a zone. A driver does so without the option ``tz_aware``."""

    change = staticmethod(lambda value: value.replace(tzinfo=None) if isinstance(value, datetime) else value)


@mutant("test_a_record_with_any_value_comes_back_the_same[date_last]")
class DatesAreFloats(_Codec):
    """Writes datetimes as seconds in a float. Far from 1970 that is no longer exact to the millisecond."""

    change = staticmethod(
        lambda value: datetime.fromtimestamp(value.timestamp(), UTC) if isinstance(value, datetime) else value
    )


@mutant(
    "test_a_record_with_any_value_comes_back_the_same[dict_key_dot]",
    "test_a_whole_message_may_look_like_anything[dict_key_dot]",
)
class DotsAreReplaced(_Codec):
    """Writes ``.`` in keys as ``_``, since the store does not take them. Nothing turns them back."""

    change = staticmethod(
        lambda value: {key.replace(".", "_"): item for key, item in value.items()} if isinstance(value, dict) else value
    )


@mutant(
    "test_a_record_with_any_value_comes_back_the_same[dict_key_dollar]",
    "test_a_whole_message_may_look_like_anything[dict_key_dollar]",
)
class DollarsAreDropped(_Codec):
    """Leaves out keys that begin with ``$``. Its author took them for operators of an attacker."""

    change = staticmethod(
        lambda value: (
            {key: item for key, item in value.items() if not key.startswith("$")} if isinstance(value, dict) else value
        )
    )


@mutant("test_a_record_with_any_value_comes_back_the_same[text_nul]")
class TextEndsAtNul(_Codec):
    """Cuts text at a NUL. A C string somewhere in between."""

    change = staticmethod(lambda value: value.partition("\0")[0] if isinstance(value, str) else value)


@mutant(
    "test_the_largest_record_is_stored_leased_and_settled",
    "test_the_size_of_a_message_is_counted_to_the_byte_as_bson_counts",
)
class RowsOfSixteenMegabytes(MemoryBackend):
    """Leaves out a message whose text does not fit into a column of 16 MiB: ``INSERT IGNORE``. Bytes take a third more as
    text than core counts.
    """

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([each for each in records if len(dump_message(each.message).encode()) < 2**24])


@mutant("test_the_largest_record_is_stored_leased_and_settled")
class NoRoomForTheError(MemoryBackend):
    """Keeps the first 255 characters of an error. A column of a usual width."""

    def settle(self, settlements: Collection[Settlement]) -> Sequence[bool]:
        return super().settle([_with_short_error(each) for each in settlements])


def _with_short_error(settlement: Settlement) -> Settlement:
    progress = settlement.progress
    if progress is None or progress.last_error is None:
        return settlement
    return attrs.evolve(settlement, progress=attrs.evolve(progress, last_error=progress.last_error[:255]))


@mutant("test_a_series_comes_back_as_it_is")
class SeriesWithoutNone(MemoryBackend):
    """Leaves out values that are None in a series. An encoder with ``exclude_none``."""

    def _put(self, records: Sequence[Record]) -> None:
        for each in records:
            kept = None if each.series is None else {k: v for k, v in each.series.items() if v is not None}
            super()._put([attrs.evolve(each, series=kept)])


@mutant("test_a_series_comes_back_as_it_is")
class EmptySeriesIsNone(MemoryBackend):
    """Takes an empty series for none: ``record.series or None``."""

    def _put(self, records: Sequence[Record]) -> None:
        super()._put([attrs.evolve(each, series=each.series or None) for each in records])
