"""The loss landscape of a prompt on examples: the plane and the surface of each, and summaries over all of them."""

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..backbones import AbstractBackbone, in_evaluation
from ..data import SPECIAL, Examples
from ..errors import BadInput
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.prompt import SoftPrompt
from ..prompts.units import WordScale
from ..settings import LandscapeSettings
from ..training.objectives import TaskLoss, TokenLoss
from .landscape import Losses, curvature, directions, gradient, standard_error, surface

# Half the width of the finite difference for curvatures, as a share of ||v||. It does not depend on the radius.
CURVATURE_STEP = 3e-4


@dataclass(frozen=True)
class Estimate:
    """A mean over examples and its standard error, which is None for one example."""

    mean: float
    standard_error: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Landscape:
    """The loss surfaces of b examples. Each example has its own plane in input space; all share one in prompt space.

    Args:
        settings: the settings of the plane.
        is_regression: whether the loss is a squared error; otherwise it is a cross entropy in nats.
        over_labels: whether that chooses between the labels; else between all tokens, or the classes of a head.
        surfaces: Z[i, j], the loss at a_i along X and b_j along Y, for each example.
        lengths: distance from the centre to an edge, radius x ||v||, in the model's own numbers.
        slopes: <gradient, X> at the centre. In input space this is the norm of each gradient; in prompt space the mean
            over examples is the norm of the gradient of the mean loss.
        curvatures: second derivative along X at the centre.
        words: root mean square and token norm of the word vectors, the units for reporting slopes and lengths.
    """

    settings: LandscapeSettings
    is_regression: bool
    over_labels: bool
    surfaces: Float[Tensor, "b g g"]
    lengths: Float[Tensor, " b"]
    slopes: Float[Tensor, " b"]
    curvatures: Float[Tensor, " b"]
    words: WordScale

    @property
    def measure(self) -> str:
        """What the surfaces show."""
        if self.is_regression:
            return "squared error"
        return "loss over labels (nats)" if self.over_labels else "cross entropy (nats)"

    @property
    def losses(self) -> Float[Tensor, " b"]:
        """Z0, the loss of each example at the centre."""
        middle = self.settings.grid // 2
        return self.surfaces[:, middle, middle]

    @property
    def ranges(self) -> Float[Tensor, " b"]:
        """The largest Z minus the smallest Z of each example."""
        return self.surfaces.amax((1, 2)) - self.surfaces.amin((1, 2))

    @property
    def changes(self) -> Float[Tensor, " b"]:
        """The mean of |Z - Z0| over the grid, for each example."""
        return (self.surfaces - self.losses[:, None, None]).abs().mean((1, 2))

    @property
    def mean_surface(self) -> Float[Tensor, "g g"]:
        """The mean surface over examples. In input space the axes differ between the examples."""
        return self.surfaces.mean(0)

    def numbers(self) -> dict[str, Estimate]:
        """Return summaries of the landscape, each a mean over its examples.

        Slopes are in loss / unit of the embeddings, and curvatures in loss / unit^2. The names that end in `_rms` take
        the root mean square of the word embeddings as their unit.
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


@in_evaluation
def landscape_of(
    backbone: AbstractBackbone,
    prompt: SoftPrompt,
    examples: Examples,
    settings: LandscapeSettings | None = None,
    *,
    names: Sequence[int] | None = None,
    loss: TaskLoss | None = None,
) -> Landscape:
    """Compute the landscape of a prompt on all these examples.

    Z(a, b) is the loss at v + r ||v|| (a X + b Y). In input space v is the embedded text of one example, without
    padding and special tokens. In prompt space v is the prompt, and X follows the gradient of the mean loss. X and Y
    come from `directions`. In prompt space all n positions change independently, even those of a repeated vector.

    Args:
        backbone: the backbone of the prompt, in float32 or float64.
        prompt: a stored prompt.
        examples: examples with answers.
        settings: the settings of the plane. `rows` is not used here.
        names: one number per example, which seeds its random direction; None takes 0, 1, 2 ...
        loss: what is measured (`training.trained_loss`); None is the loss over tokens, the classes or the number.

    Raises:
        BadInput: there are no examples; the space is "prompt" and the prompt has no vectors or only zeros; small steps
            vanish in the backbone's precision; or a loss is not finite.
    """
    settings = settings or LandscapeSettings()
    _refuse(backbone, prompt, examples, settings)
    prompt_batch = PromptBatch.of(prompt, device=backbone.device)
    rows = [examples.batch([index], 0, backbone.pad_id).to(backbone.device) for index in range(len(examples))]
    measured = TokenLoss() if loss is None else loss
    local = [_LocalLoss.of(backbone, prompt_batch, row, settings.space, measured) for row in rows]
    slopes = [gradient(near.losses, torch.zeros_like(near.start)) for near in local]
    if settings.space == "input":
        keys = [f"{settings.seed} {name}" for name in (names or range(len(local)))]
        planes = [_plane(near, slope, key) for near, slope, key in zip(local, slopes, keys, strict=True)]
    else:
        planes = [_plane(local[0], torch.stack(slopes).mean(0), f"{settings.seed} prompt")] * len(local)
    results = [
        _ExampleLandscape.of(near, slope, x, y, settings)
        for near, slope, (x, y) in zip(local, slopes, planes, strict=True)
    ]
    landscape = Landscape(
        settings=settings,
        is_regression=rows[0].targets is not None and rows[0].targets.is_floating_point(),
        over_labels=measured.over_labels,
        surfaces=torch.stack([result.surface for result in results]),
        lengths=torch.tensor([result.length for result in results], dtype=torch.float64),
        slopes=torch.tensor([result.slope for result in results], dtype=torch.float64),
        curvatures=torch.tensor([result.curvature for result in results], dtype=torch.float64),
        words=WordScale.of(backbone.word_vectors),
    )
    if not (torch.isfinite(landscape.surfaces).all() and torch.isfinite(landscape.curvatures).all()):
        raise BadInput(f"a loss is not finite within --radius {settings.radius:g}; choose a smaller one")
    return landscape


@dataclass(frozen=True, eq=False)
class _LocalLoss:
    """The variable v of one example, the positions of v that may change, and the loss as a function of a delta."""

    start: Float[Tensor, "s e"]
    mask: Bool[Tensor, " s"]
    losses: Losses

    @classmethod
    def of(
        cls, backbone: AbstractBackbone, prompt_batch: PromptBatch, row: TextBatch, space: str, loss: TaskLoss
    ) -> "_LocalLoss":
        def losses(deltas: Tensor) -> Tensor:
            copies = row.select(torch.zeros(len(deltas), dtype=torch.long, device=row.ids.device))
            copies = dataclasses.replace(copies, **{"text_delta" if space == "input" else "prompt_delta": deltas})
            return loss.losses(loss.outputs(backbone, prompt_batch, copies), copies)

        if space == "input":
            assert row.parts is not None
            return cls(backbone.embed(row.ids)[0].detach(), (row.mask & (row.parts != SPECIAL))[0], losses)
        return cls(prompt_batch.vectors[0].to(backbone.dtype), prompt_batch.mask[0], losses)

    @property
    def norm(self) -> float:
        """||v|| over the positions that may change."""
        return self.start[self.mask].double().norm().item()


@dataclass(frozen=True, eq=False)
class _ExampleLandscape:
    """The surface, length, slope and curvature of one example."""

    surface: Float[Tensor, "g g"]
    length: float
    slope: float
    curvature: float

    @classmethod
    def of(
        cls, local: _LocalLoss, slope: Tensor, x: Tensor, y: Tensor, settings: LandscapeSettings
    ) -> "_ExampleLandscape":
        length = settings.radius * local.norm
        return cls(
            surface(local.losses, x, y, length, settings.grid, settings.batch_size),
            length,
            (slope.double() * x.double()).sum().item(),
            curvature(local.losses, x, CURVATURE_STEP * local.norm),
        )


def _plane(local: _LocalLoss, slope: Tensor, key: str) -> tuple[Tensor, Tensor]:
    # The hash keeps seeds apart: row 1 of seed 0 and row 0 of seed 1 get different directions.
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
    return directions(slope, local.mask, torch.Generator().manual_seed(seed))


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
