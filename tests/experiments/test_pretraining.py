"""Pretraining: lessons say what questions say, a stopped run goes on exactly, skills are what is shipped."""

import dataclasses
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from experiments.pretraining import pretrain as module
from experiments.pretraining.lessons import CUE, IGNORED, Lesson
from experiments.pretraining.pretrain import pretrain, rate
from experiments.pretraining.recipes import RECIPES, build_model, build_tokenizer
from experiments.pretraining.skills import measure
from softprompt.backbones import load_backbone
from softprompt.data import load_rows
from softprompt.errors import BadInput, UnknownName
from softprompt.inference.rows import examples_for
from softprompt.tasks import TASKS, with_difficulty
from softprompt.training import Interrupted
from softprompt.world import ATTRIBUTES, question, vocabulary
from transformers import AutoTokenizer

from tiny import ALL

KINDS = ("encoder-decoder", "encoder", "decoder")
# lab-t5-small is lab-t5 with other numbers.
NAMES = [name for name in RECIPES if ALL or name != "lab-t5-small"]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch):
    """Every recipe shrunk to a moment, weights of their own seed."""
    monkeypatch.setattr(module, "SAVE_EVERY", 3)
    monkeypatch.setattr(module, "measure", lambda model, lesson: measure(model, lesson, 4))
    for name, plan in list(RECIPES.items()):
        tiny = dataclasses.replace(
            plan,
            width=16,
            feed_forward=16,
            layers=1,
            decoder_layers=min(1, plan.decoder_layers),
            steps=7,
            first_steps=4,
            batch_size=4,
        )
        monkeypatch.setitem(RECIPES, name, tiny)


def lesson(kind: str) -> Lesson:
    return Lesson(kind, build_tokenizer(kind).get_vocab())


@pytest.mark.parametrize("kind", KINDS)
def test_lessons_are_tokenised_as_the_tokenizer_does(kind: str):
    tokenizer, draw = build_tokenizer(kind), Random(0)
    asked = [question(draw, "attribute") for _ in range(20)]
    tensors = lesson(kind).tensors(asked)
    for row, one in enumerate(asked):
        read = tensors["input_ids"][row][tensors["attention_mask"][row].bool()].tolist()
        text = {
            "encoder-decoder": one.whole,
            "encoder": f"{one.whole} {tokenizer.mask_token}",
            "decoder": f"{one.whole} {CUE} {one.answer}</s>",
        }[kind]
        assert read == tokenizer(text).input_ids


@pytest.mark.parametrize("kind", KINDS)
def test_labels_stand_where_the_answer_is(kind: str):
    tokenizer, draw = build_tokenizer(kind), Random(1)
    asked = [question(draw, "attribute" if kind == "encoder" else "several") for _ in range(20)]
    tensors = lesson(kind).tensors(asked)
    for row, one in enumerate(asked):
        labels = tensors["labels"][row]
        wanted: Any = tokenizer.convert_tokens_to_ids(one.answer.split())
        ending = [] if kind == "encoder" else [tokenizer.eos_token_id]
        assert labels[labels != IGNORED].tolist() == [*wanted, *ending]
    if kind == "encoder":
        read = tensors["input_ids"][tensors["labels"] != IGNORED].tolist()
        assert all(token == tokenizer.mask_token_id for token in read)
    if kind == "decoder":
        shown = tensors["labels"] != IGNORED
        assert (tensors["input_ids"][shown] == tensors["labels"][shown]).all()


def test_a_batch_belongs_to_its_seed():
    made = lesson("decoder")
    same = made.batch(0, 1, 8)["input_ids"]
    assert torch.equal(same, made.batch(0, 1, 8)["input_ids"])
    for seed, step in ((0, 2), (1, 1)):
        other = made.batch(seed, step, 8)["input_ids"]
        assert same.shape != other.shape or not torch.equal(same, other)


def test_comparing_words_comes_first_and_everything_after_it():
    tokenizer = build_tokenizer("encoder-decoder")
    made = Lesson("encoder-decoder", tokenizer.get_vocab(), first_steps=3)
    first, later = (tokenizer.batch_decode(made.batch(0, step, 200)["input_ids"]) for step in (3, 4))
    assert {text.split()[0] for text in first} == {"is", "what", "which", "name"}
    assert not any(" and " in text for text in first)
    assert {text.split()[0] for text in later} >= {"what", "is", "say", "does", "same", "first"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_knows_every_word_of_the_world(kind: str, tmp_path: Path):
    build_tokenizer(kind).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(" ".join(vocabulary()), add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == " ".join(vocabulary())
    assert len(tokenizer) == len(vocabulary()) + 6


def test_the_rate_warms_up_stays_and_falls_to_nearly_nothing():
    rates = [rate(step, 10_000) for step in range(1, 10_001)]
    assert rates[0] == 1 / 200
    assert rates[199:5000] == [1.0] * 4801
    assert rates[5001] < 1.0
    assert rates[-1] == pytest.approx(2 / 10_000)
    assert rates[5001:] == sorted(rates[5001:], reverse=True)


def test_weights_are_drawn_from_the_recipe_alone(small: None):
    torch.manual_seed(1)
    first = build_model(RECIPES["lab-gpt"]).state_dict()
    before = torch.get_rng_state()
    second = build_model(RECIPES["lab-gpt"]).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", NAMES)
def test_a_stopped_pretraining_goes_on_exactly(name: str, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole = pretrain(name, tmp_path / "whole")
    train: Any = module._train

    def stopped(*arguments):
        *rest, _, show = arguments
        counted = iter(range(5))
        return train(*rest, lambda: next(counted, None) is None, show)

    monkeypatch.setattr(module, "_train", stopped)
    with pytest.raises(Interrupted, match="step 5 of 7"):
        pretrain(name, tmp_path / "parts")
    monkeypatch.setattr(module, "_train", train)
    parts = pretrain(name, tmp_path / "parts")
    for file in sorted(path.name for path in whole.iterdir()):
        assert (whole / file).read_bytes() == (parts / file).read_bytes(), file


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_loads_and_has_the_skills_that_are_noted(name: str, small: None, tmp_path: Path):
    folder = pretrain(name, tmp_path / "run")
    skills = json.loads((folder / "skills.json").read_text())
    assert skills["backbone"] == name
    assert set(skills["attributes"]) == set(ATTRIBUTES)
    backbone = load_backbone(str(folder), answers="label-words" if name == "lab-bert" else "auto")
    assert backbone.kind == RECIPES[name].kind
    assert backbone.word_vectors.dtype == torch.float32
    again = measure(backbone.model, Lesson(backbone.kind, backbone.tokenizer.get_vocab()), skills["n"])
    assert {key: skills[key] for key in again} == again
    task = with_difficulty(TASKS["lab/color"], train=5, validation=5, test=5)
    examples = examples_for(backbone, task, load_rows(task)["test"], 10)
    assert backbone.tokenizer.unk_token_id not in examples.inputs.flat.tolist()


def test_a_scaled_backbone_has_larger_word_vectors(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scaled = load_backbone(str(pretrain("lab-t5", tmp_path / "scaled")))
    plan = dataclasses.replace(RECIPES["lab-t5"], embedding_scale=1.0)
    monkeypatch.setitem(RECIPES, "lab-t5", plan)
    plain = load_backbone(str(pretrain("lab-t5", tmp_path / "plain")))
    torch.testing.assert_close(scaled.word_vectors, 32 * plain.word_vectors, rtol=1e-3, atol=0)


def test_a_folder_of_another_recipe_is_refused(small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pretrain("lab-gpt", tmp_path / "run")
    monkeypatch.setitem(RECIPES, "lab-gpt", dataclasses.replace(RECIPES["lab-gpt"], seed=1))
    with pytest.raises(BadInput, match="another recipe"):
        pretrain("lab-gpt", tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(BadInput, match="not empty"):
        pretrain("lab-gpt", tmp_path / "mine")


def test_an_unknown_backbone_is_refused_with_the_nearest(tmp_path: Path):
    with pytest.raises(UnknownName, match="Did you mean 'lab-t5'"):
        pretrain("lab-t6", tmp_path / "run")
    assert not (tmp_path / "run").exists()
