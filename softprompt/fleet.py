"""A fleet: p prompts in training, each with its own vectors, reparameterisation and head, sharing a frozen backbone."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .bank import PromptBank
from .errors import BadInput, pick
from .initializers import Initializer
from .methods import METHODS, Method
from .prompt import LinearHead, Provenance, SoftPrompt
from .reparam import AbstractReparameterization
from .settings import LaneSettings


def stream_seed(seed: int, purpose: str) -> int:
    """A seed of its own for one purpose, so that two draws from the same user seed are unrelated.

    The first 63 bits of SHA-256("seed/purpose").
    """
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Within, torch's global generators draw from `seed`; afterwards they are as they were."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@final
class Lane(nn.Module):
    """One prompt of a fleet: initial vectors, a reparameterisation, repeats, and a linear head where one is needed.

    Args:
        method: which method this is; gives the number of repeats.
        initial: the initial vectors, float32 (float64 in tests).
        reparameterization: applied to them in every pass.
        head: a trained linear head, or None where the backbone answers in tokens.
    """

    def __init__(
        self,
        method: Method,
        initial: Float[Tensor, "m e"],
        reparameterization: AbstractReparameterization,
        head: nn.Linear | None,
    ):
        super().__init__()
        self.method = method
        self.initial = nn.Parameter(initial)
        self.reparameterization = reparameterization
        self.head = head

    @classmethod
    def build(
        cls, settings: LaneSettings, initializer: Initializer, embeddings: Tensor, head_shape: tuple[int, int] | None
    ) -> "Lane":
        """The lane that `settings` describe; every number in it follows from the initialisation seed.

        Args:
            settings: method, options, seeds.
            initializer: draws the initial vectors.
            embeddings: the backbone's word embedding table [v, e].
            head_shape: (classes, hidden size) of a linear head, or None.

        Raises:
            UnknownName: the method does not exist.
            BadInput: head-only on a backbone that answers in tokens.
        """
        method = pick("method", settings.method, METHODS).with_options(settings.options)
        if method.prompt_length == 0 and head_shape is None:
            raise BadInput(
                f"{method.name!r} trains a linear head, this backbone answers in tokens; choose a method with a prompt"
            )
        seed, device = settings.seeds.initialization, embeddings.device
        generator = torch.Generator().manual_seed(stream_seed(seed, "vectors"))
        initial = initializer(method.m, embeddings.detach().cpu(), generator)
        reparameterization = method.build(embeddings.shape[1], stream_seed(seed, "network"))
        head = None
        if head_shape is not None:
            with seeded(stream_seed(seed, "head"), torch.device("cpu")):
                head = nn.Linear(head_shape[1], head_shape[0])
        return cls(method, initial, reparameterization, head).to(device)

    def vectors(self) -> Float[Tensor, "n e"]:
        """The n prompt vectors as the backbone sees them, with gradients."""
        return self.reparameterization(self.initial).repeat(self.method.repeats, 1)

    def linear_head(self) -> LinearHead | None:
        """The head's numbers, with gradients."""
        return None if self.head is None else LinearHead(self.head.weight, self.head.bias)

    @property
    def is_random(self) -> bool:
        """Whether the reparameterisation drops units, so that a pass needs a seed."""
        return any(isinstance(m, nn.Dropout) and m.p > 0 for m in self.reparameterization.modules())

    def prompt_parameters(self) -> list[nn.Parameter]:
        """Trained numbers of the prompt and its reparameterisation; none for a head alone."""
        return [p for p in (self.initial, *self.reparameterization.parameters()) if p.numel()]

    def head_parameters(self) -> list[nn.Parameter]:
        """Trained numbers of the head."""
        return [] if self.head is None else list(self.head.parameters())

    def fold(self, provenance: Provenance) -> SoftPrompt:
        """The prompt as it is stored: float32, no reparameterisation, repeats kept as a number."""
        vectors = self.reparameterization.fold(self.initial).float().cpu()
        head = None
        if self.head is not None:
            weight, bias = (x.detach().float().cpu().clone() for x in (self.head.weight, self.head.bias))
            head = LinearHead(weight, bias)
        return SoftPrompt(vectors, provenance, self.method.repeats, head)


def bank_of(lanes: Sequence[Lane], seeds: Sequence[int]) -> PromptBank:
    """The bank of some lanes, with gradients; `seeds` drive a reparameterisation's dropout, one a lane."""
    vectors = []
    for lane, seed in zip(lanes, seeds, strict=True):
        with seeded(seed, lane.initial.device) if lane.is_random else contextlib.nullcontext():
            vectors.append(lane.vectors())
    return PromptBank.stack(vectors, [head for lane in lanes if (head := lane.linear_head())])
