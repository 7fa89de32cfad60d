"""The contract of a perturbation, and the context of a pass that it reads."""

import abc
import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..data import UNKNOWN
from ..errors import BadInput, UnknownName
from ..prompts.batch import TextBatch
from ..prompts.units import WordScale
from ._vocabulary import Vocabulary

# A function from rows and their prompt mask [b, n] to the positions [b, s] that get random numbers.
Where = Callable[[TextBatch, Tensor], Tensor]


@final
@dataclass(frozen=True)
class Share:
    """All rows whose random numbers are drawn together, and which of them a context holds.

    Args:
        batch: all these rows, not perturbed.
        prompt_mask: which positions before each row belong to a prompt.
        rows: the indices of the context's rows among them.
    """

    batch: TextBatch
    prompt_mask: Bool[Tensor, "r n"]
    rows: Int[Tensor, " b"]


@final
@dataclass(frozen=True, kw_only=True)
class PerturbationContext:
    """Rows of a pass whose prompts have perturbations of the same structure.

    Args:
        batch: the rows, not perturbed.
        prompt_mask: which of the n positions before each row belong to a prompt.
        logits: computes the frozen model's logits for such rows. Gradients reach the perturbation, not the prompts.
        losses: computes the task loss of each row from logits and rows.
        wrong: tells from logits and rows whether the answer of each row is wrong.
        divergence: computes a divergence of each row, given its name, the clean logits, other logits and the rows.
        clean: logits of the clean pass, without gradient.
        gradient: gradient of the clean task loss with respect to prompt and embedded text [b, n + t, e], with an
            arbitrary positive factor per row; None unless a perturbation wants it.
        generators: one random generator per owner, so that the draws of a prompt do not depend on other prompts' rows.
        words: the size of the word vectors.
        vocabulary: the tokenizer's vocabulary.
        embeddings: word vectors as they enter the model.
        share: all rows of the pass if this context holds only a part of them; None if it holds all.
    """

    batch: TextBatch
    prompt_mask: Bool[Tensor, "b n"]
    logits: Callable[[TextBatch], Tensor]
    losses: Callable[[Tensor, TextBatch], Tensor]
    wrong: Callable[[Tensor, TextBatch], Tensor]
    divergence: Callable[[str, Tensor, Tensor, TextBatch], Tensor]
    clean: Float[Tensor, "b l c"]
    gradient: Float[Tensor, "b s e"] | None
    generators: Mapping[int, torch.Generator]
    words: WordScale
    vocabulary: Vocabulary
    embeddings: Float[Tensor, "v e"]
    share: Share | None = None

    @property
    def prompt_length(self) -> int:
        """Number of positions n before the text."""
        return self.prompt_mask.shape[1]

    def rowwise(self, values: Mapping[int, float]) -> Float[Tensor, "b 1 1"]:
        """Look up for each row the value of its owner."""
        table = torch.zeros(max(values) + 1)
        for owner, value in values.items():
            table[owner] = value
        return table.to(self.batch.ids.device)[self.batch.owner][:, None, None]

    def draw(self, draw: Callable[[int, torch.Generator], Tensor], where: Where) -> Float[Tensor, "b s *rest"]:
        """Draw random numbers at some positions, with 0 elsewhere. An owner's numbers go to its rows in their order.

        If the context is a part of a pass, numbers are drawn for all rows of the pass. The numbers of a row then do
        not depend on how the pass is split.

        Args:
            draw: draws a given count of rows of numbers from a generator.
            where: gives the positions that get numbers.
        """
        batch, mask = (
            (self.batch, self.prompt_mask) if self.share is None else (self.share.batch, self.share.prompt_mask)
        )
        positions, numbers = where(batch, mask), None
        for owner, generator in self.generators.items():
            # The numbers of an owner that has no row in this context would be dropped.
            if self.share is not None and not bool((self.batch.owner == owner).any()):
                continue
            chosen = positions & (batch.owner == owner)[:, None]
            drawn = draw(int(chosen.sum()), generator).to(positions.device)
            if numbers is None:
                numbers = torch.zeros(*positions.shape, *drawn.shape[1:], device=positions.device)
            numbers[chosen] = drawn
        assert numbers is not None
        if self.share is None:
            return numbers
        return numbers[self.share.rows, : where(self.batch, self.prompt_mask).shape[1]]


class AbstractPerturbation(abc.ABC):
    """A small change of the input that should not change the answer.

    Subclasses are final, frozen dataclasses of plain values. Prompts of a fleet share a perturbed pass if their
    perturbations differ in floats only. Prompts that differ in anything else take separate passes.
    """

    # Whether the perturbation is only another draw of the frozen model's dropout.
    is_dropout: ClassVar[bool] = False

    @property
    def wants_gradient(self) -> bool:
        """Whether `PerturbationContext.gradient` is needed."""
        return False

    @property
    def wants_clean(self) -> bool:
        """Whether `PerturbationContext.clean` is needed."""
        return False

    @property
    @abc.abstractmethod
    def is_nothing(self) -> bool:
        """Whether it changes no input, like noise of size 0."""

    @property
    def passes(self) -> int:
        """Number of perturbed passes that enter the loss, each with the same weight."""
        return 1

    @abc.abstractmethod
    def batches(self, context: PerturbationContext, by_owner: Mapping[int, Any]) -> Iterator[TextBatch]:
        """Yield perturbed rows, one batch for each pass that enters the loss.

        The caller differentiates the loss of a batch before it takes the next one. An ascent may therefore continue
        from the gradient of a delta that requires it.

        Args:
            context: the rows.
            by_owner: for each owner this perturbation with the owner's numbers.
        """

    def raw(self, rms: float, e: int) -> dict[str, float]:
        """Return its sizes in the model's own numbers, for records; empty if it has no size.

        Args:
            rms: root mean square of the word vectors.
            e: embedding size.
        """
        return {}

    def check(self, context: PerturbationContext) -> None:  # noqa: B027  (most perturbations fit everywhere)
        """Refuse rows, or a tokenizer, that leave nothing to perturb.

        Raises:
            BadInput: nothing can be perturbed; the message says what to do.
        """

    def structure(self) -> tuple[object, ...]:
        """Return what must be equal for prompts to share a pass: everything but the floats."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]  (a dataclass)
        return (type(self), *((n, v) for n, v in values.items() if not isinstance(v, float)))


def refuse_negative(what: str, **numbers: float | int) -> None:
    """Refuse numbers that are negative or not finite.

    Raises:
        BadInput: a number is negative or not finite; the message names it.
    """
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            raise BadInput(f"{what}: {name} must be 0 or more and finite, not {value:g}")


def refuse_unknown(what: str, **chosen: tuple[str, Collection[str]]) -> None:
    """Refuse words that are not among their choices.

    Raises:
        UnknownName: a word is not among its choices; the message gives the nearest choice.
    """
    for name, (value, choices) in chosen.items():
        if value not in choices:
            raise UnknownName(f"{name} of {what}", value, choices)


def refuse_unknown_parts(context: PerturbationContext) -> None:
    """Refuse rows in which template and text cannot be told apart.

    Raises:
        BadInput: the tokenizer gives no offsets.
    """
    if context.batch.parts is None or bool((context.batch.parts == UNKNOWN).any()):
        raise BadInput(
            "this tokenizer does not tell template from text (it has no offsets); perturb embeddings with "
            "template=true, or load a model with a fast tokenizer"
        )
