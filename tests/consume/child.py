"""The other processes of these tests. Each command is given a configuration, and talks by lines on stdin and stdout."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import warnings

from datetime import timedelta

import pitstop


def say(*words):
    # In one piece: several threads do.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def consume(where, options):
    """Handle messages, each until a word, and say which was begun and which is done; then the summary."""

    def handle(msg):
        say("began", msg["id"])
        # Not by sys.stdin: a handler that was left and waits in it would keep the program from its end.
        os.read(0, 1)
        say("done", msg["id"])

    with pitstop.init(where) as pit:
        summary = pit.consume(handle, **options)
        say("summary", summary.reason, summary.acked, summary.nacked, summary.lost, summary.unfinished)


def count(where, seconds, options):
    """Handle messages, each for so long; at a signal say how many, by when the last one was done."""
    last = 0.0

    def handle(msg):
        nonlocal last
        time.sleep(seconds)
        last = time.monotonic()

    with pitstop.init(where) as pit:
        pit.ping()
        say("ready")
        sys.stdin.readline()
        summary = pit.consume(handle, **options)
        say("handled", summary.handled, last)


def listen(where):
    """Take whatever comes, and say what it was, and when."""
    with pitstop.init(where) as pit:
        for delivery in pit.listen():
            say("got", delivery.id, delivery.attempt, time.monotonic())
            delivery.ack()


def late(where, options):
    """Handle one message until the word; then say whether its lease was lost by then."""
    taken = []

    def handle(delivery):
        taken.append(delivery)
        say("began", delivery.id)
        sys.stdin.readline()
        say("lost" if delivery.lost else "held")

    with pitstop.init(where) as pit:
        summary = pit.consume(handle, max_messages=1, **options)
        say("summary", summary.acked, summary.lost)


def stop(where):
    """Stop a listener that has messages in hand; say when it is about to give them back, and how many are leased then."""
    with pitstop.init(where) as pit, pit.listen(prefetch=10) as listener:
        next(listener)
        backend = pit._session.backend
        settle = backend.settle

        def slow(settlements):
            say("giving back")
            sys.stdin.readline()
            time.sleep(0.05)
            return settle(settlements)

        backend.settle = slow
        listener.stop()
        say("leased", pit.stats().leased)


def leave(where, kind):
    """End without having closed anything, while another thread consumes or listens."""
    pit = pitstop.init(where)
    handled = threading.Event()

    def consume():
        pit.consume(lambda msg: handled.set(), workers=2)

    def iterate():
        for delivery in pit.listen():
            delivery.ack()
            handled.set()

    def pool():
        from concurrent.futures import ThreadPoolExecutor

        ThreadPoolExecutor(1).submit(iterate)

    what, _, daemon = kind.partition(" ")
    with pit.listen() as listener:
        # One that has waited before there was a pool.
        listener.get(timeout=0.01)
    if what == "pool":
        pool()
    else:
        threading.Thread(target={"consume": consume, "iterate": iterate}[what], daemon=bool(daemon)).start()
    pit.store({}, timedelta(0))
    handled.wait()
    say("leaving")


def fork(where, by_kind):
    """Consume, and fork in a handler and beside it.

    :param by_kind: whether each kind has a handler.
    """
    seen = []

    def handle(msg):
        seen.append(msg["id"])
        if msg["id"] == "forks":
            with warnings.catch_warnings():
                # Python warns of forks with threads from 3.12 on. They happen all the same.
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                signal.alarm(20)
                return  # as if a child of multiprocessing went on where it should not
            _, status = os.waitpid(pid, 0)
            say("child", os.waitstatus_to_exitcode(status))

    with pitstop.init(where) as pit:
        summary = pit.consume({"": handle, "*": handle} if by_kind else handle, workers=2, until_idle=True)
        say("summary", summary.acked, summary.lost, len(seen))


if __name__ == "__main__":
    logging.basicConfig(format="%(name)s %(levelname)s %(message)s")
    command, *arguments = sys.argv[1:]
    globals()[command](*map(json.loads, arguments))
