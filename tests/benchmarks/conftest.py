"""The benchmarks are scripts beside each other, which import each other so."""

from __future__ import annotations

import sys

from pathlib import Path


# Behind the tests' own folders: benchmarks/testing.py is none of theirs.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
