"""Makes the benchmarks importable. They are scripts in one folder that import each other."""

from __future__ import annotations

import sys

from pathlib import Path


# Behind the tests' own folders: benchmarks/testing.py must not hide tests/testing.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
