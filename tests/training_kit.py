"""What the tests of training share: plans, loops and what they leave."""

import dataclasses

from softprompt.backbones import load_backbone
from softprompt.data import load_rows, split_rows
from softprompt.settings import ModelSpec, PromptSettings, Seeds, TrainSettings
from softprompt.training import Plan
from softprompt.training._built import build_prompts
from softprompt.training._loop import Loop
from softprompt.training._prepare import prepare
from softprompt.training._records import Record
from softprompt.training._start import start_members
from softprompt.training.beginnings.words import beginnings_of


def entry(method="prompt-tuning", seed=0, **changes):
    return PromptSettings(method=method, seeds=Seeds.all(seed), **changes)


FOUR = (
    entry("prompt-tuning", 0, lr=0.1, options={"prompt_length": 4}),
    entry("ept-star", 1, lr=0.3),
    entry("residual", 2, lr=0.03, options={"bottleneck": 8, "prompt_length": 3}),
    entry("p-tuning", 0, lr=0.01, options={"prompt_length": 2}),
)

# Of a run that is stopped and goes on.
KEPT_SETTINGS = TrainSettings(steps=12, eval_every=4, batch_size=4, backbone_dropout=True, clip=1.0)


def loop_of(plan, run_data, folder, *, double=False):
    return opened(of_plan(plan, run_data), folder, double=double)


def opened(run_data, folder, *, double=False):
    prompts = started(run_data, folder)
    if double:
        for one in prompts:
            one.trainable.double()
    timing = Record(folder / "timing.jsonl")
    OPEN.append(timing)
    return Loop(run_data, prompts, timing)


def prepared(plan, backbone=None):
    splits = split_rows(plan.task, load_rows(plan.task))
    return prepare(plan, splits, backbone or load_backbone(plan.model))


def of_plan(plan, run_data):
    """The prompts of a plan on rows that are there; none of them shows any."""
    return dataclasses.replace(run_data, plan=plan, beginnings=beginnings_of(plan, None, run_data.backbone))


OPEN = []


def started(run_data, folder):
    prompts = list(start_members(run_data, build_prompts(run_data), folder, {}))
    OPEN.extend(one.record for one in prompts)
    return prompts


def run_quietly(loop):
    loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=lambda loop, losses: None)
    for record in (loop.timing, *(one.record for one in loop.members)):
        record.mark()
    return loop


def plan_of(task, model, prompts, **settings):
    return Plan(task=task, model=ModelSpec(str(model)), prompts=tuple(prompts), settings=TrainSettings(**settings))
