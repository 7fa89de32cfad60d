"""What the tests of regularisers share: prompts, batches, terms, and the gradients of a pass with regularisers."""

import contextlib
from typing import Any

import torch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.regularizers import regularizers
from softprompt.settings import PromptSettings, Seeds
from softprompt.training._step import backward
from softprompt.training.objectives import Group, Plain, Regularized, Term

FAMILIES = ("t5", "bert", "gpt2")
LENGTH = 3


def prompt_of(backbone, seed=0, double=True):
    made = TrainablePrompt.build(
        PromptSettings(method="p-tuning", options={"prompt_length": LENGTH}, seeds=Seeds.all(seed)),
        uniform(), backbone.word_vectors, None,
    )  # fmt: skip
    return made.double() if double else made


def batch_of(backbone, examples, rows=(0, 1, 2, 3), owner: Any = 0):
    return examples.batch(list(rows), owner, backbone.pad_id)


def term(text, owner=0, seed=7):
    (one,) = regularizers(text)
    return Term(owner, one, one.alpha, one.share, seed)


def context_of(regularizer_context, one, batch, prompt_batch, gradient=None) -> tuple[Any, Any]:
    with torch.no_grad():
        clean = regularizer_context.backbone.logits(prompt_batch, batch)
    group = Group((one,))
    return group, regularizer_context.context(
        group, prompt_batch, batch, clean, gradient, lambda anew: contextlib.nullcontext()
    )


def gradients(backbone, regularizer_context, text, batch, prompt=None, **options):
    """The gradients that `backward` gives a prompt with these regularisers, and the pass's result."""
    prompt = prompt or prompt_of(backbone)
    prompt.zero_grad()
    terms = [Term(0, one, one.alpha, one.share, 7 + i) for i, one in enumerate(regularizers(text))]
    result = backward(backbone, [prompt], batch, [0], Regularized(Plain(), terms, regularizer_context), **options)
    return [p.grad.clone() for p in prompt.parameters() if p.grad is not None], result


def same(found, expected, atol=1e-6):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)
