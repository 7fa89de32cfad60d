"""One prediction as a person reads it."""

from collections.abc import Mapping
from typing import Any

# Label scores shown of one prediction.
SHOWN = 3


def answered(answer: Mapping[str, Any] | None) -> str:
    """One answer: the likeliest labels with their probabilities, or the text."""
    if answer is None:
        return "no answer: its head is trained beside the prompt"
    if "scores" not in answer:
        return repr(answer["output"])
    ranked = sorted(answer["scores"].items(), key=lambda pair: -pair[1])
    return "  ".join(f"{label} {probability:.3f}" for label, probability in ranked[:SHOWN])
