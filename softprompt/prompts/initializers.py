"""Where the initial vectors of a prompt come from: functions (m, embeddings, generator) -> [m, e].

Each constructor returns such a function. The result is float32, detached, a copy, on the embeddings' device,
and depends on nothing random but the generator. Where a method reparameterises, these are the vectors before
the network.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import BadInput

Initializer = Callable[[int, Float[Tensor, "v e"], torch.Generator], Float[Tensor, "m e"]]


def uniform(low: float = -0.5, high: float = 0.5) -> Initializer:
    """Each coordinate uniform between `low` and `high`; the default, as in EPT, appendix B.4.

    Raises:
        BadInput: bounds that are not finite or the wrong way round.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise BadInput(f"uniform vectors need finite bounds, low <= high; these are {low} and {high}")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        vectors = torch.empty(m, embeddings.shape[1], dtype=torch.float32, device=generator.device)
        return vectors.uniform_(low, high, generator=generator).to(embeddings.device)

    return draw


def from_vocabulary(most_common: int | None = None) -> Initializer:
    """The vectors of m random tokens, all different unless m exceeds their number.

    "Sampled vocabulary" of Lester et al. (2021, arXiv:2104.08691), section 3.2, which draws from the 5000
    most common.

    Args:
        most_common: draw from this many first ids only, which are the commonest tokens of a SentencePiece
            vocabulary (T5's), but not of BERT's; None draws from all.

    Raises:
        BadInput: `most_common` below 1.
    """
    if most_common is not None and most_common < 1:
        raise BadInput(f"most_common must be at least 1 token, not {most_common}")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        pool = min(most_common or len(embeddings), len(embeddings))
        rounds = max(1, math.ceil(m / pool))
        ids = [torch.randperm(pool, generator=generator, device=generator.device) for _ in range(rounds)]
        return _rows(embeddings, torch.cat(ids)[:m])

    return draw


def from_label_words(token_ids: Sequence[Sequence[int]]) -> Initializer:
    """Each label's mean token vector, one row a label, then random tokens of the vocabulary up to m rows.

    "Class label" of Lester et al. (2021, arXiv:2104.08691), section 3.2. With fewer rows than labels, the
    first labels: a prompt of one vector starts as the first label word.

    Args:
        token_ids: per label, its token ids, without end of sequence.

    Raises:
        BadInput: no labels, or a label without tokens.
    """
    if not token_ids or not all(token_ids):
        raise BadInput("initialising from label words needs at least one token for each label; some label has none")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        labels = [_rows(embeddings, torch.tensor(ids)).mean(0) for ids in token_ids][:m]
        rest = from_vocabulary()(m - len(labels), embeddings, generator)
        return torch.cat([*(label[None] for label in labels), rest])

    return draw


def from_tokens(ids: Sequence[int]) -> Initializer:
    """The vectors of a text's tokens, repeated from the start or cut to m, as PEFT initialises from a text.

    Args:
        ids: token ids of the text.

    Raises:
        BadInput: no tokens.
    """
    if not ids:
        raise BadInput("initialising from a text needs at least one token; this text is empty")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        cycled = torch.arange(m) % len(ids)
        return _rows(embeddings, torch.tensor(ids)[cycled])

    return draw


def from_vectors(vectors: Float[Tensor, "k d"]) -> Initializer:
    """Given vectors: of a file, or of a prompt trained on another task.

    The latter is SPoT (Vu et al., 2022, arXiv:2110.07904). It is exact for prompt tuning; a network starts
    from them, so that the first prompt is Phi(vectors).

    Raises:
        BadInput: vectors that are not finite; on drawing, another number of rows or another width than the
            prompt's.
    """
    if not torch.isfinite(vectors).all():
        raise BadInput("the vectors to start from hold NaN or infinity; a prompt cannot be trained from them")

    def draw(m: int, embeddings: Float[Tensor, "v e"], generator: torch.Generator) -> Float[Tensor, "{m} e"]:
        needed = (m, embeddings.shape[1])
        if tuple(vectors.shape) != needed:
            raise BadInput(
                f"the vectors to start from are {list(vectors.shape)}, this prompt is {list(needed)} "
                "(vectors x width); change the number of prompt vectors, or take a prompt of the same model"
            )
        return vectors.detach().to(embeddings.device, torch.float32, copy=True)

    return draw


def divided(draw: Initializer, unit: float) -> Initializer:
    """What `draw` draws, in units: vectors of real tokens or prompts, for a prompt that multiplies by `unit` again.

    Raises:
        BadInput: a unit that is not positive and finite.
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
