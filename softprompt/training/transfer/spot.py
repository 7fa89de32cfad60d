"""SPoT: of several source prompts, training begins at the one whose task is most like the new one.

The likeness of two tasks is the cosine of the mean vectors of their prompts (Vu et al., 2022, arXiv:2110.07904). The
new task has no prompt yet, so a plain one is trained for a few steps and then thrown away.
"""

import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ...prompts.methods import Method
from ...prompts.trainable import TrainablePrompt
from ...settings import PromptSettings
from .._built import build_prompts
from .._prepare import run_steps
from .._run_data import RunData
from .._start import open_loop
from ..beginnings.sources import source_vectors
from ..beginnings.words import beginnings_of

log = logging.getLogger("softprompt")


def with_sources(run_data: RunData) -> RunData:
    """The run in which each prompt of SPoT names the source that it begins at, as its initialisation.

    Args:
        run_data: a run that has not begun.

    Raises:
        BadInput: a source is deep, or no stored prompt.
        ModelMismatch: a source of another model.
    """
    prompts, beginnings = list(run_data.plan.prompts), list(run_data.beginnings)
    waiting = [number for number, prompt in enumerate(prompts) if _begins_at_a_source(prompt)]
    several = [number for number in waiting if len(prompts[number].sources) > 1]
    probes = _probed(run_data, [prompts[number] for number in several]) if several else []
    places = {
        number: _nearest(prompts[number], probe, source_vectors(prompts[number], run_data.backbone))
        for number, probe in zip(several, probes, strict=True)
    }
    for number in waiting:
        init = f"prompt:{prompts[number].sources[places.get(number, 0)]}"
        prompts[number] = dataclasses.replace(prompts[number], init=init)
        beginnings[number] = [
            dataclasses.replace(beginning, settings=dataclasses.replace(beginning.settings, init=init))
            for beginning in beginnings[number]
        ]
    plan = dataclasses.replace(run_data.plan, prompts=tuple(prompts))
    return dataclasses.replace(run_data, plan=plan, beginnings=beginnings)


def likeness(prompt: Float[Tensor, "m e"], other: Float[Tensor, "n e"]) -> float:
    """Return the cosine of the mean vectors of two prompts."""
    return float(functional.cosine_similarity(prompt.double().mean(0), other.double().mean(0), dim=0))


def probe_steps(steps: int) -> int:
    """Return the optimiser steps for which the new task is tried: a fifth of the run, and at most 200."""
    return max(1, min(steps // 5, 200))


def _begins_at_a_source(prompt: PromptSettings) -> bool:
    method = Method.of(prompt)
    return method.takes_sources and not method.weights and prompt.init == "uniform"


def _nearest(prompt: PromptSettings, probe: Float[Tensor, "m e"], sources: Sequence[Float[Tensor, "n e"]]) -> int:
    """Return the place of the source that is most like the probe, and say how like all of them are."""
    cosines = [likeness(probe, source.to(probe.device)) for source in sources]
    cosines_by_name = ", ".join(f"{path} {cosine:.3f}" for path, cosine in zip(prompt.sources, cosines, strict=True))
    place = cosines.index(max(cosines))
    log.info("%s begins at %s: cosines to the new task are %s", prompt.method, prompt.sources[place], cosines_by_name)
    return place


def _probed(run_data: RunData, prompts: Sequence[PromptSettings]) -> list[Float[Tensor, "m e"]]:
    """Return the vectors of plain prompts that were trained on the new task for a few steps, by the same seeds."""
    plain = {"method": "prompt-tuning", "sources": (), "restarts": 1, "restart_steps": None, "regularizer": ""}
    plan = dataclasses.replace(run_data.plan, prompts=tuple(dataclasses.replace(prompt, **plain) for prompt in prompts))
    beginnings = beginnings_of(plan, None, run_data.backbone)
    probing = dataclasses.replace(run_data, plan=plan, beginnings=beginnings)
    steps = probe_steps(run_steps(probing))
    settings = dataclasses.replace(plan.settings, steps=steps, epochs=None, eval_every=steps, warmup=None)
    probing = dataclasses.replace(probing, plan=dataclasses.replace(plan, settings=settings))
    with tempfile.TemporaryDirectory() as folder, open_loop(probing, build_prompts(probing), Path(folder)) as loop:
        loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=lambda loop, losses: None)
        trained = [member.trainable for member in loop.members]
    return [torch.nan_to_num(trainable.folded()) for trainable in trained if isinstance(trainable, TrainablePrompt)]
