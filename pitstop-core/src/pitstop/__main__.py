"""``python -m pitstop``: the same as the command ``pitstop``."""

from __future__ import annotations

import sys

from pitstop.cli import main


if __name__ == "__main__":
    sys.exit(main())
