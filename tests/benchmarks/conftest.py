"""Makes the benchmarks importable. They are scripts in one folder that import each other."""

from __future__ import annotations

import sys

from pathlib import Path


# Behind the tests' own folders. Even there a module hides a folder of its name that has no __init__.py: see test_bench.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
