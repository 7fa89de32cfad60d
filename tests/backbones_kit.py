"""What the tests of backbones share: rows, words as prompts, and random prompts."""

import torch
from softprompt.prompts.batch import TextBatch

TEXTS = ["the film was good", "a terrible movie, and not in paris", "yes"]
WORDS = ["very good film", "the", "question answer"]
DOUBLE = {"rtol": 0, "atol": 1e-6}


def batch_of(backbone, texts, owner=None, side="right", targets=None):
    """Texts as the data module will hand them over, padded on one side."""
    rows = [backbone.tokenizer(text + backbone.input_suffix).input_ids for text in texts]
    width = max(map(len, rows)) + 2
    ids = torch.full((len(rows), width), backbone.pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, where], mask[i, where] = torch.tensor(row), True
    return TextBatch(ids, mask, torch.tensor(owner or [0] * len(rows)), targets)


def word_ids(backbone, words):
    return torch.tensor([backbone.tokenizer(words, add_special_tokens=False).input_ids])


def word_vectors(backbone, words):
    """The vectors of real tokens, as a prompt."""
    return backbone.embeddings(word_ids(backbone, words))[0].detach().clone()


def one_of(batch, i):
    """Row i without its pads."""
    keep = batch.mask[i]
    targets = None if batch.targets is None else batch.targets[i : i + 1]
    return TextBatch(batch.ids[i : i + 1, keep], batch.mask[i : i + 1, keep], batch.owner[i : i + 1], targets)


def random_prompt(backbone, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, backbone.embedding_size, generator=generator, dtype=torch.float32)
