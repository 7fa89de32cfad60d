"""What the layers of a deep prompt begin as: the experiment's arms are what they are called."""

import dataclasses

import pytest
import torch
from experiments.deep_begin import __main__ as deep_begin
from experiments.real_lm import cells
from softprompt.tasks import TASKS, with_difficulty


@pytest.fixture(scope="module")
def decoder():
    import softprompt

    return softprompt.load_backbone("lab-gpt")


def begun(decoder, monkeypatch, tmp_path, beginning):
    """The prompts of an arm before their first step."""
    kept = []
    train = cells.softprompt.train

    def first_step(*arguments, settings, **keywords):
        settings = dataclasses.replace(settings, steps=1, eval_every=1, shots_per_class=4, eval_rows=4)
        run = train(*arguments, settings=settings, **keywords)
        kept.extend(run.prompt(number) for number in range(len(run.results)))
        return run

    monkeypatch.setattr(cells.softprompt, "train", first_step)
    task = with_difficulty(TASKS["lab/opinion"], validation=8, test=8)
    records = deep_begin.trained(task, decoder, "prompt tuning", beginning, 1, (1e-6,))
    assert [record["seed"] for record in records] == [deep_begin.FIRST_SEED]
    return kept[0]


@pytest.mark.parametrize(("beginning", "is_own"), [(deep_begin.OWN, True), (deep_begin.RANDOM, False)])
def test_an_arm_begins_as_it_says(decoder, monkeypatch, tmp_path, beginning, is_own):
    prompt = begun(decoder, monkeypatch, tmp_path, beginning)
    own = decoder.prompt_states(prompt.expanded())
    assert torch.allclose(prompt.deep, own, atol=1e-3) == is_own
