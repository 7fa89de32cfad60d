"""A regulariser: a perturbation, a divergence from the clean answer, and the weight of that divergence over time."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from ..checks import require_different
from ..errors import BadInput, UnknownName, pick
from ..options import like
from ..prompts.seeds import stream_seed
from ._base import AbstractPerturbation, refuse_negative, refuse_unknown
from ._divergences import DIVERGENCES
from ._dropout import DropoutPerturbation
from ._embedding import EmbeddingPerturbation
from ._swaps import SwapPerturbation
from ._words import WordPerturbation

# The name of a divergence that is not in the table: the task loss on the perturbed input.
CE = "ce"


@final
@dataclass(frozen=True, kw_only=True)
class Regularizer:
    """The loss (1 - share) CE(clean) + share CE(perturbed) + alpha D(clean, perturbed), in nats, as means over rows.

    Args:
        summary: one line that names the source.
        perturbation: makes the perturbed rows.
        alpha: weight of the divergence.
        share: share of the task loss that is computed on the perturbed rows.
        divergence: a name in DIVERGENCES, or "ce" for the task loss on the perturbed rows.
        over: tokens of the divergence: "vocabulary" for all, or "labels" for those of label words at a position.
        delay: share of the optimiser steps before the regulariser starts.
        ramp: share of the optimiser steps over which alpha then rises linearly.

    Raises:
        BadInput: a number is negative or not finite, or a share is above 1.
        UnknownName: a word is not among its choices.
    """

    summary: str
    perturbation: AbstractPerturbation
    alpha: float = 1.0
    share: float = 0.0
    divergence: str = "symmetric-kl"
    over: Literal["vocabulary", "labels"] = "vocabulary"
    delay: float = 0.0
    ramp: float = 0.0

    def __post_init__(self) -> None:
        """Refuse impossible weights and times."""
        refuse_negative("regulariser", alpha=self.alpha, share=self.share, delay=self.delay, ramp=self.ramp)
        for name in ("share", "delay", "ramp"):
            if getattr(self, name) > 1:
                raise BadInput(f"regulariser: {name} is a share, not {getattr(self, name):g}; give 0 to 1")
        refuse_unknown(
            "regulariser",
            divergence=(self.divergence, (CE, *DIVERGENCES)),
            over=(self.over, ("vocabulary", "labels")),
        )

    @property
    def is_off(self) -> bool:
        """Whether it has no effect at any step, because it has no weight or perturbs nothing."""
        return not (self.alpha or self.share) or self.perturbation.is_nothing

    def weights(self, step: int, steps: int) -> tuple[float, float]:
        """Return alpha and share at optimiser step `step` (1, 2, ... steps). Both are 0 until the delay is over.

        After the delay, alpha is multiplied by min(1, (step - delay steps) / (ramp steps)).
        """
        beyond = step - self.delay * steps
        if self.is_off or beyond <= 0:
            return 0.0, 0.0
        return self.alpha * min(1.0, beyond / (self.ramp * steps)) if self.ramp else self.alpha, self.share

    def with_options(self, options: Mapping[str, Any]) -> "Regularizer":
        """Return this regulariser with other options, its own or those of its perturbation.

        A string is converted to the type of the option's default.

        Raises:
            UnknownName: an option does not exist; the message gives the nearest name.
            BadInput: an option cannot have the given value.
        """
        outer, inner = _defaults(self), _defaults(self.perturbation)
        defaults = outer | inner
        for name in options:
            if name not in defaults:
                raise UnknownName("regulariser option", name, defaults)
        given = {name: like("regulariser option", name, value, defaults[name]) for name, value in options.items()}
        perturbation: Any = self.perturbation
        changed = dataclasses.replace(perturbation, **{n: v for n, v in given.items() if n in inner})
        return dataclasses.replace(self, perturbation=changed, **{n: v for n, v in given.items() if n in outer})

    def structure(self) -> tuple[object, ...]:
        """Return what must be equal for prompts to share a perturbed pass."""
        return self.divergence, self.over, *self.perturbation.structure()

    def to_json(self) -> dict[str, Any]:
        """Return all values that the name and the options stand for."""
        return {**_defaults(self), "perturbation": type(self.perturbation).__name__, **_defaults(self.perturbation)}


def _defaults(of: Any) -> dict[str, Any]:
    values = {field.name: getattr(of, field.name) for field in dataclasses.fields(of)}
    return {name: value for name, value in values.items() if name not in ("summary", "perturbation")}


_NOISE = EmbeddingPerturbation(start="gaussian", sigma=0.3)
_CLIMB = EmbeddingPerturbation(start="zero", sigma=0.0, steps=1, radius=0.3)

REGULARIZERS: dict[str, Regularizer] = {
    "rn-emb": Regularizer(summary="Gaussian noise on the embeddings (PTP-RN)", perturbation=_NOISE),
    # With alpha 1 the prompt learns to ignore the text (docs/log.md, 2026-11-29).
    "adv-emb": Regularizer(
        summary="ascent of the loss within a ball of the embeddings (PTP-ADV)", perturbation=_CLIMB, alpha=0.1
    ),
    "rn-text": Regularizer(summary="words masked or replaced at random (PTP-RN)", perturbation=WordPerturbation()),
    "adv-text": Regularizer(summary="words swapped for near ones, greedily (PTP-ADV)", perturbation=SwapPerturbation()),
    "ptp-rn": Regularizer(
        summary="rn-emb from 40 % of the steps on: the weakest that helped here (our choice)",
        perturbation=_NOISE,
        delay=0.4,
        ramp=0.1,
    ),
    "ptp-adv": Regularizer(
        summary="adv-emb, weak, from 40 % of the steps on (our choice)",
        perturbation=_CLIMB,
        alpha=0.1,
        delay=0.4,
        ramp=0.1,
    ),
    "smart": Regularizer(
        summary="SMART, numbers of its code, in raw units (Jiang et al., 2020, arXiv:1911.03437)",
        perturbation=EmbeddingPerturbation(
            start="gaussian", sigma=1e-5, steps=1, step=1e-5, radius=1.0, norm="linf", level="token", objective="kl",
            update="normalized", units="raw",
        ),
    ),
    "freelb": Regularizer(
        summary="FreeLB, its code's numbers for SST-2, in raw units (Zhu et al., 2020, arXiv:1909.11764)",
        perturbation=EmbeddingPerturbation(
            start="box", sigma=1.0, steps=2, step=0.1, radius=0.6, each=True, units="raw",
        ),
        alpha=0.0,
        share=1.0,
    ),
    "r-drop": Regularizer(
        summary="R-Drop: two draws of the frozen model's dropout (Liang et al., 2021, arXiv:2106.14448)",
        perturbation=DropoutPerturbation(),
        share=0.5,
        divergence="both-kl",
    ),
    "vat": Regularizer(
        summary="VAT: the direction in which the answer changes most (Miyato et al., 2018, arXiv:1704.03976)",
        perturbation=EmbeddingPerturbation(
            start="gaussian", sigma=1.0, steps=1, step=0.1, radius=0.3, objective="kl", update="power",
        ),
        divergence="kl",
    ),
}  # fmt: skip


# A change of this word changes every draw.
STREAM = "perturbation"


def pass_seed(seed: int, index: int, step: int, number: int) -> int:
    """Return the seed of a regulariser's random numbers in one pass: every regulariser has a stream of its own.

    Args:
        seed: the noise seed of the prompt.
        index: place of the regulariser among those of the prompt.
        step: optimiser step, from 1.
        number: index of the pass in its step.
    """
    return stream_seed(seed, f"{STREAM}/{index}/{step}/{number}")


def regularizers(text: str) -> tuple[Regularizer, ...]:
    """Parse the regularisers of a prompt: "rn-emb", "rn-emb:sigma=0.1,alpha=0.3", or several joined by "+".

    Raises:
        UnknownName: a name or an option does not exist; the message gives the nearest name.
        BadInput: an option is not KEY=VALUE or cannot have its value, or the shares add up to more than 1.
    """
    # The pattern does not split at the plus of a number such as 1e+3.
    parsed = tuple(_parsed(part) for part in re.split(r"\+(?=\s*[a-z])", text)) if text else ()
    if sum(regularizer.share for regularizer in parsed) > 1:
        raise BadInput(f"regularisers {text!r} take more than the whole task loss; their shares may add up to 1")
    return parsed


def _parsed(text: str) -> Regularizer:
    name, _, rest = text.strip().partition(":")
    options: dict[str, str] = {}
    for pair in filter(None, rest.split(",")):
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise BadInput(f"regulariser option {pair!r} is not KEY=VALUE, as in rn-emb:sigma=0.1,alpha=0.3")
        require_different(f"regulariser {text!r}", [*options, key.strip()])
        options[key.strip()] = value.strip()
    return pick("regulariser", name, REGULARIZERS).with_options(options)
