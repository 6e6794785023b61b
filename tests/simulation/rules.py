"""Check a history against Pitstop's promises.

The rules know messages, the operations of the store (which are true) and the answers to users. They do not share a line with the code that
they judge. For example, they compute the occurrence of an emission a second time.

=========  =============================================================================================================
early      nothing is leased or emitted before its time, by the store's clock
twice      no message is out twice under live leases, and no lease is handed out twice
handed     nothing is handed out after its lease
lost       a stored message comes, and a due message comes when a listener asks
acked      an acked message does not come again
stale      a delivery whose lease has ended changes nothing, and a delivery whose lease is live is not refused
told       outcomes are true: ``ok`` means done, ``LeaseLost`` and ``BackendUnavailable`` mean not done. For an ack that returned
           at once, the hooks are called, at the latest at a look at the whole store that met no fault
update     after a store, that version comes, at its times; after a removal, none comes; this includes messages that the storing
           process had claimed ahead
anchored   occurrences are ``start + k * every``, before ``end``, one after the other, as ``catch_up`` says
key        an occurrence keeps its time and its key over its retries
attempts   attempts count the leases that a handler may have seen, and end at ``max_attempts``. A lease that ended without a
           settlement counts against the message only if a handler is known to have had it, or was about to get it
nack       a nacked message comes back, at the time of the nack
extend     an extended lease ends at the time of the extension
kinds      a claim of some kinds gets messages of these kinds alone
policies   a message is leased for its own lock time, comes back by its own retry, and is emitted within its ``expires``
edit       an edit replaces the message as it was read, and no other one; a series goes on. It is refused for no other reason
moved      a reschedule, an emission now, and the end of a lease by hand change the time of the message, and nothing else
errors     only documented errors are raised, and everything ends
=========  =============================================================================================================

It follows that a message comes twice only for a reason: each lease needs a time from which the message may be leased, and only the end of a
lease, a nack, a give-back and a store set such a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from simulation.history import Event


@attrs.frozen
class Violation:
    """A broken rule, and the event of the history that broke it."""

    rule: str
    text: str
    event: int

    def __str__(self) -> str:
        return f"{self.rule}: {self.text}"


@attrs.frozen
class _Times:
    """The schedule of a message, as it was stored."""

    start: int
    every: int | None
    end: int | None
    catch_up: str | None
    grace: int | None

    def after(self, instant: int) -> int | None:
        """Return the first occurrence later than ``instant``."""
        if self.every is None:
            return None
        following = self.start + max((instant - self.start) // self.every + 1, 0) * self.every
        return following if self.end is None or following < self.end else None

    def choose(self, pending: int, at: int) -> tuple[int, int] | None:
        """Return the occurrence to emit at ``at`` and the number of skipped ones; None if it is too old."""
        if self.every is None or self.catch_up == "all":
            return pending, 0
        chosen, missed = pending, 0
        last = at if self.end is None else min(at, self.end - 1)
        if last > pending:
            missed = (last - pending) // self.every
            chosen = pending + missed * self.every
        if self.catch_up == "skip" and at - chosen > (self.grace or 0):
            return None
        return chosen, missed


@attrs.define
class _Message:
    """A stored message, in the state that follows from its events."""

    id: str
    version: int
    times: _Times
    #: The time from which it may be leased; None: dead.
    due: int | None
    #: The first occurrence that is not settled.
    pending: int
    attempts: int = 0
    #: Claims since the last settlement, and how many of them asked for several messages.
    silent: int = 0
    ahead: int = 0
    #: Attempts that do not count against the message.
    excused: int = 0
    #: Whether a handler had the pending occurrence, or was about to get it, since it was last redriven.
    reached: bool = False
    first_leased: int | None = None
    lease: _Lease | None = None
    #: The emissions of the pending occurrence.
    shown: int | None = None
    #: Its kind, and its policies in milliseconds.
    kind: str = ""
    expires: int | None = None
    lock: int | None = None
    retry: int | None = None
    #: The attempts after which it is dead. None: those of the world.
    max_attempts: int | None = None
    #: The pending occurrence that a person has moved, and the time from which ``expires`` counts for it.
    moved: tuple[int, int] | None = None
    #: The pending occurrence that a person has moved, so that it may come early.
    hastened: int | None = None
    #: The event of its last reschedule. A listener may still hand out a copy that it claimed before.
    rescheduled: int = -1
    #: Whether it is dead because of a handler or of its attempts.
    dead: bool = False

    @property
    def labels(self) -> tuple[Any, ...]:
        return (self.kind, self.expires, self.lock, self.retry, self.max_attempts)


@attrs.define
class _Lease:
    """The result of a claim: the message as it was then."""

    message: _Message
    token: str
    at: int
    until: int
    #: The state before the claim.
    first_leased: int | None
    pending: int
    attempts: int
    #: Claims since the last settlement, this one included; and of those before it how many asked for several messages.
    silent: int
    ahead: int
    #: The attempts that were excused before.
    excused: int
    #: Whether the store counts the attempt as one that a handler had.
    certain: bool
    emitted: bool = False
    #: The latest end with which the attempt was written as a certain one.
    confirmed: int | None = None
    #: Whether it has the length that the message asks for.
    relocked: bool = False
    #: Whether the claim asked for one message.
    alone: bool = True
    #: The event of the claim, and its length.
    number: int = 0
    duration: int = 0
    #: The occurrence that a person had moved before the claim: see :class:`_Message`.
    moved: tuple[int, int] | None = None
    hastened: int | None = None

    def last(self, occurrence: int) -> int | None:
        """Return the last instant at which an occurrence may be emitted."""
        if self.message.expires is None:
            return None
        if self.moved is not None and self.moved[0] == self.pending:
            occurrence = max(occurrence, self.moved[1])
        return occurrence + self.message.expires

    @property
    def is_uncertain(self) -> bool:
        """Whether the attempt is an uncertain one once the lease has the length that the message asks for.

        A claim of one that makes its lease shorter is as uncertain as one of several: the write may outlast the lease.
        """
        lock = self.message.lock
        return not self.alone or (lock is not None and lock < self.duration)

    @property
    def nth(self) -> int:
        """The number of the attempt. Of several claims in a row that may have been no attempt, the first one counts."""
        return self.attempts - max(self.ahead - 1, 0)

    @property
    def counted(self) -> int:
        """How many attempts count against the message, this one included."""
        return self.nth - self.excused - (self.ahead > 0)

    def is_spent(self, most: int) -> bool:
        """Whether the attempts before this one are all that there may be."""
        crashed_for_certain = self.silent - 1 > self.ahead
        return self.counted - 1 + (self.ahead > 0 and crashed_for_certain) >= most


@attrs.define
class _Delivery:
    d: int
    lease: _Lease
    scheduled_for: int
    attempt: int
    #: The end of the lease, as far as the user knows.
    until: int
    #: Whether the user knows that it was acked or nacked, or that this cannot be known: a ``with`` then does nothing.
    settled: bool = False
    #: Whether the nack of a ``with`` settled it, and a try of that got no reply. Perhaps the listener does not know it then.
    unsure: bool = False
    #: Acks and nacks whose outcome the user was told to be unknown. By name, delay and error: whether the store did them.
    doubted: dict[tuple[Any, ...] | None, bool] = attrs.field(factory=dict)

    @property
    def is_settled_for_certain(self) -> bool:
        return self.settled and not self.unsure


@attrs.define
class _Call:
    """A call of the API, with its operations of the store."""

    n: int
    name: str
    args: tuple[Any, ...]
    begun: int
    applied: list[tuple[str, Any]] = attrs.field(factory=list)
    wrote: bool = False
    faults: list[str] = attrs.field(factory=list)
    outcome: str | None = None
    ended: int | None = None
    #: The event of its beginning, and the number of unanswered settlements at that time.
    number: int = 0
    unanswered: int = 0
    #: Whether a message was leased for it.
    leased: bool = False
    #: Whether a message was due when the store was last asked for due messages and returned none.
    missed_due: bool = False


def check(events: Sequence[Event]) -> list[Violation]:
    """The effects of the first event that broke a rule. Later events may follow from it, and are ignored."""
    return judge(events).violations


def judge(events: Sequence[Event]) -> Check:
    """Feed a history to a check, up to its first violation."""
    judged = Check()
    for number, event in enumerate(events):
        judged.feed(number, event)
        if judged.violations:
            break
    return judged


def _request(call: _Call) -> tuple[Any, ...] | None:
    """Return an ack or a nack as the user asked for it, with its delay and its error; None for other calls."""
    if call.name == "nack":
        return call.name, *call.args[1:]
    return ("ack",) if call.name in ("ack", "post") or (call.name == "with" and not call.args[1]) else None


#: No kind and no policies.
_NO_LABELS = ("", None, None, None, None)
#: Calls that return True if they have changed a message.
_CHANGING = ("remove", "redrive", "reschedule", "release")
#: Calls that concern a delivery.
_SETTLING = ("ack", "nack", "extend", "with", "post")


def _labelled(message: _Message, labels: Sequence[Any]) -> _Message:
    message.kind, message.expires, message.lock, message.retry, message.max_attempts = labels or _NO_LABELS
    return message


class Check:
    """A judge to which a history is fed, event by event."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        #: Counts of events, by name: a rule that was never applied proves nothing.
        self.seen: Counter[str] = Counter()
        self._messages: dict[str, _Message] = {}
        #: The reason why a message is gone.
        self._gone: dict[str, str] = {}
        self._calls: dict[int, _Call] = {}
        self._leases: dict[tuple[str, str], _Lease] = {}
        self._deliveries: dict[int, _Delivery] = {}
        #: The last occurrence of a version whose ack was confirmed.
        self._acked: dict[int, int] = {}
        self._versions: dict[int, tuple[Any, ...]] = {}
        self._put: set[int] = set()
        #: Acks that are to be written with others, by delivery; and those of a process whose outcome is not known yet.
        self._posts: dict[int, _Call] = {}
        self._untold: dict[str, set[int]] = {}
        self._told: set[int] = set()
        #: The event at which a process began its last store or removal of an id that it knows to be done.
        self._replaced: dict[tuple[str, str], int] = {}
        #: Settlements so far without a reply.
        self._unanswered = 0
        self._number = 0
        self._who = ""
        self._now = 0
        self._skew = self._lock = 0
        self._max_attempts: int | None = None
        self._retry_ms: int | None = None

    def feed(self, number: int, event: Event) -> None:
        self._number = number
        self._now, self._who, what, *details = event
        getattr(self, f"_on_{what}", self._on_other)(*details)

    def _break(self, rule: str, text: str) -> None:
        self.violations.append(Violation(rule, text, self._number))

    def _on_other(self, *_: Any) -> None:
        pass

    def _on_world(self, lock: int, skew: int, max_attempts: int | None, retry_ms: int | None) -> None:
        self._lock, self._skew, self._max_attempts, self._retry_ms = lock, skew, max_attempts, retry_ms

    # Calls of the API.

    def _on_begin(self, n: int, name: str, *args: Any) -> None:
        call = self._calls[n] = _Call(n, name, args, self._now, number=self._number, unanswered=self._unanswered)
        if name == "post" and not self._deliveries[args[0]].is_settled_for_certain:
            self._posts.setdefault(args[0], call)
        if name in ("store", "edit"):
            for id, version, *plan in args:
                self._versions[version] = (n, id, *plan)

    def _on_fault(self, n: int, name: str, fault: str) -> None:
        self.seen[f"{name} {fault}"] += 1
        self._unanswered += name == "settle" and fault in ("lost", "dropped", "late")
        if n in self._calls:
            self._calls[n].faults.append(fault)

    def _on_crash(self) -> None:
        self._untold.pop(self._who, None)

    def _on_told(self, n: int, d: int, what: str) -> None:
        self._told.add(d)
        self._untold.get(self._who, set()).discard(d)
        self._deliveries[d].settled |= what == "in doubt"
        post = self._posts.get(d)
        if post is None:
            return
        self.seen[f"post {what}"] += 1
        doubted = self._unanswered > post.unanswered
        delivery = self._deliveries[d]
        if what == "acked":
            in_time = self._calls[n].begun < delivery.until + self._skew
            if not post.applied and not (doubted and in_time):
                self._break("told", f"the ack of delivery {d} was told to be done, and it was not")
            version = delivery.lease.message.version
            self._acked[version] = max(self._acked.get(version, 0), delivery.scheduled_for)
        elif what == "in doubt":
            # This may concern an earlier try, which had the same outcome.
            if not self._unanswered:
                self._break("told", f"what became of the ack of delivery {d} is not known, and each try was answered")
        elif post.applied and not doubted:
            self._break("told", f"the lease of delivery {d} was told to be lost, and its ack was done")

    def _on_end(self, n: int, name: str, outcome: str, answer: Any) -> None:
        call = self._calls[n]
        call.outcome, call.ended = outcome, self._now
        self.seen[f"{name} {outcome}"] += 1
        if outcome == "error":
            self._break("errors", f"call {n} ({name}) raised {answer}")
        elif name == "get":
            self._end_of_get(call, answer)
        elif name in ("store", "edit") and outcome == "ok":
            missing = [version for _, version, *_ in call.args if version not in self._put]
            if missing and not self._is_doubled(call):
                self._break("told", f"call {n} stored versions {missing}, it was told, and did not")
        elif name in _CHANGING and outcome == "ok" and answer is True and not self._is_changed(call):
            self._break("told", f"call {n} ({name} {call.args[0]}) was told that it was done, and it was not")
        elif name in ("ack", "nack", "extend", "with"):
            self._end_of_settlement(call)
        self._end_with_posts(call)
        lost_reply = any(fault in ("lost", "dropped", "late") for fault in call.faults)
        # An edit whose reply got lost, and whose message was stored anew since, cannot tell.
        undone = outcome == "unavailable" or (outcome == "conflict" and not lost_reply)
        if undone and call.wrote and name in (*_CHANGING, "store", "edit", "emit_now", "ack", "nack", "extend"):
            self._break("told", f"call {n} ({name}) was told that it was not done, and it was")

    def _is_changed(self, call: _Call) -> bool:
        """Whether a call has changed its message, or found it as it should be."""
        message = self._messages.get(call.args[0])
        if call.applied or call.name != "reschedule" or message is None or message.due is None:
            return bool(call.applied)
        return call.begun - self._skew <= message.due - call.args[1] <= self._now + self._skew + 1

    def _is_doubled(self, call: _Call) -> bool:
        """Whether ids occur twice; the last one counts."""
        return len({id for id, *_ in call.args}) < len(call.args)

    def _end_of_get(self, call: _Call, answer: Any) -> None:
        if call.outcome == "ok" and answer is False and call.missed_due:
            self._break("lost", f"call {call.n} asked for what is due, there was some, and it got nothing")

    def _end_with_posts(self, call: _Call) -> None:
        """Note the consequences for acks that are written later, and for messages that are claimed ahead."""
        name, untold = call.name, self._untold.get(self._who)
        if name in ("close", "stop", "drop"):
            # A dropped listener no longer looks at the store, but its thread keeps trying.
            self._untold.pop(self._who, None)
        if name == "post" and call.outcome == "unavailable" and self._posts.get(call.args[0]) is call:
            # It is not done, and will not be done: the message may be acked again.
            del self._posts[call.args[0]]
        if call.outcome != "ok":
            return
        if name == "post":
            self._end_of_post(call)
        elif name == "look" and not call.args and not call.faults and untold:
            self._break("told", f"nobody was told what became of the acks of {sorted(untold)}")
        elif name in ("store", "edit"):
            self._replaced |= {(self._who, id): call.number for id, *_ in call.args}
        elif name == "remove" or (name in ("reschedule", "release") and call.applied):
            self._replaced[self._who, call.args[0]] = call.number

    def _end_of_post(self, call: _Call) -> None:
        """The ack returned at once: it is a promise only when its outcome is reported."""
        delivery = self._deliveries[call.args[0]]
        if self._posts.get(delivery.d) is call:
            delivery.settled = True
            if delivery.d not in self._told:
                self._untold.setdefault(self._who, set()).add(delivery.d)

    def _owner(self, call: _Call, id: str, token: str, outcome: str) -> _Call:
        """Return the call that caused a settlement: the one that sent it, or one whose ack was written with others."""
        if call.name == "release" and outcome == "release":
            return call
        delivery = self._deliveries.get(call.args[0]) if call.name in _SETTLING else None
        if delivery is not None and (delivery.lease.message.id, delivery.lease.token) == (id, token):
            return call
        lease = self._leases.get((id, token))
        return next((post for d, post in self._posts.items() if self._deliveries[d].lease is lease), call)

    def _end_of_settlement(self, call: _Call) -> None:
        delivery = self._deliveries[call.args[0]]
        done = [result for kind, result in call.applied if kind == "settle"]
        name = call.name
        lost_reply = any(fault in ("lost", "dropped", "late") for fault in call.faults)
        if name == "with":
            name = "nack" if call.args[1] else "ack"
            if name == "nack":
                # Its outcome is not reported. If the listener does not know it either, the user may settle the message again.
                delivery.settled = delivery.settled or bool(done)
                delivery.unsure = bool(done) and lost_reply
                return
        key = f"the {name} of delivery {delivery.d}"
        if call.outcome == "ok":
            if call.name == "with" and delivery.settled:
                return
            delivery.settled = delivery.settled or name != "extend"
            if not done and not self._is_excused(call, delivery, lost_reply=lost_reply):
                self._break("told", f"{key} was told that it was done, and nothing was")
            if name == "ack":
                version = delivery.lease.message.version
                self._acked[version] = max(self._acked.get(version, 0), delivery.scheduled_for)
            if name == "extend" and done:
                delivery.until = done[-1]
        elif call.outcome == "unknown":
            self._doubt(delivery, call, done=bool(done))
        elif call.outcome == "lost" and (
            (done and not (lost_reply and name == "extend")) or self._was_done(call, delivery)
        ):
            self._break("told", f"{key} was told that its lease is lost, and it was done")

    def _doubt(self, delivery: _Delivery, call: _Call, *, done: bool) -> None:
        request = _request(call)
        if request is not None:
            delivery.doubted[request] = delivery.doubted.get(request, False) or done

    def _was_done(self, call: _Call, delivery: _Delivery) -> bool:
        """Whether an earlier try was done whose outcome the user does not know. A known one is lost for any later try."""
        return not delivery.settled and delivery.doubted.get(_request(call), False)

    def _is_excused(self, call: _Call, delivery: _Delivery, *, lost_reply: bool) -> bool:
        """Whether a settlement that did nothing may be told as done.

        It repeats one of unknown outcome, which the store did. Or it is an ack that was sent in time, lost its reply, and then
        found its occurrence completed; or that repeats such an ack.
        """
        request, lease = _request(call), delivery.lease
        if delivery.doubted.get(request):
            return True
        completed = self._messages.get(lease.message.id) is not lease.message or lease.message.pending != lease.pending
        in_time = lost_reply and call.begun < delivery.until + self._skew
        return request == ("ack",) and completed and (in_time or request in delivery.doubted)

    def _on_endless(self) -> None:
        self._break("errors", "this went on and on")

    # The operations of the store.

    def _on_put(self, n: int, records: Sequence[tuple[Any, ...]]) -> None:
        self._calls[n].wrote = True
        for id, version, due, schedule, *labels in records:
            times = _Times(*schedule) if schedule else _Times(due, None, None, None, None)
            self._check_plan(n, id, version, due, times, labels)
            self._messages[id] = _labelled(_Message(id, version, times, due, due), labels)
            self._put.add(version)

    def _on_edit(self, n: int, record: tuple[Any, ...], moved: tuple[int, int] | None, unchanged: bool) -> None:
        """A user replaced a message that was read before."""
        id, version, due, pending, schedule, *labels = record
        call, old = self._calls[n], self._messages.get(id)
        call.wrote = True
        self.seen["edit"] += 1
        if old is None or not unchanged:
            self._break("edit", f"{id} was edited, and it has changed since it was read")
            return
        if old.lease is not None and old.due is not None and old.due > self._now + self._skew:
            self._break("edit", f"{id} was edited, and {old.lease.token} holds it")
        current = old.pending
        if old.first_leased is not None:
            current = (old.times.choose(old.pending, old.first_leased) or (old.pending, 0))[0]
        times = _Times(*schedule) if schedule else _Times(due, None, None, None, None)
        same = old.times if schedule else attrs.evolve(old.times, start=old.pending)
        if (times, due, pending) != (same, current, current) or tuple(labels or _NO_LABELS) != old.labels:
            self._break(
                "edit", f"{id} goes on at {due} for {pending} with {times}, and should at {current} with {same}"
            )
        kept = old.moved if schedule and current == old.pending else None
        if moved != kept:
            self._break("edit", f"{id} was moved to {kept} before the edit, and to {moved} after it")
        self._messages[id] = _labelled(_Message(id, version, times, due, pending, moved=moved), labels)
        self._put.add(version)

    def _on_refused(self, id: str, rightly: bool) -> None:
        """An edit was refused."""
        self.seen["edit refused"] += 1
        if not rightly:
            self._break("edit", f"the edit of {id} was refused, and it has not changed since it was read")

    def _on_move(self, n: int, id: str, version: int, progress: Any, moved: tuple[int, int] | None) -> None:
        """A user moved a message in time."""
        call, message = self._calls[n], self._messages.get(id)
        call.wrote = True
        call.applied.append(("move", progress[0]))
        self.seen[f"move by {call.name}"] += 1
        if message is None or message.version != version:
            self._break("moved", f"version {version} of {id} was moved, and it is not there")
            return
        due, pending, attempts, first, held = progress
        before = (message.pending, message.first_leased)
        if message.times.grace is not None and message.first_leased is None and first is not None:
            # So that the grace does not count.
            before = (message.pending, min(first, self._now + self._skew))
        least, most = call.begun - self._skew, self._now + self._skew + 1
        if call.name == "reschedule":
            least, most = least + call.args[1], most + call.args[1]
            emitted = max(message.attempts - max(message.ahead - 1, 0), 0)
            if message.times.every is None:
                before, emitted = (due, None), 0
                message.times = attrs.evolve(message.times, start=due)
                message.shown, message.reached = None, False
            fine = ((pending, first), attempts, held) == (before, emitted, False) and least <= due
            fine = fine and due <= max(most, first or 0)
            message.attempts = message.excused = attempts
            message.silent = message.ahead = 0
            message.lease, message.dead, message.rescheduled = None, False, self._number
        elif call.name == "emit_now":
            stays = due == message.due and message.due <= self._now + self._skew
            fine = ((pending, first), attempts) == (before, message.attempts) and message.due is not None
            fine = fine and (stays or (not held and least <= due <= max(most, first or 0)))
            held_now = message.lease is not None and message.due is not None and message.due > self._now + self._skew
            fine = fine and not held_now
        elif call.name == "redrive":
            fine = ((pending, first), attempts, held) == (before, 0, False) and message.due is None
            fine = fine and least <= due <= max(most, first or 0)
            message.attempts, message.silent, message.ahead, message.excused = 0, 0, 0, 0
            message.reached, message.lease, message.dead = False, None, False
        else:
            fine = False
        if not fine:
            self._break("moved", f"{id} was moved by {call.name}, and {progress} was written; {message} was there")
        chosen = None if moved is None else moved[1]
        if message.expires is None or moved is None:
            right = moved is None and (message.expires is None or least <= pending)
        else:
            right = moved[0] == pending and chosen is not None and least <= chosen <= most and chosen > pending
        if not right:
            self._break("moved", f"the expiry of {id} counts from {moved}, moved by {call.name}")
        message.due, message.pending, message.first_leased = due, pending, first
        message.moved, message.hastened = moved, pending

    def _check_plan(self, n: int, id: str, version: int, due: int, times: _Times, labels: Sequence[Any]) -> None:
        told_n, told_id, relative, start, every, end, catch_up, grace, *told_labels = self._versions[version]
        begun = self._calls[told_n].begun
        least, most = (begun - self._skew, self._now + self._skew + 1) if relative else (0, 0)
        same = (times.every, times.catch_up, times.grace) == (every, catch_up, grace)
        first = least + start <= due <= most + start and due == times.start
        last = times.end == end if end is None or not relative else times.end == due - start + end
        if not (told_n == n and told_id == id and same and first and last and list(labels) == told_labels):
            self._break("update", f"version {version} of {id} was stored for {times}, which is not what it was told")

    def _on_delete(self, n: int, id: str, found: bool) -> None:
        call = self._calls[n]
        if found != (id in self._messages):
            self._break("lost", f"{id} was {'' if found else 'not '}there to be removed, against all that happened")
        if found:
            call.wrote = True
            call.applied.append(("delete", True))
        self._messages.pop(id, None)
        self._gone[id] = "update"

    def _on_lease(
        self,
        n: int,
        limit: int,
        duration: int,
        leased: Sequence[tuple[str, int, str, int, int]],
        kinds: tuple[str, ...] | None = None,
    ) -> None:
        call = self._calls[n]
        there = [m.id for m in self._messages.values() if m.due is not None and m.due <= self._now]
        if kinds is not None:
            self.seen["lease of kinds"] += bool(leased)
            there = [id for id in there if self._messages[id].kind in kinds]
            for id, *_ in leased:
                if id in self._messages and self._messages[id].kind not in kinds:
                    self._break("kinds", f"{id} is of kind {self._messages[id].kind!r}, and a claim of {kinds} got it")
        if len(leased) < min(limit, len(there)):
            self._break("lost", f"{there} are due, and a claim of {limit} got {[each[0] for each in leased]}")
        call.missed_due = not leased and bool(there)
        call.leased = call.leased or bool(leased)
        for each in leased:
            self._leased(limit, duration, *each)

    def _leased(self, limit: int, duration: int, id: str, version: int, token: str, attempts: int, until: int) -> None:
        message = self._messages.get(id)
        if message is None:
            self._break(self._gone.get(id, "update"), f"{id} was leased, and it is not there")
            return
        if message.version != version:
            self._break("update", f"version {version} of {id} was leased, and {message.version} is stored")
            return
        if message.due is None:
            self._break("attempts", f"{id} was leased, and it is dead")
        elif message.due > self._now and message.lease is not None:
            self._break("twice", f"{id} was leased {message.due - self._now} ms before {message.lease.token} ended")
        elif message.due > self._now:
            self._break("early", f"{id} was leased {message.due - self._now} ms early")
        self.seen["lease of an expired one" if message.lease else "lease"] += 1
        lease = _Lease(
            *(message, token, self._now, until, message.first_leased, message.pending),
            *(attempts, message.silent + 1, message.ahead, message.excused),
            certain=limit == 1,
            alone=limit == 1,
            number=self._number,
            duration=duration,
            moved=message.moved,
            hastened=message.hastened,
        )
        message.attempts += 1
        message.silent += 1
        message.ahead += limit > 1
        message.reached = message.reached or limit == 1
        message.first_leased = self._now if message.first_leased is None else message.first_leased
        message.due, message.lease = until, lease
        self._leases[id, token] = lease
        if attempts != message.attempts:
            self._break("attempts", f"{id} was leased as attempt {attempts}, and it is attempt {message.attempts}")
        if until != self._now + duration:
            self._break("handed", f"{id} was leased until {until}, which is not {duration} ms from {self._now}")

    def _on_settle(self, n: int, settlements: Sequence[tuple[str, str, str, Any, bool]], late: bool) -> None:
        for id, token, outcome, progress, applied in settlements:
            sender = self._calls[n]
            # By a listener, for a message that it is about to hand out.
            confirms = outcome == "extend" and sender.name not in _SETTLING
            call = sender if confirms else self._owner(sender, id, token, outcome)
            message = self._messages.get(id)
            held = message is not None and message.lease is not None and message.lease.token == token
            held = held and message is not None and (message.due is None or message.due > self._now)
            if applied and not held:
                self._break("stale", f"{id} was settled ({outcome}) by {token}, which holds no lease of it")
                continue
            if not applied:
                self.seen["settle stale"] += 1
                if held:
                    self._break("stale", f"{id} was not settled ({outcome}) by {token}, which holds it")
                continue
            assert message is not None
            assert message.lease is not None
            call.wrote = True
            call.applied.append(("settle", progress[0] if progress else True))
            self.seen[f"settle {outcome}"] += 1
            if confirms:
                self._before_emission(message, message.lease, progress, late=late)
            elif outcome == "expire":
                self._expiring(message, message.lease, progress)
            else:
                self._settled(call, message, message.lease, progress)

    # Apply a settlement to a message.

    def _settled(self, call: _Call, message: _Message, lease: _Lease, progress: Any) -> None:
        name = call.name
        if name == "with":
            name = "nack" if call.args[1] else "ack"
        if name == "post":
            name = "ack"
        if name in ("ack", "nack", "extend"):
            delivery = self._deliveries[call.args[0]]
            if delivery.lease is not lease:
                self._break("stale", f"the {name} of delivery {delivery.d} settled what {lease.token} holds")
                return
            if call.outcome == "unknown":
                # The write came after the answer to the user.
                self._doubt(delivery, call, done=True)
            {"ack": self._acking, "nack": self._nacking, "extend": self._extending}[name](call, delivery, progress)
        elif name == "redrive":
            if message.due is not None or progress[0] is None:
                self._break("told", f"{message.id} was redriven, and was not dead")
            message.due, message.attempts, message.dead = progress[0], 0, False
            message.silent, message.ahead, message.excused, message.reached = 0, 0, 0, False
            message.lease = None
        elif name == "release" and call.args == (message.id,):
            self._releasing(call, message, progress)
        elif lease.emitted:
            self._break("twice", f"{message.id} was settled by the listener after it was handed out")
        else:
            self._unseen(message, lease, progress)

    def _releasing(self, call: _Call, message: _Message, progress: Any) -> None:
        """A user ended the lease."""
        kept = (message.pending, message.attempts, message.first_leased, False)
        least, most = call.begun - self._skew, self._now + self._skew + 1
        if progress is None or progress[1:] != kept or not least <= progress[0] <= max(most, kept[2] or 0):
            self._break("moved", f"the lease of {message.id} was ended; {kept} has to stay, and {progress} was written")
            return
        self.seen["released"] += 1
        message.due, message.lease = progress[0], None

    def _before_emission(self, message: _Message, lease: _Lease, progress: Any, *, late: bool) -> None:
        """The listener is about to hand out a message whose last lease ended without a settlement, or lets it wait.

        Or it gives the message, which was just claimed, the length of lease that it asks for.
        """
        own = message.lock is not None and progress[0] == lease.at + message.lock and progress[2] == lease.attempts
        # In the same millisecond, only this count shows whether the write makes the attempt certain.
        if own and progress[5:] in ((), (lease.ahead + lease.is_uncertain,)):
            self._relocked(message, lease, progress, late=late)
            return
        certain = progress[2] == lease.attempts
        waits = 0 if certain else 1
        kept = (message.pending, lease.attempts - waits, message.first_leased, True)
        if lease.silent < 2 or progress[1:5] != kept:
            self._break("attempts", f"{message.id} was extended unseen; {kept} has to stay, and {progress} was written")
        self.seen["confirmed" if certain else "deferred"] += 1
        message.due = progress[0]
        message.attempts, message.silent, message.ahead = lease.attempts - waits, lease.silent - waits, lease.ahead
        if late and lease.confirmed is not None:
            # The listener gave this write up, and has written a newer one. It does not know that this one cuts the lease short,
            # or takes back the attempt.
            self.seen["confirmed before"] += 1
            if progress[0] > lease.confirmed:
                self._break(
                    "extend", f"{message.id} was extended unseen to {progress[0]}, and then only to {lease.confirmed}"
                )
            return
        if lease.emitted:
            self._break("twice", f"{message.id} was extended by the listener after it was handed out")
        lease.until, lease.certain = progress[0], certain
        if certain:
            lease.confirmed, message.reached = progress[0], True

    def _relocked(self, message: _Message, lease: _Lease, progress: Any, *, late: bool) -> None:
        kept = (message.pending, lease.attempts, message.first_leased, True)
        if progress[1:5] != kept:
            self._break(
                "policies", f"{message.id} was leased for its own time; {kept} has to stay, and {progress} was written"
            )
        if lease.emitted and not late:
            self._break("twice", f"{message.id} was leased for its own time after it was handed out")
        self.seen["lease of its own time"] += 1
        message.due = progress[0]
        message.attempts, message.silent, message.ahead = (
            lease.attempts,
            lease.silent,
            lease.ahead + lease.is_uncertain,
        )
        if not lease.emitted:
            lease.until, lease.certain = progress[0], not lease.is_uncertain
            lease.relocked = True

    def _expiring(self, message: _Message, lease: _Lease, progress: Any) -> None:
        """The listener claimed an occurrence that is too old."""
        if lease.emitted:
            self._break("twice", f"{message.id} expired after it was handed out")
        chosen = message.times.choose(message.pending, message.first_leased or lease.at)
        last = None if chosen is None else lease.last(chosen[0])
        if chosen is None or last is None or message.expires is None or lease.at <= last:
            self._break(
                "policies", f"{message.id} was dropped as too old at {lease.at}, and may be emitted until {last}"
            )
            return
        self.seen["expired"] += 1
        following = message.times.after(max(chosen[0], lease.at - message.expires - 1))
        self._go_on(message, following, progress, "dropped as too old")

    def _acking(self, call: _Call, delivery: _Delivery, progress: Any) -> None:
        message = delivery.lease.message
        self._go_on(message, message.times.after(delivery.scheduled_for), progress, "acked")

    def _go_on(self, message: _Message, following: int | None, progress: Any, why: str) -> None:
        """Complete the pending occurrence."""
        written = None if progress is None else progress[:4]
        expected = None if following is None else (following, following, 0, None)
        if written != expected:
            self._break("anchored", f"{message.id} was {why}; {expected} has to follow, and {progress} did")
        if progress is None:
            del self._messages[message.id]
            self._gone[message.id] = "acked"
            return
        message.due = message.pending = progress[0]
        message.attempts, message.first_leased, message.lease, message.shown = 0, None, None, None
        message.silent, message.ahead, message.excused, message.reached = 0, 0, 0, False

    def _nacking(self, call: _Call, delivery: _Delivery, progress: Any) -> None:
        message = delivery.lease.message
        lease = delivery.lease
        most = self._most(message)
        if most is not None and lease.counted >= most:
            self._give_up(message, delivery.scheduled_for, progress)
            return
        kept = (message.pending, lease.nth, message.first_leased, False)
        if progress is None or progress[0] is None or progress[1:] != kept:
            self._break("nack", f"{message.id} was nacked; {kept} has to stay, and {progress} was written")
            return
        self._check_return(call, delivery, progress[0])
        message.due, message.lease = progress[0], None
        message.attempts, message.silent, message.ahead = lease.nth, 0, 0
        message.excused += lease.ahead > 0

    def _most(self, message: _Message) -> int | None:
        """Return the number of attempts after which the message is dead, or its series goes on. None: there is none."""
        return self._max_attempts if message.max_attempts is None else message.max_attempts

    def _check_return(self, call: _Call, delivery: _Delivery, due: int) -> None:
        delay = call.args[1] if call.name == "nack" else None
        least, most = call.begun - self._skew, self._now + self._skew + 1
        if delay is not None:
            least, most = least + delay, most + delay
        elif delivery.lease.message.retry is not None:
            least, most = least + delivery.lease.message.retry, most + delivery.lease.message.retry
        elif self._retry_ms is not None:
            wait = min(self._retry_ms * 2 ** (delivery.lease.counted - 1), 60_000)
            least, most = least + int(wait * 0.9), most + int(wait * 1.1) + 1
        else:
            least = most = delivery.until
        if not least <= due <= max(most, delivery.lease.message.first_leased or 0):
            self._break("nack", f"the nack of delivery {delivery.d} brings it back at {due}, not in {least}..{most}")

    def _extending(self, call: _Call, delivery: _Delivery, progress: Any) -> None:
        message = delivery.lease.message
        span = call.args[1]
        lease = delivery.lease
        kept = (message.pending, lease.attempts, message.first_leased, True)
        inside = call.begun + span - self._skew <= progress[0] <= self._now + span + self._skew + 1
        if progress[1:5] != kept or not inside:
            self._break("extend", f"delivery {delivery.d} was extended by {span} ms, and {progress} was written")
        message.due, lease.certain = progress[0], True
        message.attempts, message.silent, message.ahead = lease.attempts, lease.silent, lease.ahead

    def _give_up(self, message: _Message, scheduled_for: int, progress: Any) -> None:
        following = message.times.after(scheduled_for)
        if following is not None:
            self._go_on(message, following, progress, "given up")
        elif progress is None or progress[0] is not None:
            self._break(
                "attempts", f"{message.id} has used up its attempts, and {progress} was written; it has to be dead"
            )
        else:
            self.seen["dead"] += 1
            message.due, message.dead = None, True
            # Without the attempts that no handler can have had.
            message.attempts, message.silent, message.ahead, message.excused = progress[2], 0, 0, 0

    def _unseen(self, message: _Message, lease: _Lease, progress: Any) -> None:
        """The listener settled a message that no handler saw: it is given back, or it must not be emitted."""
        assert message.first_leased is not None
        chosen = message.times.choose(message.pending, message.first_leased)
        given_back = progress is not None and progress[0] is not None and progress[1] == message.pending
        if chosen is None and not given_back:
            self.seen["skipped"] += 1
            self._go_on(message, message.times.after(message.first_leased), progress, "skipped")
            return
        most = self._most(message)
        if most is not None and lease.is_spent(most) and not given_back:
            assert chosen is not None
            if not message.reached:
                self._break("attempts", f"{message.id} was given up, and no handler ever had it")
            self._give_up(message, chosen[0], progress)
            return
        self.seen["given back"] += 1
        first = None if lease.first_leased is None else message.first_leased
        if first == lease.at and progress is not None and progress[3] is None:
            # It may have been leased, redriven and leased again in one millisecond. This cannot be told apart, and makes no difference.
            first = None
        expected = (message.pending, lease.attempts - 1, first, False)
        if not given_back or progress[1:] != expected:
            self._break("attempts", f"{message.id} was given back unseen; {expected} has to be, and {progress} is")
            return
        if progress[0] > max(self._now + self._skew + 1, message.first_leased):
            self._break("lost", f"{message.id} was given back unseen, and is due only at {progress[0]}")
        message.due, message.lease = progress[0], None
        message.attempts, message.first_leased = lease.attempts - 1, first
        message.silent, message.ahead = lease.silent - 1, lease.ahead
        if first is None:
            message.silent = message.ahead = 0

    # Emissions.

    def _on_emit(
        self, n: int, d: int, id: str, version: int, token: str, key: str,
        scheduled_for: int, attempt: int, missed: int, until: int,
    ) -> None:  # fmt: skip
        lease = self._leases.get((id, token))
        if lease is None or lease.message.version != version:
            self._break("twice", f"delivery {d} is of {id} under {token}, which is no lease of version {version}")
            return
        message = lease.message
        self._deliveries[d] = _Delivery(d, lease, scheduled_for, attempt, until)
        if lease.emitted:
            self._break("twice", f"{token} of {id} was handed out twice")
        lease.emitted = True
        if lease.number < self._replaced.get((self._who, id), -1):
            self._break("update", f"delivery {d} is of {id} as it was before {self._who} stored it anew or removed it")
        if self._now >= lease.until or until != lease.until:
            self._break(
                "handed", f"delivery {d} was handed out {self._now - lease.until} ms after its lease (told {until})"
            )
        early = self._now < scheduled_for or lease.at < scheduled_for
        if early and lease.hastened != lease.pending:
            self._break("early", f"delivery {d} was handed out {scheduled_for - self._now} ms early")
        self._check_occurrence(d, lease, scheduled_for, missed)
        self._check_policies(d, lease, scheduled_for)
        self._check_attempt(d, lease, attempt)
        if key != f"{id}:{scheduled_for}":
            self._break("key", f"delivery {d} for {scheduled_for} has the key {key}")
        self.seen["emit"] += 1
        self.seen["emit again"] += attempt > 1
        self.seen["emit for several"] += missed > 0
        self.seen["emit of what is gone"] += self._messages.get(id) is not message
        if message.lease is lease:
            if message.shown not in (None, scheduled_for):
                self._break(
                    "key", f"delivery {d} is for {scheduled_for}, and its first attempt was for {message.shown}"
                )
            message.shown = scheduled_for
            message.reached = True

    def _check_policies(self, d: int, lease: _Lease, scheduled_for: int) -> None:
        last = lease.last(scheduled_for)
        # The process counts by its own clock, which may run a little too fast or too slow.
        if last is not None and (lease.at > last or self._now > last + 2 + (last - lease.at) // 100):
            self._break("policies", f"delivery {d} was handed out at {self._now}, and had expired at {last}")
        if lease.message.lock not in (None, lease.duration) and not lease.relocked:
            self._break("policies", f"delivery {d} was handed out without the lock time of its message")

    def _check_attempt(self, d: int, lease: _Lease, attempt: int) -> None:
        most = self._most(lease.message)
        if attempt != lease.nth or (most is not None and lease.counted > most):
            self._break("attempts", f"delivery {d} says attempt {attempt}, and it is {lease.nth}")
        if lease.silent > 1 and not lease.certain:
            self._break(
                "attempts", f"delivery {d} may kill its worker, and the store does not count the attempt for certain"
            )

    def _check_occurrence(self, d: int, lease: _Lease, scheduled_for: int, missed: int) -> None:
        message = lease.message
        first = lease.at if lease.first_leased is None else lease.first_leased
        chosen = message.times.choose(lease.pending, first)
        if chosen != (scheduled_for, missed):
            self._break(
                "anchored", f"delivery {d} is for {scheduled_for} (missed {missed}), and {chosen} is to be emitted"
            )
        if scheduled_for <= self._acked.get(message.version, -1) and lease.number > message.rescheduled:
            self._break("acked", f"delivery {d} is for {scheduled_for} of version {message.version}, which was acked")

    # The end of the history.

    def _on_left(self, there: Sequence[tuple[str, int, int | None]]) -> None:
        expected = sorted((m.id, m.version, m.due) for m in self._messages.values())
        if list(there) != expected:
            self._break("lost", f"{list(there)} are left, and {expected} should be")
        for message in self._messages.values():
            if not message.dead:
                self._break("lost", f"{message.id} (version {message.version}) was stored, and never done with")
