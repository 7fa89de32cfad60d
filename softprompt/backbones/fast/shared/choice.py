"""Whether the passes of a model can run over one sequence: tried on a few drawn tokens, and seen from its modules."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from ....prompts.batch import PromptBatch, TextBatch
from ..._fit import cause_of
from .passes import SharedPasses, counts_positions
from .rows import position_table
from .runner import Runner, last_layer

if TYPE_CHECKING:
    from ...base import AbstractBackbone

# Largest difference that is rounding, in units of the largest logit, and in nats for scores of labels.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
# Of bfloat16 and of quantised layers: a position or a mask that is wrong lies far above it.
ROUGH = 0.25
# Prompts so long that the last layer of an encoder ends early.
LENGTHS, PROMPTS, OWNERS = (7, 4, 6, 9, 5), (6, 2), (0, 1, 0, 0, 1)
# Rotations of positions that are others in a longer pass.
CHANGING = ("dynamic", "longrope")
# Two labels of several tokens after one text, and one of a single token.
LABEL_LENGTHS = (3, 1, 2)


@final
@dataclass(frozen=True)
class Trial:
    """What both engines compute at loading: prompts, rows and labels, all drawn from one seed."""

    prompt_batch: PromptBatch
    batch: TextBatch
    labels: Sequence[Sequence[int]]

    @classmethod
    def of(cls, vectors: Tensor, ending: int | None = None) -> "Trial":
        """Draw prompts from rows of the word vectors, so that they have the size of words.

        Args:
            vectors: of all words.
            ending: the token with which each row ends; None draws it as the others.
        """
        draw = torch.Generator().manual_seed(0)
        device = vectors.device

        def tokens(*shape: int) -> Tensor:
            return torch.randint(len(vectors), shape, generator=draw).to(device)

        prompts = [vectors[tokens(n)].detach().float() for n in PROMPTS]
        lengths = torch.tensor(LENGTHS, device=device)
        ids = tokens(len(LENGTHS), max(LENGTHS))
        # The rows of a prompt begin with the same tokens, as those of a template do.
        ids[:, :2] = ids[0, :2]
        columns = torch.arange(max(LENGTHS), device=device)
        if ending is not None:
            ids[columns == lengths[:, None] - 1] = ending
        batch = TextBatch(ids, columns < lengths[:, None], torch.tensor(OWNERS, device=device), tokens(len(LENGTHS), 2))
        return cls(PromptBatch.stack(prompts), batch, [tokens(n).tolist() for n in LABEL_LENGTHS])

    def answers(self, backbone: "AbstractBackbone") -> Mapping[str, Tensor]:
        """Return what the model answers with: logits, scores of the labels, or states of an encoder's text."""
        if backbone.answers == "linear-head":
            states = backbone.text_states(self.prompt_batch, self.batch)
            return {"states": states[self.batch.mask].float()}
        logits = {"logits": backbone.logits(self.prompt_batch, self.batch).float()}
        if backbone.kind == "encoder":
            return logits
        scores = backbone.label_scores(self.prompt_batch, self.batch, self.labels)
        return logits | {"scores of labels": scores.float()}


@torch.no_grad()
def disagreement(backbone: "AbstractBackbone", runner: Runner, use: Callable[[bool], None]) -> str | None:
    """Compare both engines on a few tokens, and return the reason why passes cannot be ours, or None.

    Args:
        backbone: a decoder or an encoder.
        runner: its layers. Whether they can end early is found out on the way.
        use: switches the backbone to our passes, or back to those of transformers.
    """
    reason = None
    # Whatever the code of a family raises: where it is not the engine's fault, `verify` says more.
    try:
        by_mask = backbone.answers == "label-words"
        trial = Trial.of(backbone.word_vectors, backbone.tokenizer.mask_token_id if by_mask else None)
        use(False)
        expected = trial.answers(backbone)
    except Exception as error:
        return cause_of(error)
    for early in (True, False) if last_layer(runner.base) is not None else (False,):
        runner.ends_early = early
        use(True)
        try:
            reason = _difference(backbone, trial.answers(backbone), expected)
        except Exception as error:
            reason = cause_of(error)
        use(False)
        if reason is None:
            return None
    return reason


@torch.no_grad()
def unreadable(backbone: "AbstractBackbone", passes: SharedPasses) -> str | None:
    """Return the reason why compiled prefixes cannot be read, tried on a few tokens, or None.

    Args:
        backbone: the decoder, with shared passes.
        passes: these passes.
    """
    config = backbone.model.config.get_text_config()
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") in CHANGING:
        return "what its layers do to positions depends on the longest row of a pass"
    trial = Trial.of(backbone.word_vectors)
    # The rows of both prompts begin with these tokens.
    opening = trial.batch.ids[0, :2].tolist()
    try:
        expected = trial.answers(backbone)
        compiled = tuple(passes.compiled(trial.prompt_batch, [opening] * len(PROMPTS)))
        known = dataclasses.replace(trial, prompt_batch=dataclasses.replace(trial.prompt_batch, compiled=compiled))
        return _difference(backbone, known.answers(backbone), expected)
    # Whatever the code of a family raises: its prompts are computed in each pass, as before.
    except Exception as error:
        return cause_of(error)


def _difference(
    backbone: "AbstractBackbone", answers: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str | None:
    tolerance = ROUGH if backbone.quantize else TOLERANCE.get(backbone.dtype, ROUGH)
    for what, theirs in expected.items():
        difference = float((answers[what] - theirs).abs().max() / theirs.abs().max())
        if not difference <= tolerance:
            return f"their {what} differ from transformers' by {difference:.1e} of the largest"
    return None


def unfit(model: nn.Module, base: nn.Module) -> str | None:
    """The reason why transformers has to run a pass now, or None; takes about 0.1 ms for a model of 300 modules."""
    if not counts_positions(base) and position_table(base) is None:
        return "its layers are not told the positions of tokens"
    if model.training:
        return "its dropout is on"
    for module in model.modules():
        # What acts on word vectors acts on those of a sequence, too: bfloat16 models widen them so.
        if isinstance(module, nn.Embedding):
            continue
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            return "hooks act on its layers"
    return None
