"""The other processes of these tests. Each command talks by lines on stdin and stdout."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import warnings

from datetime import timedelta

import pymongo

import pitstop

from pitstop._engine._delivery import lease_of
from pitstop.abc import Progress, Record
from pitstop_mongo import MongoBackend


def say(line):
    print(line, flush=True)


def drain(uri, dbname, prefetch):
    """At the signal, take and acknowledge all messages that are due, and print their ids."""
    where = {"type": "mongo", "uri": uri, "dbname": dbname}
    with pitstop.init(where) as pit, pit.listen(prefetch=int(prefetch)) as listener:
        pit.now()
        say("ready")
        sys.stdin.readline()
        while delivery := listener.get():
            assert delivery.attempt == 1
            delivery.ack()
            say(delivery.id)


def race(uri, dbname, prefetch):
    """Take and acknowledge due messages while others store them again, until the signal, and until none is due. Print them."""
    ended = threading.Event()
    threading.Thread(target=lambda: ended.set() if sys.stdin.readline() else None, daemon=True).start()
    for each in emissions(uri, dbname, int(prefetch), ended, lambda: say("ready")):
        say(json.dumps(each))


def emissions(uri, dbname, prefetch, ended, begun):
    """Yield all messages that a listener with its own client gets until ``ended`` is set and none is due. Each is acknowledged.

    Times are of the monotonic clock, which is the same in all processes of a machine.
    """
    where = {"type": "mongo", "uri": uri, "dbname": dbname}
    with pymongo.MongoClient(uri) as client, pitstop.init(where) as pit, pit.listen(prefetch=prefetch) as listener:
        pit.ping()
        begun()
        while True:
            last_look = ended.is_set()
            delivery = listener.get(timeout=0 if last_look else 0.05)
            if delivery is not None:
                yield _emission(client[dbname]["messages"], delivery)
            elif last_look:
                return


def _emission(coll, delivery):
    handed = time.monotonic()
    record = lease_of(delivery).record
    leased = coll.find_one({"_id": delivery.id, "token": record.progress.token})
    asked = time.monotonic()
    try:
        delivery.ack()
        acked = True
    except pitstop.LeaseLost:
        acked = False
    return {
        "id": delivery.id,
        "version": delivery.msg["version"],
        "attempt": delivery.attempt,
        # The lease in the document at the emission; None if it was over by then.
        "leased": leased and [leased["revision"] == record.revision, leased["msg"]["version"]],
        "handed": handed,
        "asked": asked,
        "acked": acked,
    }


def fork(uri, dbname, whose):
    """Use a backend, fork, and use it in the child and then in the parent."""
    backend = MongoBackend.from_options({"uri": uri, "dbname": dbname})
    backend.put([_record("before")])
    parents = backend._connection._link.client
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            backend.put([_record("child")])
            assert backend.get("before") is not None
            assert backend._connection._link.client is not parents
            backend.close()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    backend.put([_record("parent")])
    assert backend._connection._link.client is parents
    backend.close()
    say(f"child ended with {os.waitstatus_to_exitcode(status)}")


def fork_given(uri, dbname):
    """Do the same with a given client. One warning says what to do, and the client is not closed."""
    client = pymongo.MongoClient(uri)
    backend = MongoBackend.from_options({"client": client, "dbname": dbname})
    backend.put([_record("before")])
    logged = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())
    logging.getLogger("pitstop.mongo").addHandler(handler)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            warnings.filterwarnings("ignore", "MongoClient opened before fork", UserWarning)
            backend.put([_record("child")])
            assert backend.get("before") is not None
            assert backend._connection._link.client is client
            backend.close()
            client.admin.command("ping")
            (text,) = logged
            assert "was made before a fork, in another process" in text
            assert "gunicorn's post_fork" in text
            assert "Celery's worker_process_init" in text
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    backend.put([_record("parent")])
    assert not logged
    client.close()
    say(f"child ended with {os.waitstatus_to_exitcode(status)}")


def fork_watch(uri, dbname):
    """Listen, fork, and store a message that the child can only notice by a watch of its own."""
    pit = pitstop.init({"type": "mongo", "uri": uri, "dbname": dbname, "loop_time": "10m"})
    listener = pit.listen()
    assert listener.get(timeout=0.4) is None
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert listener.get(timeout=0.4) is None
            os.write(theirs, b"!")
            with listener.get(timeout=30) as delivery:
                say(f"child {delivery.id}")
            pit.close()
            code = 0
        finally:
            os._exit(code)
    os.read(ours, 1)
    pit.store({"id": "a"}, timedelta(0))
    _, status = os.waitpid(pid, 0)
    pit.close()
    say(f"child ended with {os.waitstatus_to_exitcode(status)}")


def store(uri, dbname, id):
    """Store a message that is due now."""
    with pitstop.init({"type": "mongo", "uri": uri, "dbname": dbname}) as pit:
        say(pit.store({"id": id}, timedelta(0)))


def _record(id):
    return Record(id, {}, None, os.urandom(16).hex(), Progress(1000, 1000))


if __name__ == "__main__":
    uri, dbname, command, *arguments = sys.argv[1:]
    commands = {
        "drain": drain,
        "fork": fork,
        "fork-given": fork_given,
        "fork-watch": fork_watch,
        "race": race,
        "store": store,
    }
    commands[command](uri, dbname, *arguments)
