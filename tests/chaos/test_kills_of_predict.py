"""SIGKILL while a file is answered: the command that goes on leaves the bytes of one that was left alone."""

import json

import pytest
import torch
from softprompt.inference.bulk import predict_file
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.tasks import Task

import kills
from kit import review_rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_answers_of_two_prompts_that_are_killed_again_and_again_end_with_the_same_bytes(chaos_model, tmp_path):
    rows, prompts = tmp_path / "rows.jsonl", {}
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in review_rows(30, 0)))
    fields = {"source": {"files": {"train": "x.csv"}}, "template": "{text}", "metrics": ["accuracy"]}
    for seed, labels in enumerate((["bad", "good"], ["yes", "no", "0"])):
        task = Task.from_json({"name": f"t{seed}", "labels": labels, **fields}).to_json()
        vectors = torch.randn(2, 16, generator=torch.Generator().manual_seed(seed))
        prompts[f"p{seed}"] = SoftPrompt(vectors, Provenance("ept", chaos_model.identity(), task=task))

    def work(folder):
        folder.mkdir(exist_ok=True)
        # It may be killed when all is done.
        if [path.name for path in folder.iterdir()] != ["out.csv.gz"]:
            predict_file(prompts, rows, folder / "out.csv.gz", model=chaos_model, batch_size=4)

    found = kills.campaign(kills.Scenario(work, work), tmp_path, count=3, seed=0)
    assert (found["kills"], found["different"], found["failed"]) == (3, [], [])
