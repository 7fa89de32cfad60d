"""What a perturbation is, and what it sees of a pass."""

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

# Positions that get random numbers, of rows and of the positions before them that are prompt: [b, n] -> [b, s].
Where = Callable[[TextBatch, Tensor], Tensor]


@final
@dataclass(frozen=True)
class Share:
    """Rows whose random numbers are drawn together, and which of them a scene holds.

    Args:
        batch: all of them, not perturbed.
        prompt_mask: which positions before each are prompt.
        rows: where the scene's rows stand among them.
    """

    batch: TextBatch
    prompt_mask: Bool[Tensor, "r n"]
    rows: Int[Tensor, " b"]


@final
@dataclass(frozen=True, kw_only=True)
class PerturbationContext:
    """Rows of a pass whose prompts share a perturbation of the same structure.

    Args:
        batch: the rows, not perturbed.
        prompt_mask: which positions before each row are prompt, n of them.
        logits: the frozen model's, of rows as these; gradients reach what is perturbed, not the prompts.
        losses: task loss of each row, from logits and batch.
        divergence: of each row, by name, between the clean logits (without gradient) and others.
        clean: logits of the clean pass, without gradient.
        gradient: of the clean task loss with respect to prompt and embedded text [b, n + t, e], each row's up to a
            positive factor; None if nobody asked for it.
        generators: by owner: each prompt draws from its own, so that nobody else's rows change its numbers.
        words: how large the word vectors are.
        vocabulary: of the tokenizer.
        embeddings: word vectors as they enter the model.
        share: where these are a part of the rows that a prompt has in the pass; None where they are all.
    """

    batch: TextBatch
    prompt_mask: Bool[Tensor, "b n"]
    logits: Callable[[TextBatch], Tensor]
    losses: Callable[[Tensor, TextBatch], Tensor]
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
        """Positions before the text, n."""
        return self.prompt_mask.shape[1]

    def rowwise(self, values: Mapping[int, float]) -> Float[Tensor, "b 1 1"]:
        """A number of each row's owner."""
        table = torch.zeros(max(values) + 1)
        for owner, value in values.items():
            table[owner] = value
        return table.to(self.batch.ids.device)[self.batch.owner][:, None, None]

    def draw(self, draw: Callable[[int, torch.Generator], Tensor], where: Where) -> Float[Tensor, "b s *rest"]:
        """Random numbers at some positions, 0 elsewhere: each owner's in the order of its rows, pads left out.

        Where the scene is a part of a pass they are drawn for all rows, so that a row's do not depend on the parts.

        Args:
            draw: so many rows of numbers from a generator.
            where: positions that get numbers.
        """
        batch, mask = (
            (self.batch, self.prompt_mask) if self.share is None else (self.share.batch, self.share.prompt_mask)
        )
        present, found = where(batch, mask), None
        for owner, generator in self.generators.items():
            # Of owners without a row here nothing would be kept.
            if self.share is not None and not bool((self.batch.owner == owner).any()):
                continue
            chosen = present & (batch.owner == owner)[:, None]
            drawn = draw(int(chosen.sum()), generator).to(present.device)
            if found is None:
                found = torch.zeros(*present.shape, *drawn.shape[1:], device=present.device)
            found[chosen] = drawn
        assert found is not None
        return found if self.share is None else found[self.share.rows, : where(self.batch, self.prompt_mask).shape[1]]


class AbstractPerturbation(abc.ABC):
    """A change of the input that the answer shall withstand. Frozen, plain numbers; final in its subclasses.

    Numbers (float) may differ between the prompts of a fleet that share a pass; everything else may not, and prompts
    that differ in it take passes of their own.
    """

    # Whether it is nothing but another draw of the frozen model's own dropout.
    is_dropout: ClassVar[bool] = False

    @property
    def wants_gradient(self) -> bool:
        """Whether `Scene.gradient` is needed."""
        return False

    @property
    def wants_clean(self) -> bool:
        """Whether `Scene.clean` is needed."""
        return False

    @property
    @abc.abstractmethod
    def is_nothing(self) -> bool:
        """Whether it changes no input, as noise of size 0."""

    @property
    def passes(self) -> int:
        """Perturbed passes that count, each with the same weight."""
        return 1

    @abc.abstractmethod
    def batches(self, context: PerturbationContext, own: Mapping[int, Any]) -> Iterator[TextBatch]:
        """Perturbed rows, one batch a pass that counts.

        After each, the loss of its pass has been differentiated: an ascent may go on from the gradient of a shift
        that asked for it.

        Args:
            context: the rows.
            own: this perturbation with the numbers of each owner.
        """

    def raw(self, rms: float, e: int) -> dict[str, float]:
        """Sizes in the model's own numbers, for records; none where it has no size.

        Args:
            rms: root mean square of the word vectors.
            e: their size.
        """
        return {}

    def check(self, context: PerturbationContext) -> None:  # noqa: B027  (most perturbations fit everywhere)
        """Refuse rows, or a tokenizer, that leave nothing to perturb.

        Raises:
            BadInput: with what to do.
        """

    def structure(self) -> tuple[object, ...]:
        """What must be equal for prompts to share a pass: all but the floats."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # pyright: ignore[reportArgumentType]
        return (type(self), *((n, v) for n, v in values.items() if not isinstance(v, float)))


def refuse_negative(what: str, **numbers: float | int) -> None:
    """Refuse a number below 0 or without end.

    Raises:
        BadInput: with its name.
    """
    for name, value in numbers.items():
        if not 0 <= value < float("inf"):
            raise BadInput(f"{what}: {name} must be 0 or more and finite, not {value:g}")


def refuse_unknown(what: str, **chosen: tuple[str, Collection[str]]) -> None:
    """Refuse a word that is not among its choices.

    Raises:
        UnknownName: with the nearest.
    """
    for name, (value, choices) in chosen.items():
        if value not in choices:
            raise UnknownName(f"{name} of {what}", value, choices)


def refuse_unknown_parts(context: PerturbationContext) -> None:
    """Refuse rows of which nobody knows what is template and what is text.

    Raises:
        BadInput: the tokenizer tells no offsets.
    """
    if context.batch.parts is None or bool((context.batch.parts == UNKNOWN).any()):
        raise BadInput(
            "this tokenizer does not tell template from text (it has no offsets); perturb embeddings with "
            "template=true, or load a model with a fast tokenizer"
        )
