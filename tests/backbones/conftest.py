"""Frozen tiny backbones of every family."""

import pytest
import torch
from softprompt.backbones import from_model


@pytest.fixture
def backbone_of(tiny_model, exact_norms):
    """A frozen tiny backbone in float64; Gemma 2 refuses float64."""

    def build(family, answers="auto", dtype=None, engine="auto", **options):
        dtype = dtype or (torch.float32 if family == "gemma2" else torch.float64)
        model, tokenizer = tiny_model(family, dtype=dtype, **options)
        return from_model(model, tokenizer, answers=answers, engine=engine)

    return build
