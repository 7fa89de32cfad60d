"""The compared methods, their units, the scale of the word embeddings, and their first learning rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

# T5's own tokens have coordinates of about 30; a papers' method, in raw numbers, meets them there.
T5_LIKE = 32.0

Kind = Literal["prompt", "head", "full"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One line of a table.

    Args:
        method: name in METHODS.
        prompt: further fields of PromptSettings.
        rates: learning rates to begin with, neighbours of 0.1, 0.3, 1, 3 ..., ascending; of a head alone, the head's.
            A single one is fixed.
        scale: RMS of the word embeddings, about: 32 as in T5, or 1.
        kind: "prompt", "head" without a prompt, or "full" fine-tuning of every weight.
    """

    method: str
    prompt: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...]
    scale: float = T5_LIKE
    kind: Kind = "prompt"

    @property
    def is_fixed(self) -> bool:
        """Whether its rate is given, and none is searched for."""
        return len(self.rates) == 1


def _raw(method: str, *rates: float, **rest: Any) -> Candidate:
    return Candidate(method=method, prompt={"units": "raw", **rest}, rates=rates)


def _rms(method: str, *rates: float) -> Candidate:
    return Candidate(method=method, prompt={"units": "rms"}, rates=rates)


def _at_one(method: str, *rates: float) -> Candidate:
    return Candidate(method=method, prompt={"units": "raw"}, rates=rates, scale=1.0)


REFERENCE = "prompt-tuning"
FULL = "full"
HEAD = "head-only"
# The settings of users who give no options.
DEFAULT = "default"
# Papers' methods in raw numbers; where a name ends in @s=1 with word embeddings of that RMS. What is in units of the
# embeddings is the same at every scale.
CANDIDATES: dict[str, Candidate] = {
    "prompt-tuning": _raw("prompt-tuning", 0.1, 0.3, 1.0),
    "prompt-tuning-rms": _rms("prompt-tuning", 0.1, 0.3, 1.0),
    DEFAULT: Candidate(method="prompt-tuning", prompt={"units": "rms"}, rates=(0.3,)),
    "scaled": _rms("scaled", 0.3, 1.0, 3.0),
    "polar": _rms("polar", 0.03, 0.1, 0.3),
    "ept-star": _raw("ept-star", 0.1, 0.3, 1.0),
    "ept-star-guard": _raw("ept-star", 0.1, 0.3, 1.0, max_norm=4.0),
    "p-tuning": _raw("p-tuning", 0.03, 0.1, 0.3),
    "residual": _raw("residual", 0.1, 0.3, 1.0),
    "ept": _raw("ept", 0.1, 0.3, 1.0),
    "prompt-tuning@s=1": _at_one("prompt-tuning", 0.1, 0.3, 1.0),
    "ept-star@s=1": _at_one("ept-star", 0.1, 0.3, 1.0),
    "p-tuning@s=1": _at_one("p-tuning", 0.01, 0.03, 0.1),
    "residual@s=1": _at_one("residual", 0.03, 0.1, 0.3),
    "ept@s=1": _at_one("ept", 0.03, 0.1, 0.3),
    # At the scale that the lab's backbones were trained at.
    FULL: Candidate(method="full", rates=(3e-4, 1e-3, 3e-3), scale=1.0, kind="full"),
    HEAD: Candidate(method="linear-probe", rates=(3e-3, 1e-2, 3e-2), kind="head"),
}
