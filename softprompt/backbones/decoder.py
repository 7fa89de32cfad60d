"""GPT-2 and its relatives: the prompt before the text, the answer right after it, token by token.

The file is long, because every way to answer reads the same joined rows.
"""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..errors import UnsupportedModel
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.compiled import CompiledPrefix
from ._chat import next_turn, user_turn
from ._greedy import Course, Watch, greedy
from ._labels import Reading, Reads, combine, log_probabilities, refuse_collisions, refuse_unknown_normalization
from ._precision import wide_between_products
from .base import AbstractBackbone, Answers
from .deep import prompt_states
from .family import (
    KINDS,
    decoder_of,
    generates_from_vectors,
    limit_reason,
    position_limit,
    refuse_lost_masks,
    text_config,
)
from .fast.shared.engine import SequenceEngine
from .fast.shared.passes import SharedPasses, counts_positions, read_behind
from .fast.shared.runner import ModelParts
from .join import Joined, join_masks, padded_right, refuse_empty, refuse_too_long, take, without_end
from .prefix import filled_cache

IGNORED = -100
# Ends the text, as the templates name their other parts: without it a model cannot tell where a text stops.
ANSWER_CUE = " answer:"


@final
class DecoderBackbone(AbstractBackbone):
    """A causal model that reads `[prompt | text | answer]` and is asked for the answer only.

    The text is what the tokenizer makes of it: a beginning of sequence stays at the text's start, after the prompt,
    where stock PEFT has it too; an end of sequence that the tokenizer appends is dropped, for the answer follows.
    Positions are counted over prompt, text and answer, whichever side the pads are on.

    With `chat`, for instruct models, the text is one user's turn of the tokenizer's chat template and the answer is the
    turn that the template opens; the prompt stands before all of it.

    Args:
        model: with a language-model head.
        tokenizer: its tokenizer.
        name: hub id or folder.
        revision: commit on the hub.
        chat: put texts into the tokenizer's chat template.
        engine: "auto", "shared" or "reference" (`load_backbone`).

    Raises:
        UnsupportedModel: no language-model head, no token that ends an answer, float64 with eager attention, `chat`
            without a template that shows a user's text once, or shared passes asked for that this model cannot have.
    """

    kind: ClassVar[str] = "decoder"

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        name: str,
        revision: str | None = None,
        *,
        chat: bool = False,
        engine: str = "auto",
    ):
        super().__init__(model, tokenizer, name, revision)
        if self.model.get_output_embeddings() is None:
            raise UnsupportedModel(f"{name!r} has no language-model head; load it with AutoModelForCausalLM")
        self.base: Any = decoder_of(self.model)
        refuse_lost_masks(self.model, name)
        if self.model.config.model_type in KINDS:
            # Families that are only tried when they are loaded may have layers of their own that cannot be mixed.
            wide_between_products(self.model)
        self.ends = self._ends()
        self._counts_positions = counts_positions(self.base)
        self.answers: Answers = "chat" if chat else "tokens"
        self.special_tokens = not chat
        self.input_prefix, self.input_suffix = user_turn(tokenizer, name) if chat else ("", ANSWER_CUE)
        if chat and (between := next_turn(tokenizer)) is not None:
            self.between_rows = between
        self._ends_texts = not chat and list(tokenizer("a").input_ids)[-1] == tokenizer.eos_token_id
        passes = SharedPasses(ModelParts(self.model, self.base, self.embed, lambda: self.layers, name))
        self._shared = SequenceEngine(self, "shared", passes)
        self._shared.choose(engine)

    @property
    def stack(self) -> Any:
        """The layers below the head."""
        return self.base

    @property
    def max_positions(self) -> int | None:
        """Longest prompt, text and answer together."""
        return position_limit(self.model)

    def prompt_states(self, prompt: Float[Tensor, "n e"]) -> Float[Tensor, "k n d"]:
        """What an ordinary prompt leaves for the layers after the first; no position of it sees the text after it.

        Raises:
            UnsupportedModel: the model cannot have a deep prompt.
        """
        embeds = prompt[None].to(self.embeddings.weight)
        return prompt_states(self.base, self.layers, embeds, self.name)

    def answer_positions(self, answers: Sequence[Sequence[int]]) -> int:
        """All tokens of the longest answer but its last, which is never read."""
        return max(map(len, answers)) - 1

    def read_positions(self, reading: Reading) -> int:
        """The tokens of all labels where passes share their prompts, else of one label after another."""
        if self._shared.now() is not None:
            return len(read_behind(reading).tokens)
        return self.answer_positions(reading.scored)

    def suffix(self, cue: str | None = None) -> str:
        """The task's cue or the decoder's own; in a chat the task's cue and what closes the user's turn."""
        if self.answers == "chat":
            return (cue or "") + self.input_suffix
        return self.input_suffix if cue is None else cue

    def encode_answers(self, words: Sequence[str], behind: str | None = None) -> list[list[int]]:
        """Token ids of each answer as it follows the text and a blank, with the end of sequence.

        "good" is `Ġgood` where the tokenizer knows words by the blank before them. What follows is found in the
        context of the text before it, for many tokenizers put a blank of their own before a lone word. No blank is put
        where that text ends in one or in a new line, as chat templates do.
        """
        behind = self.input_suffix if behind is None else behind
        blank = "" if behind[-1:].isspace() else " "
        return [[*self._encoded_behind(behind, blank + word.strip()), self.ends[0]] for word in words]

    def _encoded_behind(self, before: str, text: str) -> list[int]:
        def encode(given: str) -> list[int]:
            return list(self.tokenizer(given, add_special_tokens=False).input_ids)

        first, whole = encode(before), encode(before + text)
        return whole[len(first) :] if whole[: len(first)] == first else encode(text)

    def logits(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b l v"]:
        """Logits of the whole vocabulary at the label positions only, the targets before each being read."""
        if batch.targets is None:
            raise ValueError("logits need targets: a decoder reads each answer token before the next")
        if (shared := self._shared.now()) is not None:
            return shared.logits(prompt_batch, self._checked(prompt_batch, batch, batch.targets.shape[1] - 1))
        return self._answered(self._join(prompt_batch, batch), batch.targets.long())

    def label_scores(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], *, normalize: str = "sum"
    ) -> Float[Tensor, "b c"]:
        """Log-probability in nats of each label's tokens.

        Prompt and text are read once. They are read with every label where labels of several tokens need gradients,
        which no cache keeps, or where the model cannot go on from a cache.
        """
        refuse_unknown_normalization(normalize)
        if normalize == "first":
            refuse_collisions(labels, self.tokenizer)
        if (shared := self._shared.now()) is not None:
            rows = self._checked(prompt_batch, batch, 0 if normalize == "first" else self.answer_positions(labels))
            return shared.label_scores(prompt_batch, rows, labels, normalize)
        if normalize != "first" and max(map(len, labels)) > 1 and (torch.is_grad_enabled() or not self.continues):
            return self._behind_every_row(prompt_batch, batch, labels, normalize)
        joined = self._join(prompt_batch, batch)
        if normalize == "first" or max(map(len, labels)) == 1:
            first = torch.tensor([label[0] for label in labels], device=batch.ids.device)
            nothing = torch.full_like(batch.ids[:, :1], IGNORED)
            return log_probabilities(self._answered(joined, nothing))[:, 0, first]
        self._refuse_too_long(joined, self.answer_positions(labels))
        with torch.no_grad():
            before = joined.pads_first()
            last = torch.full_like(batch.ids[:, :1], before.mask.shape[1] - 1)
            output = self._run(before, last, use_cache=True)
            first = log_probabilities(output.logits)
            log_likelihoods = [self._rest_of(label, first, before.mask, output.past_key_values) for label in labels]
        return torch.stack([combine(of_label, normalize) for of_label in log_likelihoods], 1)

    def label_scores_each(
        self, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading], which: Int[Tensor, " b"]
    ) -> list[Float[Tensor, "r c"]]:
        """One pass for the labels of all tasks where passes share their prompts."""
        if (shared := self._shared.now()) is None:
            return super().label_scores_each(prompt_batch, batch, readings, which)
        for reading in readings:
            refuse_unknown_normalization(reading.normalize)
            if reading.normalize == "first":
                refuse_collisions(reading.labels, self.tokenizer)
        answer = max(self.answer_positions(reading.scored) for reading in readings)
        return shared.label_scores_each(prompt_batch, self._checked(prompt_batch, batch, answer), readings, which)

    def compiled(self, prompt_batch: PromptBatch, openings: Sequence[Sequence[int]]) -> list[CompiledPrefix] | None:
        """Of shared passes, which read keys and values from a cache."""
        return self._shared.compiled(prompt_batch, openings)

    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """The last states over the text, as they are computed where rows are padded before the prompt."""
        if (shared := self._shared.now()) is not None:
            return shared.text_states(prompt_batch, self._checked(prompt_batch, batch))
        joined = self._join(prompt_batch, batch)
        before = joined.pads_first()
        with self.entering(before):
            output = self.base(**self._inputs(before.embeds, before.mask), **self._cache(before), use_cache=False)
        states = output.last_hidden_state
        width = states.shape[1]
        columns = width - joined.text.sum(1, keepdim=True) + torch.arange(batch.ids.shape[1], device=states.device)
        return take(states, columns.clamp(max=width - 1))

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
        """Greedy answers, whatever the checkpoint's own generation defaults are; the text is not repeated.

        Each ends where the model has no more positions for its row, whatever rows stand beside it; with `watch`, all of
        them where the longest row has none.
        """
        joined = self._join(prompt_batch, batch)
        self._refuse_too_long(joined)
        longest = self._longest_answers(joined, max_new_tokens)
        if watch is None and len(longest.unique()) > 1:
            return self._apart(prompt_batch, batch, longest, at_least)
        # Answers go on at the right end of every row, so the pads have to stand before the prompt.
        before = joined.pads_first()
        by_model = self.prefix is None and generates_from_vectors(self.model)
        generate = self._generated if by_model else self._continued
        return generate(before, int(longest.min()), at_least, watch)

    def _longest_answers(self, joined: Joined, max_new_tokens: int) -> Int[Tensor, " b"]:
        """Tokens that the answer to each row may have."""
        lengths = joined.mask.sum(1)
        if self.max_positions is None:
            return torch.full_like(lengths, max_new_tokens)
        # The last token of an answer is never read and needs no position.
        return (self.max_positions - self._prefix_length - lengths + 1).clamp(max=max_new_tokens)

    def _apart(
        self, prompt_batch: PromptBatch, batch: TextBatch, longest: Int[Tensor, " b"], at_least: int
    ) -> Int[Tensor, "b l"]:
        """Answers of rows with as much room each in passes of their own."""
        answers = torch.full((len(longest), int(longest.max())), self.pad_id, device=longest.device)
        for room in longest.unique().tolist():
            (rows,) = (longest == room).nonzero(as_tuple=True)
            part = batch.select(rows).trimmed()
            found = self.answer_ids(prompt_batch, part, max_new_tokens=room, at_least=min(at_least, room))
            answers[rows, : found.shape[1]] = found
        return answers

    def _generated(self, before: Joined, max_new_tokens: int, at_least: int, watch: Watch | None) -> Int[Tensor, "b l"]:
        """Greedy answers by the model's own `generate`."""
        settings = {"max_new_tokens": max_new_tokens, "at_least": at_least}
        course = Course(before.mask.any(1), self.ends, watch)
        with greedy(self.model, ends=self.ends, pad=self.pad_id, **settings), self.entering(before):
            return course.answers(
                self.model.generate(inputs_embeds=before.embeds, attention_mask=before.mask.long(), **course.options)
            )

    def _continued(self, before: Joined, max_new_tokens: int, at_least: int, watch: Watch | None) -> Int[Tensor, "b l"]:
        """Greedy answers token by token, for models whose own `generate` takes no vectors (Gemma 3, CTRL)."""
        mask = before.mask
        course, answers = Course(mask.any(1), self.ends, watch), []
        output = self._run(before, torch.full_like(mask[:, :1], mask.shape[1] - 1, dtype=torch.long), use_cache=True)
        while True:
            logits = output.logits[:, -1]
            if len(answers) < at_least:
                logits = logits.index_fill(1, course.ends, -torch.inf)
            course.see(logits)
            token = logits.argmax(-1).where(course.going, self.pad_id)
            answers.append(token)
            if bool(course.stopped(token).all()) or len(answers) == max_new_tokens:
                return course.answers(torch.stack(answers, 1))
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
            inputs = self._inputs(self.embed(token[:, None]), mask)
            output = self.model(**inputs, past_key_values=output.past_key_values, use_cache=True)

    def _ends(self) -> list[int]:
        """What ends an answer; the first is what answers are trained to end with."""
        places = (self.tokenizer, self.model.config, text_config(self.model.config), self.model.generation_config)
        # Beside images, the outer configuration may name no token.
        known = [getattr(place, "eos_token_id", None) for place in places]
        lists = [ends if isinstance(ends, list) else [ends] for ends in known if ends is not None]
        flat = [end for ends in lists for end in ends]
        if not flat:
            raise UnsupportedModel(f"{self.name!r} names no token that ends an answer; set tokenizer.eos_token")
        return list(dict.fromkeys(flat))

    def _rows(self, batch: TextBatch) -> TextBatch:
        """The rows padded on the right; an end of sequence that the tokenizer put after a text is masked."""
        batch = padded_right(batch)
        return without_end(batch, self.tokenizer.eos_token_id) if self._ends_texts else batch

    def _checked(self, prompt_batch: PromptBatch, batch: TextBatch, answer: int = 0) -> TextBatch:
        """The rows for shared passes, none of them empty or too long."""
        rows = self._rows(batch)
        joined = join_masks(prompt_batch, rows, self.embeddings.weight)
        refuse_empty(joined)
        self._refuse_too_long(joined, answer)
        return rows

    def _join(self, prompt_batch: PromptBatch, batch: TextBatch) -> Joined:
        """Prompt and text."""
        joined = self.joined(prompt_batch, self._rows(batch))
        refuse_empty(joined)
        return joined

    @property
    def _prefix_length(self) -> int:
        return 0 if self.prefix is None else self.prefix.length

    def _cache(self, joined: Joined) -> dict[str, Any]:
        """A cache with the prefix in it, where there is one."""
        if self.prefix is None:
            return {}
        return {"past_key_values": filled_cache(self.prefix, len(joined.mask), self.dtype)}

    def _refuse_too_long(self, joined: Joined, answer: int = 0) -> None:
        limit = None if self.max_positions is None else self.max_positions - self._prefix_length
        refuse_too_long(joined, limit, self.name, answer, why=limit_reason(self.model))

    def _answered(self, joined: Joined, targets: Int[Tensor, "b l"]) -> Float[Tensor, "b l v"]:
        """Logits at the targets, all but the last of which are read."""
        self._refuse_too_long(joined, targets.shape[1] - 1)
        read = targets[:, :-1]
        present = read != IGNORED
        answer = self.embed(read.masked_fill(~present, self.pad_id))
        whole = joined.answered(answer, present)
        steps = torch.arange(targets.shape[1], device=targets.device)
        columns = joined.mask.sum(1, keepdim=True) - 1 + steps
        columns = columns.clamp(max=whole.mask.shape[1] - 1)
        return self._run(whole, columns, use_cache=False).logits

    def _behind_every_row(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], normalize: str
    ) -> Float[Tensor, "b c"]:
        """Label scores from one pass in which each row stands once for each beginning of labels that is read."""
        reads, rows = Reads.of(labels), len(batch.ids)
        targets = torch.tensor(reads.targets(IGNORED), device=batch.ids.device)
        copies = torch.arange(rows, device=batch.ids.device).repeat_interleave(len(targets))
        joined = self._join(prompt_batch, batch.select(copies))
        log_likelihoods = log_probabilities(self._answered(joined, targets.repeat(rows, 1)))
        return reads.scores(log_likelihoods.unflatten(0, (rows, len(targets))), labels, normalize)

    def _rest_of(
        self, label: Sequence[int], first: Float[Tensor, "b 1 v"], mask: Bool[Tensor, "b s"], cache: Any
    ) -> Float[Tensor, "b l"]:
        """Log-probabilities of a label's tokens: of the first as found after the text, of the others after it."""
        scores = first
        if len(label) > 1:
            read = torch.tensor(label[:-1], device=mask.device).expand(len(mask), -1)
            longer = torch.cat([mask, torch.ones_like(read, dtype=torch.bool)], 1)
            # A copy: what is read is added to the cache in place, and the next label must not see it.
            output = self.model(
                **self._inputs(self.embed(read), longer),
                past_key_values=copy.deepcopy(cache),
                use_cache=True,
            )
            scores = torch.cat([first, log_probabilities(output.logits)], 1)
        wanted = torch.tensor(label, device=mask.device).expand(len(mask), -1)
        return scores.gather(2, wanted[:, :, None])[:, :, 0]

    def _run(self, joined: Joined, columns: Int[Tensor, "b l"], use_cache: bool) -> Any:
        """The model's output with logits at these columns only: the vocabulary is the widest thing in the model."""

        def keep_the_columns(module: nn.Module, arguments: Any, output: Any) -> Any:
            output.last_hidden_state = take(output.last_hidden_state, columns)
            return output

        # Between layers and head, for heads scale and cap their logits in ways of their own.
        with self.base.register_forward_hook(keep_the_columns), self.entering(joined):
            return self.model(**self._inputs(joined.embeds, joined.mask), **self._cache(joined), use_cache=use_cache)

    def _inputs(self, embeds: Float[Tensor, "b k e"], mask: Bool[Tensor, "b s"]) -> dict[str, Tensor]:
        """What the model is called with; the mask also covers what a cache already holds, but for the prefix."""
        mask = nn.functional.pad(mask, (self._prefix_length, 0), value=True)
        inputs = {"inputs_embeds": embeds, "attention_mask": mask.long()}
        if self._counts_positions:
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -embeds.shape[1] :]
        return inputs
