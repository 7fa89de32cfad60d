"""The settings of a training run, as frozen dataclasses of plain values. The run's record stores all of them.

They stand in one long file, because the options of the command line and their help are made from it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from os import PathLike
from typing import Any, Literal, get_args

from .checks import listed, plain, refuse_no_scale, require_kind, require_numbers
from .documents import check_shape
from .errors import BadInput, UnknownName, UnsupportedModel
from .initial import Initial


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """One seed per purpose, so that each source of variance can be varied alone.

    Args:
        initialization: seed of vectors, network and head.
        order: seed of the order of the training rows.
        draw: seed of a few-shot draw of training rows.
        noise: seed of dropout and of the regularisers' perturbations.
    """

    initialization: int = 0
    order: int = 0
    draw: int = 0
    noise: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no seed: a list of them, or a fraction.

        Raises:
            BadInput: names the purpose.
        """
        for purpose, given in vars(self).items():
            object.__setattr__(self, purpose, seed := plain(given))
            if isinstance(seed, bool) or not isinstance(seed, int):
                raise BadInput(f"the seed of {purpose} must be a whole number, not {seed!r}; give each prompt its own")

    @classmethod
    def all(cls, seed: int) -> "Seeds":
        """Return seeds with the same value for every purpose."""
        return cls(initialization=seed, order=seed, draw=seed, noise=seed)


DTYPES = ("float32", "bfloat16", "float64")
ANSWERS = ("auto", "tokens", "chat", "label-words", "linear-head")
ENGINES = ("auto", "packed", "shared", "reference")
QUANTIZED = ("int8",)


@dataclass(frozen=True)
class ModelSpec:
    """A frozen model and how it computes and answers: what `load_backbone` makes a backbone of.

    Args:
        name: hub id, folder, GGUF file, or the name of a built-in model. Empty is the model that a stored prompt names,
            where there is a prompt.
        revision: commit, branch or tag of the model on the hub.
        dtype: precision of the frozen model: float32 or bfloat16 (from Python also float64).
        device: cpu, cuda, cuda:1 ...; auto is the GPU if there is one; spread is all of them, for a model that does
            not fit on one (docs/several-devices.md).
        answers: how the model answers: tokens, chat (instruct decoders), label-words or linear-head (encoders) or auto.
        engine: what computes the passes: packed (encoders, encoder-decoders), shared (decoders), reference
            (transformers), or auto, the fastest that the model allows.
        quantize: quantisation of the frozen linear layers: int8, on a CPU with AVX512-VNNI (docs/models.md). Default:
            none.
        embedding_scale: factor on the frozen model's word embeddings; the model computes the same (docs/models.md).

    Raises:
        UnknownName: a dtype, a kind of answer, of weights or an engine does not exist; the message gives the nearest.
        UnsupportedModel: float16, which cannot hold the norm of every prompt.
        BadInput: the scale is not positive and finite.
    """

    name: str = ""
    _: KW_ONLY
    revision: str | None = None
    dtype: str = "float32"
    device: str = "auto"
    answers: str = "auto"
    engine: str = "auto"
    quantize: str | None = None
    embedding_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no model can be."""
        if self.dtype in ("float16", "fp16", "half"):
            raise UnsupportedModel(
                "float16 is refused for the frozen model: an EPT prompt's norm exceeds its largest number (65504); "
                "choose bfloat16 or float32"
            )
        words = (("dtype", DTYPES), ("answers", ANSWERS), ("engine", ENGINES), ("quantize", QUANTIZED))
        for name, choices in words:
            value = getattr(self, name)
            if value not in choices and not (name == "quantize" and value is None):
                raise UnknownName(_KINDS.get(name, name), str(value), choices)
        object.__setattr__(self, "embedding_scale", plain(self.embedding_scale))
        refuse_no_scale(self.embedding_scale)

    def to_json(self) -> dict[str, Any]:
        """The keys of run folders; a device is of one machine, and so is not among them."""
        values = {"model": self.name, **vars(self)}
        return {name: value for name, value in values.items() if name not in ("name", "device")}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "ModelSpec":
        """The spec that `to_json` wrote.

        Raises:
            UnknownName: a key does not exist; the message gives the nearest.
        """
        return from_values(cls, {"name" if key == "model" else key: value for key, value in values.items()})


# What messages call a field where they do not call it by its name.
_KINDS = {"answers": "kind of answer", "quantize": "kind of frozen weights"}

UNITS = ("auto", "raw", "rms")
SPACES = ("input", "prompt")


@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """The settings of one prompt: everything that may differ between the prompts of a fleet.

    Args:
        method: a name in METHODS.
        options: the method's options, as in {"hidden": 10, "repeats": 3}.
        lr: learning rate of AdamW for the prompt, in the prompt's units; None takes the method's default.
        head_lr: learning rate of a linear head.
        init: what the prompt begins with: uniform, vocabulary, label-words, text:WORDS, file:PATH or prompt:PATH; or
            instruction or examples:K, with which it begins as the words before the text of each row. It is as long as
            these words, or as the vectors of a file or prompt where no length is given. auto is instruction for
            prompt tuning on a decoder, where a label task has one, and else uniform.
        units: units of initial range, learning rate and decay: raw (the model's own numbers, as in the papers), rms
            (in which the root mean square of the word embeddings is 1, so that they suit any model) or auto (the
            method's own).
        max_norm: largest norm of a prompt vector, in token norms (mean norms of a word vector). Default: no bound.
        max_shift: for a prompt that begins as words: largest distance of a vector from its word, in token norms. It is
            moved back to this distance after each step, as in CPT. Default: no bound.
        context_loss: for a prompt that begins as examples:K: it also learns to predict the labels of these rows, as in
            CPT. The answer of the row that is read has weight 1, and each label before it the weight of the next times
            this factor. Default: off.
        deep: train vectors for every layer of the frozen model that reads the prompt, and not for the first only.
        regularizer: names in REGULARIZERS with their options, as in "rn-emb:sigma=0.1,alpha=0.3", joined by "+";
            empty for none.
        restarts: number of initialisations that train side by side in a race; the one with the lowest training loss
            continues. 1 means no restarts.
        restart_steps: optimiser steps of the race. Default: 40 % of the run, at most 100.
        sources: stored prompts of other tasks, for methods that begin from some (spot, attempt, mpt).
        seeds: one seed per purpose.

    Raises:
        UnknownName: the units do not exist.
        BadInput: a learning rate is negative or not finite, a maximum norm or shift is not positive and finite, the
            factor of the context loss is not above 0 and at most 1, or restarts or their steps are below 1.
    """

    method: str = "prompt-tuning"
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float | None = None
    head_lr: float = 5e-3
    init: str = "auto"
    units: Literal["auto", "raw", "rms"] = "auto"
    max_norm: float | None = None
    max_shift: float | None = None
    context_loss: float | None = None
    deep: bool = False
    regularizer: str = ""
    restarts: int = 1
    restart_steps: int | None = None
    sources: Sequence[str] = ()
    seeds: Seeds = Seeds()

    def __post_init__(self) -> None:
        """Refuse settings that suit no method."""
        object.__setattr__(self, "sources", tuple(map(str, listed("sources", self.sources, (str, PathLike)))))
        _as_annotated(self)
        object.__setattr__(self, "options", {name: plain(value) for name, value in self.options.items()})
        if self.units not in UNITS:
            raise UnknownName("units", str(self.units), UNITS)
        if not isinstance(self.seeds, Seeds):
            raise BadInput(f"the seeds of a prompt are a Seeds, as Seeds.all(0), not {self.seeds!r}")
        # Training refuses a rate of 0; stored runs may have it.
        require_numbers({"lr": self.lr, "head_lr": self.head_lr}, zero=True)
        for option, bound in (("--max-norm", self.max_norm), ("--max-shift", self.max_shift)):
            if bound is not None and not (math.isfinite(bound) and bound > 0):
                raise BadInput(f"{option} must be positive and finite, in token norms, not {bound}")
        if self.context_loss is not None and not 0 < self.context_loss <= 1:
            raise BadInput(f"--context-loss is a factor above 0 and at most 1, as 0.95, not {self.context_loss}")
        require_numbers({"restarts": self.restarts, "restart_steps": self.restart_steps}, whole=True)

    @property
    def initial(self) -> Initial:
        """What the text of `init` says."""
        return Initial(self.init)

    @property
    def paths(self) -> tuple[str, ...]:
        """What the prompt begins from: initial vectors, and prompts of this and of other tasks."""
        path = self.initial.path
        return (*([] if path is None else [path]), *self.sources)

    @property
    def may_begin_as_words(self) -> bool:
        """Whether the init "auto" may stand for the instruction: plain prompt tuning, of no length of its own.

        Methods with a reparameterisation begin at random, as in the papers, unless an `init` is given.
        """
        plain = not (self.deep or self.options or self.sources)
        return self.init == "auto" and self.method == PromptSettings.method and plain


# Optimiser steps of a run that says neither steps nor epochs.
DEFAULT_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The settings that all prompts of a fleet share.

    Args:
        steps: optimiser steps. Default: as many as the epochs have, or 1000.
        epochs: passes over the training rows, where no steps are given.
        batch_size: rows of each prompt that one gradient is computed on.
        grad_accumulation: number of such gradients that one optimiser step adds up; memory does not need it.
        tokens_per_batch: largest number of rows x longest row, prompt and the labels of a loss over labels included,
            that go through the model at a time; the batch stays whole. Default: no bound.
        max_length: largest number of tokens of a text, special tokens included. Default: the task's value.
        eval_every: optimiser steps between two evaluations. A checkpoint follows each evaluation.
        eval_rows: number of validation rows, the first ones, that choose the best prompt: the highest score, and of
            equal scores the smallest loss over labels. Default: all.
        test_rows: number of test rows on which the best prompt is scored at the end, drawn as `evaluate` draws them:
            the same for every run. Default: all.
        warmup: steps of linear warm-up. Default: 500 or 5 % of the steps, whichever is less.
        schedule: learning rate after the warm-up: "linear" decay to 0, or "constant".
        weight_decay: weight decay of AdamW on prompt and reparameterisation. It does not apply to methods that train
            directions only (polar).
        clip: largest gradient norm of one prompt. Default: no clipping.
        skip_spikes: factor over the median loss of the last 20 steps above which a step is skipped. Default: none is
            skipped.
        patience: number of evaluations without a better score after which a prompt stops. Default: it does not stop.
        shots: number of training rows in total, drawn with balanced classes. Default: all.
        shots_per_class: number of training rows drawn of each class, in place of a number in total.
        decode: how an answer is found: "scores" (label scoring), "generate" (greedy) or "auto": scores for label words,
            generation otherwise.
        normalize: score of a label: the "sum" or the "mean" of the log-probabilities of its tokens, or that of the
            "first" token.
        loss: what is minimised: "tokens" (the cross entropy of the answer's tokens over the vocabulary, as in the
            papers), "labels" (that of the right label among the label scores), "both" (the mean of the two) or "auto":
            labels on a decoder that chooses among label words, tokens elsewhere.
        label_smoothing: share of the loss that all tokens, or all labels, get alike. Default: no smoothing.
        class_weights: factors on the loss of each class: "balanced", or numbers in the order of the labels joined by
            commas, as in "1,2.5" (in Python also a list). Default: all classes alike.
        calibrate: fit a temperature and a bias of each class on the validation rows at the end, and store them with the
            prompt. They turn label scores into probabilities; the bias may change answers.
        max_new_tokens: largest number of tokens of a generated answer.
        backbone_dropout: leave the frozen model's dropout on during training.
        gradient_checkpointing: compute the frozen model's activations again in the backward pass, to save memory.
        bucket: number of batches within which rows are sorted by length, to save padding. 1 keeps the random order.
        train_score: also score the chosen prompt on its own training rows at the end, on at most 500 of them.

    Raises:
        BadInput: a number is not positive, or both shots and shots_per_class are given.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 16
    grad_accumulation: int = 1
    tokens_per_batch: int | None = None
    max_length: int | None = None
    eval_every: int = 200
    eval_rows: int | None = None
    test_rows: int | None = None
    warmup: int | None = None
    schedule: Literal["linear", "constant"] = "linear"
    weight_decay: float = 0.01
    clip: float | None = None
    skip_spikes: float | None = None
    patience: int | None = None
    shots: int | None = None
    shots_per_class: int | None = None
    decode: Literal["auto", "scores", "generate"] = "auto"
    normalize: Literal["sum", "mean", "first"] = "sum"
    loss: Literal["auto", "labels", "tokens", "both"] = "auto"
    label_smoothing: float | None = None
    class_weights: str = ""
    calibrate: bool = False
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
        object.__setattr__(self, "class_weights", weights_text(self.class_weights))
        _as_annotated(self)
        require_numbers({name: getattr(self, name) for name in _COUNTS}, whole=True)
        require_numbers({"epochs": self.epochs, "clip": self.clip, "skip_spikes": self.skip_spikes})
        if self.skip_spikes is not None and self.skip_spikes <= 1:
            raise BadInput(f"--skip-spikes must be above 1, as 3 for three times the median, not {self.skip_spikes:g}")
        require_numbers({"weight_decay": self.weight_decay}, zero=True)
        require_numbers({"warmup": self.warmup}, whole=True, zero=True)
        for field_ in dataclasses.fields(self):
            choices = get_args(field_.type)
            if choices and isinstance(choices[0], str) and getattr(self, field_.name) not in choices:
                raise UnknownName(field_.name, str(getattr(self, field_.name)), choices)
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise BadInput(f"--label-smoothing is a share from 0 to below 1, not {self.label_smoothing:g}")
        if self.shots and self.shots_per_class:
            raise BadInput("give --shots (rows in total) or --shots-per-class, not both")


def _as_annotated(settings: Any) -> None:
    """Give the fields of settings plain values, and refuse those of another kind than a stored run may hold.

    Raises:
        BadInput: names the option.
    """
    for field_ in dataclasses.fields(settings):
        value = plain(getattr(settings, field_.name))
        require_kind(field_.name, value, field_.type)
        object.__setattr__(settings, field_.name, value)


BALANCED = "balanced"


def weights_text(weights: Any) -> str:
    """Class weights as text: "balanced", or positive numbers joined by commas.

    Raises:
        BadInput: something else.
    """
    text = ",".join(map(str, listed("--class-weights", weights)))
    if text in ("", BALANCED):
        return text
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(math.isfinite(number) and number > 0 for number in numbers):
        raise BadInput(f"--class-weights is {BALANCED} or positive numbers joined by commas, not {text!r}")
    return text


# Numbers of TrainSettings that count something, and count it at least once.
_COUNTS = ("steps", "batch_size", "grad_accumulation", "tokens_per_batch", "max_length", "eval_every", "eval_rows",
           "test_rows", "patience", "shots", "shots_per_class", "max_new_tokens", "bucket")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LandscapeSettings:
    """The plane over which a loss landscape is drawn, and the rows over which it is averaged.

    Args:
        space: what changes over the plane: the embedded text ("input") or the prompt ("prompt").
        radius: distance from the centre to the middle of an edge, as a share of the norm of what changes.
        grid: points per side; odd, so that one point is the unchanged text or prompt in the centre.
        rows: number of examples, drawn by the seed; all examples if there are fewer.
        seed: seed of the rows and of the random direction.
        batch_size: number of grid points of one example in one pass.

    Raises:
        UnknownName: the space does not exist.
        BadInput: the radius is not positive and finite, the grid is even or below 3, or there are no rows.
    """

    space: Literal["input", "prompt"] = "input"
    radius: float = 0.1
    grid: int = 51
    rows: int = 32
    seed: int = 0
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Refuse planes that cannot be drawn; the message gives the name of the option."""
        _as_annotated(self)
        if self.space not in SPACES:
            raise UnknownName("space of a landscape", self.space, SPACES)
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise BadInput(f"--radius must be positive and finite, a share of a norm, not {self.radius:g}")
        require_numbers({"grid": self.grid, "rows": self.rows, "batch_size": self.batch_size}, whole=True)
        if self.grid < 3 or self.grid % 2 == 0:
            raise BadInput(f"--grid must be odd and at least 3, so that a point is in the middle, not {self.grid}")


def from_values(kind: type, values: Mapping[str, Any]) -> Any:
    """Build a settings object of class `kind` from plain values, such as those of a JSON file.

    Raises:
        UnknownName: a setting does not exist; the message gives the nearest name.
        BadInput: a value is of another kind than the setting.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    for name in values:
        if name not in known:
            raise UnknownName("setting", name, known)
    check_shape(kind, values)
    if isinstance(values.get("seeds"), Mapping):
        values = {**values, "seeds": from_values(Seeds, values["seeds"])}
    return kind(**values)
