"""Labelled rows as a beginning: the experiment trains what its file lacks, and reads a prompt back as its words."""

import dataclasses
from typing import Any

import torch
from experiments.examples_begin import __main__ as examples_begin
from experiments.examples_begin import read_back
from softprompt.backbones import from_model


def record(rate):
    return {"share": rate, "seed": 900, "validation": 0.5, "test": 0.5, "best_step": 25}


def test_what_is_in_the_file_is_not_trained_again(monkeypatch):
    trained, kept = [], []
    # Nothing is trained, so neither task nor model is looked at.
    nothing: Any = None
    found = {"four examples": [record(0.01)]}

    def first(_task, _backbone, init, _seeds, rate):
        trained.append((init, rate))
        return [record(rate)]

    monkeypatch.setattr(examples_begin, "trained", first)
    for _ in range(2):
        examples_begin.measure("lab-gpt", nothing, nothing, 1, found, lambda: kept.append(1))
    assert trained == [("uniform", 0.3), ("examples:4", 0.03), ("examples:4", 0.1)]
    assert len(kept) == 3
    assert [each["share"] for each in found["four examples"]] == [0.01, 0.03, 0.1]


def test_a_prompt_that_hardly_moved_is_read_back_as_its_words(tiny_gpt, monkeypatch):
    monkeypatch.setattr(read_back, "SETTINGS", dataclasses.replace(read_back.SETTINGS, steps=1, eval_rows=4))
    backbone = from_model(*tiny_gpt("llama", max_position_embeddings=1024), name="tiny")
    words = torch.tensor([5, 9, 7])
    vectors = backbone.embed(words).detach()
    assert read_back.nearest_words(backbone, 3 * vectors).tolist() == words.tolist()
    assert read_back.nearest_words(backbone, -vectors).tolist() != words.tolist()
    values = read_back.read_back(backbone)
    assert values["vectors"] > 20
    assert values["same_word"] > 0.9
