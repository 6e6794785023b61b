"""A process that copies a store: ``python copier.py SOURCE TARGET [LAST]``. It prints the number of messages after each page.

With ``LAST``, it kills itself in the middle of a page, when it has copied that many messages.
"""

from __future__ import annotations

import os
import signal
import sys

from collections.abc import Sequence

import pitstop

from pitstop._pitstop import session_of
from pitstop.abc import Record


def main() -> None:
    source, target, *last = sys.argv[1:]
    with pitstop.init(source) as pit, pitstop.init(target) as other:
        copied = 0

        def note(count: int) -> None:
            nonlocal copied
            copied = count
            print(count, flush=True)

        if last:
            backend = session_of(other).backend
            put_new = backend.put_new

            def put_some(records: Sequence[Record]) -> Sequence[bool]:
                if copied >= int(last[0]):
                    put_new(records[: len(records) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                return put_new(records)

            backend.put_new = put_some  # type: ignore[method-assign]
        done = pit.copy_to(other, progress=note)
    print(done.written, done.unchanged, done.complete, flush=True)


if __name__ == "__main__":
    main()
