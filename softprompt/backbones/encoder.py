"""BERT and its relatives: the prompt before [CLS], the answer from one mask or from a linear head."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import BadInput, UnsupportedModel
from ..prompts.batch import SPECIAL, PromptBatch, TextBatch
from ._greedy import Watch
from ._labels import Reading, log_probabilities, refuse_collisions, refuse_unknown_normalization, rows_of
from .base import AbstractBackbone, Answers
from .family import first_position, position_limit
from .fast.shared.engine import SequenceEngine
from .fast.shared.rows import RowPasses
from .fast.shared.runner import ModelParts
from .join import Joined, join_masks, padded_right, refuse_too_long, take


@final
class EncoderBackbone(AbstractBackbone):
    """A bidirectional encoder. The prompt stands at the very front, where stock PEFT puts it too.

    Answers by "label-words": the masked-LM head's logits at one mask, [b, 1, v]: the last of the text, which is at its
    end (`input_suffix`), or where a template puts it (`mask`). Answers by
    "linear-head": `W h + b` with h the mean of the last hidden states over the text, special tokens included, prompt
    and pads never, [b, 1, c]; the head comes with the batch of prompts.

    Args:
        model: with a masked-LM head for label words.
        tokenizer: its tokenizer.
        name: hub id or folder.
        revision: commit on the hub.
        answers: how it answers.
        engine: "auto", "packed" or "reference" (`load_backbone`).

    Raises:
        UnsupportedModel: label words without a masked-LM head or without a mask token, or packed passes asked for that
            this model cannot have.
    """

    kind: ClassVar[str] = "encoder"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        revision: str | None = None,
        *,
        answers: Literal["label-words", "linear-head"],
        engine: str = "auto",
    ):
        super().__init__(model, tokenizer, name, revision)
        self.answers: Answers = answers
        # The encoder below any head; the model itself where there is none.
        self.base: Any = getattr(model, "base_model", model)
        if answers == "label-words":
            if self.model.get_output_embeddings() is None or tokenizer.mask_token is None:
                raise UnsupportedModel(
                    f"{name!r} has no masked-LM head or its tokenizer no mask; give --answers=linear-head"
                )
            self.mask = str(tokenizer.mask_token)
            self.input_suffix = f" {self.mask}"
        passes = RowPasses(ModelParts(self.model, self.base, self.embed, lambda: self.layers, name))
        self._packed = SequenceEngine(self, "packed", passes)
        self._packed.choose(engine)

    @property
    def stack(self) -> Any:
        """The encoder below any head."""
        return self.base

    @property
    def max_positions(self) -> int | None:
        """Longest prompt and text together."""
        return position_limit(self.model)

    def encode_answers(self, words: Sequence[str], behind: str | None = None) -> list[list[int]]:
        """One token id a word, as it follows a blank; class ids for a linear head, which reads no words.

        Raises:
            UnsupportedModel: words that are several tokens or unknown, all of them named.
        """
        if self.answers == "linear-head":
            return [[label] for label in range(len(words))]
        rows = [list(self.tokenizer(f" {word.strip()}", add_special_tokens=False).input_ids) for word in words]
        unknown = self.tokenizer.unk_token_id
        wrong = [word for word, row in zip(words, rows, strict=True) if len(row) != 1 or row[0] == unknown]
        if wrong:
            raise UnsupportedModel(
                f"{self.name!r} answers by one mask, but {', '.join(map(repr, wrong))} "
                f"{'is' if len(wrong) == 1 else 'are'} not one known token; choose other label words or "
                "give --answers=linear-head"
            )
        return rows

    def logits(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b 1 v"]:
        """Logits at the mask, or of the classes; targets are not read."""
        batch = padded_right(batch)
        if self.answers == "label-words":
            return self._at_the_mask(prompt_batch, batch, self._mask_columns(batch))
        return self._by_the_head(prompt_batch, batch)

    def label_scores(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], *, normalize: str = "sum"
    ) -> Float[Tensor, "b c"]:
        """Log-probability in nats of each label's token over the vocabulary, or of each class among the classes."""
        refuse_unknown_normalization(normalize)
        scores = log_probabilities(self.logits(prompt_batch, batch))[:, 0]
        if self.answers == "linear-head":
            if scores.shape[1] != len(labels):
                raise BadInput(f"this prompt's head has {scores.shape[1]} classes, the task {len(labels)} labels")
            return scores
        if normalize == "first":
            refuse_collisions(labels, self.tokenizer)
        return scores[:, torch.tensor([label[0] for label in labels], device=scores.device)]

    def label_scores_each(
        self, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading], which: Int[Tensor, " b"]
    ) -> list[Float[Tensor, "r c"]]:
        """One pass for the label words of all tasks: each row has its log-probabilities over the vocabulary."""
        if self.answers == "linear-head":
            return super().label_scores_each(prompt_batch, batch, readings, which)
        scores = log_probabilities(self.logits(prompt_batch, batch))[:, 0]
        return [
            scores[rows][:, torch.tensor([label[0] for label in reading.labels], device=scores.device)]
            for reading, rows in zip(readings, rows_of(which, len(readings)), strict=True)
        ]

    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """The last hidden states over the text."""
        return self._text_states(prompt_batch, padded_right(batch))

    def answer_ids(
        self,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        *,
        max_new_tokens: int,
        at_least: int = 0,
        watch: Watch | None = None,
    ) -> Int[Tensor, "b l"]:
        """Nothing: an encoder has no decoder."""
        raise UnsupportedModel(f"{self.name!r} is an encoder and generates nothing; score labels (--decode scores)")

    def _inputs(self, joined: Joined) -> dict[str, Tensor]:
        """What the encoder is called with. Token types default to zeros in every family that has them."""
        positions = joined.positions + first_position(self.model)
        return {"inputs_embeds": joined.embeds, "attention_mask": joined.mask.long(), "position_ids": positions}

    def _passes(self, prompt_batch: PromptBatch, batch: TextBatch) -> RowPasses | None:
        """The passes without padding, for rows none of which is too long; None where transformers runs them."""
        if (packed := self._packed.now()) is not None:
            refuse_too_long(join_masks(prompt_batch, batch, self.embeddings.weight), self.max_positions, self.name)
        return packed

    def _joined(self, prompt_batch: PromptBatch, batch: TextBatch) -> Joined:
        joined = self.joined(prompt_batch, batch)
        refuse_too_long(joined, self.max_positions, self.name)
        return joined

    def _text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        if (packed := self._passes(prompt_batch, batch)) is not None:
            return packed.text_states(prompt_batch, batch)
        joined = self._joined(prompt_batch, batch)
        with self.entering(joined):
            return self.base(**self._inputs(joined)).last_hidden_state[:, joined.prompt_length :]

    def _mask_columns(self, batch: TextBatch) -> Int[Tensor, " b"]:
        """Column of the last mask token of each row: the one that `input_suffix` or the template put there."""
        columns = torch.arange(1, batch.ids.shape[1] + 1, device=batch.ids.device)
        masks = (batch.ids == self.tokenizer.mask_token_id) & batch.mask
        if batch.parts is not None:
            # A word that a perturbation masked keeps its column: it is not asked for.
            masks &= batch.parts == SPECIAL
        last_mask = (columns * masks).amax(1)
        if not bool(last_mask.all()):
            row = int((last_mask == 0).nonzero()[0])
            raise BadInput(f"row {row} holds no {self.mask}; end each text with input_suffix")
        return last_mask - 1

    def _at_the_mask(
        self, prompt_batch: PromptBatch, batch: TextBatch, columns: Int[Tensor, " b"]
    ) -> Float[Tensor, "b 1 v"]:
        """The masked-LM head applied to one state a row; the vocabulary is the widest thing in the model."""
        if (packed := self._passes(prompt_batch, batch)) is not None:
            return packed.logits_at(prompt_batch, batch, columns)
        joined = self._joined(prompt_batch, batch)

        def keep_the_mask(module: nn.Module, arguments: Any, output: Any) -> Any:
            behind_prompt = joined.prompt_length + columns[:, None]
            output.last_hidden_state = take(output.last_hidden_state, behind_prompt)
            return output

        # Between encoder and head, for heads have another name and shape in every family.
        with self.base.register_forward_hook(keep_the_mask), self.entering(joined):
            return self.model(**self._inputs(joined)).logits

    def _by_the_head(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b 1 c"]:
        """Each row's own head on the mean of its text states, in the head's precision."""
        if prompt_batch.head_weight is None or prompt_batch.head_bias is None:
            raise BadInput(f"{self.name!r} answers by a linear head, but this prompt has none; train one for it")
        states = self._text_states(prompt_batch, batch)
        states = states.to(prompt_batch.head_weight.dtype).masked_fill(~batch.mask[:, :, None], 0)
        pooled = states.sum(1) / batch.mask.sum(1, keepdim=True)
        weight, bias = prompt_batch.head_weight[batch.owner], prompt_batch.head_bias[batch.owner]
        scores = torch.einsum("bcd,bd->bc", weight, pooled) + bias
        return scores[:, None]
