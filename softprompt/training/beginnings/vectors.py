"""What the vectors of a prompt start from: the initialiser that its `init` names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...backbones import AbstractBackbone
from ...errors import BadInput
from ...initial import Initial
from ...prompts import initializers
from ...prompts.given import as_long_as, deep_taken_from, may_follow, taken_from
from ...prompts.initializers import Initializer
from ...prompts.prompt import SoftPrompt
from ...prompts.units import WordScale
from ...settings import PromptSettings
from ...tasks import Task
from .._run_data import RunData
from .sources import source_prompt


def at_source_length(prompt: PromptSettings) -> PromptSettings:
    """The prompt with as many vectors as the file or stored prompt has that it begins as, where nothing else says it.

    Of several source prompts that is the number of each, where they have one.

    Raises:
        BadInput: the file or a stored prompt cannot be read.
    """
    initial = prompt.initial
    if (initial.path is None and not prompt.sources) or not may_follow(prompt):
        return prompt
    given = [read_source(initial)] if initial.path is not None else map(SoftPrompt.load, prompt.sources)
    first, *others = (as_long_as(source, prompt) for source in given)
    return first if all(other == first for other in others) else prompt


def read_source(initial: Initial) -> SoftPrompt:
    """The file or the stored prompt that an `init` names, whatever model it is of.

    Raises:
        BadInput: it cannot be read.
    """
    if initial.kind == "prompt":
        return SoftPrompt.load(initial.argument)
    from ...interop.numpy import import_numpy

    return import_numpy(Path(initial.argument), backbone_name="")


def refuse_no_labels(task: Task) -> None:
    """Refuse to begin as label words where a task has none.

    Raises:
        BadInput: it has none.
    """
    if not task.labels:
        raise BadInput(f"--init=label-words: task {task.name!r} has no label words; choose another --init")


def refuse_layers(prompt: PromptSettings, source: SoftPrompt) -> None:
    """Refuse a deep prompt to start from where the prompt is not deep: it would lose most of it.

    Raises:
        BadInput: it is deep, and the prompt is not.
    """
    if source.deep is not None and not prompt.deep:
        raise BadInput(f"--init={prompt.init!r}: that prompt has vectors for {source.layers} layers; give --deep")


def initializer(initial: Initial, run_data: RunData, m: int, unit: float = 1.0) -> Initializer:
    """The initialiser that an `init` stands for.

    Args:
        initial: of the prompt's settings.
        run_data: backbone and task.
        m: vectors of the prompt.
        unit: of the prompt. Uniform vectors are drawn in it; real ones are divided by it, and so start as they are.

    Raises:
        UnknownName: no such initialiser.
        BadInput: the task has no label words, or the file cannot be read.
    """
    initial.refuse_unknown()
    if initial.kind in ("auto", "uniform") or initial.is_words:
        return initializers.uniform()
    return initializers.divided(_real_vectors(initial, run_data, m), unit)


def _real_vectors(initial: Initial, run_data: RunData, m: int) -> Initializer:
    tokenizer = run_data.backbone.tokenizer
    if initial.kind == "vocabulary":
        return initializers.from_vocabulary()
    if initial.kind == "label-words":
        refuse_no_labels(run_data.task)
        return initializers.from_label_words(_word_ids(tokenizer, run_data.task.labels))
    if initial.kind == "text":
        return initializers.from_tokens(_word_ids(tokenizer, [initial.argument])[0])
    return initializers.from_vectors(_vectors(initial, run_data.backbone, m))


def _word_ids(tokenizer: Any, words: Sequence[str]) -> list[list[int]]:
    ids = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    if not all(ids):
        raise BadInput(f"the tokenizer makes no token of {words[ids.index([])]!r}; initialise from other words")
    return ids


def _vectors(initial: Initial, backbone: AbstractBackbone, m: int) -> Tensor:
    if initial.kind == "prompt":
        return taken_from(source_prompt(initial.argument, backbone), m)
    return taken_from(read_source(initial).at_scale(backbone.embedding_scale), m)


def deeper(prompt: PromptSettings, run_data: RunData, m: int, states: Sequence[WordScale]) -> list[Initializer]:
    """What the layers after the first start from: a deep prompt's own, else nothing in particular.

    Raises:
        BadInput: a deep prompt to start from, most of which the prompt would lose.
    """
    initial = prompt.initial
    source = source_prompt(initial.argument, run_data.backbone) if initial.kind == "prompt" else None
    if source is None or source.deep is None:
        return []
    refuse_layers(prompt, source)
    vectors = deep_taken_from(source, m)
    assert vectors is not None
    pairs = zip(vectors, states, strict=True)
    return [initializers.divided(initializers.from_vectors(v), unit_of(prompt, scale)) for v, scale in pairs]


def unit_of(prompt: PromptSettings, words: WordScale) -> float:
    """The unit of initial vectors. A direction has one too: its length sets how fast it turns."""
    return words.rms if prompt.units == "rms" else 1.0
