"""Perturbed embeddings: random noise is an adversary that does not climb."""

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

# Root mean squares of a word vector's numbers: more than this is no perturbation, but another text.
HUGE = 30.0


@final
@dataclass(frozen=True, kw_only=True)
class EmbeddingPerturbation(AbstractPerturbation):
    """x + delta, delta drawn at random and moved uphill `steps` times within a ball. The papers' RN and ADV.

    Sizes are in units u of the word vectors E: sigma in u = rms(E), the root mean square of all numbers of the table;
    radius and step in rms(E) for linf, in rms(E) sqrt(e) for l2, which is about the norm of one token. With `units`
    "raw" u is 1. Only ascent steps project: noise is as long as it is drawn.

    Args:
        start: what delta begins as: "zero"; "gaussian", N(0, sigma^2) a number; "ball", uniform in the ball; "box",
            uniform in +-sigma / sqrt(numbers of the row), as FreeLB.
        sigma: size of the start.
        steps: of the ascent; 0 is random noise.
        radius: of the ball.
        step: length of an ascent step; 0 takes radius, or 2.5 radius / steps where that is less.
        norm: of the ball: "l2" or "linf".
        level: a ball for each "token", or one for a "sentence", prompt included where it is perturbed.
        objective: what the ascent raises: "task", the task loss, or a divergence from the clean answer.
        update: "projected" ascent, "normalized" (SMART) or "power" iteration (VAT).
        where: what is perturbed: "input", "prompt" or "both".
        template: whether the tokens of the template are perturbed like those of the row's columns.
        units: "rms" or "raw".
        each: whether the pass of each ascent step counts, instead of the one after the last (FreeLB).
        reuse: whether an ascent of the task loss from zero takes its first gradient from the clean pass.
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
        """Refuse sizes and words that cannot be."""
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
                f"{what}: a size of {largest:g} is in units of the word vectors and leaves nothing of the text; "
                f"give at most {HUGE:g}, or units=raw"
            )
        if self.each and not self.steps:
            raise BadInput(f"{what}: each=true counts the pass of each ascent step, but steps is 0")

    @property
    def is_nothing(self) -> bool:
        """Whether delta is always 0."""
        if self.steps and not self.each:
            return not self.radius
        started = {"zero": 0.0, "ball": self.radius}.get(self.start, self.sigma)
        return not started and not (self.steps and self.radius)

    @property
    def passes(self) -> int:
        """One, or one an ascent step."""
        return self.steps if self.each else 1

    @property
    def wants_gradient(self) -> bool:
        """Whether the first ascent step is taken along the clean pass's gradient."""
        return self.steps > 0 and self.reuse and self.start == "zero" and self.objective == "task" and not self.each

    @property
    def wants_clean(self) -> bool:
        """Whether the ascent needs the clean answer."""
        return self.steps > 0 and self.objective != "task"

    def check(self, context: PerturbationContext) -> None:
        """Refuse to leave the template alone where nobody knows what it is."""
        if not self.template:
            refuse_unknown_parts(context)
        if not bool(self._touched(context.batch, context.prompt_mask).any()):
            raise BadInput(
                f"where={self.where}, template={str(self.template).lower()} leaves no position to perturb; a method "
                "without a prompt has none there, a template without columns no text"
            )

    def batches(self, context: PerturbationContext, own: Mapping[int, "EmbeddingPerturbation"]) -> Iterator[TextBatch]:
        """The shifted rows."""
        touched = self._touched(context.batch, context.prompt_mask)
        unit, longer = self._units(context.words.rms, context.embeddings.shape[1])
        ball = Ball(self.norm, self.level, context.rowwise({owner: one.radius * longer for owner, one in own.items()}))
        step = context.rowwise({owner: one._stride * longer for owner, one in own.items()})
        sigma = context.rowwise({owner: one.sigma * unit for owner, one in own.items()})
        delta = STARTS[self.start](context, self._touched, sigma, ball)
        if self.steps and self.update == "power":
            delta = step * ball.direction(delta)
        for number in range(self.steps):
            if self.each:
                batch, moved = self._shifted(context, delta)
                yield batch
                gradient = moved.grad
                assert gradient is not None
            else:
                gradient = self._gradient(context, delta, number)
            last = number == self.steps - 1
            delta = UPDATES[self.update](ball, delta, gradient * touched[:, :, None], step, last).detach()
        if not self.each:
            yield self._shifted(context, delta)[0]

    def raw(self, rms: float, e: int) -> dict[str, float]:
        """Sigma and radius in the model's own numbers, for records."""
        unit, longer = self._units(rms, e)
        return {"sigma_raw": self.sigma * unit, "radius_raw": self.radius * longer}

    @property
    def _stride(self) -> float:
        """Length of an ascent step, in the radius's units."""
        return self.step or self.radius * min(1.0, 2.5 / max(self.steps, 1))

    def _units(self, rms: float, e: int) -> tuple[float, float]:
        """What sigma is measured in, and what radius and step are, in the model's own numbers."""
        if self.units == "raw":
            return 1.0, 1.0
        return rms, rms * (math.sqrt(e) if self.norm == "l2" else 1.0)

    def _touched(self, batch: TextBatch, prompt: Bool[Tensor, "b n"]) -> Bool[Tensor, "b s"]:
        """Positions that may move: of text and prompt as asked, never pads and special tokens."""
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
        batch, moved = self._shifted(context, delta)
        logits = context.logits(batch)
        if self.objective == "task":
            raised = context.losses(logits, batch)
        else:
            raised = context.divergence(self.objective, context.clean, logits, batch)
        return torch.autograd.grad(raised.sum(), moved)[0]

    def _shifted(
        self, context: PerturbationContext, delta: Float[Tensor, "b s e"]
    ) -> tuple[TextBatch, Float[Tensor, "b s e"]]:
        """The rows shifted by delta, which asks for its gradient where it will be climbed on."""
        moved = delta.detach().requires_grad_(self.steps > 0)
        n = context.prompt_length
        shifts: dict[str, Tensor] = {}
        if self.where != "prompt":
            shifts["text_delta"] = moved[:, n:]
        if self.where != "input":
            shifts["prompt_delta"] = moved[:, :n]
        return replace(context.batch, **shifts), moved


def _zero(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    there = touched(context.batch, context.prompt_mask)
    return torch.zeros(*there.shape, context.embeddings.shape[1], device=there.device)


def _gaussian(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    return sigma * _drawn(context, touched, torch.randn)


def _ball(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    """Uniform in the ball: a uniform direction, at radius u^(1/d) for d dimensions (l2); uniform numbers (linf)."""
    if ball.norm == "linf":
        return ball.radius * _drawn(context, touched, _between)
    e = context.embeddings.shape[1]
    share = context.draw(lambda k, g: torch.rand(k, generator=g), touched)
    if ball.level == "token":
        return ball.radius * share[:, :, None] ** (1 / e) * ball.direction(_drawn(context, touched, torch.randn))
    # One number a row: of its first position that moves.
    there = touched(context.batch, context.prompt_mask)
    first = share.gather(1, there.long().argmax(1, keepdim=True))[:, :, None]
    dimensions = (e * there.sum(1)).clamp(min=1)[:, None, None]
    return ball.radius * first ** (1 / dimensions) * ball.direction(_drawn(context, touched, torch.randn))


def _box(context: PerturbationContext, touched: Where, sigma: Tensor, ball: Ball) -> Float[Tensor, "b s e"]:
    numbers = context.embeddings.shape[1] * touched(context.batch, context.prompt_mask).sum(1).clamp(min=1)
    return sigma / numbers.sqrt()[:, None, None] * _drawn(context, touched, _between)


def _drawn(context: PerturbationContext, touched: Where, draw: Callable[..., Tensor]) -> Float[Tensor, "b s e"]:
    e = context.embeddings.shape[1]
    return context.draw(lambda k, generator: draw(k, e, generator=generator), touched)


def _between(*size: int, generator: torch.Generator) -> Tensor:
    """Uniform in [-1, 1]."""
    return 2 * torch.rand(*size, generator=generator) - 1


STARTS: Mapping[str, Callable[[PerturbationContext, Where, Tensor, Ball], Tensor]] = {
    "zero": _zero,
    "gaussian": _gaussian,
    "ball": _ball,
    "box": _box,
}
