"""The methods: presets over the parts (how many vectors, which network over them, how often repeated)."""

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict, final

import torch

from ..errors import BadInput, UnknownName, pick
from ..options import like
from ..settings import PromptSettings
from .reparam import REPARAMETERIZATIONS, AbstractReparameterization, require_positive

Units = Literal["raw", "rms"]


@final
class MethodRecord(TypedDict):
    """One line of `softprompt methods list`."""

    method: str
    prompt_length: int
    trainable: int
    stored: int
    units: Units
    lr: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    """What is trained: m initial vectors and a network over them; the result may be repeated.

    Args:
        name: as on the command line.
        summary: one line, with its paper.
        m: initial vectors; 0 is a linear head without a prompt.
        repeats: how often the m prompt vectors follow each other.
        reparameterization: name in REPARAMETERIZATIONS.
        options: its keyword options, where they differ from its defaults.
        units: what it is trained in unless told: the papers' "raw" numbers, or "rms" of the word embeddings.
        lr: default learning rate of AdamW in raw units; the papers' is 0.3 for all.
        lr_rms: the same in RMS units.
    """

    name: str
    summary: str
    m: int = 10
    repeats: int = 1
    reparameterization: str = "identity"
    options: Mapping[str, Any] = field(default_factory=dict)
    units: Units = "raw"
    lr: float = 0.1
    lr_rms: float = 0.1

    @classmethod
    def of(cls, settings: PromptSettings) -> "Method":
        """The method of a prompt, with the prompt's options.

        Raises:
            UnknownName: the method, or one of its options, does not exist.
            BadInput: a value that an option cannot have; raw units, a largest norm or a deep prompt where they mean
                nothing.
        """
        method = pick("method", settings.method, METHODS).with_options(settings.options)
        if method.is_direction and settings.units == "raw":
            raise BadInput(
                f"{method.name!r} gives its norm in token norms and has no raw units; leave --units out, or give rms"
            )
        if method.m == 0 and settings.max_norm is not None:
            raise BadInput(f"{method.name!r} has no prompt for --max-norm to bound; leave one of them out")
        if method.m == 0 and settings.deep:
            raise BadInput(f"{method.name!r} has no prompt to enter every layer; leave --deep out")
        return method

    def resolved(self, settings: PromptSettings) -> PromptSettings:
        """The settings with this method's units and learning rate where none are given."""
        units = self.units if settings.units == "auto" else settings.units
        default = self.lr_rms if units == "rms" else self.lr
        return dataclasses.replace(settings, units=units, lr=default if settings.lr is None else settings.lr)

    @property
    def is_direction(self) -> bool:
        """Whether only the direction of its vectors is trained freely, as in polar."""
        return pick("reparameterization", self.reparameterization, REPARAMETERIZATIONS).is_direction

    @property
    def prompt_length(self) -> int:
        """Prompt length n = m x repeats: the positions it takes before the text."""
        return self.m * self.repeats

    @property
    def one_vector(self) -> bool:
        """Whether a single vector is all that is stored, as in EPT and EPT*."""
        return self.m == 1

    @property
    def defaults(self) -> dict[str, Any]:
        """The options of this method's reparameterisation and their values here."""
        kind = pick("reparameterization", self.reparameterization, REPARAMETERIZATIONS)
        parameters = inspect.signature(kind).parameters.values()
        return {p.name: p.default for p in parameters if p.name != "e"} | dict(self.options)

    def with_options(self, options: Mapping[str, Any]) -> "Method":
        """This method with other options; strings, as from a command line, become the type of the default.

        Args:
            options: `m` (initial vectors), `repeats`, `prompt_length` (m where nothing is repeated), or any
                keyword of the reparameterisation.

        Raises:
            UnknownName: an option that does not exist, with the nearest.
            BadInput: a value that the option cannot have.
        """
        if not options:
            return self
        if self.m == 0:
            raise BadInput(
                f"{self.name!r} has no prompt and takes no option {next(iter(options))!r}; "
                "choose 'prompt-tuning' to train one"
            )
        sizes, defaults = {"m": self.m, "repeats": self.repeats, "prompt_length": self.m}, self.defaults
        for name in options:
            if name not in sizes | defaults:
                raise UnknownName("method option", name, sizes | defaults)
        given = {name: like("method option", name, value, (sizes | defaults)[name]) for name, value in options.items()}
        for name in sizes.keys() & given:
            if given[name] < 1:
                option = "--prompt-length" if name == "prompt_length" else f"method option {name!r}"
                raise BadInput(f"{option} must be at least 1, not {given[name]}")
        changed = dataclasses.replace(
            self,
            repeats=given.get("repeats", self.repeats),
            options={**self.options, **{k: v for k, v in given.items() if k not in sizes}},
        )
        return dataclasses.replace(changed, m=changed._vectors(given))._checked()

    def build(self, e: int, seed: int) -> AbstractReparameterization:
        """The reparameterisation for embedding size `e`, on the CPU, its weights drawn from `seed` alone.

        Torch's layers start from the global generator: it is seeded within and restored after, so that the
        same seed gives the same weights and nobody else's random numbers change. The seed must not be the one
        of the initial vectors: from the same stream, EPT's D would start proportional to the vector it meets.
        """
        # Only the CPU's generator: torch.manual_seed would seed the accelerators' too and leave them changed.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._construct(e)

    def trainable(self, e: int, layers: int = 1) -> int:
        """Numbers trained for embedding size `e`: vectors of each layer, one network; a linear head is counted apart.

        Args:
            e: embedding size.
            layers: that the prompt enters: 1, or the depth of the frozen model for a deep prompt.
        """
        return self.stored(e, layers) + sum(p.numel() for p in self._without_memory(e).parameters())

    def stored(self, e: int, layers: int = 1) -> int:
        """Numbers stored after folding: m x e for each layer."""
        return layers * self.m * e

    def _construct(self, e: int) -> AbstractReparameterization:
        return pick("reparameterization", self.reparameterization, REPARAMETERIZATIONS)(e, **self.options)

    def _without_memory(self, e: int) -> AbstractReparameterization:
        with torch.device("meta"):
            return self._construct(e)

    def _vectors(self, given: Mapping[str, Any]) -> int:
        """The number of vectors that the options `m` and `prompt_length` ask for."""
        if "prompt_length" not in given:
            return given.get("m", self.m)
        if "m" in given:
            raise BadInput("give --prompt-length or the option 'm', not both")
        if self.repeats > 1:
            raise BadInput(
                f"{self.name!r} repeats its vectors {self.repeats} times, so --prompt-length could mean two "
                "things; give the option 'm' (trained vectors) or 'repeats', as in --method-option m=3"
            )
        return given["prompt_length"]

    def _checked(self) -> "Method":
        """This method, if its network can be built and takes its vectors."""
        require_positive(m=self.m, repeats=self.repeats)
        self._without_memory(1)(torch.empty(self.m, 1, device="meta"))
        return self


# The papers train all of theirs at 0.3 in raw numbers. These are from trials on small models (docs/methods.md).
_ALL = (
    Method(
        name="prompt-tuning",
        summary="m trained vectors (Lester et al., 2021, arXiv:2104.08691)",
        units="rms",
        lr=0.3,
        lr_rms=0.3,
    ),
    Method(
        name="p-tuning",
        summary="vectors through a three-layer MLP (Liu et al., 2021, arXiv:2103.10385, as in PEFT)",
        reparameterization="mlp",
        lr=0.1,
        lr_rms=0.03,
    ),
    Method(
        name="p-tuning-lstm",
        summary="vectors through a two-way LSTM and an MLP (Liu et al., 2021, arXiv:2103.10385, as in PEFT)",
        reparameterization="lstm",
        lr=0.03,
        lr_rms=0.03,
    ),
    Method(
        name="residual",
        summary="vectors plus a shared bottleneck run twice (Razdaibiedina et al., 2023, arXiv:2305.03937)",
        reparameterization="residual",
        lr=0.3,
        lr_rms=0.03,
    ),
    Method(
        name="ept",
        summary="one vector through a linear bottleneck of one unit (Explosive Prompt Tuning, section 3.3)",
        m=1,
        reparameterization="bottleneck",
        lr=0.3,
        lr_rms=0.1,
    ),
    Method(
        name="ept-star",
        summary="EPT's vector repeated ten times (Explosive Prompt Tuning, section 3.3)",
        m=1,
        repeats=10,
        reparameterization="bottleneck",
        lr=0.3,
        lr_rms=0.1,
    ),
    Method(
        name="scaled",
        summary="one trained vector repeated ten times, in units of the word embeddings (ours)",
        m=1,
        repeats=10,
        units="rms",
        lr=0.3,
        lr_rms=1.0,
    ),
    Method(
        name="polar",
        summary="the direction of one vector, repeated ten times at a fixed norm of three tokens (ours)",
        m=1,
        repeats=10,
        reparameterization="polar",
        units="rms",
        lr_rms=0.1,
    ),
    Method(
        name="linear-probe",
        summary="no prompt: the linear head of an encoder alone, the baseline of the others",
        m=0,
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def describe(width: int, layers: int = 1) -> list[MethodRecord]:
    """Prompt length, trained and stored numbers of every method for embedding size `width`; units, learning rate.

    Counted without allocating the networks.

    Args:
        width: embedding size.
        layers: that a prompt enters: 1, or the depth of the frozen model for deep prompts.

    Raises:
        BadInput: a width or layers below 1.
    """
    require_positive(width=width, layers=layers)
    return [
        MethodRecord(
            method=method.name,
            prompt_length=method.prompt_length,
            trainable=method.trainable(width, layers),
            stored=method.stored(width, layers),
            units=method.units,
            lr=None if method.m == 0 else method.lr_rms if method.units == "rms" else method.lr,
        )
        for method in METHODS.values()
    ]
