"""The contract between Pitstop and a backend: everything that the author of a backend needs."""

from __future__ import annotations

from pitstop._values._instant import LAST_INSTANT, floor_instant, from_instant
from pitstop._values._message import copy_plain
from pitstop._values._quoting import may_hold_secret, quoted
from pitstop._values._suggestion import did_you_mean
from pitstop._values._text_codec import dump_message, load_message
from pitstop._values._white_space import checked_url
from pitstop.abc._backend import API_VERSION, SUITE_VERSION, Backend, Capability
from pitstop.abc._clock import Clock, Doorbell, SystemClock
from pitstop.abc._config import BackendConfig, Retry, duration_field, query_options, split_url
from pitstop.abc._kinds import AllBut, is_chosen
from pitstop.abc._legacy import Legacy, LegacyPage
from pitstop.abc._limits import MAX_ERROR_LENGTH, MAX_ID_LENGTH, MAX_KIND_LENGTH, MAX_MESSAGE_BYTES, message_size
from pitstop.abc._log import log_fields
from pitstop.abc._loops import run_in_loop
from pitstop.abc._many import PORTION
from pitstop.abc._query import Query, filled, has_failed, tallies, tallies_by_scan
from pitstop.abc._record import (
    PAUSED,
    Aside,
    Damaged,
    Outcome,
    Progress,
    Record,
    Settlement,
    Tally,
    read_record,
    state_of,
)
from pitstop.abc._turn import Calls, Turn
from pitstop.abc._watch import Watch
from pitstop.abc._writes import TransactionWrites, Writes


__all__ = [
    "API_VERSION",
    "LAST_INSTANT",
    "MAX_ERROR_LENGTH",
    "MAX_ID_LENGTH",
    "MAX_KIND_LENGTH",
    "MAX_MESSAGE_BYTES",
    "PAUSED",
    "PORTION",
    "SUITE_VERSION",
    "AllBut",
    "Aside",
    "Backend",
    "BackendConfig",
    "Calls",
    "Capability",
    "Clock",
    "Damaged",
    "Doorbell",
    "Legacy",
    "LegacyPage",
    "Outcome",
    "Progress",
    "Query",
    "Record",
    "Retry",
    "Settlement",
    "SystemClock",
    "Tally",
    "TransactionWrites",
    "Turn",
    "Watch",
    "Writes",
    "checked_url",
    "copy_plain",
    "did_you_mean",
    "dump_message",
    "duration_field",
    "filled",
    "floor_instant",
    "from_instant",
    "has_failed",
    "is_chosen",
    "load_message",
    "log_fields",
    "may_hold_secret",
    "message_size",
    "query_options",
    "quoted",
    "read_record",
    "run_in_loop",
    "split_url",
    "state_of",
    "tallies",
    "tallies_by_scan",
]
