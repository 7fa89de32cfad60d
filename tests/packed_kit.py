"""What the tests of the packed T5 share: tiny models by either engine, rows of given lengths, and their answers."""

import torch
from hypothesis import settings
from softprompt.backbones import from_model
from softprompt.backbones.encoder_decoder import EncoderDecoderBackbone
from softprompt.backbones.fast.packed import Encoded, PackedT5
from softprompt.prompts.batch import TextBatch

import engine_kit
from tiny import build_model

FAMILIES = ("t5", "t5-v1.1", "mt5")
ONE_BLOCK, NO_PADDING = 1e9, 0.0
PADDED = -100
# One set of examples, always the same.
FIXED = settings(engine_kit.FIXED, max_examples=60)


def tiny(family="t5", dtype=torch.float64, seed=0, **options):
    """A tiny model whose norms have gains that are not 1."""
    model, tokenizer = build_model(family, dtype=dtype, seed=seed, **options)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=draw))
    return model, tokenizer


def passes(backbone):
    """The packed engine of a backbone; None where passes are left to transformers."""
    assert isinstance(backbone, EncoderDecoderBackbone)
    return backbone._packed_passes()


def packed_of(backbone) -> PackedT5:
    """The packed engine of a backbone."""
    found = passes(backbone)
    assert found is not None
    return found


def encoded(packed, prompt_batch, batch) -> Encoded:
    """The encoder's states."""
    found = packed.encode(prompt_batch, batch)
    assert found is not None
    return found


def both(model, tokenizer):
    """The same model by either engine."""
    return from_model(model, tokenizer, engine="packed"), from_model(model, tokenizer, engine="reference")


def rows(lengths, side="right", labels=(2, 1, 3), owner=None, seed=0, width=None):
    """Rows of these text lengths, padded on a side, with labels of these lengths."""
    draw, width = torch.Generator().manual_seed(seed), width or max(lengths)
    ids = torch.randint(3, 60, (len(lengths), width), generator=draw)
    places = torch.arange(width)
    mask = torch.stack([places < n if side == "right" else places >= width - n for n in lengths])
    many = [labels[i % len(labels)] for i in range(len(lengths))]
    targets = torch.randint(3, 60, (len(lengths), max(many)), generator=draw)
    targets[torch.arange(max(many)) >= torch.tensor(many)[:, None]] = PADDED
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(lengths)), targets)


def answers(backbone, prompt_batch, batch):
    """Logits at the labels."""
    return backbone.logits(prompt_batch, batch)[batch.targets != PADDED]
