"""Every method of a prompt inside a stock PEFT model, which Hugging Face's and TRL's trainers train and PEFT reloads.

PEFT's prompt tuning keeps its vectors in one module. That module is replaced by ours, which computes the vectors by the
method's network. PEFT stores what the module gives, so that the folder holds the folded vectors and nothing of ours.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..backbones.family import kind_of, refuse_no_model, text_config, word_vectors
from ..backbones.identity import identity_of, refuse_another_model
from ..errors import BadInput, NotTrainable, UnknownName
from ..initial import Initial
from ..prompts import initializers
from ..prompts.given import as_long_as, taken_from
from ..prompts.initializers import Initializer
from ..prompts.methods import METHODS, Method
from ..prompts.prompt import SoftPrompt
from ..prompts.trainable import TrainablePrompt
from ..prompts.units import WordScale
from ..settings import PromptSettings, Seeds
from ._prompted import refuse_prompted
from .peft import TASK_TYPES

# By what the name of the model's class ends with, before the kind of the model decides.
HEADS = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
STARTS = ("uniform", "vocabulary", "text:WORDS")
# Fields of PromptSettings that act in PEFT, and two that are refused with what to do.
SETTINGS = ("options", "units", "max_norm", "deep", "regularizer")


class Table(NamedTuple):
    """The vectors where PEFT looks for the table of a prompt: `prompt_encoder.embedding.weight`."""

    weight: Float[Tensor, "n e"]


@final
class PeftPromptEncoder(nn.Module):
    """A prompt in training in the place of PEFT's table of vectors.

    After PEFT has loaded vectors into it, as Trainer does for the best checkpoint, it gives these. The network that
    made them is not in PEFT's files, so it cannot be trained further.

    Args:
        trainable: initial vectors and network.
    """

    loaded: Tensor | None

    def __init__(self, trainable: TrainablePrompt):
        super().__init__()
        self.trainable = trainable
        self.register_buffer("loaded", None, persistent=False)

    @property
    def embedding(self) -> Table:
        """The vectors as they are stored, computed anew at each look."""
        return Table(self._folded() if self.loaded is None else self.loaded)

    def forward(self, indices: Int[Tensor, "b n"]) -> Float[Tensor, "b n e"]:
        """Return the vectors for each row, with gradients in training and folded in evaluation.

        Raises:
            NotTrainable: PEFT has loaded vectors, and this is a training pass.
        """
        if self.loaded is not None and self.training and torch.is_grad_enabled():
            raise NotTrainable(
                "PEFT loaded the vectors of this prompt without the network that made them; "
                "call as_peft(..., init=PROMPT) to train from these vectors"
            )
        vectors = self.embedding.weight if not self.training or self.loaded is not None else self.trainable.vectors()
        return vectors[indices]

    def _folded(self) -> Float[Tensor, "n e"]:
        return self.trainable.folded().repeat(self.trainable.repeats, 1)

    def _load_adapter_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """PEFT's hook: take the vectors of a folder."""
        rows = state_dict["prompt_embeddings"]
        if rows.shape != self.embedding.weight.shape:
            needed = list(self.embedding.weight.shape)
            raise BadInput(f"these vectors are {list(rows.shape)}, this prompt is {needed}; take a folder of its own")
        self.loaded = rows.to(self.embedding.weight)


def as_peft(
    model: nn.Module,
    method: str = "ept-star",
    *,
    init: "str | SoftPrompt" = "uniform",
    tokenizer: Any = None,
    seed: int = 0,
    task_type: str | None = None,
    **settings: Any,
) -> Any:
    """Return a PEFT model whose prompt is parameterised by one of our methods.

    `save_pretrained` writes a plain PEFT prompt-tuning folder with the folded vectors. PEFT's own limits apply: deep
    prompts do not exist, training cannot be resumed, and batches of a decoder have to be padded on the right.

    Args:
        model: the loaded transformers model. PEFT freezes it in place.
        method: a name in METHODS that trains a prompt.
        init: "uniform", "vocabulary", "text:WORDS", or a stored prompt of this model to start from.
        tokenizer: for "text:WORDS".
        seed: the initialisation seed.
        task_type: PEFT's; None takes it from the class of the model.
        settings: the fields `options` (such as `{"prompt_length": 20}`), `units` and `max_norm` of PromptSettings.

    Returns:
        The model of `peft.get_peft_model`. Its learning rate is the trainer's: `METHODS[method].lr`, or `.lr_rms` in
        RMS units.

    Raises:
        BadInput: a method without a prompt, or one that begins from prompts of other tasks, a deep prompt, words as
            beginning, a model that has a prompt already, or a decoder under a classification head, for which PEFT would
            read the state of a pad.
        ModelMismatch: `init` is a prompt of another model.
        UnknownName: a setting, a method, an option or an initialisation that does not exist.
        UnsupportedModel: a family that is not supported.
    """
    from peft import PromptTuningConfig, get_peft_model

    refuse_no_model(model)
    refuse_prompted(model)
    whole: Any = model
    if isinstance(init, SoftPrompt):
        init = _own(init, whole)
    table = word_vectors(whole).detach()
    trainable = _trainable(table, method, init, tokenizer, seed, settings)
    sizes = text_config(whole.config)
    config = PromptTuningConfig(
        task_type=_task_type(whole, task_type),
        num_virtual_tokens=trainable.length,
        token_dim=table.shape[1],
        num_transformer_submodules=1,
        num_layers=getattr(sizes, "num_hidden_layers", None) or getattr(sizes, "encoder_layers", 1),
        num_attention_heads=getattr(sizes, "num_attention_heads", None) or 1,
    )
    wrapped: Any = get_peft_model(whole, config)
    # PEFT's table is dropped, not kept frozen beside ours, so that PEFT counts what is trained.
    wrapped.prompt_encoder[wrapped.active_adapter] = PeftPromptEncoder(trainable.to(table.device))
    return wrapped


def _own(prompt: SoftPrompt, model: Any) -> SoftPrompt:
    """A stored prompt of this model, at its embedding scale.

    Raises:
        BadInput: a deep prompt, of which PEFT could hold the first layer only.
        ModelMismatch: another model's prompt.
    """
    if prompt.deep is not None:
        raise BadInput(
            f"this prompt has vectors for {prompt.layers} layers, PEFT's prompt tuning for one; begin from another, or "
            "train with softprompt"
        )
    name = model.config._name_or_path or type(model).__name__
    ours = identity_of(model, name, kind_of(model.config, name))
    prompt = prompt.at_scale(ours.embedding_scale)
    refuse_another_model(prompt, ours)
    return prompt


def _task_type(model: Any, given: str | None) -> str:
    name = type(model).__name__
    kind = kind_of(model.config, model.config._name_or_path or name)
    task_type = given or next((value for end, value in HEADS.items() if name.endswith(end)), TASK_TYPES[kind])
    if kind == "decoder" and task_type == "SEQ_CLS":
        raise BadInput(
            f"PEFT hides the pads of a prompted batch from the head of {name}, which then reads the state of a pad; "
            "give the model with its language-model head and the label words as answers"
        )
    return task_type


def _trainable(
    table: Float[Tensor, "v e"],
    method: str,
    init: "str | SoftPrompt",
    tokenizer: Any,
    seed: int,
    given: Mapping[str, Any],
) -> TrainablePrompt:
    if method in METHODS and METHODS[method].takes_sources:
        raise BadInput(f"{method!r} begins from prompts of other tasks; give one of them as init, with 'prompt-tuning'")
    for name in given:
        if name not in SETTINGS:
            raise UnknownName("setting of as_peft", name, SETTINGS)
    settings = PromptSettings(method=method, seeds=Seeds.all(seed), **given)
    if isinstance(init, SoftPrompt):
        settings = as_long_as(init, settings)
    named = Method.of(settings)
    if named.m == 0:
        raise BadInput(f"{method!r} trains no prompt, so PEFT's prompt tuning cannot hold it; choose another method")
    if settings.deep:
        raise BadInput("PEFT's prompt tuning enters the first layer only; leave deep out, or train with softprompt")
    if settings.regularizer:
        raise BadInput(
            f"a regulariser belongs to the loss; give RegularizedLoss({settings.regularizer!r}) to the Trainer"
        )
    settings = named.resolved(settings)
    words = WordScale.of(table)
    start = _initializer(init, tokenizer, settings, words, named)
    trainable = TrainablePrompt.build(settings, start, table, None, words)
    if trainable.is_random:
        raise BadInput("PEFT stores a prompt in training mode, with a draw of its dropout; leave the dropout out")
    return trainable


def _initializer(
    init: "str | SoftPrompt", tokenizer: Any, settings: PromptSettings, words: WordScale, method: Method
) -> Initializer:
    unit = words.rms if settings.units == "rms" else 1.0
    if isinstance(init, SoftPrompt):
        return initializers.divided(initializers.from_vectors(taken_from(init, method.m)), unit)
    initial = Initial(init)
    if initial.kind == "uniform":
        return initializers.uniform()
    if initial.kind == "vocabulary":
        return initializers.divided(initializers.from_vocabulary(), unit)
    if initial.kind == "text" and initial.argument:
        if tokenizer is None:
            raise BadInput(f"init={init!r} needs the tokens of these words; give the tokenizer")
        ids = tokenizer(initial.argument, add_special_tokens=False)["input_ids"]
        return initializers.divided(initializers.from_tokens(ids), unit)
    raise UnknownName("initialiser", init, STARTS)
