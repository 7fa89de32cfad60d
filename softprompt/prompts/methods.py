"""Methods: named presets of the number of vectors, the network over them, and the number of repeats."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

from ..errors import BadInput, pick
from ..settings import PromptSettings
from .method_options import prompt_options, weight_options
from .method_rules import refuse_raw_units, refuse_settings_of_prompts, refuse_settings_of_vectors, refuse_sources
from .method_table import NETWORK_OPTIONS, PROMPTS, WEIGHTS

# Tables of studies name methods of ten thousand runs, and importing torch takes as long as the rest of that.
if TYPE_CHECKING:
    from .reparam import AbstractReparameterization

Units = Literal["raw", "rms"]
# The options that say how many vectors a prompt has.
SIZES = ("m", "repeats", "prompt_length")


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train a prompt: m initial vectors, a network over them, and how often the result is repeated.

    Some methods train weights in place of a prompt, and one a linear head alone.

    Args:
        name: the name on the command line.
        summary: one line that names the paper.
        m: number of initial vectors; 0 means no prompt: weights, or a linear head alone.
        repeats: how often the m prompt vectors are repeated in the sequence.
        reparameterization: a name in REPARAMETERIZATIONS.
        options: those keyword options of the reparameterisation that differ from its defaults.
        units: the default units of training: "raw" numbers as in the papers, or "rms" of the word embeddings.
        lr: default learning rate of AdamW in raw units. The EPT paper uses 0.3, but searches five rates for SuperGLUE.
        lr_rms: default learning rate of AdamW in RMS units.
        weights: what is trained in place of a prompt, a name in `baselines.BASELINES`; empty for a prompt. The options
            are then those of this kind.
        least_sources: the fewest prompts of other tasks that it begins from; None for a method that begins from none.
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
    weights: str = ""
    # Not 0: what is absent does not change the names of a study's runs.
    least_sources: int | None = None

    @classmethod
    def of(cls, settings: PromptSettings) -> "Method":
        """Return the method that the settings of a prompt name, with the options that they give.

        Raises:
            UnknownName: the method, or one of its options, does not exist.
            BadInput: an option cannot have the given value; or raw units, a maximum norm or a deep prompt are set
                although they do not apply to this method, or it needs other source prompts.
        """
        method = pick("method", settings.method, METHODS).with_options(settings.options)
        if method.weights:
            refuse_settings_of_prompts(settings, method.units)
        elif not method.m:
            refuse_settings_of_vectors(settings)
        elif method.is_direction:
            refuse_raw_units(settings)
        refuse_sources(settings, method.least_sources)
        return method

    @property
    def takes_sources(self) -> bool:
        """Whether it begins from prompts of other tasks."""
        return self.least_sources is not None

    @property
    def is_direction(self) -> bool:
        """Whether the method trains the directions of its vectors apart from their norm, as polar does."""
        return self._network.is_direction

    @property
    def prompt_length(self) -> int:
        """Prompt length n = m x repeats, or the option of weights that stand there: the positions before the text."""
        return self.options.get("length", 0) if self.weights else self.m * self.repeats

    @property
    def one_vector(self) -> bool:
        """Whether the method stores a single vector, as EPT and EPT* do."""
        return self.m == 1

    @property
    def defaults(self) -> dict[str, Any]:
        """All options of this method's reparameterisation, with the values that this method gives them."""
        if self.weights:
            return dict(self.options)
        return {**pick("reparameterization", self.reparameterization, NETWORK_OPTIONS), **self.options}

    def resolved(self, settings: PromptSettings) -> PromptSettings:
        """Fill in this method's units and learning rate where the settings leave them open.

        A prompt that begins as an instruction or as examples takes a tenth of the method's rate: it has to keep what it
        begins with. So does a deep prompt, whose layers move together (docs/log.md has the figures).
        """
        units = self.units if settings.units == "auto" else settings.units
        default = self.lr_rms if units == "rms" else self.lr
        if settings.initial.is_words or settings.deep:
            default /= 10
        return dataclasses.replace(settings, units=units, lr=default if settings.lr is None else settings.lr)

    def with_options(self, options: Mapping[str, Any]) -> "Method":
        """Return this method with other options. A string is converted to the type of the option's default.

        Args:
            options: `m` (initial vectors), `repeats`, `prompt_length` (the same as `m` for a method that repeats
                nothing), or any keyword of the reparameterisation.

        Raises:
            UnknownName: an option does not exist; the message gives the nearest name.
            BadInput: an option cannot have the given value.
        """
        if not options:
            return self
        if not self.m and not self.options:
            raise BadInput(
                f"{self.name!r} has no prompt and takes no option {next(iter(options))!r}; "
                "choose 'prompt-tuning' to train one"
            )
        if self.weights:
            return dataclasses.replace(self, options={**self.options, **weight_options(options, self.options)})
        now = {"m": self.m, "repeats": self.repeats}
        sizes, network = prompt_options(options, now, self.defaults, self.name)
        return dataclasses.replace(self, **sizes, options={**self.options, **network})._checked()

    def given_options(self) -> dict[str, Any]:
        """Return the options by which the method of this name becomes this one.

        Raises:
            UnknownName: no method has this name.
            BadInput: more than options tells the two apart.
        """
        preset = pick("method", self.name, METHODS)
        options = {name: value for name, value in self.options.items() if preset.options.get(name) != value}
        sizes = {name: getattr(self, name) for name in ("m", "repeats") if getattr(self, name) != getattr(preset, name)}
        if preset.with_options(options | sizes) != self:
            raise BadInput(
                f"this {self.name!r} differs from METHODS[{self.name!r}] in more than options; change that by "
                "with_options, and give units and lr beside it"
            )
        return options | sizes

    def refuse_words(self, init: str) -> None:
        """Refuse a method that cannot begin at words.

        Raises:
            BadInput: it has no prompt, or gives its vectors a norm of their own.
        """
        if self.m == 0:
            raise BadInput(f"{self.name!r} has no prompt to begin with --init={init}; leave --init out")
        if self.is_direction:
            raise BadInput(
                f"{self.name!r} gives its vectors a norm of their own, so it cannot begin with --init={init}; choose "
                "'prompt-tuning' or 'scaled'"
            )

    def on_words(self, n: int) -> "Method":
        """Return this method over n words: one vector that is added to each, or a separate vector for each.

        Raises:
            BadInput: the network is made for another number of vectors.
        """
        sizes = {"repeats": n} if self.one_vector else {"m": n, "repeats": 1}
        return dataclasses.replace(self, **sizes)._checked()

    def build(self, e: int, seed: int) -> "AbstractReparameterization":
        """Build the reparameterisation for embedding size `e` on the CPU. Its weights depend on `seed` alone.

        Torch's layers draw their weights from the global generator. This function seeds that generator and restores
        it afterwards, so the same seed gives the same weights and no other random number changes. The seed must
        differ from the seed of the initial vectors: drawn from the same stream, EPT's D would start proportional to
        the vector that it multiplies.
        """
        import torch

        from .seeds import seeded_cpu

        with torch.device("cpu"), seeded_cpu(seed):
            return self._construct(e)

    def trainable(self, e: int, layers: int = 1) -> int:
        """Count the trainable parameters: the vectors of each layer and one network, without a linear head.

        Args:
            e: embedding size.
            layers: number of layers that the prompt enters: 1, or the depth of the frozen model for a deep prompt.
        """
        return layers * self.m * e + sum(p.numel() for p in self._without_memory(e).parameters())

    def stored(self, e: int, layers: int = 1, *, in_decoder: bool = False) -> int:
        """Count the parameters that are stored after folding: m x e for each layer.

        On a decoder a deep prompt begins at states of its own, which are no repeats: n x e for each layer.

        Args:
            e: embedding size.
            layers: as in `trainable`.
            in_decoder: whether the frozen model is a decoder.
        """
        adds_to_states = in_decoder and layers > 1 and not self.is_direction
        return layers * (self.prompt_length if adds_to_states else self.m) * e

    @property
    def _network(self) -> "type[AbstractReparameterization]":
        from .reparam import REPARAMETERIZATIONS

        return pick("reparameterization", self.reparameterization, REPARAMETERIZATIONS)

    def _construct(self, e: int) -> "AbstractReparameterization":
        # The options of weights are not those of a network.
        return self._network(e, **({} if self.weights else self.options))

    def _without_memory(self, e: int) -> "AbstractReparameterization":
        import torch

        with torch.device("meta"):
            return self._construct(e)

    def _checked(self) -> "Method":
        """Return this method after a check that its network can be built and accepts its vectors."""
        import torch

        from .reparam import require_positive

        require_positive(m=self.m, repeats=self.repeats)
        self._without_memory(1)(torch.empty(self.m, 1, device="meta"))
        return self


METHODS: dict[str, Method] = {values["name"]: Method(**values) for values in (*PROMPTS, *WEIGHTS)}
