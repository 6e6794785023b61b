"""Mutants: engines from which the mend of one fault was taken out. Each must make a scenario fail.

The scheduler makes a point of each line of this module, too, so that other threads can run between two steps of a mutant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any
from unittest import mock

import attrs

from pitstop._aio import _feeder, _hands
from pitstop._engine import (
    _background,
    _buffer,
    _intake,
    _lease,
    _leftovers,
    _session,
    _under_way,
    _waiting,
    _writer,
)


__all__ = ["MUTANTS", "Mutant"]

_UNAVAILABLE = "This Pitstop was closed."


@attrs.frozen
class Mutant:
    """An engine with a fault."""

    name: str
    #: The file of tests and the scenario that fails.
    suite: str
    scenario: str
    #: The error that the scenario must fail with, or a part of its text.
    error: str
    patches: Callable[[ExitStack], None]
    runs: int = 400


MUTANTS: list[Mutant] = []


def mutant(suite: str, scenario: str, error: str, **options: Any) -> Callable[[Callable[[ExitStack], None]], None]:
    def declare(function: Callable[[ExitStack], None]) -> None:
        MUTANTS.append(Mutant(function.__name__, f"test_{suite}", scenario, error, function, **options))

    return declare


def put(stack: ExitStack, owner: Any, name: str, new: Any) -> None:
    stack.enter_context(mock.patch.object(owner, name, new))


# Messages that are stored anew.


def _dropped_by_id(self: Any, versions: Mapping[str, str | None]) -> list[Any]:
    for lease in self.unseen.copy():
        if lease.id in versions:
            with suppress(ValueError):
                self.unseen.remove(lease)
    return []


@mutant("storing", "a_message_stored_anew_while_another_thread_claims", "is leased, and no handler has it")
def the_buffer_drops_by_id(stack):
    put(stack, _buffer.ClaimBuffer, "discard", _dropped_by_id)


@mutant("storing", "a_message_deep_in_the_hand_is_removed_while_another_thread_takes_some", "mutated during iteration")
def the_buffer_is_walked_without_a_copy(stack):
    def discard(self, versions):
        stale = []
        for lease in self.unseen:
            revision = lease.record.revision
            if versions.get(lease.id, revision) != revision:
                stale.append(lease)
        for lease in stale:
            self.unseen.remove(lease)
        return stale

    put(stack, _buffer.ClaimBuffer, "discard", discard)


@mutant("storing", "a_message_is_removed_while_another_thread_claims", "was handed out")
def the_buffer_drops_nothing(stack):
    put(stack, _buffer.ClaimBuffer, "discard", lambda self, versions: [])


@mutant("storing", "a_message_is_removed_while_another_thread_claims", "was handed out")
def a_claim_that_is_under_way_is_not_told(stack):
    put(stack, _under_way.UnderWay, "note", lambda self, versions: None)


@mutant("storing", "a_handler_that_stores_its_own_id_ends_quietly_when_it_is_alone", "LeaseLost")
def a_handler_that_stores_its_own_id_is_not_noticed(stack):
    put(stack, _lease.Lease, "supersede", lambda self: None)


# Settlements.


@mutant("settling", "two_threads_ack_one_delivery_of_an_iteration", "was settled twice")
def the_right_to_settle_is_taken_in_two_steps(stack):
    def ask(self, purpose, delivery=None, error=None, delay=None):
        if not hasattr(self, "_right"):
            raise self.refusal(purpose.value)
        with suppress(AttributeError):
            del self._right
        self.purpose, self.delivery, self.error, self.delay, self.told = purpose, delivery, error, delay, None
        self.state = _lease.State.ASKED

    put(stack, _lease.Lease, "ask", ask)


@mutant("settling", "a_look_at_the_store_shows_the_acks_that_returned", "")
def a_look_does_not_wait_for_what_is_being_written(stack):
    real = _writer.AckWriter.flush

    def flush(self, ids=None):
        if self._pending:
            real(self, ids)

    put(stack, _writer.AckWriter, "flush", flush)


@mutant("settling", "an_ack_is_written_while_the_reply_to_it_gets_lost", "told as lost")
def a_write_without_a_reply_is_forgotten(stack):
    real = _lease.Lease.postpone
    put(stack, _lease.Lease, "postpone", lambda self, *, doubtful: real(self, doubtful=False))


@mutant("settling", "acks_are_written_soon_although_more_messages_are_at_hand", "")
def the_background_sleeps_without_a_last_look(stack):
    put(stack, _background.Background, "_has_work", lambda self: False)


@mutant("settling", "a_lease_is_extended_while_the_delivery_is_acked", "told as lost")
def an_extension_after_an_ack_is_told_as_lost(stack):
    def lose_unasked(self):
        self.told, self.state = self.over("extended"), _lease.State.LOST
        return True

    put(stack, _lease.Lease, "lose_unasked", lose_unasked)


@mutant("settling", "an_ack_is_written_although_no_thread_can_be_started", "RuntimeError")
def an_ack_raises_when_no_thread_can_be_started(stack):
    real = _background.Background.begin

    def begin(self):
        if not real(self):
            raise RuntimeError("can't start new thread")
        return True

    put(stack, _background.Background, "begin", begin)


# The end.


@mutant("closing", "the_program_ends_while_claimed_messages_are_given_back", "no handler has it")
def the_exit_does_not_wait_for_messages_that_are_given_back(stack):
    put(stack, _leftovers.Leftovers, "busy", False)


@mutant("closing", "a_listener_is_dropped_and_the_pitstop_closed", "")
def a_dropped_listener_is_forgotten(stack):
    real = _intake.Intake.abandon

    def abandon(self):
        real(self)
        self._session.discard(self)

    put(stack, _intake.Intake, "abandon", abandon)


@mutant("closing", "the_program_ends_while_acks_are_written", "is leased, and no handler has it")
def the_exit_does_not_wait_for_what_is_being_written(stack):
    unsettled = property(lambda self: bool(len(self.buffer)) or bool(self.writer))
    put(stack, _intake.Intake, "unsettled", unsettled)


@mutant("closing", "a_pitstop_is_closed_while_another_thread_looks", "NoneType")
def the_backend_is_read_twice(stack):
    def backend(self):
        if self._backend is None:
            raise _session.BackendUnavailable(_UNAVAILABLE)
        return self._backend

    put(stack, _session.Session, "backend", property(backend))


@mutant("closing", "a_pitstop_is_closed_while_another_thread_iterates", "is leased, and no handler has it")
def a_close_does_not_wait_for_claims(stack):
    put(stack, _waiting.Waiting, "wait_for_others", lambda self, thread, patience: None)


@mutant("closing", "a_listener_is_stopped_while_another_thread_claims", "is leased, and no handler has it")
def a_thread_that_goes_home_gives_nothing_back(stack):
    put(stack, _leftovers.Leftovers, "settle_all", lambda self, given_back=None, settled=None: None)


@mutant("closing", "a_listener_is_stopped_while_another_thread_claims", "Endless")
def a_stop_closes_the_buffer_before_it_says_so(stack):
    def end(self):
        self.buffer.open = False
        self.waiting.stop()

    put(stack, _intake.Intake, "end", end)


@mutant("closing", "a_delivery_of_a_closed_listener_is_acked", "BackendUnavailable")
def a_close_gives_up_what_came_after_its_last_write(stack):
    def close(self, seconds):
        if not self._wait_for_writer(seconds):
            return len(self)
        self.flush()
        return self.give_up()

    put(stack, _writer.AckWriter, "close", close)


# Threads that wait.


@mutant("waiting", "a_store_wakes_a_thread_that_waits", "later")
def a_store_during_a_look_wakes_no_thread(stack):
    def notice(self, due):
        for waiter in self.waiters:
            if waiter.next_look != float("inf") and (due is None or due < waiter.next_look):
                waiter.bell.ring()

    put(stack, _waiting.Waiting, "notice", notice)


@mutant("waiting", "a_thread_whose_time_is_over_leaves_the_look_to_another_one", "later")
def a_thread_that_leaves_wakes_no_other(stack):
    put(stack, _waiting.Waiting, "_wake", lambda self, count, me: None)


@mutant("waiting", "a_nack_without_delay_wakes_a_thread_that_waits", "later")
def a_nack_wakes_no_thread(stack):
    real = _session.Session.written
    put(stack, _session.Session, "written", lambda self, due, kinds=None: real(self, due) if due is None else None)


# Event loops.


@mutant("aio", "a_get_is_cancelled_while_its_look_is_under_way", "is leased, and no handler has it")
def a_look_takes_the_message_for_a_task_that_is_gone(stack):
    real = _feeder.Feeder._resolve
    limbo = []

    def resolve(self, looks, found, error):
        if found and all(each.done() for each in looks):
            limbo.append(self.intake.buffer.pop())
        real(self, looks, found, error)

    put(stack, _feeder.Feeder, "_resolve", resolve)


@mutant("aio", "a_pitstop_is_dropped_without_being_closed", "threads are left")
def the_threads_of_a_dropped_pitstop_go_on(stack):
    put(stack, _hands.Hands, "end", lambda self: None)


@mutant("aio", "a_listener_is_closed_while_a_look_is_under_way", "Deadlock")
def a_closed_listener_does_not_answer_looks(stack):
    put(stack, _feeder.Feeder, "_answer", lambda self, *, found=False, error=None: None)
