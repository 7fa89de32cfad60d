"""The contract of a frozen backbone: soft prompts go before the input, answers come out, no weight changes.

Letters: b rows, t text tokens, n prompt positions, l label positions, v vocabulary, c classes, e embedding size,
d hidden size, p prompts. The contract is one long file, because a new kind of backbone has to be written against all
of it.
"""

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import ModelMismatch, UnsupportedModel
from ..prompts.batch import PromptBatch, TextBatch
from ..prompts.compiled import CompiledPrefix
from ..prompts.prompt import BackboneIdentity, SoftPrompt
from ..prompts.units import WordScale
from ..settings import ModelSpec
from ._greedy import NOTHING, Watch
from ._labels import Reading, refuse_indistinct, rows_of
from ._products import Library
from ._turns import in_turn, turn
from .deep import entering, layers_of, state_scales
from .family import embedded, text_config, word_vectors
from .fast.int8 import is_int8, to_int8
from .fast.shared.switch import recomputing
from .identity import identity_of, refuse_another_depth, refuse_another_model
from .join import Joined, RowChange, join_batch
from .prefix import Prefix
from .rescale.scale import scaling_of

Answers = Literal["tokens", "chat", "label-words", "linear-head"]
Engine = Literal["packed", "shared", "reference"]

# What computes with the model, and hooks into it for that time.
_PASSES = ("logits", "label_scores", "label_scores_each", "compiled", "text_states", "answer_ids", "prompt_states")
# Layers that transformers does not mark as recomputable, though nothing in them forbids it.
_UNMARKED_LAYERS = ("AlbertLayer", "MPNetLayer")


class AbstractBackbone(abc.ABC):
    """A frozen model that answers rows, each with the prompt that owns it.

    The model is put in evaluation mode and its weights stop requiring gradients; a prompt stays in float32 and is
    cast to the model's precision where it joins the text.

    Args:
        model: what transformers loaded, also wrapped by PEFT or quantised.
        tokenizer: its tokenizer.
        name: hub id or folder, for messages and records.
        revision: commit on the hub, if one was given.

    Raises:
        UnsupportedModel: float16 weights, whose largest number a prompt's norm exceeds.
    """

    kind: ClassVar[str]
    answers: Answers
    # Whether a decoder reads several tokens after its cache as it should. Recurrent ones begin anew (Jamba), or have
    # no cache of this kind (Mamba); `verify` finds out.
    continues: bool = True
    # Token ids that end an answer; none where one token is the answer.
    ends: Sequence[int] = ()
    # Appended to the rendered text before tokenising: " [MASK]" where a masked-LM head answers, a decoder's cue, or
    # what closes a user's turn. `suffix` adds the cue that a task brings.
    input_suffix: str = ""
    # Before the rendered text; what opens a user's turn where the tokenizer's chat template is used.
    input_prefix: str = ""
    # Between the answer of a labelled row and the next row, where rows are shown as examples.
    between_rows: str = "\n\n"
    # What stands for the answer in a text, and becomes {mask} in a template; None where answers stand elsewhere.
    mask: str | None = None
    # What computes the passes; the passes of transformers are the reference.
    engine: Engine = "reference"
    # What multiplies float32 on a CPU in packed passes; None of others, where torch decides.
    products: Library | None = None
    # The form of the linear layers where it is another than the model's precision: "int8".
    quantize: str | None = None
    # Whether the tokenizer adds its own; a chat template holds them already.
    special_tokens: bool = True
    # What a decoder attends to before everything else; None is nothing.
    prefix: Prefix | None = None
    # What is made of prompt and text of each row where they join; None leaves them.
    on_rows: RowChange | None = None
    # Whether the backward pass recomputes the activations of layers.
    recomputes: bool = False
    # Whether a head over a few tokens gives the logits of the whole head; None until `label_logits` has tried.
    heads_agree: bool | None = None

    def __init_subclass__(cls) -> None:
        """Let one thread at a time compute with a model."""
        super().__init_subclass__()
        for name in _PASSES:
            if name in vars(cls):
                setattr(cls, name, in_turn(vars(cls)[name]))

    def __init__(self, model: nn.Module, tokenizer: Any, name: str, revision: str | None = None):
        # Any: what a transformers model has beside nn.Module is beyond the type checker.
        self.model: Any = model
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        if self.dtype == torch.float16:
            raise UnsupportedModel(
                f"{name!r} is in float16, whose largest number (65504) an EPT prompt's norm exceeds; "
                "load it in bfloat16 or float32"
            )
        # Only now: a model that is refused stays as it was.
        self.model.eval().requires_grad_(False)
        self.quantize = "int8" if is_int8(self.model) else None

    @property
    def embeddings(self) -> Any:
        """The word embedding module, asked for at call time: a resized vocabulary replaces it."""
        return self.model.get_input_embeddings()

    @property
    def word_vectors(self) -> Float[Tensor, "v e"]:
        """Each token's vector as it enters the model: what a prompt vector stands beside."""
        with turn(self.model):
            return word_vectors(self.model)

    @final
    @in_turn
    def embed(self, ids: Int[Tensor, "*b"]) -> Float[Tensor, "*b e"]:
        """Each token's vector as the model reads it when it is given ids."""
        return embedded(self.model, ids)

    @property
    def embedding_scale(self) -> float:
        """What the checkpoint's word embeddings are multiplied by; 1 unless it was asked for."""
        return scaling_of(self.model).factor

    @property
    def pad_id(self) -> int:
        """What fills rows up: the pad, or the end of sequence where the tokenizer has none (GPT-2, Llama).

        Pads are masked, so it never matters which; the tokenizer stays as it is.
        """
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0)
        return next(token for token in known if token is not None)

    @property
    def embedding_size(self) -> int:
        """Width e of a prompt vector."""
        return self.embeddings.weight.shape[1]

    @property
    def hidden_size(self) -> int:
        """Width d of the states that a linear head reads."""
        return text_config(self.model.config).hidden_size

    @property
    @abc.abstractmethod
    def stack(self) -> Any:
        """The module whose layers read prompt and text: the encoder, or a decoder's layers below its head."""

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers of the stack, each of which a deep prompt enters.

        Raises:
            UnsupportedModel: the model cannot have a deep prompt, and why.
        """
        return layers_of(self.stack, self.name, self.embedding_size)

    @in_turn
    def state_scales(self) -> list[WordScale]:
        """How large the states are that the layers after the first read: the units of a deep prompt.

        Raises:
            UnsupportedModel: the model cannot have a deep prompt, and why.
        """
        return state_scales(self.stack, self.embeddings, self.name)

    def prompt_states(self, prompt: Float[Tensor, "n e"]) -> Float[Tensor, "k n d"]:
        """What an ordinary prompt leaves for the layers after the first, where it stands before everything else.

        Raises:
            UnsupportedModel: these states depend on the text after it, or the model cannot have a deep prompt.
        """
        raise UnsupportedModel(
            f"{self.name!r} reads words together with the text after them, so a deep prompt cannot begin at words; "
            "leave --deep out, or give --init=uniform"
        )

    def joined(self, prompt_batch: PromptBatch, batch: TextBatch) -> Joined:
        """The rows (padded right), each after its prompt."""
        return join_batch(prompt_batch, batch, self.embed, self.on_rows)

    def entering(self, joined: Joined) -> AbstractContextManager[None]:
        """Within, the first pass of the stack reads what a deep prompt has for its layers after the first."""
        return entering(() if joined.fresh is None else self.layers, joined.fresh, self.name)

    @property
    def device(self) -> torch.device:
        """Where rows and prompts have to be."""
        return self.embeddings.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the frozen model computes in."""
        return self.embeddings.weight.dtype

    @property
    def copies_weights(self) -> bool:
        """Whether its passes multiply by copies of the model's weights, the head's included."""
        return False

    @property
    def max_positions(self) -> int | None:
        """Longest input the model has positions for, prompt included; None where positions are relative."""
        return None

    def answer_positions(self, answers: Sequence[Sequence[int]]) -> int:
        """Positions beside prompt and text that reading these answers takes; none but in a decoder."""
        return 0

    def read_positions(self, reading: Reading) -> int:
        """Positions beside prompt and text that a row of a pass over labels takes; none but in a decoder."""
        return 0

    @property
    def spec(self) -> ModelSpec:
        """What this backbone is, whatever was asked for: `load_backbone` makes the same of it again."""
        return ModelSpec(
            self.name,
            revision=self.revision,
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            answers=self.answers,
            engine=self.engine,
            quantize=self.quantize,
            embedding_scale=self.embedding_scale,
        )

    @in_turn
    def identity(self) -> BackboneIdentity:
        """Name, kind, width and embedding hash: what a stored prompt remembers."""
        return identity_of(self.model, self.name, self.kind, self.revision)

    def check(self, prompt: SoftPrompt) -> None:
        """Refuse a prompt that was trained for another model.

        Raises:
            ModelMismatch: with both names.
        """
        refuse_another_model(prompt, self.identity())
        if prompt.deep is not None:
            refuse_another_depth(prompt, self.layers, self.name)
        if prompt.provenance.answers != self.answers:
            raise ModelMismatch(
                f"this prompt answers by {prompt.provenance.answers}, {self.name!r} was loaded to answer by "
                f"{self.answers}; load it with --answers={prompt.provenance.answers}"
            )

    def dropout(self, on: bool) -> None:
        """The frozen model's own dropout, off until asked for: it slows training and blurs the prompt's gradient."""
        self.model.train(on)

    def gradient_checkpointing(self, on: bool) -> None:
        """Recompute each layer's activations in the backward pass instead of keeping them: less memory, more time."""
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.recomputes = on
        for layer in self.model.modules():
            if not isinstance(layer, GradientCheckpointingLayer) and type(layer).__name__ not in _UNMARKED_LAYERS:
                continue
            # Not transformers' own switch: it acts in training mode only, and so turns dropout on with it.
            layer.__dict__.pop("forward", None)
            if on:
                layer.__dict__["forward"] = partial(
                    checkpoint, layer.forward, use_reentrant=False, context_fn=recomputing
                )

    def to_int8(self) -> None:
        """The model's linear layers in int8, for good, but for its head and those too narrow to gain by it.

        Raises:
            UnsupportedModel: no int8 for this machine, precision, device or model.
        """
        to_int8(self.model, self.name)
        self.quantize = "int8"

    def suffix(self, cue: str | None = None) -> str:
        """What is appended to the rendered text before tokenising.

        Args:
            cue: of the task; None is the backbone's own.
        """
        return (cue or "") + self.input_suffix

    @abc.abstractmethod
    def encode_answers(self, words: Sequence[str], behind: str | None = None) -> list[list[int]]:
        """Token ids that an answer has to produce, end of sequence included where the model emits one.

        Args:
            words: the answers.
            behind: the text right before an answer, on which a decoder's tokens may depend; None is `input_suffix`.

        Raises:
            UnsupportedModel: the model answers by one mask and a word is several tokens; names those words.
        """

    @final
    def encode_distinct(self, words: Sequence[str], behind: str | None = None) -> list[list[int]]:
        """What `encode_answers` gives for the answers among which the model decides, the label words.

        Args:
            words: the label words.
            behind: as in `encode_answers`.

        Raises:
            BadInput: a word of unknown tokens only, or two words with the same tokens.
            UnsupportedModel: as in `encode_answers`.
        """
        rows = self.encode_answers(words, behind)
        if self.answers != "linear-head":
            refuse_indistinct(rows, words, self.tokenizer, self.name)
        return rows

    @abc.abstractmethod
    def logits(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b l v"]:
        """Logits at the label positions of `batch.targets` only (teacher forcing); v is c for a linear head."""

    @abc.abstractmethod
    def label_scores(
        self, prompt_batch: PromptBatch, batch: TextBatch, labels: Sequence[Sequence[int]], *, normalize: str = "sum"
    ) -> Float[Tensor, "b c"]:
        """Log-probability in nats of each label's whole token sequence, with gradients where torch's are on.

        Args:
            prompt_batch: the prompts.
            batch: rows; targets are not read.
            labels: token ids by class id, from `encode_answers`; only their number counts for a linear head.
            normalize: "sum" over the tokens, their "mean", or "first" for the first token only (fast).

        Raises:
            BadInput: "first" while two labels begin with the same token.
        """

    def label_scores_each(
        self, prompt_batch: PromptBatch, batch: TextBatch, readings: Sequence[Reading], which: Int[Tensor, " b"]
    ) -> list[Float[Tensor, "r c"]]:
        """Label scores of rows of several tasks: for each reading the scores of its rows, in their order.

        A backbone that can read the labels of all tasks in one pass does so. Otherwise each reading is a pass.

        Args:
            prompt_batch: the prompts.
            batch: rows; targets are not read.
            readings: the labels of each task.
            which: for each row its reading.

        Raises:
            BadInput: as in `label_scores`.
        """
        parts = [batch.select(rows).trimmed() for rows in rows_of(which, len(readings))]
        return [
            self.label_scores(prompt_batch, part, reading.labels, normalize=reading.normalize)
            for part, reading in zip(parts, readings, strict=True)
        ]

    def compiled(self, prompt_batch: PromptBatch, openings: Sequence[Sequence[int]]) -> list[CompiledPrefix] | None:
        """Keys and values of prompts, which passes read from `PromptBatch.compiled`; None where no pass could.

        Args:
            prompt_batch: the prompts.
            openings: for each prompt the token ids with which its rows begin, which are compiled with it.
        """
        return None

    @abc.abstractmethod
    def text_states(self, prompt_batch: PromptBatch, batch: TextBatch) -> Float[Tensor, "b t d"]:
        """The last states over the text, in its own columns; `verify` compares them."""

    @final
    def generate(self, prompt_batch: PromptBatch, batch: TextBatch, *, max_new_tokens: int) -> list[str | None]:
        """Greedy answers as text, without prompt or special tokens; None where the model computes NaN.

        Raises:
            UnsupportedModel: the model answers by one mask or a head and generates nothing.
        """
        ids = self.answer_ids(prompt_batch, batch, max_new_tokens=max_new_tokens)
        lost = (ids == NOTHING).any(1)
        texts = self.tokenizer.batch_decode(ids.masked_fill(lost[:, None], self.pad_id), skip_special_tokens=True)
        return [None if is_lost else text.strip() for text, is_lost in zip(texts, lost.tolist(), strict=True)]

    @abc.abstractmethod
    def answer_ids(
        self,
        prompt_batch: PromptBatch,
        batch: TextBatch,
        *,
        max_new_tokens: int,
        at_least: int = 0,
        watch: Watch | None = None,
    ) -> Int[Tensor, "b l"]:
        """Greedy answers in token ids, `at_least` of them before an answer may end.

        Where the model computes NaN, a row's answer is of NOTHING.

        Args:
            prompt_batch: the prompts.
            batch: rows; targets are not read.
            max_new_tokens: longest answer.
            at_least: tokens before an answer may end.
            watch: sees each row's tokens one by one, and may end rows; None is nobody.

        Raises:
            UnsupportedModel: as in `generate`.
        """
