"""T5 and its relatives: the prompt before the encoder's input, the answer from the decoder, token by token."""

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..bank import Batch, PromptBank
from ..errors import UnsupportedModel
from ._base import AbstractBackbone, Answers
from ._family import has_relative_positions, position_limit
from ._join import join_batch, padded_right, refuse_too_long
from ._labels import combine, log_probabilities, refuse_collisions, refuse_unknown_normalization

IGNORED = -100


@final
class EncoderDecoderBackbone(AbstractBackbone):
    """An encoder that reads prompt and text, and a decoder that never sees the prompt.

    Raises:
        UnsupportedModel: no language-model head, or no token to start the decoder with.
    """

    kind: ClassVar[str] = "encoder-decoder"
    answers: Answers = "tokens"

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, revision: str | None = None, *, engine: str = "auto"
    ):
        super().__init__(model, tokenizer, name, revision)
        if engine == "packed":
            raise UnsupportedModel(f"{name!r} has no packed passes; leave --engine out")
        if self.model.get_output_embeddings() is None:
            raise UnsupportedModel(f"{name!r} has no language-model head; load it with AutoModelForSeq2SeqLM")
        self.start, self.end, self.pad = self._special_tokens()

    @property
    def stack(self) -> Any:
        """The encoder."""
        return self.model.get_encoder()

    @property
    def max_positions(self) -> int | None:
        """None for the family of T5, whose positions are relative."""
        return position_limit(self.model)

    def encode_answers(self, words: Sequence[str]) -> list[list[int]]:
        """Token ids of each answer, with the end of sequence."""
        rows = [list(self.tokenizer(word).input_ids) for word in words]
        return [row if row and row[-1] == self.end else [*row, self.end] for row in rows]

    def logits(self, bank: PromptBank, batch: Batch) -> Float[Tensor, "b l v"]:
        """Logits of the whole vocabulary at the label positions, the decoder reading the targets before each."""
        if batch.targets is None:
            raise ValueError("logits need targets: an encoder-decoder reads each answer token before the next")
        states, mask = self._encode(bank, batch)
        return self._decode(states, mask, self._shifted(batch.targets))

    def label_scores(
        self, bank: PromptBank, batch: Batch, labels: Sequence[Sequence[int]], *, normalize: str = "sum"
    ) -> Float[Tensor, "b c"]:
        """Log-probability in nats of each label's tokens; the encoder runs once for all of them."""
        refuse_unknown_normalization(normalize)
        if normalize == "first":
            refuse_collisions(labels, self.tokenizer)
        states, mask = self._encode(bank, batch)
        rows = len(batch.ids)
        if normalize == "first":
            start = torch.full((rows, 1), self.start, device=batch.ids.device)
            first = torch.tensor([label[0] for label in labels], device=batch.ids.device)
            return log_probabilities(self._decode(states, mask, start))[:, 0, first]
        scores = []
        # One label a pass: no copies of the encoder's states, no padding between labels.
        for label in labels:
            targets = torch.tensor([label], device=batch.ids.device).expand(rows, -1)
            found = log_probabilities(self._decode(states, mask, self._shifted(targets)))
            scores.append(combine(found.gather(2, targets[:, :, None])[:, :, 0], normalize))
        return torch.stack(scores, 1)

    def text_states(self, bank: PromptBank, batch: Batch) -> Float[Tensor, "b t d"]:
        """The encoder's last states over the text."""
        states, _ = self._encode(bank, batch)
        return states[:, bank.vectors.shape[1] :]

    @torch.no_grad()
    def generate(self, bank: PromptBank, batch: Batch, *, max_new_tokens: int) -> list[str]:
        """Greedy answers as text, whatever the checkpoint's own generation defaults are."""
        from transformers import GenerationConfig
        from transformers.modeling_outputs import BaseModelOutput

        states, mask = self._encode(bank, batch)
        kept = self.model.generation_config
        # Swapped, not passed: what a passed configuration leaves open is filled from the model's (beams, penalties).
        self.model.generation_config = GenerationConfig(
            do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, decoder_start_token_id=self.start,
            eos_token_id=self.end, pad_token_id=self.pad,
        )  # fmt: skip
        try:
            encoded = BaseModelOutput(last_hidden_state=states)  # pyright: ignore[reportArgumentType]  (wants FloatTensor)
            ids = self.model.generate(encoder_outputs=encoded, attention_mask=mask.long())
        finally:
            self.model.generation_config = kept
        return [answer.strip() for answer in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _special_tokens(self) -> tuple[int, int, int]:
        """The decoder's start token, the end of sequence and the pad."""
        config = self.model.config
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            raise UnsupportedModel(
                f"{self.name!r} names no token to start its decoder with; set config.decoder_start_token_id "
                "(for T5 the pad token)"
            )
        end = config.eos_token_id if isinstance(config.eos_token_id, int) else self.tokenizer.eos_token_id
        return start, end, self.tokenizer.pad_token_id

    def _encode(self, bank: PromptBank, batch: Batch) -> tuple[Float[Tensor, "b s d"], Bool[Tensor, "b s"]]:
        """The encoder's states over prompt and text, and which of them count."""
        joined = join_batch(bank, padded_right(batch), self.embeddings)
        refuse_too_long(joined, self.max_positions, self.name)
        if not has_relative_positions(self.model):
            # BART counts positions from the first column and takes no ids: ragged prompts must not be padded left.
            joined = joined.packed()
        with self.entering(joined):
            states = self.stack(inputs_embeds=joined.embeds, attention_mask=joined.mask.long()).last_hidden_state
        return states, joined.mask

    def _decode(
        self, states: Float[Tensor, "b s d"], mask: Bool[Tensor, "b s"], inputs: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b l v"]:
        """Logits of the next token after each of `inputs`."""
        return self.model(
            encoder_outputs=(states,), attention_mask=mask.long(), decoder_input_ids=inputs, use_cache=False
        ).logits

    def _shifted(self, targets: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """What the decoder reads to produce `targets`: the start token, then all but the last."""
        before = torch.full_like(targets[:, :1], self.start)
        inputs = torch.cat([before, targets[:, :-1]], 1)
        return inputs.masked_fill(inputs == IGNORED, self.pad)
