"""Useless steps: those whose loss is far above the losses before, and those whose gradient is exactly 0."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

# Losses that a spike is compared with, and the fewest of them that say anything.
WINDOW, FEWEST = 20, 5
# A loss below this, in nats, leaves nothing to learn: then a gradient of 0 is no fault.
LEARNT = 1e-3


def is_spike(loss: float, before: Sequence[float], factor: float | None) -> bool:
    """Whether a loss is more than so many times the median of those before; never where no factor is given."""
    return factor is not None and len(before) >= FEWEST and loss > factor * median(before)


def spikes_and_underflow(name: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a warning each for skipped steps and for gradients of exactly 0, with their counts.

    Args:
        name: of the prompt.
        rows: of its record.
    """
    steps = [row for row in rows if "loss" in row]
    skipped = sum(row.get("skipped", False) for row in steps)
    vanished = sum(row.get("gradient_norm") == 0 and row["loss"] > LEARNT for row in steps)
    warnings = []
    if skipped:
        warnings.append(f"{name}: {skipped} of {len(steps)} steps were skipped as spikes of the loss (--skip-spikes)")
    if vanished:
        warnings.append(
            f"{name}: the gradient was exactly 0 in {vanished} of {len(steps)} steps while the loss was not: it "
            "underflows, so the prompt stood still; try --dtype float32, a smaller norm (--max-norm) or a lower --lr"
        )
    return warnings
