"""An adversary in text: it swaps the words that matter most to the loss, one after another, for similar words."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..errors import BadInput
from ..prompts.batch import TextBatch
from ._base import AbstractPerturbation, PerturbationContext, refuse_negative, refuse_unknown_parts
from ._words import free_words, refuse_no_column, refuse_no_words


@final
@dataclass(frozen=True, kw_only=True)
class SwapPerturbation(AbstractPerturbation):
    """Greedy word swaps, after A2T (Yoo and Qi, 2021, arXiv:2109.00544), on the frozen embedding table.

    The words of a row are ranked by ||dL/dx||, the norm of the gradient of the row's task loss L. In this order each
    word is swapped for the neighbour that raises the loss most, if one does. The swaps end when max(ceil(rate n),
    least) of the n free words are swapped, or when a right answer has become wrong. The neighbours with the largest
    first-order rise (E_c - E_w) . dL/dx are tried. The template, special tokens, label words, stop words, words of
    several tokens and the other text of a pair are never swapped.

    Args:
        rate: share of a row's free words that may be swapped.
        least: number of swaps that are allowed however short the row is.
        candidates: number of nearest neighbours of a word that are considered.
        cosine: lowest cosine similarity of a neighbour.
        tried: number of neighbours that are tried in a pass of the model.
        column: as in `WordPerturbation`; "last" leaves the other text of a pair unchanged.
        stop_words: whether stop words stay.

    Raises:
        BadInput: a number is out of its range, or `column` names no column.
    """

    rate: float = 0.1
    least: int = 1
    candidates: int = 20
    cosine: float = 0.5
    tried: int = 3
    column: str = "last"
    stop_words: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that are out of range."""
        what = "swaps of words"
        refuse_negative(what, rate=self.rate, least=self.least)
        if self.rate > 1:
            raise BadInput(f"{what}: rate is a share of the words, not {self.rate:g}; give 0 to 1")
        if not -1 <= self.cosine <= 1:
            raise BadInput(f"{what}: cosine is between -1 and 1, not {self.cosine:g}")
        if not 1 <= self.tried <= self.candidates:
            raise BadInput(f"{what}: tried must be 1 to candidates ({self.candidates}), not {self.tried}")
        refuse_no_column(self.column)

    @property
    def wants_gradient(self) -> bool:
        """Always True: the gradient ranks the words."""
        return True

    @property
    def is_nothing(self) -> bool:
        """Whether no word may be swapped."""
        return not self.rate and not self.least

    def check(self, context: PerturbationContext) -> None:
        """Refuse rows without a word that may be swapped."""
        refuse_unknown_parts(context)
        refuse_no_words(self.free(context))

    @torch.no_grad()
    def batches(self, context: PerturbationContext, by_owner: Mapping[int, "SwapPerturbation"]) -> Iterator[TextBatch]:
        """Yield the rows with some words swapped."""
        batch = context.batch
        assert context.gradient is not None
        gradient = context.gradient[:, context.prompt_length :]
        free = self.free(context)
        importance = gradient.norm(dim=2).masked_fill(~free, -1)
        order = importance.argsort(dim=1, descending=True, stable=True)
        rate = context.rowwise({owner: values.rate for owner, values in by_owner.items()})[:, 0, 0]
        counts = free.sum(1)
        budget = torch.minimum((rate * counts).ceil().long().clamp(min=self.least), counts)
        ids, swaps = batch.ids, torch.zeros_like(budget)
        loss, wrong = self._judged(context, ids)
        was_right, flipped = ~wrong, torch.zeros_like(wrong)
        for rank in range(int(counts.max())):
            goes_on = (rank < counts) & (swaps < budget) & ~flipped
            if not bool(goes_on.any()):
                break
            ids, loss, wrong, swapped = self._swap(context, ids, loss, wrong, order[:, rank], goes_on, gradient)
            swaps, flipped = swaps + swapped, was_right & wrong
        yield dataclasses.replace(batch, ids=ids)

    def free(self, context: PerturbationContext) -> Bool[Tensor, "b t"]:
        """Return the positions of words that may be swapped: free words of one token with a near enough neighbour."""
        ids, vocabulary = context.batch.ids, context.vocabulary
        free = free_words(context, self.column) & ~(vocabulary.stops.to(ids.device)[ids] & self.stop_words)
        words = vocabulary.words(ids, context.batch.mask)
        lengths = torch.zeros(len(words), int(words.max()) + 1, dtype=torch.long, device=words.device)
        lengths.scatter_add_(1, words, torch.ones_like(words))
        free = free & (lengths.gather(1, words) == 1)
        if not bool(free.any()):
            return free
        tokens, places = ids[free].unique(return_inverse=True)
        _, near = vocabulary.neighbors(tokens, context.embeddings, self.candidates, self.cosine)
        swappable = free.clone()
        swappable[free] = near.any(1)[places]
        return swappable

    def _swap(
        self,
        context: PerturbationContext,
        ids: Int[Tensor, "b t"],
        loss: Float[Tensor, " b"],
        wrong: Bool[Tensor, " b"],
        place: Int[Tensor, " b"],
        goes_on: Bool[Tensor, " b"],
        gradient: Float[Tensor, "b t e"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Swap each row's word at `place` for the best of its candidates if that raises the loss of the row."""
        rows = torch.arange(len(ids), device=ids.device)
        words = ids[rows, place]
        nearest, near = context.vocabulary.neighbors(words, context.embeddings, self.candidates, self.cosine)
        table = context.embeddings.float()
        rise = torch.einsum("kce,ke->kc", table[nearest] - table[words][:, None], gradient[rows, place].float())
        rise = rise.masked_fill(~near, -math.inf)
        swapped = torch.zeros_like(goes_on)
        for choice in rise.topk(min(self.tried, rise.shape[1]), dim=1).indices.T:
            tried = ids.clone()
            tried[rows, place] = nearest[rows, choice]
            tried_loss, tried_wrong = self._judged(context, tried)
            # `loss` is the highest so far, so a later candidate has to beat the earlier ones.
            better = goes_on & near[rows, choice] & (tried_loss > loss)
            ids = torch.where(better[:, None], tried, ids)
            loss = torch.where(better, tried_loss, loss)
            wrong = torch.where(better, tried_wrong, wrong)
            swapped = swapped | better
        return ids, loss, wrong, swapped

    def _judged(
        self, context: PerturbationContext, ids: Int[Tensor, "b t"]
    ) -> tuple[Float[Tensor, " b"], Bool[Tensor, " b"]]:
        """Return each row's task loss, and whether its answer is wrong."""
        batch = dataclasses.replace(context.batch, ids=ids)
        logits = context.logits(batch)
        return context.losses(logits, batch), context.wrong(logits, batch)
