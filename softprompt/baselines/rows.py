"""Soft prompts that depend on the row: ATTEMPT, which mixes prompts for each row, and DePT, which changes its words."""

import math
from collections.abc import Mapping
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..errors import BadInput, ModelMismatch
from ..prompts.initializers import from_vocabulary
from ..prompts.seeds import seeded
from .swap import Place, Start, Swap

SOURCES = "sources"


@final
class PromptAttention(nn.Module):
    """A prompt for each row: P + sum_j a_j P_j over the source prompts and P itself (Asai et al., 2022).

    The weights are a = softmax(max(P_j) . h / (temperature e)) with h = LayerNorm(U silu(D max(X))), where X are the
    embedded words of the row and each maximum is taken over positions, as in the released code. Its maximum includes
    pads; this one does not, so that a row's prompt is its own.

    Args:
        sources: the frozen source prompts P_j.
        target: the trained prompt P.
        bottleneck: size of what is between D and U.
        temperature: in units of e.
    """

    sources: Tensor

    def __init__(
        self, sources: Float[Tensor, "s n e"], target: Float[Tensor, "n e"], bottleneck: int, temperature: float
    ):
        super().__init__()
        e = target.shape[1]
        self.register_buffer("sources", sources)
        self.target = nn.Parameter(target)
        self.down = nn.Linear(e, bottleneck, bias=False)
        self.up = nn.Linear(bottleneck, e, bias=False)
        self.norm = nn.LayerNorm(e)
        self.temperature = temperature * e

    def weights(self, text: Float[Tensor, "b t e"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b p"]:
        """Return the weight of each source and, last, of the target for each row."""
        largest = text.float().masked_fill(~mask[:, :, None], -torch.inf).amax(1)
        # A row without words attends to all alike.
        largest = largest.where(mask.any(1, keepdim=True), 0.0)
        query = self.norm(self.up(nn.functional.silu(self.down(largest))))
        return (query @ self._all().amax(1).T / self.temperature).softmax(-1)

    def forward(
        self, prompt: Float[Tensor, "b n e"], text: Float[Tensor, "b t e"], mask: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b t e"]]:
        """Add each row's prompt to what stands before it; the text stays."""
        mixed = torch.einsum("bp,pne->bne", self.weights(text, mask), self._all())
        return prompt + self.target + mixed, text

    def _all(self) -> Float[Tensor, "p n e"]:
        return torch.cat([self.sources, self.target[None]])


@final
class DecomposedPrompt(nn.Module):
    """A short prompt, and A B added to the embedded words of a row by their positions (Shi and Lipani, 2024).

    Args:
        prompt: the trained prompt P.
        positions: the longest text, s.
        rank: r of A [s, r] and B [r, e].
    """

    def __init__(self, prompt: Float[Tensor, "n e"], positions: int, rank: int):
        super().__init__()
        self.prompt = nn.Parameter(prompt)
        self.a = nn.Parameter(torch.empty(positions, rank))
        self.b = nn.Parameter(torch.zeros(rank, prompt.shape[1]))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(
        self, prompt: Float[Tensor, "b n e"], text: Float[Tensor, "b t e"], mask: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "b n e"], Float[Tensor, "b t e"]]:
        """Add the prompt to what stands before each row, and A B to its words.

        Raises:
            BadInput: a text is longer than A.
        """
        t = text.shape[1]
        if t > len(self.a):
            raise BadInput(
                f"this 'dept' changes the words of {len(self.a)} positions, a text has {t}; give --max-length "
                f"{len(self.a)}, or train it with --method-option positions={t}"
            )
        return prompt + self.prompt, text + (self.a[:t] @ self.b).to(text.dtype)


def attempt(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return a new target prompt and its attention over source prompts (ATTEMPT, arXiv:2205.11961).

    Args:
        backbone: the model, which stays as it is.
        options: `length` of every prompt; `bottleneck` and `temperature` of the attention; `attention_lr`.
        start: the source prompts, and the seed of the target, which begins as words, and of the attention.

    Raises:
        BadInput: a size below 1, or a source prompt of another length.
    """
    n, e = options["length"], backbone.embedding_size
    sizes = (n, options["bottleneck"], options["temperature"])
    if min(sizes) <= 0:
        raise BadInput(f"'attempt' needs a length, a bottleneck and a temperature above 0, not {sizes}")
    for source in start.sources:
        if len(source) != n:
            raise BadInput(
                f"a source prompt has {len(source)} vectors and the target {n}; give --prompt-length {len(source)}, or "
                "sources of one length"
            )
    sources = torch.stack(list(start.sources)) if start.sources else torch.zeros(0, n, e)
    target = _words(backbone, n, start.seed)
    with seeded(start.seed, torch.device("cpu")):
        return _mixing(
            backbone, PromptAttention(sources, target, options["bottleneck"], options["temperature"]), options
        )


def restored_attempt(backbone: AbstractBackbone, options: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Swap:
    """Return an ATTEMPT into which stored numbers can be loaded.

    Raises:
        ModelMismatch: the prompts have another width than the model's words.
    """
    sources, target = weights[SOURCES], weights["target"]
    if target.shape[-1] != backbone.embedding_size:
        raise ModelMismatch(
            f"the stored prompts are {target.shape[-1]} wide, the words of {backbone.name!r} {backbone.embedding_size}"
        )
    empty = torch.zeros_like(sources), torch.zeros_like(target)
    return _mixing(backbone, PromptAttention(*empty, options["bottleneck"], options["temperature"]), options)


def dept(backbone: AbstractBackbone, options: Mapping[str, Any], start: Start) -> Swap:
    """Return a new short prompt and a low-rank update of the words of each row (DePT, arXiv:2309.05173).

    Args:
        backbone: the model, which stays as it is.
        options: `length` of the prompt; `rank` and `positions` of the update; `embedding_lr`, its learning rate.
        start: its seed gives the prompt, which begins as words, and A; B begins at zero.

    Raises:
        BadInput: a size below 1, or texts that may be longer than the positions.
    """
    sizes = n, rank, positions = (options["length"], options["rank"], options["positions"])
    if min(sizes) < 1:
        raise BadInput(f"'dept' needs a length, a rank and positions of at least 1, not {sizes}")
    if start.longest is not None and start.longest > positions:
        raise BadInput(
            f"'dept' changes the words of {positions} positions, and texts may have {start.longest}; give "
            f"--method-option positions={start.longest}, or --max-length {positions}"
        )
    prompt = _words(backbone, n, start.seed)
    with seeded(start.seed, torch.device("cpu")):
        change = DecomposedPrompt(prompt, positions, rank).to(backbone.device)
    rates = {"a": options["embedding_lr"], "b": options["embedding_lr"]}
    places = [Place(backbone, "on_rows", None, change)]
    return Swap(dict(change.named_parameters()), places, positions=n, rates=rates, in_words=("prompt", "b"))


def _mixing(backbone: AbstractBackbone, change: PromptAttention, options: Mapping[str, Any]) -> Swap:
    change = change.to(backbone.device)
    trained = dict(change.named_parameters())
    rates = {name: options["attention_lr"] for name in trained if name != "target"}
    places, kept = [Place(backbone, "on_rows", None, change)], {SOURCES: change.sources}
    return Swap(trained, places, kept=kept, positions=options["length"], rates=rates, in_words=("target",))


def _words(backbone: AbstractBackbone, n: int, seed: int) -> Float[Tensor, "n e"]:
    """Return the vectors of n random tokens."""
    generator = torch.Generator().manual_seed(seed)
    return from_vocabulary()(n, backbone.word_vectors.detach().cpu(), generator)
