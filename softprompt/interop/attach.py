"""A loaded Hugging Face model with a prompt before its input: `forward` and `generate` with all their arguments."""

import abc
import copy
import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..backbones._base import identity_of, refuse_another_depth, refuse_another_model
from ..backbones._deep import Fresh, entering, layers_of
from ..backbones._family import first_position, kind_of, position_limit, refuse_lost_masks, unwrapped
from ..backbones._join import Joined, join, refuse_too_long, take, text_first, text_last
from ..errors import BadInput, UnsupportedModel
from ..prompt import SoftPrompt

# Fields of transformers' outputs that run over input positions, and the axes that do.
_ENCODER = {"last_hidden_state": (1,), "hidden_states": (1,), "attentions": (2, 3)}
_ENCODER_DECODER = {f"encoder_{field}": axes for field, axes in _ENCODER.items()} | {"cross_attentions": (3,)}


def attach(prompt: SoftPrompt, model: nn.Module) -> "AbstractPromptedModel":
    """The model with the prompt before its input; its weights, mode and device stay as they are.

    A linear head of the prompt is not attached: the model answers with whatever head it has.

    Args:
        prompt: goes with the model's word embeddings, checked by their hash; brought to their scale.
        model: an encoder-decoder, encoder or decoder that transformers loaded, also wrapped by PEFT.

    Raises:
        ModelMismatch: the prompt was trained for another model.
        UnsupportedModel: a family that is not supported, or one whose layers a deep prompt cannot enter.
    """
    inner: Any = unwrapped(model)
    name = inner.config._name_or_path or type(inner).__name__
    kind = kind_of(inner.config, name)
    ours = identity_of(inner, name, kind)
    prompt = prompt.at_scale(ours.embedding_scale)
    refuse_another_model(prompt, ours)
    if kind == "decoder":
        refuse_lost_masks(inner, name)
    if prompt.deep is not None:
        refuse_another_depth(prompt, layers_of(_stack(inner, kind), name, ours.embedding_size), name)
    kinds = {"encoder": PromptedEncoder, "encoder-decoder": PromptedEncoderDecoder, "decoder": PromptedDecoder}
    return kinds[kind](inner, prompt, name)


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
    # Of the layers after the first; None for an ordinary prompt.
    deep: Tensor | None

    def __init__(self, model: nn.Module, prompt: SoftPrompt, name: str):
        super().__init__()
        self.model = model
        self.name = name
        place = self.model.get_input_embeddings().weight.device
        deep = prompt.expanded_deep()
        self.register_buffer("prompt", prompt.expanded().to(place))
        self.register_buffer("deep", None if deep is None else deep.to(place))
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
        return dataclasses.replace(joined, fresh=self._fresh(*text.shape[:2])), mask

    def _fresh(self, rows: int, text: int) -> Fresh | None:
        """What enters the layers after the first, for so many rows and columns of text."""
        if self.deep is None:
            return None
        places = torch.arange(len(self.prompt), device=self.deep.device).expand(rows, -1)
        return Fresh(self.deep[None], places.new_zeros(rows), places).with_more(text)

    def _entering(self, joined: Joined) -> AbstractContextManager[None]:
        """Within, the first pass reads what a deep prompt has for the layers after the first."""
        if joined.fresh is None:
            return nullcontext()
        # Transformers' own switch recomputes a layer with its hooks, which are gone by then.
        if self.model.training and any(getattr(m, "gradient_checkpointing", False) for m in self.model.modules()):
            raise BadInput("layers that are recomputed would lose the deep prompt; turn gradient checkpointing off")
        stack = _stack(self.model, kind_of(self.model.config, self.name))
        return entering(layers_of(stack, self.name, self.prompt.shape[1]), joined.fresh, self.name)

    def _columns(self, mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """For each position of the caller's layout, the column of prompt and text that holds it."""
        return len(self.prompt) + (mask.cumsum(1) - 1).clamp(min=0)


def _stack(model: Any, kind: str) -> Any:
    """The module whose layers read prompt and text."""
    if kind == "encoder":
        return getattr(model, "base_model", model)
    return model.get_encoder() if kind == "encoder-decoder" else model.get_decoder()


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
        with self._entering(joined):
            output = self.model(
                inputs_embeds=joined.embeds, attention_mask=joined.mask.long(), return_dict=True, **options
            )
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
        with self._entering(joined):
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
        with base.register_forward_hook(keep_the_text), self._entering(joined):
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


@final
class PromptedDecoder(AbstractPromptedModel):
    """The prompt before the text, behind the pads; positions are counted over what is there.

    Rows may be padded on either side: the model always reads `[pads | prompt | text]`, so what it gives is what each
    row alone would give, and generation goes on right behind the text. A cache holds the prompt; go on with
    `past_key_values`, the mask of all text so far (or none) and the new tokens only.
    """

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **options: Any,
    ) -> Any:
        """As the model's own forward. The loss counts the first text token too, which follows the prompt."""
        _refuse(options, "position_ids", "they are counted over prompt and text; leave them out")
        last = options.pop("logits_to_keep", 0)
        if not isinstance(last, int):
            raise BadInput("logits_to_keep has to be a number of last positions for a model with a prompt")
        cache = options.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            joined, mask, columns = self._first(input_ids, attention_mask, inputs_embeds)
            embeds, seen, keys, within = joined.embeds, joined.mask, columns, self._entering(joined)
            if (labels := options.get("labels")) is not None and labels.shape == mask.shape:
                options["labels"] = _laid_out(labels, mask, len(self.prompt))
        else:
            embeds, seen, keys = self._next(input_ids, attention_mask, inputs_embeds, cache.get_seq_length())
            columns = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
            # The cache holds what a deep prompt was to every layer.
            within = nullcontext()
        if "position_ids" in inspect.signature(self.model.forward).parameters:
            options["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        with within:
            output = self.model(inputs_embeds=embeds, attention_mask=seen.long(), return_dict=True, **options)
        output = _of_the_text(output, columns, keys)
        if last and output.get("logits") is not None:
            output.logits = output.logits[:, -last:]
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
        """As the model's own generate, beams and sampling included: input ids, then new ids.

        Given embeddings, the new ids alone. Penalties see the text and the answer, never the prompt.
        """
        for name in ("past_key_values", "position_ids"):
            _refuse(options, name, "generate makes its own, over prompt and text")
        if self.deep is not None:
            _refuse_no_cache(options, self.model)
        ids = inputs if input_ids is None else input_ids
        with torch.no_grad():
            joined, mask, columns = self._first(ids, attention_mask, inputs_embeds)
        if ids is not None:
            # Which width transformers counts differs when it is given ids and embeddings; new tokens are new tokens.
            for bound in ("max", "min"):
                if (length := options.pop(f"{bound}_length", None)) is not None:
                    options.setdefault(f"{bound}_new_tokens", max(length - ids.shape[1], 0))
            if (config := options.get("generation_config")) is not None and config.max_new_tokens is None:
                options["generation_config"] = config = copy.deepcopy(config)
                config.max_new_tokens = None if config.max_length is None else config.max_length - ids.shape[1]
            options["input_ids"] = ids.gather(1, text_last(mask))
        with self._entering(joined):
            output = self.model.generate(inputs_embeds=joined.embeds, attention_mask=joined.mask.long(), **options)
        sequences = output if isinstance(output, Tensor) else output.sequences
        if ids is not None:
            # As the caller laid them out.
            copies = len(sequences) // len(ids)
            sequences = torch.cat([ids.repeat_interleave(copies, 0), sequences[:, ids.shape[1] :]], 1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        for field in ("hidden_states", "attentions"):
            if output.get(field) is not None:
                setattr(output, field, _steps(output[field], field, columns, joined.embeds.shape[1]))
        return output

    def _first(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None
    ) -> tuple[Joined, Bool[Tensor, "b t"], Int[Tensor, "b t"]]:
        """Pads, prompt and text; the caller's mask; and the column that holds each of the caller's positions."""
        joined, mask = self._join(input_ids, attention_mask, inputs_embeds)
        return joined.in_order(text_last(joined.mask)), mask, self._behind_pads(mask)

    def _behind_pads(self, mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """For each position of the caller's layout, its column in `[pads | prompt | text]`."""
        pads = (~mask).sum(1, keepdim=True)
        return (pads + self._columns(mask)).clamp(max=len(self.prompt) + mask.shape[1] - 1)

    def _next(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, inputs_embeds: Tensor | None, past: int
    ) -> tuple[Float[Tensor, "b k e"], Bool[Tensor, "b s"], Int[Tensor, "b t"]]:
        """New tokens behind a cache, the mask over all that it and they hold, and the columns of all text so far."""
        if (input_ids is None) == (inputs_embeds is None):
            raise BadInput("give input_ids or inputs_embeds, one of the two")
        embeds = self.model.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        rows, new, text = *embeds.shape[:2], past - len(self.prompt)
        mask = torch.ones(rows, text + new, dtype=torch.bool, device=embeds.device)
        if attention_mask is not None:
            mask = attention_mask.bool()
        if mask.shape[1] != text + new:
            raise BadInput(
                f"the mask has {mask.shape[1]} positions; the cache holds {text} of text and there are {new} new ones: "
                "give the mask of both, without the prompt"
            )
        before = mask[:, :text]
        columns = torch.arange(past + new, device=mask.device).expand(rows, -1)
        held = columns[:, :past] >= (~before).sum(1, keepdim=True)
        seen = torch.cat([held, mask[:, text:]], 1)
        return embeds, seen, torch.cat([self._behind_pads(before), columns[:, past:]], 1)


def _laid_out(labels: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"], n: int) -> Int[Tensor, "b s"]:
    """Labels where the model reads their text, right behind the prompt, whose last vector predicts the first."""
    order = text_last(mask)
    text = labels.gather(1, order).masked_fill(~mask.gather(1, order), -100)
    return torch.cat([text.new_full((len(text), n), -100), text], 1)


def _of_the_text(output: Any, columns: Int[Tensor, "b k"], keys: Int[Tensor, "b t"]) -> Any:
    """An output restricted to the text in the caller's layout: its own positions, and those it looks back at."""
    # A classification head has one row of logits a text.
    axes = {**_ENCODER, **({"logits": (1,)} if output.get("logits") is not None and output.logits.ndim == 3 else {})}
    output = _without_prompt(output, {**axes, "attentions": (2,)}, columns)
    return _without_prompt(output, {"attentions": (3,)}, keys)


def _steps(steps: Any, field: str, columns: Int[Tensor, "b t"], width: int) -> Any:
    """States or attentions of each generation step: the first over the text, each other over one new token."""
    first = _restricted(steps[0], columns, _ENCODER[field])
    if field == "hidden_states":
        return (first, *steps[1:])
    rest = []
    for number, layers in enumerate(steps[1:], 1):
        new = torch.arange(width, width + number, device=columns.device).expand(len(columns), -1)
        rest.append(_restricted(layers, torch.cat([columns, new], 1), (3,)))
    return (first, *rest)


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


def _refuse_no_cache(options: Mapping[str, Any], model: Any) -> None:
    """Refuse a generation that reads everything anew at each token, which a deep prompt would enter once."""
    config = options.get("generation_config") or model.generation_config
    if options.get("use_cache", config.use_cache) is False:
        raise BadInput("use_cache=False cannot be given to a model with a deep prompt: it enters once, then the cache")


def _as_asked(output: Any, return_dict: bool | None, model: Any) -> Any:
    """An output object, or a tuple where the caller or the configuration asks for one."""
    wanted = model.config.return_dict if return_dict is None else return_dict
    return output if wanted else output.to_tuple()
