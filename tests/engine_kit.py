"""What the tests of engines share: drawn numbers, comparisons to so much of the largest, and a fleet in float64."""

from typing import TypeVar

import torch
from hypothesis import HealthCheck, settings
from softprompt.backbones import AbstractBackbone, from_model
from softprompt.backbones.fast.shared import groups
from softprompt.data import load_rows, split_rows
from softprompt.prompts.batch import PromptBatch
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.training import Plan
from softprompt.training._built import build_prompts
from softprompt.training._prepare import prepare
from softprompt.training._start import open_loop

Kind = TypeVar("Kind", bound=AbstractBackbone)
FIXED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def both_engines(kind: type[Kind], model, tokenizer, **options) -> tuple[Kind, Kind]:
    """The same model by either engine."""
    packed, reference = (from_model(model, tokenizer, engine=engine, **options) for engine in ("packed", "reference"))
    assert isinstance(packed, kind)
    assert isinstance(reference, kind)
    return packed, reference


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(ours, theirs, tolerance):
    """Equal to so much of the largest number."""
    largest = float(theirs.detach().abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * max(1e-9, largest))


def differentiated(values, leaves):
    """The gradients of a random weighing of values; zeros where a leaf does not matter."""
    weighed = (values * drawn(*values.shape, seed=3, dtype=values.dtype)).sum()
    return torch.autograd.grad(weighed, leaves, allow_unused=True, materialize_grads=True)


def same_gradients(ours, theirs, tolerance):
    # Of the largest of all, for one leaf's gradient may be nothing but rounding.
    largest = max(float(gradient.abs().max()) for gradient in theirs)
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=tolerance * max(1e-9, largest))


def hide_the_first_key(monkeypatch):
    """Let the attention over one sequence hide what transformers' shows."""
    visible = groups.Group.visible

    def with_a_hole(self, rule):
        seen = visible(self, rule).clone()
        seen[..., 0] = False
        return seen

    monkeypatch.setattr(groups.Group, "visible", with_a_hole)


def gradients_with_and_without_recomputing(backbone, prompt, batch):
    """Of a prompt, first with the activations of layers kept, then with layers recomputed."""
    gradients = []
    for on in (False, True):
        backbone.gradient_checkpointing(on)
        gradients.append(differentiated(backbone.logits(PromptBatch.stack([prompt]), batch), [prompt]))
    backbone.gradient_checkpointing(False)
    return gradients


def loop_of(backbone, task, folder, steps):
    """A loop over a fleet of three prompts in float64: other lengths, rates and methods, one of them regularised."""
    prompts = (
        PromptSettings(method="prompt-tuning", seeds=Seeds.all(0), lr=0.1, options={"prompt_length": 4}),
        PromptSettings(method="residual", seeds=Seeds.all(1), lr=0.03, options={"bottleneck": 8, "prompt_length": 3}),
        PromptSettings(
            method="ept-star", seeds=Seeds.all(2), lr=0.3, options={"repeats": 2}, regularizer="rn-text:rate=0.5"
        ),
    )
    plan = Plan(task=task, model=backbone.spec, prompts=prompts, settings=TrainSettings(steps=steps, batch_size=4))
    run_data = prepare(plan, split_rows(task, load_rows(task)), backbone)
    with open_loop(run_data, build_prompts(run_data), folder) as loop:
        for member in loop.members:
            member.trainable.double()
        loop.run(save=lambda loop: None, is_stopped=lambda: False, watch=lambda loop, losses: None)
    return [parameter for member in loop.members for parameter in member.trainable.parameters()]
