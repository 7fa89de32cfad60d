"""The backbones that softprompt brings: what they are said to know, they know; plain transformers reads them."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest
import torch
from experiments.pretraining.lessons import Lesson
from experiments.pretraining.recipes import RECIPES, build_tokenizer
from experiments.pretraining.skills import measure
from safetensors import safe_open
from softprompt.builtin import BUILT_IN, WEIGHTS, folder_of

from tiny import ALL

# Least accuracy on fresh questions: of each attribute, and of kinds of questions.
BARS: dict[str, dict[str, float]] = {
    "lab-t5": {"attributes": 0.95, "entailment": 0.90, "label-words": 0.90},
    "lab-t5-small": {"attributes": 0.80},
    "lab-bert": {"attributes": 0.95, "one-of-two": 0.75},
    "lab-gpt": {
        "attributes": 0.88,
        "several": 0.88,
        "membership": 0.88,
        "label-words": 0.78,
        "same": 0.88,
        "one-of-two": 0.85,
    },
}
# Most that a backbone may answer above chance where nothing is asked: a prompt has to be what asks.
ABOVE_CHANCE = 0.2
# What a backbone lets slip unasked all the same: no task to compare methods on.
LETS_SLIP = {"lab-bert": {"day"}, "lab-gpt": {"buyer", "gender", "place", "tense", "topic"}}
MOST_BYTES = 6_000_000
MODELS = {
    "encoder-decoder": "AutoModelForSeq2SeqLM",
    "encoder": "AutoModelForMaskedLM",
    "decoder": "AutoModelForCausalLM",
}


@pytest.fixture(scope="module", params=BUILT_IN)
def name(request: pytest.FixtureRequest) -> str:
    if not (WEIGHTS / request.param).is_dir():
        pytest.skip(f"the weights of {request.param} are not in the package")
    return request.param


@pytest.fixture(scope="module")
def skills(name: str) -> dict[str, Any]:
    return json.loads((folder_of(name) / "skills.json").read_text())


@pytest.fixture(scope="module")
def model(name: str) -> Any:
    """As a user of transformers alone loads it."""
    import transformers

    return getattr(transformers, MODELS[RECIPES[name].kind]).from_pretrained(folder_of(name))


def test_the_noted_skills_reach_the_bars(name: str, skills: dict[str, Any]):
    bars = dict(BARS[name])
    of_attributes = bars.pop("attributes")
    below = {key: value for key, value in skills["attributes"].items() if value < of_attributes}
    below |= {kind: skills["kinds"][kind] for kind, bar in bars.items() if skills["kinds"][kind] < bar}
    assert below == {}


def test_where_nothing_is_asked_the_answer_is_a_guess_but_for_what_is_listed(name: str, skills: dict[str, Any]):
    unasked, chance = skills["without instruction"], skills["chance"]
    assert {key for key, value in unasked.items() if value > chance[key] + ABOVE_CHANCE} == LETS_SLIP.get(name, set())


def test_the_noted_skills_are_those_of_the_weights(name: str, skills: dict[str, Any], model: Any):
    """Measured again on the first n of the same questions: three standard deviations of n throws."""
    n = 100 if ALL else 40
    lesson = Lesson(RECIPES[name].kind, build_tokenizer(RECIPES[name].kind).get_vocab())
    again = measure(model, lesson, n=n)
    wrong = {}
    for group in ("attributes", "kinds", "without instruction"):
        assert again[group].keys() == skills[group].keys()
        for key, noted in skills[group].items():
            noise = max(6 / n, 3 * math.sqrt(noted * (1 - noted) / n))
            if abs(again[group][key] - noted) > noise:
                wrong[group, key] = (noted, again[group][key])
    assert wrong == {}


def test_the_recipe_in_the_code_is_the_one_that_made_the_weights(name: str, skills: dict[str, Any]):
    assert skills["backbone"] == name
    assert skills["recipe"] == json.loads(json.dumps(asdict(RECIPES[name])))


def test_plain_transformers_reads_the_weights_in_float32_from_float16(name: str, model: Any):
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.config.vocab_size == len(build_tokenizer(RECIPES[name].kind).get_vocab())
    with safe_open(folder_of(name) / "model.safetensors", "pt") as stored:
        stored_kinds = {stored.get_slice(key).get_dtype() for key in stored.keys()}  # noqa: SIM118  (not a mapping)
        assert stored_kinds == {"F16"}
        state = model.state_dict()
        assert all(torch.equal(stored.get_tensor(key).float(), state[key]) for key in stored.keys())  # noqa: SIM118  (no mapping)


def test_plain_transformers_reads_the_tokenizer_of_the_recipe(name: str):
    from transformers import AutoTokenizer

    found, expected = AutoTokenizer.from_pretrained(folder_of(name)), build_tokenizer(RECIPES[name].kind)
    assert found.get_vocab() == expected.get_vocab()
    text = "what color : the red box is in the garden . emma bought nine cups on sunday ."
    assert found(text).input_ids == expected(text).input_ids
    assert found.unk_token_id not in found(text).input_ids
    assert found.decode(found(text).input_ids, skip_special_tokens=True) == text


def test_all_backbones_together_are_at_most_six_megabytes():
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) <= MOST_BYTES
