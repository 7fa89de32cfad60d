"""Compiled prefixes of decoders: passes that read keys and values of a prompt answer as those that compute them."""

import dataclasses
from typing import Any

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.backbones.fast.shared import choice
from softprompt.backbones.fast.shared.layout import lay_out
from softprompt.backbones.fast.shared.tree import Behind
from softprompt.prompts.batch import PromptBatch, TextBatch

from tiny import E, build_model

LABELS = [[7, 8, 2], [9, 2], [11, 2]]
OPENINGS = ([20, 21, 22], [], [23])


def rows() -> TextBatch:
    """Rows of four prompts that begin with the whole opening, a part of it, or none of it."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(30, 60, (6, 6), generator=draw)
    ids[0, :3], ids[1, :3], ids[3, :1] = torch.tensor([20, 21, 22]), torch.tensor([20, 21, 40]), 23
    mask = torch.arange(6) < torch.tensor([6, 4, 5, 1, 6, 3])[:, None]
    return TextBatch(ids, mask, torch.tensor([0, 0, 1, 2, 3, 1]))


def prompts(e: int, deep: bool = False) -> PromptBatch:
    draw = torch.Generator().manual_seed(1)
    vectors = [torch.randn(n, e, generator=draw, dtype=torch.float64) for n in (3, 2, 0, 4)]
    layers = [torch.randn(1, len(v), e, generator=draw, dtype=torch.float64) for v in vectors]
    return PromptBatch.stack(vectors, (), [layers[0], layers[1], None, layers[3]] if deep else [])


def compiled(backbone, prompt_batch: PromptBatch) -> PromptBatch:
    """The same prompts, all but the last with their keys and values."""
    prefixes = backbone.compiled(prompt_batch, [*OPENINGS, []])
    return dataclasses.replace(prompt_batch, compiled=(*prefixes[:3], None))


@torch.no_grad()
@pytest.mark.parametrize(("family", "deep"), [("gpt2", False), ("opt", False), ("gemma2", False), ("qwen3", True)])
def test_scores_with_compiled_prefixes_are_those_without(family, deep):
    # Gemma 2 computes its attention in float32 only.
    dtype, tolerance = (torch.float32, 1e-4) if family == "gemma2" else (torch.float64, 1e-6)
    backbone = from_model(*build_model(family, dtype=dtype), engine="shared")
    prompt_batch, batch = prompts(backbone.embedding_size, deep), rows()
    known = compiled(backbone, prompt_batch)
    expected = backbone.label_scores(prompt_batch, batch, LABELS)
    torch.testing.assert_close(backbone.label_scores(known, batch, LABELS), expected, rtol=0, atol=tolerance)
    # It is the prefix that is read, whatever the vectors are, and nothing else of the prompts is computed.
    of_zeros = dataclasses.replace(known, vectors=torch.zeros_like(known.vectors))
    is_read = batch.owner < 2
    torch.testing.assert_close(
        backbone.label_scores(of_zeros, batch, LABELS)[is_read], expected[is_read], rtol=0, atol=tolerance
    )
    layout = lay_out(known, batch, Behind.nothing(len(batch.ids)), device=torch.device("cpu"))
    assert layout.held == (3 + 2, 2, 0, 0)
    assert len(layout.tokens) == 4 + (4 + 2 + 5 + 3 + 1 + 6)


def test_a_window_is_counted_over_compiled_positions_too():
    backbone = from_model(*build_model("mistral", dtype=torch.float64, sliding_window=3), engine="shared")
    prompt_batch, batch = prompts(E), rows()
    with torch.no_grad():
        expected = backbone.label_scores(prompt_batch, batch, LABELS)
        close = backbone.label_scores(compiled(backbone, prompt_batch), batch, LABELS)
    torch.testing.assert_close(close, expected, rtol=0, atol=1e-6)


def test_a_prefix_with_what_is_not_a_number_reaches_its_own_rows_alone():
    backbone = from_model(*build_model("llama", dtype=torch.float64), engine="shared")
    prompt_batch, batch = prompts(E), rows()
    vectors = prompt_batch.vectors.clone()
    vectors[1, -1, 0] = torch.nan
    with torch.no_grad():
        scores = backbone.label_scores(
            compiled(backbone, dataclasses.replace(prompt_batch, vectors=vectors)), batch, LABELS
        )
    assert scores.isnan().all(1).tolist() == [False, False, True, False, False, True]


def test_a_model_whose_passes_read_no_cache_computes_its_prompts_and_says_so_once(monkeypatch, caplog):
    backbone = from_model(*build_model("llama"), engine="shared")
    monkeypatch.setattr(choice, "unreadable", lambda backbone, passes: "its cache is of another kind")
    monkeypatch.setattr("softprompt.backbones.fast.shared.engine.unreadable", choice.unreadable)
    for _ in range(2):
        assert backbone.compiled(prompts(E), [*OPENINGS, []]) is None
    assert [record.message for record in caplog.records] == [
        f"{backbone.name!r}: prompts are computed in each pass, not compiled: its cache is of another kind"
    ]
    assert from_model(*build_model("llama"), engine="reference").compiled(prompts(E), [*OPENINGS, []]) is None


def test_a_cache_that_keeps_something_else_is_noticed(monkeypatch):
    backbone: Any = from_model(*build_model("llama"), engine="shared")
    passes = backbone._shared.passes
    assert choice.unreadable(backbone, passes) is None
    whole = type(passes).compiled

    def shifted(self, prompt_batch, openings):
        return [
            dataclasses.replace(prefix, layers=tuple((keys.roll(1, 1), values) for keys, values in prefix.layers))
            for prefix in whole(self, prompt_batch, openings)
        ]

    monkeypatch.setattr(type(passes), "compiled", shifted)
    assert "differ from transformers'" in str(choice.unreadable(backbone, passes))
    backbone.model.config.rope_parameters["rope_type"] = "dynamic"
    assert "longest row" in str(choice.unreadable(backbone, passes))
