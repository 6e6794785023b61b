"""The command ``pitstop``. Importing this package needs no extra; running it needs ``pip install "pitstop-core[cli]"``."""

from __future__ import annotations

import sys

from pitstop.cli._streams import prepare


__all__ = ["main"]

#: The packages that the extra ``[cli]`` brings.
_EXTRA = frozenset({"click", "rich"})


def main() -> int:
    """Run the command line in ``sys.argv``. Return the exit code: 0 done, 1 failed, 2 used wrongly."""
    # This comes before any import or open file, which could get the descriptor of a missing stream.
    prepare()
    try:
        from pitstop.cli._app import run  # noqa: PLC0415 - imported here because the library is used without click
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(f'The command needs {missing}. Install it with: pip install "pitstop-core[cli]"\n')
        return 1
    except KeyboardInterrupt:
        # As click ends a command. The imports are most of the time of a short one.
        sys.stderr.write("\nAborted!\n")
        return 1
    return run()
