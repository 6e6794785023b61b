"""A process with two places whose children hold no part of them. It talks by lines on stdin and stdout."""

from __future__ import annotations

import os
import sys
import threading

import pitstop


def say(line):
    os.write(1, f"{line}\n".encode())


def main(path):
    pit, other = pitstop.init("memory://"), pitstop.init("memory://")
    for each, place in ((pit, "127.0.0.1:0"), (other, f"unix:{path}")):
        threading.Thread(target=each.consume, args=(print,), kwargs={"health": place}, daemon=True).start()
        while not (each.consumers and each.consumers[0].health):
            threading.Event().wait(0.01)
        say(each.consumers[0].health)
    ends, end = os.pipe()
    first = os.fork()
    if not first:
        os.close(end)
        os.read(ends, 1)
        # In order, as the child of a program that forks.
        pit.close()
        other.close()
        sys.exit()
    if not os.fork():
        # Until the test opens it, too; the parent is dead by then.
        os.close(os.open(f"{path}.end", os.O_RDONLY))
        os._exit(0)
    say("forked")
    os.read(0, 6)
    os.write(end, b".")
    os.waitpid(first, 0)
    say("child ended")
    threading.Event().wait()


main(sys.argv[1])
