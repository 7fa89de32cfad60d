"""A loaded Hugging Face model with a prompt before its input: `forward` and `generate` with all their arguments."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..backbones._base import identity_of, refuse_another_model
from ..backbones._family import first_position, kind_of, position_limit, unwrapped
from ..backbones._join import Joined, join, refuse_too_long, take, text_first
from ..errors import BadInput, UnsupportedModel
from ..prompt import SoftPrompt

# Fields of transformers' outputs that run over input positions, and the axes that do.
_ENCODER = {"last_hidden_state": (1,), "hidden_states": (1,), "attentions": (2, 3)}
_ENCODER_DECODER = {f"encoder_{field}": axes for field, axes in _ENCODER.items()} | {"cross_attentions": (3,)}


def attach(prompt: SoftPrompt, model: nn.Module) -> "AbstractPromptedModel":
    """The model with the prompt before its input; its weights, mode and device stay as they are.

    A linear head of the prompt is not attached: the model answers with whatever head it has.

    Args:
        prompt: goes with the model's word embeddings, checked by their hash.
        model: an encoder-decoder or encoder that transformers loaded, also wrapped by PEFT.

    Raises:
        ModelMismatch: the prompt was trained for another model.
        UnsupportedModel: decoder-only, or a family that is not supported.
    """
    inner: Any = unwrapped(model)
    name = inner.config._name_or_path or type(inner).__name__
    kind = kind_of(inner.config, name)
    refuse_another_model(prompt, identity_of(inner.get_input_embeddings().weight, name, kind))
    return (PromptedEncoder if kind == "encoder" else PromptedEncoderDecoder)(inner, prompt, name)


class AbstractPromptedModel(nn.Module, abc.ABC):
    """A model whose every input begins with the prompt and whose outputs never hold a prompt position.

    Outputs are laid out as the input was, padded on the same side; a pad holds a copy of a text position's state
    (the first of the row where it was padded left, so that a head reading index 0 finds [CLS] there). Anything
    else (config, device, generation_config ...) is the model's.

    Args:
        model: the transformers model.
        prompt: its prompt.
        name: for messages.
    """

    model: Any
    prompt: Tensor

    def __init__(self, model: nn.Module, prompt: SoftPrompt, name: str):
        super().__init__()
        self.model = model
        self.name = name
        self.register_buffer("prompt", prompt.expanded().to(self.model.get_input_embeddings().weight.device))
        # So that .train() or .eval() on this module later finds the mode that the model is in.
        self.training = model.training

    def __getattr__(self, name: str) -> Any:
        """What is not ours is the model's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    @abc.abstractmethod
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own forward, without prompt positions in the output."""

    @abc.abstractmethod
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own generate."""

    def _join(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Joined, Bool[Tensor, "b t"]]:
        """Prompt and text side by side, and the text's mask as the caller laid it out."""
        if (input_ids is None) == (inputs_embeds is None):
            raise BadInput("give input_ids or inputs_embeds, one of the two")
        text = self.model.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        if attention_mask is not None:
            mask = attention_mask.bool()
        order = text_first(mask)
        rows = self.prompt.to(text.device).expand(len(text), -1, -1)
        present = mask.new_ones(rows.shape[:2])
        joined = join(rows, present, take(text, order), mask.gather(1, order))
        refuse_too_long(joined, position_limit(self.model), self.name)
        return joined, mask

    def _columns(self, mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """For each position of the caller's layout, the column of prompt and text that holds it."""
        return len(self.prompt) + (mask.cumsum(1) - 1).clamp(min=0)


@final
class PromptedEncoderDecoder(AbstractPromptedModel):
    """The prompt before the encoder's input; the decoder attends to it and its outputs are the model's own."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own forward; encoder states and cross-attentions are those of the text."""
        _refuse(options, "encoder_outputs", "they hold no prompt; give input_ids or inputs_embeds")
        joined, mask = self._join(input_ids, attention_mask, inputs_embeds)
        output = self.model(inputs_embeds=joined.embeds, attention_mask=joined.mask.long(), return_dict=True, **options)
        return _as_asked(_without_prompt(output, _ENCODER_DECODER, self._columns(mask)), return_dict, self.model)

    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own generate, beams and sampling included."""
        _refuse(options, "encoder_outputs", "they hold no prompt; give input_ids or inputs_embeds")
        with torch.no_grad():
            joined, mask = self._join(inputs if input_ids is None else input_ids, attention_mask, inputs_embeds)
        output = self.model.generate(inputs_embeds=joined.embeds, attention_mask=joined.mask.long(), **options)
        return output if isinstance(output, Tensor) else _without_prompt(output, _ENCODER_DECODER, self._columns(mask))


@final
class PromptedEncoder(AbstractPromptedModel):
    """The prompt before [CLS]. Heads see the text's states only, a pooler its first."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own forward; labels are laid out as the input is."""
        _refuse(options, "position_ids", "they are counted over prompt and text; leave them out")
        joined, mask = self._join(input_ids, attention_mask, inputs_embeds)
        if (types := options.get("token_type_ids")) is not None:
            own = types.new_zeros(len(types), len(self.prompt))
            options["token_type_ids"] = torch.cat([own, types.gather(1, text_first(mask))], 1)
        base: Any = getattr(self.model, "base_model", self.model)
        columns = self._columns(mask)

        def keep_the_text(module: Any, arguments: Any, output: Any) -> Any:
            output = _without_prompt(output, _ENCODER, columns)
            if output.get("pooler_output") is not None:
                output.pooler_output = _pooled(base, output.last_hidden_state, mask)
            return output

        # Between encoder and head: every head, loss and label then works as without a prompt.
        with base.register_forward_hook(keep_the_text):
            output = self.model(
                inputs_embeds=joined.embeds, attention_mask=joined.mask.long(),
                position_ids=joined.positions + first_position(self.model), return_dict=True, **options,
            )  # fmt: skip
        return _as_asked(output, return_dict, self.model)

    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Nothing: an encoder has no decoder."""
        raise UnsupportedModel(f"{self.name!r} is an encoder and generates nothing; call it for its states or logits")


def _without_prompt(output: Any, axes: Mapping[str, Sequence[int]], columns: Int[Tensor, "b t"]) -> Any:
    """An output of transformers with these fields restricted to the text, in the caller's layout."""
    for field in axes:
        if output.get(field) is not None:
            setattr(output, field, _restricted(output[field], columns, axes[field]))
    return output


def _restricted(states: Any, columns: Int[Tensor, "b t"], axes: Sequence[int]) -> Any:
    """States at these columns; tuples (layers, generation steps) one by one."""
    if isinstance(states, tuple):
        return tuple(_restricted(one, columns, axes) for one in states)
    if states is None:
        return None
    # Beams multiply the rows.
    index = columns.repeat_interleave(states.shape[0] // columns.shape[0], 0)
    for axis in axes:
        shape = [1] * states.ndim
        shape[0], shape[axis] = index.shape
        states = states.take_along_dim(index.view(shape), axis)
    return states


def _pooled(base: Any, states: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """The pooler's output for the first text position of each row."""
    first = take(states, mask.int().argmax(1, keepdim=True))
    if isinstance(base.pooler, nn.Linear):
        # ALBERT's activation stands beside its pooler, not in it.
        return base.pooler_activation(base.pooler(first[:, 0]))
    return base.pooler(first)


def _refuse(options: dict[str, Any], name: str, reason: str) -> None:
    """Refuse an argument that would give a wrong answer quietly."""
    if options.get(name) is not None:
        raise BadInput(f"{name} cannot be given to a model with a prompt: {reason}")


def _as_asked(output: Any, return_dict: bool | None, model: Any) -> Any:
    """An output object, or a tuple where the caller or the configuration asks for one."""
    wanted = model.config.return_dict if return_dict is None else return_dict
    return output if wanted else output.to_tuple()
