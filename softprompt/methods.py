"""The methods: presets over the parts (how many vectors, which network over them, how often repeated)."""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict, final

import torch

from .errors import BadInput, UnknownName, pick
from .reparam import REPARAMETERIZATIONS, AbstractReparameterization
from .reparam._base import require_positive


@final
class MethodRecord(TypedDict):
    """One line of `softprompt methods list`."""

    method: str
    prompt_length: int
    trainable: int
    stored: int


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
        lr: default learning rate of AdamW; the papers' 0.3 for all to begin with.
    """

    name: str
    summary: str
    m: int = 10
    repeats: int = 1
    reparameterization: str = "identity"
    options: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 0.3

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
        given = {name: _like(name, value, (sizes | defaults)[name]) for name, value in options.items()}
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

    def trainable(self, e: int) -> int:
        """Numbers trained for embedding size `e`: vectors and network; a linear head is counted apart."""
        return self.stored(e) + sum(p.numel() for p in self._without_memory(e).parameters())

    def stored(self, e: int) -> int:
        """Numbers stored after folding: m x e."""
        return self.m * e

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
            raise BadInput("give m or prompt_length, not both")
        if self.repeats > 1:
            raise BadInput(
                f"{self.name!r} repeats its vectors {self.repeats} times, so prompt_length could mean two "
                "things; give m (trained vectors) or repeats"
            )
        return given["prompt_length"]

    def _checked(self) -> "Method":
        """This method, if its network can be built and takes its vectors."""
        require_positive(m=self.m, repeats=self.repeats)
        self._without_memory(1)(torch.empty(self.m, 1, device="meta"))
        return self


# How a word from a command line becomes the type of an option's default; KeyError or ValueError if it cannot.
_READ: dict[type, Callable[[str], Any]] = {
    bool: lambda word: {"true": True, "false": False}[word.lower()],
    int: int,
    float: float,
}
_NEEDED = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}


def _like(name: str, value: Any, default: Any) -> Any:
    """The value as the type of the default, a default of None being a number not given."""
    kind = int if default is None else type(default)
    if type(value) is kind or value is default:
        return value
    with contextlib.suppress(KeyError, ValueError):
        if isinstance(value, str):
            return _READ[kind](value)
        if kind is float and type(value) is int:
            return float(value)
    raise BadInput(f"method option {name!r} is {_NEEDED[kind]}, not {value!r}")


_ALL = (
    Method(name="prompt-tuning", summary="m trained vectors (Lester et al., 2021, arXiv:2104.08691)"),
    Method(
        name="p-tuning",
        summary="vectors through a three-layer MLP (Liu et al., 2021, arXiv:2103.10385, as in PEFT)",
        reparameterization="mlp",
    ),
    Method(
        name="p-tuning-lstm",
        summary="vectors through a two-way LSTM and an MLP (Liu et al., 2021, arXiv:2103.10385, as in PEFT)",
        reparameterization="lstm",
    ),
    Method(
        name="residual",
        summary="vectors plus a shared bottleneck run twice (Razdaibiedina et al., 2023, arXiv:2305.03937)",
        reparameterization="residual",
    ),
    Method(
        name="ept",
        summary="one vector through a linear bottleneck of one unit (Explosive Prompt Tuning, section 3.3)",
        m=1,
        reparameterization="bottleneck",
    ),
    Method(
        name="ept-star",
        summary="EPT's vector repeated ten times (Explosive Prompt Tuning, section 3.3)",
        m=1,
        repeats=10,
        reparameterization="bottleneck",
    ),
    Method(
        name="head-only",
        summary="no prompt: the linear head of an encoder alone, the baseline of the others",
        m=0,
    ),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def describe(width: int) -> list[MethodRecord]:
    """Prompt length, trained and stored numbers of every method for embedding size `width`.

    Counted without allocating the networks.

    Raises:
        BadInput: a width below 1.
    """
    require_positive(width=width)
    return [
        MethodRecord(
            method=method.name,
            prompt_length=method.prompt_length,
            trainable=method.trainable(width),
            stored=method.stored(width),
        )
        for method in METHODS.values()
    ]
