"""A decoder with a prompt before its text, whichever side its rows are padded on, with caches and generation."""

import copy
import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..backbones.family import generates_from_vectors, reading_module
from ..backbones.join import Joined, text_last
from ..errors import BadInput, UnsupportedModel
from ._prompted import AbstractPromptedModel, Given, refuse
from ._text_only import ENCODER, restricted, without_prompt


@final
class PromptedDecoder(AbstractPromptedModel):
    """The prompt before the text, after the pads; positions are counted over what is there.

    Rows may be padded on either side: the model always reads `[pads | prompt | text]`, so what it gives is what each
    row alone would give, and generation goes on right after the text. A cache holds the prompt; go on with
    `past_key_values`, the mask of all text so far (or none) and the new tokens only.
    """

    def _called(self, given: Given, options: dict[str, Any]) -> Any:
        refuse(options, "position_ids", "they are counted over prompt and text; leave them out")
        last = options.pop("logits_to_keep", 0)
        if not isinstance(last, int):
            raise BadInput("logits_to_keep has to be a number of last positions for a model with a prompt")
        cache = options.get("past_key_values")
        if cache is None or cache.get_seq_length() == 0:
            joined, mask, columns = self._first(given)
            embeds, seen, keys, within = joined.embeds, joined.mask, columns, self._entering(joined)
            if (labels := options.get("labels")) is not None and labels.shape == mask.shape:
                options["labels"] = _laid_out(labels, mask, len(self.prompt))
        else:
            embeds, seen, keys = self._next(given, cache.get_seq_length())
            columns = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
            # The cache already holds the deep prompt of every layer.
            within = nullcontext()
        # Read from the layers' arguments, because some heads pass on arguments that they do not name (Whisper).
        if "position_ids" in inspect.signature(reading_module(self.model, "decoder").forward).parameters:
            options["position_ids"] = (seen.cumsum(1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
        with within:
            output = self.model(inputs_embeds=embeds, attention_mask=seen.long(), return_dict=True, **options)
        output = _of_the_text(output, columns, keys)
        if last and output.get("logits") is not None:
            output.logits = output.logits[:, -last:]
        return output

    def _generated(self, given: Given, options: dict[str, Any]) -> Any:
        for name in ("past_key_values", "position_ids"):
            refuse(options, name, "generate makes its own, over prompt and text")
        if not generates_from_vectors(self.model):
            raise UnsupportedModel(
                f"generate of {self.name!r} (a {self.model.config.model_type}) takes no word vectors, so no prompt; "
                "use prompt.predict, or call the model for its logits"
            )
        if self.deep is not None:
            _refuse_no_cache(options, self.model)
        ids = given.ids
        with torch.no_grad():
            joined, mask, columns = self._first(given)
        if ids is not None:
            # Transformers counts the width differently for ids and for embeddings, so the count of new tokens is used.
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
            # In the caller's layout.
            copies = len(sequences) // len(ids)
            sequences = torch.cat([ids.repeat_interleave(copies, 0), sequences[:, ids.shape[1] :]], 1)
        if isinstance(output, Tensor):
            return sequences
        output.sequences = sequences
        for field in ("hidden_states", "attentions"):
            if output.get(field) is not None:
                setattr(output, field, _steps(output[field], field, columns, joined.embeds.shape[1]))
        return output

    def _first(self, given: Given) -> tuple[Joined, Bool[Tensor, "b t"], Int[Tensor, "b t"]]:
        """Pads, prompt and text; the caller's mask; and the column that holds each of the caller's positions."""
        joined, mask = self._join(given)
        return joined.in_order(text_last(joined.mask)), mask, self._behind_pads(mask)

    def _behind_pads(self, mask: Bool[Tensor, "b t"]) -> Int[Tensor, "b t"]:
        """For each position of the caller's layout, its column in `[pads | prompt | text]`."""
        pads = (~mask).sum(1, keepdim=True)
        return (pads + self._columns(mask)).clamp(max=len(self.prompt) + mask.shape[1] - 1)

    def _next(self, given: Given, past: int) -> tuple[Float[Tensor, "b k e"], Bool[Tensor, "b s"], Int[Tensor, "b t"]]:
        """New tokens after a cache, the mask over all that it and they hold, and the columns of all text so far."""
        embeds = given.embedded(self.model)
        rows, new, text = *embeds.shape[:2], past - len(self.prompt)
        mask = given.present(rows, text + new, embeds.device)
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
    """Labels where the model reads their text, right after the prompt, whose last vector predicts the first."""
    order = text_last(mask)
    text = labels.gather(1, order).masked_fill(~mask.gather(1, order), -100)
    return torch.cat([text.new_full((len(text), n), -100), text], 1)


def _of_the_text(output: Any, columns: Int[Tensor, "b k"], keys: Int[Tensor, "b t"]) -> Any:
    """An output restricted to the text in the caller's layout: its own positions, and those it looks back at."""
    # A classification head has one row of logits for each text.
    axes = {**ENCODER, **({"logits": (1,)} if output.get("logits") is not None and output.logits.ndim == 3 else {})}
    output = without_prompt(output, {**axes, "attentions": (2,)}, columns)
    return without_prompt(output, {"attentions": (3,)}, keys)


def _steps(steps: Any, field: str, columns: Int[Tensor, "b t"], width: int) -> Any:
    """States or attentions of each generation step: the first over the text, each other over one new token."""
    first = restricted(steps[0], columns, ENCODER[field])
    if field == "hidden_states":
        return (first, *steps[1:])
    rest = []
    for number, layers in enumerate(steps[1:], 1):
        new = torch.arange(width, width + number, device=columns.device).expand(len(columns), -1)
        rest.append(restricted(layers, torch.cat([columns, new], 1), (3,)))
    return (first, *rest)


def _refuse_no_cache(options: Mapping[str, Any], model: Any) -> None:
    """Refuse generation without a cache: it reads everything anew at each token, but a deep prompt enters only once."""
    config = options.get("generation_config") or model.generation_config
    if options.get("use_cache", config.use_cache) is False:
        raise BadInput("use_cache=False cannot be given to a model with a deep prompt: it enters once, then the cache")
