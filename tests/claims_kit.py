"""What the tests of the claims share: a tiny design of the study, and planted results."""

import dataclasses
from pathlib import Path

from experiments.claims import (
    CLAIMS,
    Check,
    Design,
    Results,
)

REPOSITORY = Path(__file__).parents[1]


COMMITTED = REPOSITORY / "experiments/results/claims.json"


TINY = Design(
    tasks=("lab/color",),
    seeds=2,
    steps=2,
    train_rows=16,
    validation_rows=8,
    test_rows=8,
    first_rates=(0.3,),
    ladder=(0.3,),
    rates=(0.3,),
    radii=(0.1, 10.0),
    hidden=(4,),
    repeats=(1, 10),
)


SOME = {name: CLAIMS[name] for name in ("similarity", "repetition", "drift")}


def check(outcome, condition="c"):
    return Check(condition=condition, quantity="", n=6, mean=0.0, low=0.0, high=0.0, needed="", outcome=outcome)


def record(value, norms=(1.0, 2.0), **more):
    return {"run": "x", "score": value, "validation": value, "majority": 0.5, "norms": list(norms), **more}


def planted(design, values):
    """Results in which each (arm) has, at every task and seed, the record that a function gives."""
    found = Results(design=design)
    for arm, make in values.items():
        for task in design.tasks:
            for seed in design.seed_numbers:
                found.keep(task, arm, seed, make(seed))
    return found


PLANTED = dataclasses.replace(TINY, tasks=("lab/color",), seeds=6)
