"""What a frozen model answers to rows without a prompt, in the way in which the prompts of a run answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..backbones import AbstractBackbone
from ..prompts.batch import PromptBatch
from ..settings import TrainSettings
from ..tasks import Task
from .answers import Answers, answer
from .calibration import likelihood
from .rows import examples_for
from .scoring_rule import scoring_for

# A run as it is without options.
NEW_RUN = TrainSettings()
# Rows in one pass.
BATCH_SIZE = 16


def answers_of(
    backbone: AbstractBackbone,
    task: Task,
    rows: Any,
    context: str = "",
    settings: TrainSettings = NEW_RUN,
) -> Answers:
    """What the model answers without a prompt, in the way in which prompts of a run answer.

    Args:
        backbone: frozen.
        task: how rows are put.
        rows: with the task's columns.
        context: stands between the opening and each row.
        settings: of the run; they say how label words are scored, or that the model writes its answer.

    Raises:
        BadInput: the context leaves less room for a row than it takes without it.
    """
    # No prompt holds the opening of a row here.
    whole = dataclasses.replace(task, opening_ids=())
    nothing = torch.zeros(0, backbone.embedding_size, device=backbone.device)
    return answer(
        backbone,
        PromptBatch.stack([nothing]),
        examples_for(backbone, whole, rows, 0, targets=False, context=context),
        whole,
        decode=settings.decode,
        scoring=scoring_for(settings, whole, backbone),
        max_new_tokens=settings.max_new_tokens,
        batch_size=BATCH_SIZE,
    )


def label_scores_of(
    backbone: AbstractBackbone, task: Task, rows: Any, context: str = "", settings: TrainSettings = NEW_RUN
) -> Float[Tensor, "n c"]:
    """Log-probability in nats of each label word, without a prompt; arguments and errors as in `answers_of`."""
    scores = answers_of(backbone, task, rows, context, dataclasses.replace(settings, decode="scores")).scores
    assert scores is not None
    return scores


def fitted_bias(scores: Float[Tensor, "n c"], right: Sequence[int]) -> Float[Tensor, " c"]:
    """The bias for each class that makes the right labels of these rows likeliest; their sum is 0.

    It undoes what a model prefers whatever the text says (Zhao et al., 2021, arXiv:2102.09690, fit it without labels).
    A small quadratic term keeps it finite where every row is right.
    """
    from scipy.optimize import minimize

    values, classes = scores.double().numpy(), np.asarray(right)

    def loss(bias: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = likelihood(values, classes, np.concatenate([[1.0], bias]))
        return value + 5e-4 * float(bias @ bias), gradient[1:] + 1e-3 * bias

    bias = minimize(loss, np.zeros(values.shape[1]), jac=True, method="L-BFGS-B").x
    return torch.from_numpy(bias - bias.mean()).float()
