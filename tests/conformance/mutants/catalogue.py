"""All mutants, by name."""

from __future__ import annotations

from conformance.mutants import (
    batching,
    claiming,
    configuring,
    counting,
    damaged,
    durable,
    finding,
    handles,
    kinds,
    many,
    noting,
    pausing,
    pausing_kinds,
    policies,
    racing,
    reading,
    served,
    settling,
    storing,
    transactions,
    values,
)
from conformance.mutants.registry import MUTANTS, RIGHT, Mutant


__all__ = [
    "MUTANTS",
    "RIGHT",
    "Mutant",
    "batching",
    "claiming",
    "configuring",
    "counting",
    "damaged",
    "durable",
    "finding",
    "handles",
    "kinds",
    "many",
    "noting",
    "pausing",
    "pausing_kinds",
    "policies",
    "racing",
    "reading",
    "served",
    "settling",
    "storing",
    "transactions",
    "values",
]
