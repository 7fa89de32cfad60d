"""EPT's claims asked of a real model by their own rules, what answers most first (experiments/real_lm/PLAN.md)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .design import REAL
from .run import run
from .table import CLAIMS

# In the order in which they are asked.
STAGES: Sequence[Sequence[str]] = (
    ("norms", "similarity", "repetition", "equal-steps"),
    ("fixed-norm",),
    ("hidden-size",),
    ("structures",),
    ("learning-rates",),
)


def ask_real(path: Path, store: Path, **options: Any) -> None:
    """Train what the results lack, and keep it after each task of a claim; the same call goes on.

    Args:
        path: of the results.
        store: folder of the runs.
        options: `fleet_size`, `device` and `progress` of `run`.
    """
    for stage in STAGES:
        run(path, store=store, design=REAL, claims={name: CLAIMS[name] for name in stage}, **options)
