"""A baked model: the base model with the prompt as new tokens, which any program runs without prompt code.

The prompt's vectors are new rows of the input embeddings. The tokenizer's chat template writes the new tokens, the
instruction, the template of the task and its cue around a user's message.

A new token must never be an answer. Where input and output share a table they are separated first, or the vectors
would be output rows, too, and their large norms would win. Each new output row is then the mean of all old rows. Its
logit is the mean of the old logits, so it is never above their maximum, and no new token has a probability above 1/v.
`generation_config.json` also suppresses the new tokens, for programs that read it.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones import AbstractBackbone
from ..errors import CannotExport
from ..prompts.prompt import SoftPrompt
from ._card import Spread, card
from ._decoder import InputFormat, decoder_for, input_format
from ._place import building
from .embeds import plain

TOKEN = "<|softprompt_{}|>"

LOAD = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".").eval()
messages = [{"role": "user", "content": "a text"}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
answers = model.generate(**inputs, max_new_tokens={new_tokens}, {greedy})
print(tokenizer.decode(answers[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
"""


def export_baked(
    prompt: SoftPrompt,
    folder: "str | Path",
    *,
    model: "str | Path | AbstractBackbone | None" = None,
    licence: str = "other",
    spread: "Spread | None" = None,
) -> Path:
    """Write a model folder of transformers whose chat template puts the prompt before a text.

    vLLM serves the folder as it is, by its chat endpoint. llama.cpp converts it as any model of its architecture.

    Args:
        prompt: a prompt of a decoder, not a deep one.
        folder: where; an empty folder is taken.
        model: the frozen model; None loads the one that the prompt names. A loaded one is not changed.
        licence: an identifier of the hub.
        spread: scores over seeds.

    Raises:
        CannotExport: no decoder, a deep prompt, a task of several columns, a model in int8 or with adapters, or a
            tokenizer that does not write the input anew as it is.
        BadInput: the folder exists.
    """
    prompt = plain(prompt)
    backbone = decoder_for(prompt, model, "a baked model")
    _refuse_other_layers(backbone)
    form = input_format(prompt, backbone)
    tokens = [TOKEN.format(number) for number in range(prompt.length)]
    readme = card(
        prompt,
        title="A language model with a soft prompt inside",
        sentence="Its prompt is new tokens, which the chat template writes. It needs transformers alone.",
        load=LOAD,
        licence=licence,
        spread=spread,
    )
    with building(folder, "the baked model") as place:
        tokenizer = _tokenizer(backbone, place, tokens, form)
        whole = copy.deepcopy(backbone.model)
        _put_rows(whole, prompt, tokenizer.convert_tokens_to_ids(tokens))
        whole.save_pretrained(place)
        tokenizer.save_pretrained(place)
        (place / "README.md").write_text(readme, encoding="utf-8")
    return Path(folder).absolute()


def _put_rows(model: Any, prompt: SoftPrompt, ids: "list[int]") -> None:
    """Write the vectors as rows of the input, and rows that are never chosen into the output."""
    old = model.get_input_embeddings().weight.shape[0]
    size = max(old, max(ids) + 1)
    head = model.get_output_embeddings()
    # Rows beyond the vocabulary that a checkpoint brings are not answers, and may hold anything.
    kept = torch.ones(size, dtype=torch.bool)
    kept[ids] = False
    kept[old:] = False
    if head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr():
        _untie(model)
    model.resize_token_embeddings(size, mean_resizing=False)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    with torch.no_grad():
        # Gemma's embedding module multiplies what it looks up.
        scale = float(getattr(embeddings, "embed_scale", 1.0))
        rows = (prompt.expanded().to(embeddings.weight.device) / scale).to(embeddings.weight.dtype)
        embeddings.weight[torch.tensor(ids)] = rows
        head.weight[~kept] = _mean(head.weight, kept)
        if head.bias is not None:
            head.bias[~kept] = _mean(head.bias, kept)
    # Programs that read the generation configuration leave them out altogether.
    suppressed = list(model.generation_config.suppress_tokens or [])
    model.generation_config.suppress_tokens = sorted({*suppressed, *ids})


def _mean(table: Tensor, kept: Tensor) -> Tensor:
    return table[kept].double().mean(0).to(table.dtype)


def _untie(model: Any) -> None:
    """Give the output a table of its own with the same numbers."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        config.tie_word_embeddings = False
    # The list of tied names would tie them again where they are loaded or resized.
    model._tied_weights_keys = None
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}


def _quoted(text: str) -> str:
    """A text as Jinja reads it, which takes the two halves of an escaped emoji for two characters."""
    return json.dumps(text, ensure_ascii=False)


def _refuse_other_layers(backbone: AbstractBackbone) -> None:
    """Refuse layers whose weights transformers does not write under the names that it reads.

    Raises:
        CannotExport: the model is in int8, or stands inside PEFT's adapters.
    """
    adapted = next((m for m in backbone.model.modules() if type(m).__module__.startswith("peft.")), None)
    if backbone.quantize is not None or adapted is not None:
        what = "is in int8" if adapted is None else f"has layers of PEFT ({type(adapted).__name__})"
        raise CannotExport(
            f"{backbone.name!r} {what}, which a baked folder cannot hold; load it plain, adapters merged"
        )


def _tokenizer(backbone: AbstractBackbone, folder: Path, tokens: "list[str]", form: InputFormat) -> Any:
    """A copy of the tokenizer with the new tokens and a chat template that writes them.

    Raises:
        CannotExport: what the template writes does not have the ids that the prompt was trained with.
    """
    from transformers import AutoTokenizer

    backbone.tokenizer.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(tokens, special_tokens=True)
    begins = _special(backbone) if form.special else ""
    before = _without(form, backbone, begins + form.before)
    tokenizer.chat_template = (
        "{{ " + _quoted("".join(tokens) + before) + " + messages[-1]['content'] + " + _quoted(form.after) + " }}"
    )
    for text in ("a", "The film", "7 days"):
        made = tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=True, return_dict=False)
        whole = backbone.tokenizer(form.before + text + form.after, add_special_tokens=form.special)["input_ids"]
        whole = whole[len(form.skipped) : len(whole) - form.ends]
        if list(made) != [*tokenizer.convert_tokens_to_ids(tokens), *whole]:
            raise CannotExport(
                f"the tokenizer of {backbone.name!r} reads a text after new tokens otherwise than at the start of an "
                "input; export the embeddings or the cache instead"
            )
    return tokenizer


def _special(backbone: AbstractBackbone) -> str:
    """The special tokens that the tokenizer puts before a text, as text."""
    tokenizer = backbone.tokenizer
    plain_ids = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(ids)) if ids[i : i + len(plain_ids)] == plain_ids)
    return "".join(tokenizer.convert_ids_to_tokens(ids[:start]))


def _without(form: InputFormat, backbone: AbstractBackbone, text: str) -> str:
    """The text before a row without the words that the prompt itself stands for."""
    if not form.skipped:
        return text
    words = backbone.tokenizer.decode(list(form.skipped))
    if not text.startswith(words):
        raise CannotExport("the words that this prompt begins as cannot be cut out of its task's text; save it instead")
    return text.removeprefix(words)
