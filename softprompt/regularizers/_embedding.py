"""Perturbed embeddings. Random noise is the special case of an adversary without ascent steps."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..data import SPECIAL, TEMPLATE
from ..errors import BadInput
from ..prompts.batch import TextBatch
from ._ball import UPDATES, Ball, Level, Norm
from ._base import (
    AbstractPerturbation,
    PerturbationContext,
    Where,
    refuse_negative,
    refuse_unknown,
    refuse_unknown_parts,
)
from ._divergences import DIVERGENCES

# Largest size of a perturbation, in root mean squares of the word vectors. A larger one would replace the text.
HUGE = 30.0


@final
@dataclass(frozen=True, kw_only=True)
class EmbeddingPerturbation(AbstractPerturbation):
    """x + delta, where delta is drawn at random and then makes `steps` ascent steps within a ball (PTP's RN and ADV).

    Sizes are in units of the word vectors E. The unit of sigma is rms(E), the root mean square of all numbers of the
    table. The unit of radius and step is rms(E) for linf, and rms(E) sqrt(e) for l2, which is about the norm of one
    token. With `units` "raw" every unit is 1. Only ascent steps project into the ball: noise keeps its drawn length.

    Args:
        start: the first delta: "zero"; "gaussian", each coordinate N(0, sigma^2); "ball", uniform in the ball; "box",
            each coordinate uniform in +-sigma / sqrt(number of coordinates of the row), as in FreeLB.
        sigma: size of the first delta.
        steps: number of ascent steps; 0 means random noise.
        radius: radius of the ball.
        step: length of an ascent step; 0 takes radius, or 2.5 radius / steps if that is less.
        norm: norm of the ball: "l2" or "linf".
        level: "token" for one ball per token, "sentence" for one ball per row, perturbed prompt included.
        objective: what the ascent raises: "task" for the task loss, or the name of a divergence from the clean answer.
        update: "projected" ascent, "normalized" (SMART) or "power" iteration (VAT).
        where: what is perturbed: "input", "prompt" or "both".
        template: whether the tokens of the template are perturbed like those of the columns.
        units: "rms" or "raw".
        each: whether the pass of every ascent step enters the loss (FreeLB), instead of the pass after the last step.
        reuse: whether an ascent of the task loss that starts at zero takes its first gradient from the clean pass.

    Raises:
        BadInput: a size is negative, not finite or too large, `each` is set without ascent steps, or the ascent of a
            divergence starts where its gradient is 0.
        UnknownName: a word is not among its choices.
    """

    start: Literal["zero", "gaussian", "ball", "box"] = "gaussian"
    sigma: float = 0.3
    steps: int = 0
    radius: float = 0.3
    step: float = 0.0
    norm: Norm = "l2"
    level: Level = "sentence"
    objective: str = "task"
    update: str = "projected"
    where: Literal["input", "prompt", "both"] = "input"
    template: bool = True
    units: Literal["rms", "raw"] = "rms"
    each: bool = False
    reuse: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible sizes and unknown words."""
        what = "perturbation of embeddings"
        refuse_negative(what, sigma=self.sigma, radius=self.radius, step=self.step, steps=self.steps)
        refuse_unknown(
            what,
            start=(self.start, STARTS),
            norm=(self.norm, ("l2", "linf")),
            level=(self.level, ("token", "sentence")),
            objective=(self.objective, ("task", *DIVERGENCES)),
            update=(self.update, UPDATES),
            where=(self.where, ("input", "prompt", "both")),
            units=(self.units, ("rms", "raw")),
        )
        largest = max(self.sigma * (self.start in ("gaussian", "box")), self.radius * (self.steps > 0))
        if self.units == "rms" and largest > HUGE:
            raise BadInput(
                f"{what}: a size of {largest:g} in units of the word vectors leaves nothing of the text; "
                f"give at most {HUGE:g}, or units=raw"
            )
        if self.each and not self.steps:
            raise BadInput(f"{what}: each=true counts the pass of each ascent step, but steps is 0")
        if self.wants_clean and self.radius and not self._first_size:
            raise BadInput(
                f"{what}: an ascent of objective={self.objective} that starts at the clean answer has no direction, as "
                "the gradient is 0 there; give start=gaussian,sigma=0.01"
            )

    @property
    def is_nothing(self) -> bool:
        """Whether delta is always 0."""
        if self.steps and not self.each:
            return not self.radius
        return not self._first_size and not (self.steps and self.radius)

    @property
    def passes(self) -> int:
        """Number of perturbed passes in the loss: one, or one per ascent step."""
        return self.steps if self.each else 1

    @property
    def wants_gradient(self) -> bool:
        """Whether the first ascent step follows the gradient of the clean pass."""
        return self.steps > 0 and self.reuse and self.start == "zero" and self.objective == "task" and not self.each

    @property
    def wants_clean(self) -> bool:
        """Whether the ascent needs the clean answer."""
        return self.steps > 0 and self.objective != "task"

    def check(self, context: PerturbationContext) -> None:
        """Refuse rows without a position to perturb, and rows whose template is unknown if it has to stay unchanged."""
        if not self.template:
            refuse_unknown_parts(context)
        if not bool(self._touched(context.batch, context.prompt_mask).any()):
            raise BadInput(
                f"where={self.where}, template={str(self.template).lower()} leaves no position to perturb: the method "
                "may have no prompt, or the template no column; choose another where, or template=true"
            )

    def batches(
        self, context: PerturbationContext, by_owner: Mapping[int, "EmbeddingPerturbation"]
    ) -> Iterator[TextBatch]:
        """Yield the rows with their deltas."""
        touched = self._touched(context.batch, context.prompt_mask)
        sigma_unit, radius_unit = self._units(context.words.rms, context.embeddings.shape[1])
        radius = context.rowwise({owner: values.radius * radius_unit for owner, values in by_owner.items()})
        step = context.rowwise({owner: values._step_length * radius_unit for owner, values in by_owner.items()})
        sigma = context.rowwise({owner: values.sigma * sigma_unit for owner, values in by_owner.items()})
        ball = Ball(self.norm, self.level, radius)
        delta = STARTS[self.start](context, self._touched, sigma, ball)
        if self.steps and self.update == "power":
            delta = step * ball.direction(delta)
        for number in range(self.steps):
            if self.each:
                batch, leaf = self._with_delta(context, delta)
                yield batch
                gradient = leaf.grad
                assert gradient is not None
            else:
                gradient = self._gradient(context, delta, number)
            last = number == self.steps - 1
            delta = UPDATES[self.update](ball, delta, gradient * touched[:, :, None], step, last).detach()
        if not self.each:
            yield self._with_delta(context, delta)[0]

    def raw(self, rms: float, e: int) -> dict[str, float]:
        """Return sigma and radius in the model's own numbers, for records."""
        sigma_unit, radius_unit = self._units(rms, e)
        return {"sigma_raw": self.sigma * sigma_unit, "radius_raw": self.radius * radius_unit}

    @property
    def _first_size(self) -> float:
        """Size of the first delta."""
        return {"zero": 0.0, "ball": self.radius}.get(self.start, self.sigma)

    @property
    def _step_length(self) -> float:
        """Length of an ascent step, in the unit of the radius."""
        return self.step or self.radius * min(1.0, 2.5 / max(self.steps, 1))

    def _units(self, rms: float, e: int) -> tuple[float, float]:
        """Return the unit of sigma, and the unit of radius and step, in the model's own numbers."""
        if self.units == "raw":
            return 1.0, 1.0
        return rms, rms * (math.sqrt(e) if self.norm == "l2" else 1.0)

    def _touched(self, batch: TextBatch, prompt: Bool[Tensor, "b n"]) -> Bool[Tensor, "b s"]:
        """Return the positions that are perturbed: text, prompt or both, but never padding or special tokens."""
        text = batch.mask
        if batch.parts is not None:
            lowest = TEMPLATE if self.template else TEMPLATE + 1
            text = text & ((batch.parts >= lowest) | (batch.parts < SPECIAL))
        if self.where == "input":
            prompt = torch.zeros_like(prompt)
        if self.where == "prompt":
            text = torch.zeros_like(text)
        return torch.cat([prompt, text], 1)

    def _gradient(
        self, context: PerturbationContext, delta: Float[Tensor, "b s e"], number: int
    ) -> Float[Tensor, "b s e"]:
        if number == 0 and context.gradient is not None and self.wants_gradient:
            return context.gradient
        batch, leaf = self._with_delta(context, delta)
        logits = context.logits(batch)
        if self.objective == "task":
            objective = context.losses(logits, batch)
        else:
            objective = context.divergence(self.objective, context.clean, logits, batch)
        return torch.autograd.grad(objective.sum(), leaf)[0]

    def _with_delta(
        self, context: PerturbationContext, delta: Float[Tensor, "b s e"]
    ) -> tuple[TextBatch, Float[Tensor, "b s e"]]:
        """Return the rows with delta added, and delta as a leaf that requires a gradient if there is an ascent."""
        leaf = delta.detach().requires_grad_(self.steps > 0)
        n = context.prompt_length
        deltas: dict[str, Tensor] = {}
        if self.where != "prompt":
            deltas["text_delta"] = leaf[:, n:]
        if self.where != "input":
            deltas["prompt_delta"] = leaf[:, :n]
        return replace(context.batch, **deltas), leaf


def _zero(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    positions = touched(context.batch, context.prompt_mask)
    return torch.zeros(*positions.shape, context.embeddings.shape[1], device=positions.device)


def _gaussian(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    return sigma * _drawn(context, touched, torch.randn)


def _ball(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    """Draw uniformly in the ball: a uniform direction at radius u^(1/d) in d dimensions (l2), or in a cube (linf)."""
    if ball.norm == "linf":
        return ball.radius * _drawn(context, touched, _between)
    e = context.embeddings.shape[1]
    share = context.draw(lambda k, g: torch.rand(k, generator=g), touched)
    if ball.level == "token":
        return ball.radius * share[:, :, None] ** (1 / e) * ball.direction(_drawn(context, touched, torch.randn))
    # A row has one radius: the number drawn for its first perturbed position.
    positions = touched(context.batch, context.prompt_mask)
    first = share.gather(1, positions.long().argmax(1, keepdim=True))[:, :, None]
    dimensions = (e * positions.sum(1)).clamp(min=1)[:, None, None]
    return ball.radius * first ** (1 / dimensions) * ball.direction(_drawn(context, touched, torch.randn))


def _box(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    numbers = context.embeddings.shape[1] * touched(context.batch, context.prompt_mask).sum(1).clamp(min=1)
    return sigma / numbers.sqrt()[:, None, None] * _drawn(context, touched, _between)


def _drawn(context: PerturbationContext, touched: Where, draw: Callable[..., Tensor]) -> Float[Tensor, "b s e"]:
    e = context.embeddings.shape[1]
    return context.draw(lambda k, generator: draw(k, e, generator=generator), touched)


def _between(*size: int, generator: torch.Generator) -> Tensor:
    """Draw uniformly in [-1, 1]."""
    return 2 * torch.rand(*size, generator=generator) - 1


STARTS: Mapping[str, Callable[[PerturbationContext, Where, Tensor, Ball], Tensor]] = {
    "zero": _zero,
    "gaussian": _gaussian,
    "ball": _ball,
    "box": _box,
}
