"""The programs of these tests: parents that fork while their threads are inside Pitstop. Each prints the ids it confirmed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
import warnings

from datetime import timedelta

import pitstop


HOUR, NOW = timedelta(hours=1), timedelta(0)
#: Seconds after which a child that still runs counts as hanging.
PATIENCE = 120


def fork() -> int:
    with warnings.catch_warnings():
        # Python warns of forks with threads from 3.12 on. Such forks happen nevertheless.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def work(pit: pitstop.Pitstop, number: int, stop: threading.Event, stored: set[str], acked: set[str]) -> None:
    """Store, claim and ack until ``stop`` is set. Note the confirmed ids."""
    count = 0
    with pit.listen() as listener:
        while not stop.is_set():
            name = f"thread-{number}-{count}"
            stored.add(pit.store({"id": name}, HOUR if count % 2 else NOW))
            delivery = listener.get()
            if delivery is not None:
                delivery.ack(wait=True)
                acked.add(delivery.id)
            count += 1


async def work_async(pit: pitstop.AsyncPitstop, stop: threading.Event, stored: set[str], acked: set[str]) -> None:
    async def one(number: int) -> None:
        count = 0
        while not stop.is_set():
            name = f"task-{number}-{count}"
            stored.add(await pit.store({"id": name}, HOUR if count % 2 else NOW))
            async with pit.listen() as listener:
                delivery = await listener.get(timeout=0)
                if delivery is not None:
                    await delivery.ack(wait=True)
                    acked.add(delivery.id)
            count += 1

    await asyncio.gather(*map(one, range(4)))


def child(config: dict, pit: object, number: int, tell: int) -> None:
    """Use the inherited Pitstop, and a Pitstop of its own."""
    signal.alarm(PATIENCE)
    try:
        if isinstance(pit, pitstop.AsyncPitstop):
            told = [asyncio.run(pit.store({"id": f"child-{number}"}, HOUR))]
        else:
            told = [pit.store({"id": f"child-{number}"}, HOUR)]
        if config["type"] == "memory":
            assert pit.get(told[0]) is not None if isinstance(pit, pitstop.Pitstop) else asyncio.run(pit.get(told[0]))
        with pitstop.init(config) as own:
            told.append(own.store({"id": f"own-{number}"}, HOUR))
            own.stats()
        if number % 2 and isinstance(pit, pitstop.Pitstop):
            pit.close()
    except BaseException as error:  # noqa: BLE001 - the parent reports any exception of the child
        told = [f"! {type(error).__name__}: {error}"]
    os.write(tell, (json.dumps(told) + "\n").encode())
    os._exit(0)


def forks(config: dict, world: str, count: int) -> None:
    """Fork children from a process in which four threads, or tasks in a loop's thread, store, claim and ack."""
    stop, stored, acked = threading.Event(), set(), set()
    # The messages of type memory go away with the last handle.
    viewer = pitstop.init(config)
    if world == "sync":
        pit = pitstop.init(config)
        threads = [threading.Thread(target=work, args=(pit, n, stop, stored, acked)) for n in range(4)]
    else:
        pit = pitstop.init_async(config)
        threads = [threading.Thread(target=lambda: asyncio.run(work_async(pit, stop, stored, acked)))]
    for thread in threads:
        thread.start()
    lines, hung, longest = children_of(config, pit, count)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    errors = [line[0] for line in lines if line[0].startswith("!")]
    if config["type"] != "memory":
        # With type memory, a child has a store of its own.
        stored.update(id for line in lines if not line[0].startswith("!") for id in line)
    if isinstance(pit, pitstop.Pitstop):
        pit.close()
    else:
        asyncio.run(pit.aclose())
    there = everything(viewer)
    viewer.close()
    lost = sorted(stored - acked - there)
    back = sorted(acked & there)
    summary = {"children": len(lines), "hung": hung, "errors": errors, "confirmed": len(stored), "acked": len(acked)}
    print(json.dumps({**summary, "lost": lost, "back": back, "longest_fork": round(longest, 3)}))


def children_of(config: dict, pit: object, count: int) -> tuple[list[list[str]], int, float]:
    """Fork children one after the other. Return their reports, how many hung, and the seconds of the longest fork."""
    heard, tell = os.pipe()
    children, hung, told, longest = set(), 0, b"", 0.0
    draw = random.Random(1)
    for number in range(count):
        time.sleep(draw.uniform(0, 0.01))
        begun = time.monotonic()
        pid = fork()
        if pid == 0:
            child(config, pit, number, tell)
        longest = max(longest, time.monotonic() - begun)
        children.add(pid)
        while len(children) >= 8:
            hung += reap(children)
    while children:
        hung += reap(children)
    os.close(tell)
    while some := os.read(heard, 1 << 16):
        told += some
    return [json.loads(line) for line in told.decode().splitlines()], hung, longest


def everything(pit: pitstop.Pitstop) -> set[str]:
    there, after = set(), None
    while page := pit.entries(limit=1000, after=after):
        there |= {entry.id for entry in page}
        after = page[-1]
    return there


def reap(children: set[int]) -> int:
    pid, status = os.wait()
    children.discard(pid)
    return int(os.waitstatus_to_exitcode(status) != 0)


def preload(config: dict, count: int) -> None:
    """A master opens the store, forks workers, and ends; the workers go on."""
    heard, tell = os.pipe()
    begun, begin = os.pipe()
    master = fork()
    if master == 0:
        pit = pitstop.init(config)
        pit.store({"id": "of the master"}, HOUR)
        for number in range(4):
            if fork() == 0:
                signal.alarm(PATIENCE * 10)
                told = []
                for n in range(count // 4):
                    told.append(pit.store({"id": f"{number}-{n}"}, HOUR))
                    if n == count // 40:
                        # The master ends only now.
                        os.write(begin, b".")
                os.write(tell, (json.dumps(told) + "\n").encode())
                os._exit(0)
        for _ in range(4):
            os.read(begun, 1)
        pit.close()
        os._exit(0)
    os.close(tell)
    told = b""
    while some := os.read(heard, 1 << 16):
        told += some
    os.waitpid(master, 0)
    confirmed = {"of the master", *(id for line in told.decode().splitlines() for id in json.loads(line))}
    with pitstop.init(config) as pit:
        there = everything(pit)
    print(json.dumps({"confirmed": len(confirmed), "lost": len(confirmed - there)}))


if __name__ == "__main__":
    globals()[sys.argv[1]](*map(json.loads, sys.argv[2:]))
