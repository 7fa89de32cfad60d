"""Methods: named presets of the number of vectors, the network over them, and the number of repeats."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, final

from ..errors import BadInput, UnknownName, pick
from ..options import like
from ..settings import PromptSettings
from .method_table import NETWORK_OPTIONS, PROMPTS, WEIGHTS

# Tables of studies name methods of ten thousand runs, and importing torch takes as long as the rest of that.
if TYPE_CHECKING:
    from .reparam import AbstractReparameterization

Units = Literal["raw", "rms"]
# The options that say how many vectors a prompt has.
SIZES = ("m", "repeats", "prompt_length")


@final
class MethodRecord(TypedDict):
    """One line of `softprompt methods list`."""

    method: str
    prompt_length: int
    trainable: int | None
    stored: int | None
    units: Units
    lr: float | None


@final
@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to train a prompt: m initial vectors, a network over them, and how often the result is repeated.

    Args:
        name: the name on the command line.
        summary: one line that names the paper.
        m: number of initial vectors; 0 means a linear head without a prompt.
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
                although they do not apply to this method.
        """
        method = pick("method", settings.method, METHODS).with_options(settings.options)
        if method.weights:
            _refuse_prompt_options(settings, method.units)
        method._refuse_sources(settings.sources)
        if method.is_direction and settings.units == "raw":
            raise BadInput(
                f"{method.name!r} gives its norm in token norms and has no raw units; leave --units out, or give rms"
            )
        if method.m == 0 and settings.max_norm is not None:
            raise BadInput(f"{method.name!r} has no prompt for --max-norm to bound; leave one of them out")
        if method.m == 0 and settings.deep:
            raise BadInput(f"{method.name!r} has no prompt to enter every layer; leave --deep out")
        return method

    @property
    def takes_sources(self) -> bool:
        """Whether it begins from prompts of other tasks."""
        return self.least_sources is not None

    def _refuse_sources(self, sources: Sequence[str]) -> None:
        if self.least_sources is not None and len(sources) < self.least_sources:
            given = "none is" if not sources else f"{len(sources)} is"
            raise BadInput(
                f"{self.name!r} begins from {self.least_sources} or more prompts of other tasks, and {given} given; "
                "give --source PROMPT for each"
            )
        if sources and self.least_sources is None:
            raise BadInput(f"{self.name!r} begins from no source prompt; leave --source out, or choose 'spot'")

    def resolved(self, settings: PromptSettings) -> PromptSettings:
        """Fill in this method's units and learning rate where the settings leave them open.

        A prompt that begins as an instruction or as examples takes a tenth of the method's rate: it has to keep what it
        begins with (docs/log.md has the figures).
        """
        units = self.units if settings.units == "auto" else settings.units
        default = self.lr_rms if units == "rms" else self.lr
        if settings.initial.is_words:
            default /= 10
        return dataclasses.replace(settings, units=units, lr=default if settings.lr is None else settings.lr)

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
        if self.options and self.weights:
            given = {}
            for name, value in options.items():
                known = "length" if name == "prompt_length" and "length" in self.options else name
                given[known] = _option(known, value, self.options)
            return dataclasses.replace(self, options={**self.options, **given})
        if self.m == 0:
            raise BadInput(
                f"{self.name!r} has no prompt and takes no option {next(iter(options))!r}; "
                "choose 'prompt-tuning' to train one"
            )
        sizes, defaults = {"m": self.m, "repeats": self.repeats, "prompt_length": self.m}, self.defaults
        given = {name: _option(name, value, sizes | defaults) for name, value in options.items()}
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

        # Only the CPU's generator is seeded: torch.manual_seed would also seed those of the accelerators.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self._construct(e)

    def trainable(self, e: int, layers: int = 1) -> int:
        """Count the trainable parameters: the vectors of each layer and one network, without a linear head.

        Args:
            e: embedding size.
            layers: number of layers that the prompt enters: 1, or the depth of the frozen model for a deep prompt.
        """
        return self.stored(e, layers) + sum(p.numel() for p in self._without_memory(e).parameters())

    def stored(self, e: int, layers: int = 1) -> int:
        """Count the parameters that are stored after folding: m x e for each layer."""
        return layers * self.m * e

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

    def _vectors(self, given: Mapping[str, Any]) -> int:
        """Return the number of vectors that the options `m` and `prompt_length` give."""
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
        """Return this method after a check that its network can be built and accepts its vectors."""
        import torch

        from .reparam import require_positive

        require_positive(m=self.m, repeats=self.repeats)
        self._without_memory(1)(torch.empty(self.m, 1, device="meta"))
        return self


def _option(name: str, value: Any, known: Mapping[str, Any]) -> Any:
    """Return the value of an option in the type of its default."""
    if name not in known:
        raise UnknownName("method option", name, known)
    return like("method option", name, value, known[name])


def _refuse_prompt_options(settings: PromptSettings, units: Units) -> None:
    """Refuse settings of a prompt for a method that trains none: they would be ignored.

    Args:
        settings: of the prompt.
        units: of the method.

    Raises:
        BadInput: names the setting.
    """
    default = PromptSettings()
    for name in ("init", "units", "max_norm", "max_shift", "context_loss", "deep"):
        # "raw" and "uniform" are what "auto" stands for. Weights that stand beside words have units, too.
        allowed = (getattr(default, name), "raw", "uniform", *(["rms"] if name == "units" and units == "rms" else []))
        if getattr(settings, name) not in allowed:
            option = f"--{name.replace('_', '-')}"
            raise BadInput(f"{settings.method!r} trains weights, and {option} is for prompts; leave one of them out")


METHODS: dict[str, Method] = {values["name"]: Method(**values) for values in (*PROMPTS, *WEIGHTS)}


def describe(width: int, layers: int = 1) -> list[MethodRecord]:
    """List every method with its prompt length, trainable and stored parameters, units and learning rate.

    The parameters are counted without allocating the networks. How many weights of a model a method trains depends on
    more than its width: their counts are None here.

    Args:
        width: embedding size.
        layers: number of layers that a prompt enters: 1, or the depth of the frozen model for deep prompts.

    Raises:
        BadInput: `width` or `layers` is below 1.
    """
    from .reparam import require_positive

    require_positive(width=width, layers=layers)
    return [
        MethodRecord(
            method=method.name,
            prompt_length=method.prompt_length,
            trainable=None if method.weights else method.trainable(width, layers),
            stored=None if method.weights else method.stored(width, layers),
            units=method.units,
            lr=None if method.m == 0 and not method.weights else method.lr_rms if method.units == "rms" else method.lr,
        )
        for method in METHODS.values()
    ]
