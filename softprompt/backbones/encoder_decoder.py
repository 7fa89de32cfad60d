"""T5 and its relatives: the prompt before the encoder's input, the answer from the decoder, token by token."""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import UnsupportedModel
from ..prompts.batch import PromptBatch, TextBatch
from ._greedy import Course, Watch, greedy
from ._labels import (
    Reading,
    answers_each,
    combine,
    log_probabilities,
    refuse_collisions,
    refuse_unknown_normalization,
    rows_of,
)
from ._products import chosen_library
from .base import AbstractBackbone, Answers, Engine
from .family import KINDS, has_relative_positions, position_limit
from .fast.int8 import refuse_no_int8
from .fast.packed import FAMILIES, Encoded, PackedT5, survey
from .fast.shared.engine import SequenceEngine
from .fast.shared.rows import RowPasses
from .fast.shared.runner import ModelParts
from .join import join_masks, padded_right, refuse_too_long, take
from .prefix import filled_cache
from .rescale.verify import TOLERANCE

log = logging.getLogger("softprompt")

IGNORED = -100
# Of logits in bfloat16: a part of the formula left out lies far above it.
ROUGH = 0.25


@final
class EncoderDecoderBackbone(AbstractBackbone):
    """An encoder that reads prompt and text, and a decoder that never sees the prompt.

    Args:
        model: as for every backbone.
        tokenizer: likewise.
        name: likewise.
        revision: likewise.
        engine: "auto", "packed" or "reference" (`load_backbone`).

    Raises:
        UnsupportedModel: no language-model head, no token to start the decoder with, or packed passes asked for that
            this model cannot have.
    """

    kind: ClassVar[str] = "encoder-decoder"
    answers: Answers = "tokens"

    def __init__(
        self, model: nn.Module, tokenizer: Any, name: str, revision: str | None = None, *, engine: str = "auto"
    ):
        super().__init__(model, tokenizer, name, revision)
        if self.model.get_output_embeddings() is None:
            raise UnsupportedModel(f"{name!r} has no language-model head; load it with AutoModelForSeq2SeqLM")
        self.start, self.end, self.pad = self._special_tokens()
        self.ends = (self.end,)
        self._packed: tuple[PackedT5, tuple[Any, ...]] | None = None
        self._told: set[str] = set()
        self._rows: SequenceEngine[RowPasses] | None = None
        if self.model.config.model_type in FAMILIES.values():
            self.engine = self._engine(engine)
            self.products = self.products if self.engine == "packed" else None
        else:
            passes = RowPasses(ModelParts(self.model, self.stack, self.embed, lambda: self.layers, name))
            self._rows = SequenceEngine(self, "packed", passes)
            self._rows.choose(engine)

    @property
    def stack(self) -> Any:
        """The encoder."""
        return self.model.get_encoder()

    @property
    def copies_weights(self) -> bool:
        """Whether the engine of T5 computes the passes."""
        return self.engine == "packed" and self._rows is None

    @property
    def max_positions(self) -> int | None:
        """None for the family of T5, whose positions are relative."""
        return position_limit(self.model)

    def encode_answers(self, words: Sequence[str], behind: str | None = None) -> list[list[int]]:
        """Token ids of each answer, with the end of sequence."""
        rows = [list(self.tokenizer(word).input_ids) for word in words]
        return [row if row and row[-1] == self.end else [*row, self.end] for row in rows]

    def logits(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b l v"]:
        """Logits of the whole vocabulary at the label positions, the decoder reading the targets before each."""
        if batch.targets is None:
            raise ValueError("logits need targets: an encoder-decoder reads each answer token before the next")
        packed = self._packed_passes()
        if packed is not None and (encoded := packed.encode(prompt_batch, batch)) is not None:
            states = packed.decode(encoded, self._shifted(batch.targets)[:, None])[:, 0]
            return packed.logits(states, batch.targets != IGNORED)
        states, mask = self._encode(prompt_batch, batch)
        return self._decode(states, mask, self._shifted(batch.targets))

    def label_scores(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], *, normalize: str = "sum"
    ) -> Float[Tensor, "b c"]:
        """Log-probability in nats of each label's tokens; the encoder runs once for all of them."""
        refuse_unknown_normalization(normalize)
        if normalize == "first":
            refuse_collisions(labels, self.tokenizer)
        elif max(map(len, labels)) == 1:
            # One token is its own first, and all are read after the same start.
            normalize = "first"
        packed = self._packed_passes()
        if packed is not None and (encoded := packed.encode(prompt_batch, batch)) is not None:
            return self._packed_scores(packed, encoded, labels, normalize)
        states, mask = self._encode(prompt_batch, batch)
        rows = len(batch.ids)
        if normalize == "first":
            start = torch.full((rows, 1), self.start, device=batch.ids.device)
            first = torch.tensor([label[0] for label in labels], device=batch.ids.device)
            return log_probabilities(self._decode(states, mask, start))[:, 0, first]
        scores = []
        # One label a pass: no copies of the encoder's states, no padding between labels.
        for label in labels:
            targets = torch.tensor([label], device=batch.ids.device).expand(rows, -1)
            log_likelihoods = log_probabilities(self._decode(states, mask, self._shifted(targets)))
            scores.append(combine(log_likelihoods.gather(2, targets[:, :, None])[:, :, 0], normalize))
        return torch.stack(scores, 1)

    def label_scores_each(
        self, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading], which: Int[Tensor, " b"]
    ) -> list[Float[Tensor, "r c"]]:
        """One pass of the encoder and one of the decoder for the labels of all tasks, where passes are packed."""
        packed = self._packed_passes()
        if packed is None or (encoded := packed.encode(prompt_batch, batch)) is None:
            return super().label_scores_each(prompt_batch, batch, readings, which)
        for reading in readings:
            refuse_unknown_normalization(reading.normalize)
            if reading.normalize == "first":
                refuse_collisions(reading.labels, self.tokenizer)
        targets = answers_each([reading.scored for reading in readings], which)
        needed = targets != IGNORED
        states = packed.decode(encoded, self._shifted(targets.flatten(0, 1)).view_as(targets))
        tokens = torch.zeros(
            targets.shape, device=targets.device, dtype=torch.promote_types(states.dtype, torch.float32)
        )
        tokens[needed] = packed.log_probabilities(states[needed], targets[needed])
        return [
            torch.stack(
                [reading.combined(tokens[rows, place, : len(label)]) for place, label in enumerate(reading.scored)], 1
            )
            for reading, rows in zip(readings, rows_of(which, len(readings)), strict=True)
        ]

    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """The encoder's last states over the text."""
        states, mask = self._states(prompt_batch, batch)
        # A shorter prompt begins after its pads, or in the first column where the pads are after the text.
        begins = mask.to(torch.uint8).argmax(1) + prompt_batch.mask[batch.owner].sum(1)
        columns = begins[:, None] + torch.arange(batch.ids.shape[1], device=states.device)
        return take(states, columns.clamp(max=states.shape[1] - 1))

    @torch.no_grad()
    def answer_ids(
        self,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        *,
        max_new_tokens: int,
        at_least: int = 0,
        watch: Watch | None = None,
    ) -> Int[Tensor, "b l"]:
        """Greedy answers, whatever the checkpoint's own generation defaults are."""
        states, mask = self._states(prompt_batch, batch)
        if self.prefix is not None:
            return self._continued(states, mask, max_new_tokens, at_least, watch)
        settings = {"max_new_tokens": max_new_tokens, "at_least": at_least, "decoder_start_token_id": self.start}
        course = Course(torch.ones_like(mask[:, 0]), self.ends, watch)
        with greedy(self.model, ends=self.ends, pad=self.pad, **settings):
            ids = self.model.generate(encoder_outputs=_encoded(states), attention_mask=mask.long(), **course.options)
        # Without the start token.
        return course.answers(ids[:, 1:])

    def _engine(self, engine: str) -> Engine:
        """The engine of a T5 that is asked for, or that can be."""
        if engine == "reference":
            return "reference"
        self.products = chosen_library()
        reason = survey(self.model).unfit or self._disagreement()
        if reason is None:
            return "packed"
        self._packed = None
        if engine == "packed":
            raise UnsupportedModel(f"the passes of {self.name!r} cannot be packed: {reason}; leave --engine=packed out")
        self._tell(reason)
        return "reference"

    @torch.no_grad()
    def _disagreement(self) -> str | None:
        """What is wrong with packed passes over this model, tried on a few words: another transformers, perhaps."""
        ids = torch.arange(2, 14, device=self.device).view(2, 6) % self.embeddings.weight.shape[0]
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[1, 4:] = False
        batch = TextBatch(ids, mask, ids.new_zeros(2), ids[:, :3])
        prompt_batch = PromptBatch(self.embeddings.weight.new_zeros(1, 2, self.embedding_size), mask[:1, :2])
        self.engine = "packed"
        packed = self.logits(prompt_batch, batch)
        self.engine = "reference"
        reference = self.logits(prompt_batch, batch)
        difference = (packed - reference).abs().max() / reference.abs().max()
        if difference <= TOLERANCE.get(self.dtype, ROUGH):
            return None
        return f"their logits differ from transformers' by {difference:.1e} of the largest"

    def _tell(self, reason: str) -> None:
        """Say once why passes are not packed."""
        if reason not in self._told:
            self._told.add(reason)
            log.warning("%r: passes by transformers, not packed: %s", self.name, reason)

    def to_int8(self) -> None:
        """The linear layers in int8; of packed passes their copies, and the model's own stay as they are."""
        if not self.copies_weights:
            return super().to_int8()
        refuse_no_int8(self.model, self.name)
        self.quantize, self._packed = "int8", None

    def _packed_passes(self) -> PackedT5 | None:
        """The engine of T5 over the weights as they are now; None where the layers are those of transformers."""
        if not self.copies_weights:
            return None
        parts = survey(self.model)
        if parts.unfit is not None:
            self._tell(parts.unfit)
            return None
        state = (*parts.state, self.products, self.quantize)
        if self._packed is None or self._packed[1] != state:
            self._packed = PackedT5(self.model, self.quantize, self.products or "onednn"), state
        return self._packed[0]

    def _packed_scores(
        self, packed: PackedT5, encoded: Encoded, labels: Sequence[Sequence[int]], normalize: str
    ) -> Float[Tensor, "b c"]:
        """All labels of all rows in one pass of the decoder, each row's labels reading the same states."""
        rows, device = encoded.packing.shape[0], encoded.states.device
        if normalize == "first":
            start = torch.full((rows, 1, 1), self.start, device=device)
            logits = packed.head(packed.decode(encoded, start).flatten(0, 2))
            return log_probabilities(logits[:, None])[:, 0, [label[0] for label in labels]]
        longest = max(map(len, labels))
        padded = [[*label, *[IGNORED] * (longest - len(label))] for label in labels]
        targets = torch.tensor(padded, device=device)
        states = packed.decode(encoded, self._shifted(targets).expand(rows, -1, -1))[:, targets != IGNORED]
        tokens = targets[targets != IGNORED].expand(rows, -1)
        log_likelihoods = packed.log_probabilities(states.flatten(0, 1), tokens.flatten()).view(rows, -1)
        return torch.stack([combine(part, normalize) for part in log_likelihoods.split([len(x) for x in labels], 1)], 1)

    def _special_tokens(self) -> tuple[int, int, int]:
        """The decoder's start token, the end of sequence and the pad."""
        config, generation = self.model.config, self.model.generation_config
        start = getattr(config, "decoder_start_token_id", None)
        start = getattr(generation, "decoder_start_token_id", None) if start is None else start
        if start is None:
            raise UnsupportedModel(
                f"{self.name!r} names no token to start its decoder with; set config.decoder_start_token_id "
                "(for T5 the pad token)"
            )
        end = getattr(config, "eos_token_id", None)
        end = end if isinstance(end, int) else self.tokenizer.eos_token_id
        if end is None:
            raise UnsupportedModel(f"{self.name!r} names no token that ends an answer; set tokenizer.eos_token")
        return start, end, self.pad_id

    def _states(
        self, prompt_batch: PromptBatch, batch: TextBatch
    ) -> tuple[Float[Tensor, "b s d"], Bool[Tensor, "b s"]]:
        """What `_encode` gives, by whichever engine."""
        packed, right = self._packed_passes(), padded_right(batch)
        if packed is not None and (encoded := packed.encode(prompt_batch, right)) is not None:
            return encoded.unpacked(), torch.cat([prompt_batch.mask[batch.owner], right.mask], 1)
        return self._encode(prompt_batch, batch)

    def _encode(
        self, prompt_batch: PromptBatch, batch: TextBatch
    ) -> tuple[Float[Tensor, "b s d"], Bool[Tensor, "b s"]]:
        """The encoder's states over prompt and text, and which of them count."""
        batch = padded_right(batch)
        mask = torch.cat([prompt_batch.mask[batch.owner], batch.mask], 1)
        # Attention over nothing is what transformers makes of it.
        if self._rows is not None and (rows := self._rows.now()) is not None and bool(mask.any(1).all()):
            refuse_too_long(join_masks(prompt_batch, batch, self.embeddings.weight), self.max_positions, self.name)
            return rows.states(prompt_batch, batch), mask
        joined = self.joined(prompt_batch, batch)
        refuse_too_long(joined, self.max_positions, self.name)
        if not has_relative_positions(self.model):
            # BART counts positions from the first column and takes no ids: ragged prompts must not be padded left.
            joined = joined.packed()
        with self.entering(joined):
            states = self.stack(inputs_embeds=joined.embeds, attention_mask=joined.mask.long()).last_hidden_state
        return states, joined.mask

    def _continued(
        self,
        states: Float[Tensor, "b s d"],
        mask: Bool[Tensor, "b s"],
        max_new_tokens: int,
        at_least: int,
        watch: Watch | None,
    ) -> Int[Tensor, "b l"]:
        """Greedy answers token by token after the prefix, which `generate` does not take from outside."""
        answers = torch.full((len(states), 1), self.start, device=states.device)
        course = Course(torch.ones_like(answers[:, 0], dtype=torch.bool), self.ends, watch)
        while answers.shape[1] <= max_new_tokens and bool(course.going.any()):
            logits = self._decode(states, mask, answers)[:, -1]
            if answers.shape[1] <= at_least:
                logits = logits.index_fill(1, course.ends, -torch.inf)
            course.see(logits)
            token = logits.argmax(-1).where(course.going, self.pad)
            answers = torch.cat([answers, token[:, None]], 1)
            course.stopped(token)
        return course.answers(answers[:, 1:])

    def _decode(
        self, states: Float[Tensor, "b s d"], mask: Bool[Tensor, "b s"], inputs: Int[Tensor, "b l"]
    ) -> Float[Tensor, "b l v"]:
        """Logits of the next token after each of `inputs`."""
        options: dict[str, Any] = {"encoder_outputs": _encoded(states), "attention_mask": mask.long()}
        if self.model.config.model_type not in KINDS:
            # Without a mask and a cache, T5Gemma leaves out a start token that is also the pad.
            options["decoder_attention_mask"] = torch.ones_like(inputs)
        if self.prefix is not None:
            options["past_key_values"] = _beside_cross_attention(filled_cache(self.prefix, len(states), self.dtype))
        return self.model(decoder_input_ids=inputs, use_cache=False, **options).logits

    def _shifted(self, targets: Int[Tensor, "b l"]) -> Int[Tensor, "b l"]:
        """What the decoder reads to produce `targets`: the start token, then all but the last."""
        before = torch.full_like(targets[:, :1], self.start)
        inputs = torch.cat([before, targets[:, :-1]], 1)
        return inputs.masked_fill(inputs == IGNORED, self.pad)


def _beside_cross_attention(cache: Any) -> Any:
    """A cache of self-attention as a decoder takes it that also attends to an encoder."""
    from transformers import DynamicCache, EncoderDecoderCache

    return EncoderDecoderCache(cache, DynamicCache())


def _encoded(states: Float[Tensor, "b s d"]) -> Any:
    """The encoder's states as every decoder takes them: ProphetNet refuses a plain tuple, Switch asks for routers."""
    from transformers.modeling_outputs import MoeModelOutputWithPast

    return MoeModelOutputWithPast(last_hidden_state=states)  # pyright: ignore[reportArgumentType]  (wants FloatTensor)
