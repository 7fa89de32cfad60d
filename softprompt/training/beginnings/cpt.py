"""Context-aware prompt tuning (CPT, Blau et al., 2024, arXiv:2410.17222): options of a prompt that begins as examples.

The prompt begins as K labelled rows. `max_shift` keeps each vector near its word, and `context_loss` also trains the
prompt to predict the labels that it shows.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ...backbones import AbstractBackbone
from ...data import shared_ids
from ...errors import BadInput, UnsupportedModel
from ...inference.in_context import encoded, text_before
from ...prompts.methods import Method
from ...settings import PromptSettings
from ...tasks import Task, label_values


def refuse_cpt(settings: PromptSettings) -> None:
    """Refuse options of CPT that a prompt cannot have.

    Raises:
        BadInput: it does not begin as words, or not as examples, or trains more than vectors of the first layer.
    """
    if settings.context_loss is not None and settings.initial.kind != "examples":
        raise BadInput(
            f"--context-loss learns the labels of the examples that a prompt begins as, and --init is {settings.init}; "
            "give --init=examples:4, or leave it out"
        )
    if settings.context_loss is not None and settings.deep:
        raise BadInput("--context-loss is of the vectors of the first layer, and a deep prompt has more; leave one out")
    if settings.max_shift is None:
        return
    if not settings.initial.is_words:
        raise BadInput(
            f"--max-shift is a distance from words, and --init is {settings.init}; give --init=instruction or "
            "--init=examples:4, or bound the norm by --max-norm"
        )
    if Method.of(settings).reparameterization != "identity" or settings.deep:
        kind = "a deep prompt" if settings.deep else repr(settings.method)
        raise BadInput(f"--max-shift moves trained vectors back, and {kind} trains more; choose 'prompt-tuning'")


def refuse_no_decoder(settings: PromptSettings, backbone: AbstractBackbone) -> None:
    """Refuse the loss on shown labels where no position predicts the next.

    Raises:
        UnsupportedModel: the backbone is no decoder.
    """
    if settings.context_loss is not None and backbone.kind != "decoder":
        raise UnsupportedModel(
            f"--context-loss needs a decoder, which predicts each token of the prompt; {backbone.name!r} is "
            f"{'an encoder' if backbone.kind == 'encoder' else 'an encoder-decoder'}; leave it out"
        )


def label_places(
    backbone: AbstractBackbone, task: Task, shown: Sequence[Mapping[str, Any]], ids: Sequence[int]
) -> list[list[int]]:
    """Return the positions of each example's label tokens: those that change with another label.

    Args:
        backbone: the frozen model.
        task: with its instruction.
        shown: the examples, in their order.
        ids: of the context that shows them.

    Raises:
        BadInput: the task has no labels, or the tokens of a label cannot be told from those of others.
    """
    if not task.labels:
        raise BadInput(f"--context-loss needs a task with label words, and {task.name!r} has none; leave it out")
    values = label_values(task)
    texts = [text_before(backbone, task, shown)]
    for number, row in enumerate(shown):
        relabelled = ({**row, task.target: value} for value in values)
        texts += [text_before(backbone, task, [*shown[:number], row, *shown[number + 1 :]]) for row in relabelled]
    whole, *changed = encoded(backbone, texts)
    places = []
    for number in range(len(shown)):
        others = [other for other in changed[number * len(values) : (number + 1) * len(values)] if other != whole]
        first = min((shared_ids(whole, other) for other in others), default=len(whole))
        behind = min((shared_ids(whole[::-1], other[::-1]) for other in others), default=0)
        # Where one label begins another, no token differs but the first after what they share.
        label = list(range(first, max(first + 1, len(whole) - behind)))
        if label[-1] >= min(len(ids), len(whole)) or list(ids[: label[-1] + 1]) != whole[: label[-1] + 1]:
            raise BadInput(f"--context-loss: the label of example {number + 1} has no tokens of its own; leave it out")
        places.append(label)
    return places
