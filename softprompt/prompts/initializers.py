"""Initialisers: functions (m, embeddings, generator) -> [m, e] that give the initial vectors of a prompt.

Each constructor in this module returns such a function. Its result is a detached float32 copy on the device of the
embeddings. The generator is the only source of randomness. Where a method has a reparameterisation, the initial
vectors are the input of its network.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import BadInput

Initializer = Callable[[int, Float[Tensor, "v e"], torch.Generator], Float[Tensor, "m e"]]


def uniform(low: float = -0.5, high: float = 0.5) -> Initializer:
    """Draw each coordinate uniformly between `low` and `high`. This is the default, as in EPT, appendix B.4.

    Raises:
        BadInput: a bound is not finite, or `low` is above `high`.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise BadInput(f"uniform vectors need finite bounds, low <= high; these are {low} and {high}")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        vectors = torch.empty(m, embeddings.shape[1], dtype=torch.float32, device=generator.device)
        return vectors.uniform_(low, high, generator=generator).to(embeddings.device)

    return draw


def zeros() -> Initializer:
    """Start at zero vectors: what is added to words, so that a prompt begins at the words."""
    return lambda m, embeddings, generator: torch.zeros(m, embeddings.shape[1], device=embeddings.device)


def from_vocabulary() -> Initializer:
    """Take the vectors of m random tokens. They are all different unless m exceeds the number of tokens.

    This is "sampled vocabulary" of Lester et al. (2021, arXiv:2104.08691), section 3.2. The paper draws from the
    5000 most common tokens, this from all.
    """

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        pool = len(embeddings)
        rounds = max(1, math.ceil(m / pool))
        ids = [torch.randperm(pool, generator=generator, device=generator.device) for _ in range(rounds)]
        return _rows(embeddings, torch.cat(ids)[:m])

    return draw


def from_label_words(token_ids: Sequence[Sequence[int]]) -> Initializer:
    """Take the mean token vector of each label, one row per label, and fill up to m rows with random tokens.

    This is "class label" of Lester et al. (2021, arXiv:2104.08691), section 3.2. If there are fewer rows than
    labels, only the first labels are used: a prompt of one vector starts at the first label word.

    Args:
        token_ids: the token ids of each label, without the end-of-sequence token.

    Raises:
        BadInput: there are no labels, or a label has no tokens.
    """
    if not token_ids or not all(token_ids):
        raise BadInput("initialising from label words needs at least one token for each label; some label has none")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        labels = [_rows(embeddings, torch.tensor(ids)).mean(0) for ids in token_ids][:m]
        rest = from_vocabulary()(m - len(labels), embeddings, generator)
        return torch.cat([*(label[None] for label in labels), rest])

    return draw


def from_tokens(ids: Sequence[int]) -> Initializer:
    """Take the vectors of a text's tokens, repeated or cut to m rows. PEFT initialises from a text in the same way.

    Args:
        ids: the token ids of the text.

    Raises:
        BadInput: there are no tokens.
    """
    if not ids:
        raise BadInput("initialising from a text needs at least one token; this text is empty")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        cycled = torch.arange(m) % len(ids)
        return _rows(embeddings, torch.tensor(ids)[cycled])

    return draw


def from_vectors(vectors: Float[Tensor, "k d"]) -> Initializer:
    """Start from given vectors: those of a file, or of a prompt that was trained on another task.

    Starting from another task's prompt is SPoT (Vu et al., 2022, arXiv:2110.07904). Prompt tuning starts exactly at
    these vectors. A method with a network Phi takes them as its input, so its first prompt is Phi(vectors).

    Raises:
        BadInput: a vector is not finite. The returned function raises it if the number of rows or the width differs
            from the prompt's.
    """
    if not torch.isfinite(vectors).all():
        raise BadInput("the vectors to start from hold NaN or infinity; a prompt cannot be trained from them")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        needed = (m, embeddings.shape[1])
        if tuple(vectors.shape) != needed:
            raise BadInput(
                f"the vectors to start from are {list(vectors.shape)}, this prompt is {list(needed)} "
                "(vectors x width); give as many by --prompt-length, or take a prompt of the same model"
            )
        return vectors.detach().to(embeddings.device, torch.float32, copy=True)

    return draw


def divided(draw: Initializer, unit: float) -> Initializer:
    """Divide what `draw` gives by `unit`. The trainable prompt multiplies by the same unit again.

    Initialisers that copy token or prompt vectors need this, so that the prompt starts exactly at those vectors.

    Raises:
        BadInput: the unit is not positive and finite.
    """
    if not (math.isfinite(unit) and unit > 0):
        raise BadInput(f"vectors can be divided by a positive, finite unit, not by {unit}")
    return lambda m, embeddings, generator: draw(m, embeddings, generator) / unit


def _rows(embeddings: Float[Tensor, "v e"], ids: Int[Tensor, " k"]) -> Float[Tensor, "k e"]:
    if ids.numel() and not (ids.min() >= 0 and ids.max() < len(embeddings)):
        raise BadInput(
            f"token ids {int(ids.min())} to {int(ids.max())} do not all have a vector in a vocabulary of "
            f"{len(embeddings)}; use the model's own tokenizer"
        )
    return embeddings.detach()[ids.to(embeddings.device)].to(torch.float32, copy=True)
