"""The README of an exported prompt: how to use it with transformers and PEFT alone."""

from collections.abc import Mapping
from typing import Any

from ..backbones.decoder import ANSWER_CUE
from ..builtin import BUILT_IN
from ..builtin.packaged import PACKAGED
from ..documents import in_markdown
from ..inference.scoring import Scoring
from ..prompts.prompt import SoftPrompt
from ..tasks import template_shown
from .card import GREEDY, facts, front_matter, how_it_chooses, how_long_texts_are

MODEL_CLASSES = {
    ("encoder-decoder", "tokens"): "AutoModelForSeq2SeqLM",
    ("decoder", "tokens"): "AutoModelForCausalLM",
    ("decoder", "chat"): "AutoModelForCausalLM",
    ("encoder", "label-words"): "AutoModelForMaskedLM",
    ("encoder", "linear-head"): "AutoModel",
}

# PEFT puts the prompt before the padded text, so the prompt is next to the text only if the pads are after it.
LOAD = """\
{imports}
tokenizer = AutoTokenizer.from_pretrained({source})
model = PeftModel.from_pretrained({model_class}.from_pretrained({source}), ".").eval()
texts = tokenizer([{text}], padding=True, padding_side="right", {special}return_tensors="pt")
inputs = {{"input_ids": texts.input_ids{held}, "attention_mask": texts.attention_mask{held}}}
"""

GENERATE = """\
answers = model.generate(**inputs, max_new_tokens={new_tokens}, num_beams=1, {greedy})
print(tokenizer.batch_decode(answers, skip_special_tokens=True))
"""

LABEL_WORDS = """\
words = [tokenizer(f" {{word}}", add_special_tokens=False).input_ids[0] for word in {labels}]
with torch.no_grad():
    logits = model(**inputs).logits[:, {n}:]  # without the prompt positions
scores = logits[inputs["input_ids"] == tokenizer.mask_token_id].log_softmax(-1)[:, words]
print(scores)
"""

LINEAR_HEAD = """\
head = load_file("head.safetensors")
with torch.no_grad():
    states = model(**inputs).last_hidden_state[:, {n}:]  # without the prompt positions
mask = texts.attention_mask[:, :, None]
pooled = (states * mask).sum(1) / mask.sum(1)
scores = pooled @ head["weight"].T + head["bias"]
print(scores)
"""

BODIES = {"tokens": GENERATE, "chat": GENERATE, "label-words": LABEL_WORDS, "linear-head": LINEAR_HEAD}

BUILT_IN_MODEL = "The model comes with softprompt; before the first use, here: `softprompt lab copy {name} {name}`."

PACKAGED_MODEL = (
    "The model is one that softprompt finds in a package; before the first use, here: "
    '`ln -s "$(python -c "from softprompt.backbones import source_of; print(source_of(\'{name}\'))")" {name}`.'
)

PADDING_CAVEAT = """
Stock PEFT counts positions wrongly when the texts of a batch are padded on the left, as for generation with a decoder
(peft#54, peft#1093): its answers then differ from softprompt's. Give one text at a time.
"""


def where_it_is(model: str) -> list[str]:
    """How a model that no hub has is put where the recipe looks for it."""
    sentence = BUILT_IN_MODEL if model in BUILT_IN else PACKAGED_MODEL if model in PACKAGED else None
    return [sentence.format(name=model), ""] if sentence else []


def readme(prompt: SoftPrompt, *, licence: str = "other", spread: object = None) -> str:
    """A description of the folder, a recipe that runs inside it, and the cases in which its numbers differ.

    Args:
        prompt: what is exported.
        licence: an identifier of the hub.
        spread: scores over seeds in words, or None.
    """
    provenance, task = prompt.provenance, prompt.provenance.task or {}
    lines = [
        *front_matter(prompt, licence),
        f"# A soft prompt of {prompt.length} vectors for `{in_markdown(provenance.backbone.name)}`",
        "",
        f"Trained by softprompt ({in_markdown(provenance.method)}); all about it is in `softprompt.json`. "
        "It needs transformers, peft and safetensors, and runs in this folder.",
        "",
        *facts(prompt, licence, spread),
        "## Load",
        "",
        *where_it_is(provenance.backbone.name),
        f"```python\n{recipe(prompt)}```",
    ]
    if task:
        lines += ["", f"Texts of the task `{in_markdown(task.get('name'))}` are rendered by the template shown."]
    lines += [*how_long_texts_are(prompt), *how_it_chooses(prompt)]
    return "\n".join(lines) + "\n" + (PADDING_CAVEAT if provenance.backbone.kind == "decoder" else "")


def recipe(prompt: SoftPrompt) -> str:
    """About ten lines of Python that answer one text with this prompt and without our code."""
    provenance, task = prompt.provenance, prompt.provenance.task or {}
    answers = provenance.answers
    model_class = MODEL_CLASSES[provenance.backbone.kind, answers]
    values: dict[str, Any] = {
        **tokenizing(prompt),
        "imports": _imports(model_class, answers),
        "model_class": model_class,
        "labels": repr([str(label) for label in task.get("labels") or ["yes", "no"]]),
        "n": prompt.length,
        "greedy": GREEDY,
        "new_tokens": Scoring.of(prompt).max_new_tokens,
    }
    return (LOAD + BODIES[answers]).format(**values)


def tokenizing(prompt: SoftPrompt) -> dict[str, str]:
    """How a text becomes ids, as Python: the tokenizer's `source`, the `text`, `special` tokens, a cut (`held`)."""
    backbone, answers = prompt.provenance.backbone, prompt.provenance.answers
    task = prompt.provenance.task or {}
    return {
        "source": repr(backbone.name) + (f", revision={backbone.revision!r}" if backbone.revision else ""),
        "text": text_expression(task, backbone.kind, answers),
        # A chat template brings its own.
        "special": "add_special_tokens=False, " if answers == "chat" else "",
        # The prompt begins as these words, in their place.
        "held": f"[:, {len(ids)}:]" if (ids := task.get("opening_ids")) else "",
    }


def _imports(model_class: str, answers: str) -> str:
    lines = ["from peft import PeftModel", f"from transformers import {model_class}, AutoTokenizer", ""]
    if answers == "linear-head":
        lines.insert(1, "from safetensors.torch import load_file")
    if answers not in ("tokens", "chat"):
        lines.insert(0, "import torch")
    return "\n".join(lines)


def text_expression(task: Mapping[str, Any], kind: str, answers: str) -> str:
    """What the tokenizer is given for a row, as an expression: instruction, template and cue."""
    instruction, cue = task.get("instruction"), task.get("cue")
    before, *behind = template_shown(task.get("template") or "a text")
    if instruction:
        before = f"{instruction}\n{before}"
    if kind == "decoder" and answers != "chat" and cue is None:
        cue = ANSWER_CUE
    if behind and answers == "label-words":
        return f"{before!r} + tokenizer.mask_token + {behind[0]!r}"
    text = "{mask}".join([before, *behind]) if behind else before + (cue or "")
    if answers == "chat":
        turn = f'[{{"role": "user", "content": {text!r}}}]'
        return f"tokenizer.apply_chat_template({turn}, tokenize=False, add_generation_prompt=True)"
    return f'{text!r} + f" {{tokenizer.mask_token}}"' if answers == "label-words" else repr(text)
