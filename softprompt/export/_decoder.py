"""What the exports of a decoder share: the model, and how the text of a task is written before it is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from ..backbones import AbstractBackbone, DecoderBackbone
from ..errors import CannotExport
from ..inference.asked import task_of
from ..inference.in_context import encoded
from ..inference.prompt_model import backbone_of, model_for
from ..prompts.prompt import SoftPrompt
from ..tasks import Task

# Texts whose first letters differ; what all of their inputs begin with is what every input begins with.
PROBES = ("a", "The film", "7 days", "Österreich", '"quoted"', "(in brackets)")


@final
@dataclass(frozen=True)
class InputFormat:
    """How a text is written before it is read, and the ids that every input begins with.

    Args:
        before: text before a row's own: what opens a chat, the instruction, the template up to its column.
        after: text after it: the rest of the template, the cue, what closes a turn.
        special: whether the tokenizer adds its own special tokens.
        skipped: ids at the beginning of an input that the prompt itself stands for.
        opening: ids that every input begins with, after the skipped ones.
        ends: number of ids that the tokenizer appends to end a sequence; an answer follows instead.
        max_length: tokens to which the prompt's task cuts an input, special tokens, `skipped` and `opening` included;
            None where it is not known. No export cuts.
    """

    before: str
    after: str
    special: bool
    skipped: Sequence[int]
    opening: Sequence[int] = ()
    ends: int = 0
    max_length: int | None = None

    def to_json(self, *, without: Sequence[str] = ()) -> dict[str, Any]:
        """The fields by name, as recipes read them, without those that a recipe has no use for."""
        return {name: value for name, value in vars(self).items() if name not in without}


def frozen_for(prompt: SoftPrompt, model: Any) -> AbstractBackbone:
    """The frozen model that a prompt is exported with, as its checkpoint is.

    Args:
        prompt: for the checkpoint's own embeddings.
        model: as in the exports; None loads the one that the prompt names.

    Raises:
        CannotExport: the model is loaded at another embedding scale.
        ModelMismatch: the prompt belongs to another model.
    """
    spec = model_for(prompt, model, {} if model is not None else {"engine": "reference"})
    if spec.embedding_scale != 1.0:
        raise CannotExport(
            f"{spec.name!r} is loaded at embedding scale {spec.embedding_scale:g}, and an export is for the checkpoint "
            "as it is; leave model out, or load it without embedding_scale"
        )
    return backbone_of(prompt, spec)


def decoder_for(prompt: SoftPrompt, model: Any, what: str) -> DecoderBackbone:
    """The frozen decoder of a prompt.

    Raises:
        CannotExport: the model is no decoder, or the prompt has no vectors; and as in `frozen_for`.
        ModelMismatch: the prompt belongs to another model.
    """
    if prompt.length == 0 or prompt.provenance.backbone.kind != "decoder":
        raise CannotExport(f"{what} is for prompts of decoders, this one is for {prompt.provenance.backbone.kind!r}")
    backbone = frozen_for(prompt, model)
    assert isinstance(backbone, DecoderBackbone)
    return backbone


def input_format(prompt: SoftPrompt, backbone: AbstractBackbone) -> InputFormat:
    """How the prompt's task writes a text; a prompt without a task reads texts as they are.

    Raises:
        CannotExport: the task reads several columns.
    """
    task = task_of(prompt, None, None) if prompt.provenance.task else None
    before, after = _around(task, backbone) if task else (backbone.input_prefix, "")
    skipped = tuple(task.opening_ids) if task else ()
    rows = encoded(backbone, [before + text + after for text in PROBES])
    shared = 0
    while all(len(row) > shared and row[shared] == rows[0][shared] for row in rows):
        shared += 1
    if tuple(rows[0][: len(skipped)]) != skipped:
        raise CannotExport("the words that this prompt begins as are not those that its task begins with")
    ends = int(backbone.special_tokens and all(row[-1] == backbone.tokenizer.eos_token_id for row in rows))
    opening, longest = tuple(rows[0][len(skipped) : shared]), task.max_length if task else None
    return InputFormat(before, after, backbone.special_tokens, skipped, opening, ends, longest)


def _around(task: Task, backbone: AbstractBackbone) -> tuple[str, str]:
    if len(task.columns) != 1:
        columns = ", ".join(map(repr, task.columns))
        raise CannotExport(f"task {task.name!r} reads several columns ({columns}), this format one text; save it")
    # For private use: no text holds it, and it is no control character, which rows may not have.
    mark = "\ue000"
    text = backbone.input_prefix + task.opening + task.render({task.columns[0]: mark}).text + backbone.suffix(task.cue)
    before, mark_in_text, after = text.partition(mark)
    if not mark_in_text or mark in after:
        raise CannotExport(f"the template of task {task.name!r} does not hold its column as it is; save the prompt")
    return before, after
