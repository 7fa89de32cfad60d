"""What a training run is told: frozen, keyword-only, plain values, written whole into the run's record."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from .checks import require_numbers
from .errors import BadInput, UnknownName


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """One seed a purpose, so that each source of variance can be varied alone."""

    initialization: int = 0
    order: int = 0
    draw: int = 0
    noise: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no seed: a list of them, or a fraction.

        Raises:
            BadInput: names the purpose.
        """
        for purpose, seed in vars(self).items():
            if isinstance(seed, bool) or not isinstance(seed, int):
                raise BadInput(f"the seed of {purpose} must be a whole number, not {seed!r}; give each prompt its own")

    @classmethod
    def all(cls, seed: int) -> "Seeds":
        """The same seed for every purpose."""
        return cls(initialization=seed, order=seed, draw=seed, noise=seed)


UNITS = ("auto", "raw", "rms")
SPACES = ("input", "prompt")


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """One prompt of a fleet: everything that may differ between prompts sharing a forward pass.

    Args:
        method: name in METHODS.
        options: the method's options, as in {"hidden": 10, "repeats": 3}.
        lr: AdamW learning rate of the prompt, in its units; None takes the method's default for them.
        head_lr: learning rate of a linear head.
        init: "uniform", "vocabulary", "label-words", "text:WORDS", "file:PATH" or "prompt:PATH".
        units: what the prompt is trained in: "raw" numbers, as in the papers; "rms", in which the root mean square of
            the word embeddings is 1, so that initial range, learning rate and weight decay suit any table; or "auto",
            the method's own.
        max_norm: longest prompt vector, in token norms (mean norms of a word vector); None bounds nothing.
        deep: vectors of its own for every layer of the frozen model that reads the prompt, not for the first only.
        regularizer: names in REGULARIZERS with their options, as in "rn-emb:sigma=0.1,alpha=0.3", joined by "+";
            empty for none.
        restarts: initialisations that train side by side over a race, after which the one with the lowest
            training loss goes on; 1 is none but the own.
        restart_steps: optimiser steps of that race; None is 40 % of the run, 100 at the most.
        seeds: one a purpose.

    Raises:
        UnknownName: units that do not exist.
        BadInput: a learning rate that is negative, a largest norm that is not positive, one of them that is not finite;
            restarts or their steps below 1.
    """

    method: str = "prompt-tuning"
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    head_lr: float = 5e-3
    init: str = "uniform"
    units: Literal["auto", "raw", "rms"] = "auto"
    max_norm: float | None = None
    deep: bool = False
    regularizer: str = ""
    restarts: int = 1
    restart_steps: int | None = None
    seeds: Seeds = Seeds()

    def __post_init__(self) -> None:
        """Refuse what no method could be trained with."""
        if self.units not in UNITS:
            raise UnknownName("units", self.units, UNITS)
        # Training refuses a rate of 0; stored runs may have it.
        require_numbers({"lr": self.lr, "head_lr": self.head_lr}, zero=True)
        if self.max_norm is not None and not (math.isfinite(self.max_norm) and self.max_norm > 0):
            raise BadInput(f"--max-norm must be positive and finite, in token norms, not {self.max_norm}")
        require_numbers({"restarts": self.restarts, "restart_steps": self.restart_steps}, whole=True)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """What the prompts of a fleet share.

    Args:
        steps: optimiser steps; None derives them from epochs.
        epochs: passes over the training rows, used if steps is None.
        batch_size: rows of one prompt in one pass.
        grad_accumulation: passes an optimiser step.
        tokens_per_batch: upper bound on rows x longest row in one pass; None is no bound.
        max_length: tokens of text, special tokens included; None takes the task's.
        eval_every: optimiser steps between evaluations, each followed by a checkpoint.
        eval_rows: validation rows used to choose the best checkpoint; None is all of them.
        warmup: steps of linear warm-up; None is 500 or 5 % of the steps, whichever is less.
        schedule: "linear" decay to 0 or "constant".
        weight_decay: AdamW's, on prompt and reparameterisation; none where only directions are trained (polar).
        clip: largest gradient norm of one prompt; None does not clip.
        patience: evaluations without a better score after which a prompt stops; None never stops early.
        shots: training rows in total, drawn class-balanced; None is all of them.
        shots_per_class: training rows of each class; excludes shots.
        decode: "scores" (label scoring), "generate" (greedy) or "auto": scores for label words, generation otherwise.
        normalize: label scores are the "sum" or the "mean" of token log-probabilities, or of the "first" token only.
        max_new_tokens: longest generated answer.
        backbone_dropout: turn the frozen model's dropout on while training.
        gradient_checkpointing: recompute the frozen model's activations in the backward pass.
        bucket: batches in which rows are sorted by length, to pad less; 1 keeps the plain random order.
        train_score: in the end also score the chosen prompt on its own training rows, at most 500 of them.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 16
    grad_accumulation: int = 1
    tokens_per_batch: int | None = None
    max_length: int | None = None
    eval_every: int = 200
    eval_rows: int | None = None
    warmup: int | None = None
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.01
    clip: float | None = None
    patience: int | None = None
    shots: int | None = None
    shots_per_class: int | None = None
    decode: Literal["auto", "scores", "generate"] = "auto"
    normalize: Literal["sum", "mean", "first"] = "sum"
    max_new_tokens: int = 20
    backbone_dropout: bool = False
    gradient_checkpointing: bool = False
    bucket: int = 8
    train_score: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers and words that cannot be, by the name of their option.

        Raises:
            UnknownName: a schedule, a way to decode or a normalization that does not exist.
            BadInput: a number outside its range, or shots given in two ways.
        """
        require_numbers({name: getattr(self, name) for name in _COUNTS}, whole=True)
        require_numbers({"epochs": self.epochs, "clip": self.clip})
        require_numbers({"weight_decay": self.weight_decay}, zero=True)
        require_numbers({"warmup": self.warmup}, whole=True, zero=True)
        for field_ in dataclasses.fields(self):
            choices = get_args(field_.type)
            if choices and isinstance(choices[0], str) and getattr(self, field_.name) not in choices:
                raise UnknownName(field_.name, str(getattr(self, field_.name)), choices)
        if self.shots and self.shots_per_class:
            raise BadInput("give --shots (rows in total) or --shots-per-class, not both")


# Numbers of TrainSettings that count something, and count it at least once.
_COUNTS = ("steps", "batch_size", "grad_accumulation", "tokens_per_batch", "max_length", "eval_every", "eval_rows",
           "patience", "shots", "shots_per_class", "max_new_tokens", "bucket")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LandscapeSettings:
    """The plane over which a loss is drawn, and the rows it is averaged over.

    Args:
        space: what is moved: the embedded text ("input") or the prompt ("prompt").
        radius: distance to each edge's middle, as a share of the norm of what is moved.
        grid: points a side; odd, so that the unmoved one is in the middle.
        rows: examples, drawn by the seed; all where there are fewer.
        seed: of the rows and of the random direction.
        batch_size: grid points of one example in one pass.

    Raises:
        UnknownName: a space that does not exist.
        BadInput: a radius that is not positive and finite, an even grid or one without edges, or no rows.
    """

    space: Literal["input", "prompt"] = "input"
    radius: float = 0.1
    grid: int = 51
    rows: int = 32
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Refuse planes that cannot be drawn, by the name of their option."""
        if self.space not in SPACES:
            raise UnknownName("space of a landscape", self.space, SPACES)
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise BadInput(f"--radius must be positive and finite, a share of what is moved, not {self.radius:g}")
        require_numbers({"grid": self.grid, "rows": self.rows, "batch_size": self.batch_size}, whole=True)
        if self.grid < 3 or self.grid % 2 == 0:
            raise BadInput(f"--grid must be odd and at least 3, so that a point is in the middle, not {self.grid}")


def from_values(kind: type, values: Mapping[str, Any]) -> Any:
    """A settings object of `kind` from plain values, as read from JSON.

    Raises:
        UnknownName: a setting that does not exist, with the nearest.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise UnknownName("setting", name, known)
    if isinstance(values.get("seeds"), Mapping):
        values = {**values, "seeds": from_values(Seeds, values["seeds"])}
    return kind(**values)
