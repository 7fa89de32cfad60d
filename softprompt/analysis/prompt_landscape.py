"""The landscape of a prompt on rows: the plane of each, its surface, and what is told of many of them."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..data import SPECIAL, Examples
from ..errors import BadInput
from ..losses import task_losses
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.prompt import SoftPrompt
from ..prompts.units import WordScale
from ..settings import LandscapeSettings
from .landscape import Losses, curvature, directions, gradient, standard_error, surface

# Half the width of the finite difference of curvatures, as a share of what is moved: the same whatever the radius.
CURVATURE_STEP = 3e-4


@dataclass(frozen=True)
class Estimate:
    """A mean over examples and its standard error, None for one example."""

    mean: float
    standard_error: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    """The surfaces of b examples around one prompt, each over its own plane or, in prompt space, over one.

    Args:
        settings: of the plane.
        is_regression: whether the loss is a squared error, not a cross entropy in nats.
        surfaces: Z[i, j] at a_i along X and b_j along Y.
        lengths: of the step to the edge, radius x norm of what is moved, in the model's own numbers.
        slopes: <gradient, X> in the middle. In input space the norm of each gradient; in prompt space their mean is
            the norm of the mean loss's gradient.
        curvatures: second derivative along X in the middle.
        words: rms and token norm of the word vectors, in which slopes and lengths are told.
    """

    settings: LandscapeSettings
    is_regression: bool
    surfaces: Float[Tensor, "b g g"]
    lengths: Float[Tensor, " b"]
    slopes: Float[Tensor, " b"]
    curvatures: Float[Tensor, " b"]
    words: WordScale

    @property
    def losses(self) -> Float[Tensor, " b"]:
        """Z0, the loss of each example where nothing is moved."""
        middle = self.settings.grid // 2
        return self.surfaces[:, middle, middle]

    @property
    def ranges(self) -> Float[Tensor, " b"]:
        """Largest Z less smallest Z of each example."""
        return self.surfaces.amax((1, 2)) - self.surfaces.amin((1, 2))

    @property
    def changes(self) -> Float[Tensor, " b"]:
        """Mean |Z - Z0| of each example over the grid."""
        return (self.surfaces - self.losses[:, None, None]).abs().mean((1, 2))

    @property
    def mean_surface(self) -> Float[Tensor, "g g"]:
        """The mean over examples; in input space of surfaces whose axes are each example's own."""
        return self.surfaces.mean(0)

    def numbers(self) -> dict[str, Estimate]:
        """What is told of a landscape, each number over its examples.

        Slopes are in loss / unit of the embeddings, curvatures in loss / unit^2; with `_rms` the unit is the root mean
        square of the word embeddings.
        """
        rms = self.words.rms
        columns = {
            "loss": self.losses,
            "range": self.ranges,
            "mean_change": self.changes,
            "gradient_norm": self.slopes,
            "gradient_norm_rms": self.slopes * rms,
            "curvature": self.curvatures,
            "curvature_rms": self.curvatures * rms**2,
            "radius_rms": self.lengths / rms,
            "radius_token_norms": self.lengths / self.words.token_norm,
        }
        return {name: Estimate(values.mean().item(), standard_error(values)) for name, values in columns.items()}


def landscape_of(
    backbone: AbstractBackbone,
    prompt: SoftPrompt,
    examples: Examples,
    settings: LandscapeSettings | None = None,
    *,
    names: Sequence[int] | None = None,
) -> Landscape:
    """The landscape of a prompt on all these examples.

    Z(a, b) = loss at v + r ||v|| (a X + b Y), with v the embedded text of one example, pads and special tokens neither
    moved nor counted in ||v||; or with v the prompt, and X the gradient of the mean loss. X and Y are those of
    `directions`; in prompt space all n positions move on their own, also those of a repeated vector.

    Args:
        backbone: the prompt's, in float32 or float64.
        prompt: a stored prompt.
        examples: with answers.
        settings: of the plane; its `rows` is not read here.
        names: a number an example, from which its random direction follows; None counts them.

    Raises:
        BadInput: no examples, a prompt without vectors in prompt space, a precision in which small steps vanish, or
            losses that are not finite.
    """
    settings = settings or LandscapeSettings()
    _refuse(backbone, prompt, examples, settings)
    prompt_batch = PromptBatch.of(prompt, device=backbone.device)
    rows = [examples.batch([index], 0, backbone.pad_id).to(backbone.device) for index in range(len(examples))]
    contexts = [_PerturbationContext.of(backbone, prompt_batch, row, settings.space) for row in rows]
    slopes = [gradient(context.losses, torch.zeros_like(context.start)) for context in contexts]
    if settings.space == "input":
        keys = [f"{settings.seed} {name}" for name in (names or range(len(contexts)))]
        planes = [_plane(context, g, key) for context, g, key in zip(contexts, slopes, keys, strict=True)]
    else:
        planes = [_plane(contexts[0], torch.stack(slopes).mean(0), f"{settings.seed} prompt")] * len(contexts)
    found = [
        _Found.of(context, slope, x, y, settings)
        for context, slope, (x, y) in zip(contexts, slopes, planes, strict=True)
    ]
    landscape = Landscape(
        settings=settings,
        is_regression=rows[0].targets is not None and rows[0].targets.is_floating_point(),
        surfaces=torch.stack([one.surface for one in found]),
        lengths=torch.tensor([one.length for one in found], dtype=torch.float64),
        slopes=torch.tensor([one.slope for one in found], dtype=torch.float64),
        curvatures=torch.tensor([one.curvature for one in found], dtype=torch.float64),
        words=WordScale.of(backbone.word_vectors),
    )
    if not (torch.isfinite(landscape.surfaces).all() and torch.isfinite(landscape.curvatures).all()):
        raise BadInput(f"a loss is not finite within --radius {settings.radius:g}; choose a smaller one")
    return landscape


@dataclass(frozen=True, eq=False)
class _PerturbationContext:
    """What moves for one example, where it may, and the loss as a function of its shift."""

    start: Float[Tensor, "s e"]
    mask: Bool[Tensor, " s"]
    losses: Losses

    @classmethod
    def of(
        cls, backbone: AbstractBackbone, prompt_batch: PromptBatch, row: TextBatch, space: str
    ) -> "_PerturbationContext":
        def losses(shifts: Tensor) -> Tensor:
            many = row.select(torch.zeros(len(shifts), dtype=torch.long, device=row.ids.device))
            many = dataclasses.replace(many, **{"text_delta" if space == "input" else "prompt_delta": shifts})
            assert many.targets is not None
            return task_losses(backbone.logits(prompt_batch, many), many.targets)

        if space == "input":
            assert row.parts is not None
            return cls(backbone.embed(row.ids)[0].detach(), (row.mask & (row.parts != SPECIAL))[0], losses)
        return cls(prompt_batch.vectors[0].to(backbone.dtype), prompt_batch.mask[0], losses)

    @property
    def norm(self) -> float:
        """||v|| over the positions that may move."""
        return self.start[self.mask].double().norm().item()


@dataclass(frozen=True, eq=False)
class _Found:
    """The numbers of one example."""

    surface: Float[Tensor, "g g"]
    length: float
    slope: float
    curvature: float

    @classmethod
    def of(
        cls, context: _PerturbationContext, slope: Tensor, x: Tensor, y: Tensor, settings: LandscapeSettings
    ) -> "_Found":
        length = settings.radius * context.norm
        return cls(
            surface(context.losses, x, y, length, settings.grid, settings.batch_size),
            length,
            (slope.double() * x.double()).sum().item(),
            curvature(context.losses, x, CURVATURE_STEP * context.norm),
        )


def _plane(context: _PerturbationContext, slope: Tensor, key: str) -> tuple[Tensor, Tensor]:
    # Hashed, so that row 1 of seed 0 is not row 0 of seed 1.
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return directions(slope, context.mask, torch.Generator().manual_seed(seed))


def _refuse(backbone: AbstractBackbone, prompt: SoftPrompt, examples: Examples, settings: LandscapeSettings) -> None:
    if not len(examples):
        raise BadInput("a landscape needs at least one example")
    if examples.targets is None or examples.parts is None:
        raise BadInput("a landscape needs examples with answers and parts; take them from `examples_for`")
    if backbone.dtype not in (torch.float32, torch.float64):
        raise BadInput(f"{backbone.name!r} is in {backbone.dtype}, where small steps vanish; load it in float32")
    if settings.space == "prompt" and not prompt.length:
        raise BadInput("this is a linear head without a prompt, which has no prompt space; choose --space input")
    norm = prompt.vectors.norm().item()
    if settings.space == "prompt" and not (norm > 0 and math.isfinite(norm)):
        raise BadInput("this prompt is all zeros, and a radius is a share of its norm; choose --space input")
