"""A model with a prompt before its input: what all kinds share, and the kinds whose encoder reads the prompt."""

import abc
import dataclasses
import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..backbones.deep import Fresh, entering, layers_of
from ..backbones.family import (
    embedded,
    first_position,
    kind_of,
    limit_reason,
    position_limit,
    reading_module,
    unwrapped,
)
from ..backbones.join import Joined, join, refuse_too_long, take, text_first
from ..errors import BadInput, UnsupportedModel
from ..prompts.prompt import SoftPrompt
from ._text_only import ENCODER, ENCODER_DECODER, without_prompt


@dataclass(frozen=True)
class Given:
    """The input that a caller gives: ids or embeddings, and their mask.

    Args:
        ids: of the tokens.
        mask: 1 or True where there is text; None is everywhere.
        embeds: in the place of ids.
    """

    ids: Int[Tensor, "b t"] | None
    mask: Tensor | None
    embeds: Float[Tensor, "b t e"] | None

    def embedded(self, model: Any) -> Float[Tensor, "b t e"]:
        """The embeddings; ids are embedded by the model.

        Raises:
            BadInput: both or neither were given.
        """
        if self.ids is not None and self.embeds is None:
            return embedded(model, self.ids)
        if self.embeds is not None and self.ids is None:
            return self.embeds
        raise BadInput("give input_ids or inputs_embeds, one of the two")

    def present(self, rows: int, columns: int, device: torch.device) -> Bool[Tensor, "b s"]:
        """The mask; if none was given, ones of this shape."""
        return torch.ones(rows, columns, dtype=torch.bool, device=device) if self.mask is None else self.mask.bool()


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
    # Vectors of the layers after the first; None for an ordinary prompt.
    deep: Tensor | None

    def __init__(self, model: nn.Module, prompt: SoftPrompt, name: str):
        super().__init__()
        self.model = model
        self.name = name
        place = self.model.get_input_embeddings().weight.device
        deep = prompt.expanded_deep()
        self.register_buffer("prompt", prompt.expanded().to(place))
        self.register_buffer("deep", None if deep is None else deep.to(place))
        # This module starts in the model's mode, so that a later .train() or .eval() works from it.
        self.training = model.training

    def __getattr__(self, name: str) -> Any:
        """Take every other attribute from the model."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("model"), name)

    @final
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own forward, without prompt positions in the output; labels are laid out as the input is.

        An encoder's head sees the text's states only, a pooler its first; encoder states and cross-attentions are those
        of the text. The loss of a decoder counts the first text token too, which follows the prompt.

        Raises:
            BadInput: an argument would give a wrong answer without a message.
        """
        output = self._called(Given(input_ids, attention_mask, inputs_embeds), options)
        # The caller or the configuration may ask for a tuple.
        wanted = self.model.config.return_dict if return_dict is None else return_dict
        return output if wanted else output.to_tuple()

    @final
    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own generate, beams and sampling included.

        A decoder gives input ids, then new ids; given embeddings, the new ids alone. Penalties see the text and the
        answer, never the prompt.

        Raises:
            BadInput: as in forward.
            UnsupportedModel: an encoder.
        """
        ids = inputs if input_ids is None else input_ids
        return self._generated(Given(ids, attention_mask, inputs_embeds), options)

    @abc.abstractmethod
    def _called(self, given: Given, options: dict[str, Any]) -> Any:
        """The output of forward, as an object."""

    @abc.abstractmethod
    def _generated(self, given: Given, options: dict[str, Any]) -> Any:
        """The output of generate."""

    def _join(self, given: Given) -> tuple[Joined, Bool[Tensor, "b t"]]:
        """Prompt and text side by side, and the text's mask as the caller laid it out."""
        text = given.embedded(self.model)
        mask = given.present(text.shape[0], text.shape[1], text.device)
        order = text_first(mask)
        rows = self.prompt.to(text.device).expand(len(text), -1, -1)
        present = mask.new_ones(rows.shape[:2])
        joined = join(rows, present, take(text, order), mask.gather(1, order))
        refuse_too_long(joined, position_limit(self.model), self.name, why=limit_reason(self.model))
        return dataclasses.replace(joined, fresh=self._fresh(*text.shape[:2])), mask

    def _fresh(self, rows: int, text: int) -> Fresh | None:
        """What enters the layers after the first, for so many rows and columns of text."""
        if self.deep is None:
            return None
        places = torch.arange(len(self.prompt), device=self.deep.device).expand(rows, -1)
        return Fresh(self.deep[None], places.new_zeros(rows), places).with_more(text)

    def _entering(self, joined: Joined) -> AbstractContextManager[None]:
        """During the `with` block, the first pass reads a deep prompt's vectors for the layers after the first."""
        if joined.fresh is None:
            return nullcontext()
        # With gradient checkpointing transformers recomputes a layer later, when these hooks are gone.
        if self.model.training and any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()):
            raise BadInput("layers that are recomputed would lose the deep prompt; turn gradient checkpointing off")
        stack = reading_module(self.model, kind_of(self.model.config, self.name))
        return entering(layers_of(stack, self.name, self.prompt.shape[1]), joined.fresh, self.name)

    def _columns(self, mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """For each position of the caller's layout, the column of prompt and text that holds it."""
        return len(self.prompt) + (mask.cumsum(1) - 1).clamp(min=0)


def refuse_prompted(model: nn.Module) -> None:
    """Refuse a model before whose inputs a prompt stands, of ours or of PEFT.

    Raises:
        BadInput: of ours.
        UnsupportedModel: of PEFT.
    """
    inner = unwrapped(model)
    # A classifier holds the encoder with the prompt.
    if isinstance(getattr(inner, "prompted", inner), AbstractPromptedModel):
        raise BadInput("this model has a prompt already; give the model without it")


@final
class PromptedEncoderDecoder(AbstractPromptedModel):
    """The prompt before the encoder's input; the decoder attends to it and its outputs are the model's own."""

    def _called(self, given: Given, options: dict[str, Any]) -> Any:
        refuse(options, "encoder_outputs", "they hold no prompt; give input_ids or inputs_embeds")
        joined, mask = self._join(given)
        with self._entering(joined):
            output = self.model(
                inputs_embeds=joined.embeds, attention_mask=joined.mask.long(), return_dict=True, **options
            )
        return without_prompt(output, ENCODER_DECODER, self._columns(mask))

    def _generated(self, given: Given, options: dict[str, Any]) -> Any:
        refuse(options, "encoder_outputs", "they hold no prompt; give input_ids or inputs_embeds")
        with torch.no_grad():
            joined, mask = self._join(given)
        with self._entering(joined):
            output = self.model.generate(inputs_embeds=joined.embeds, attention_mask=joined.mask.long(), **options)
        return output if isinstance(output, Tensor) else without_prompt(output, ENCODER_DECODER, self._columns(mask))


@final
class PromptedEncoder(AbstractPromptedModel):
    """The prompt before [CLS]. Heads see the text's states only, a pooler its first."""

    def _called(self, given: Given, options: dict[str, Any]) -> Any:
        refuse(options, "position_ids", "they are counted over prompt and text; leave them out")
        joined, mask = self._join(given)
        base = reading_module(self.model, "encoder")
        columns = self._columns(mask)

        def put_the_prompt(module: Any, arguments: Any, named: dict[str, Any]) -> Any:
            return (), self._with_prompt(module, arguments, named, joined, mask)

        def keep_the_text(module: Any, arguments: Any, output: Any) -> Any:
            output = without_prompt(output, ENCODER, columns)
            if output.get("pooler_output") is not None:
                output.pooler_output = _pooled(base, output.last_hidden_state, mask)
            return output

        # The prompt enters at the encoder, so that heads, their pooling and losses work as without a prompt.
        before = base.register_forward_pre_hook(put_the_prompt, with_kwargs=True)
        with before, base.register_forward_hook(keep_the_text), self._entering(joined):
            return self.model(
                input_ids=given.ids, inputs_embeds=given.embeds, attention_mask=given.mask, return_dict=True, **options
            )

    def _with_prompt(
        self, base: Any, arguments: Any, named: dict[str, Any], joined: Joined, mask: Bool[Tensor, "b t"]
    ) -> dict[str, Any]:
        """The encoder's arguments with the prompt before the text; arguments that mark tokens are 0 there."""
        parameters = inspect.signature(base.forward).parameters
        named = {**dict(zip(parameters, arguments, strict=False)), **named}
        for name, value in named.items():
            if isinstance(value, Tensor) and value.shape == mask.shape and not value.is_floating_point():
                marks = value.new_zeros(len(value), len(self.prompt))
                named[name] = torch.cat([marks, value.gather(1, text_first(mask))], 1)
        named |= {"input_ids": None, "inputs_embeds": joined.embeds, "attention_mask": joined.mask.long()}
        if "position_ids" in parameters:
            named["position_ids"] = joined.positions + first_position(self.model)
        return named

    def _generated(self, given: Given, options: dict[str, Any]) -> Any:
        raise UnsupportedModel(f"{self.name!r} is an encoder and generates nothing; call it for its states or logits")


def _pooled(base: Any, states: Float[Tensor, "b t d"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b d"]:
    """The pooler's output for the first text position of each row."""
    first = take(states, mask.int().argmax(1, keepdim=True))
    if isinstance(base.pooler, nn.Linear):
        # ALBERT and BigBird keep the activation outside of the pooler.
        activation = base.pooler_activation if hasattr(base, "pooler_activation") else base.activation
        return activation(base.pooler(first[:, 0]))
    return base.pooler(first)


def refuse(options: dict[str, Any], name: str, reason: str) -> None:
    """Refuse an argument that would give a wrong answer without a message."""
    if options.get(name) is not None:
        raise BadInput(f"{name} cannot be given to a model with a prompt: {reason}")
