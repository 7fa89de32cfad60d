"""What a candidate for a prompt begins with, once task and frozen model are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from ...backbones import AbstractBackbone
from ...prompts.base import Base
from ...prompts.methods import Method
from ...settings import PromptSettings
from ..objectives import ShownLabels


@final
@dataclass(frozen=True, eq=False)
class Beginning:
    """What one candidate for a prompt begins with.

    Args:
        settings: of the candidate, its own seeds and `init` among them.
        method: at the length of the words.
        ids: the words: those that the prompt begins as, or those that stand before its own vectors; perhaps none.
        labels: the positions of the label tokens of each example, where the prompt learns to predict them too.
    """

    settings: PromptSettings
    method: Method
    ids: tuple[int, ...] = ()
    labels: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, settings: PromptSettings, ids: tuple[int, ...], labels: Sequence[Sequence[int]] = ()) -> "Beginning":
        """A candidate with these words: in its place if it begins as words, before it otherwise."""
        method = Method.of(settings)
        return cls(settings, method.on_words(len(ids)) if settings.initial.is_words else method, ids, labels)

    @property
    def length(self) -> int:
        """Positions before the text."""
        return self.method.prompt_length + (0 if self.settings.initial.is_words else len(self.ids))

    @property
    def shown_labels(self) -> ShownLabels | None:
        """The labels that the prompt learns to predict from its own vectors, with their weights; None for none."""
        decay = self.settings.context_loss
        return ShownLabels.of(self.ids, self.labels, decay) if self.labels and decay is not None else None

    def base(self, backbone: AbstractBackbone) -> Base | None:
        """The words' own vectors, on which the prompt is trained; None without words."""
        if not self.ids:
            return None
        with torch.no_grad():
            vectors = backbone.embed(torch.tensor(self.ids, device=backbone.device)).float().cpu()
        if self.settings.initial.is_words:
            return Base(vectors)
        below = (0, 0, 0, self.method.prompt_length)
        return Base(torch.nn.functional.pad(vectors, below), is_beginning=False)
