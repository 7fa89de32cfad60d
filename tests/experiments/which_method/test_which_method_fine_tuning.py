"""Fine-tuning in the study of methods is a plain loop."""

import dataclasses
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments.which_method.runs import _kept
from softprompt.backbones import load_backbone
from softprompt.data import load_rows, split_rows, stream
from softprompt.inference.rows import examples_for
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.study import RunSpec, run_all
from softprompt.tasks import TASKS, with_difficulty

from kit import review_task
from which_method_kit import TASK


def fine_tune(spec: RunSpec, store: Path) -> dict[str, Any]:
    """What is kept of a run that trains every weight."""
    spec = dataclasses.replace(spec, prompt=dataclasses.replace(spec.prompt, method="full"), engine="reference")
    return _kept(run_all([spec], store, progress=False)[0])


class TestFineTuning:
    def test_it_is_a_plain_loop_over_transformers_own_loss(self, tmp_path):
        task = with_difficulty(TASKS["lab/topic"], train=64, validation=16, test=16)
        settings = TrainSettings(steps=4, eval_every=4, batch_size=8)
        prompt = PromptSettings(method="linear-probe", lr=1e-3, seeds=Seeds.all(3))
        scale = 1 / 32
        spec = RunSpec(
            task=task, model="lab-t5-small", prompt=prompt, settings=settings, backbone={"embedding_scale": scale}
        )
        found = fine_tune(spec, tmp_path / "store")

        loaded = load_backbone("lab-t5-small", embedding_scale=scale)
        model, examples = loaded.model, examples_for(loaded, task, split_rows(task, load_rows(task, None)).train, 0)
        optimizer = torch.optim.AdamW(model.requires_grad_(True).parameters(), lr=1e-3, weight_decay=0.01)
        losses = []
        for step, rows in zip(range(4), stream(examples.lengths, range(64), 8, seed=3), strict=False):
            batch = examples.batch(rows, 0, loaded.pad_id)
            loss = model(input_ids=batch.ids, attention_mask=batch.mask.long(), labels=batch.targets).loss
            losses.append(loss.item())
            loss.backward()
            # Linear decay, no warm-up in so few steps.
            optimizer.param_groups[0]["lr"] = 1e-3 * (4 - step) / 4
            optimizer.step()
            optimizer.zero_grad()
        assert found["loss"] == pytest.approx(losses[-1], rel=1e-4)
        assert losses[-1] != pytest.approx(losses[0], rel=0.01)
        assert (found["steps"], found["status"]) == (4, "finished")

    def test_at_a_rate_that_moves_nothing_it_is_a_head_alone(self, tiny_bert, save_tiny, tmp_path):
        folder = str(save_tiny(tmp_path / "model", *tiny_bert("bert", head=False)))
        prompt = PromptSettings(method="linear-probe", lr=1e-30, seeds=Seeds.all(5))
        settings = TrainSettings(steps=12, eval_every=12, batch_size=8, shots=16, train_score=True)
        spec = RunSpec(task=review_task(tmp_path / "rows"), model=folder, prompt=prompt, settings=settings)
        alone = run_all([spec], tmp_path / "store", progress=False)[0]
        found = fine_tune(spec, tmp_path / "store")
        assert found["loss"] == pytest.approx(statistics.fmean(filter(None, alone.curve["loss"][-2:])), rel=1e-5)
        assert (found["score"], found["validation"]) == (alone.score, alone.validation_score)
        assert (found["train"], found["majority"]) == (alone.metrics["train"]["score"], alone.majority)
        assert found["norm"] is None
        moved = fine_tune(dataclasses.replace(spec, prompt=dataclasses.replace(prompt, lr=1e-2)), tmp_path / "store")
        assert moved["loss"] < found["loss"]

    def test_a_loss_that_is_not_finite_ends_it(self, tmp_path):
        settings = TrainSettings(steps=30, eval_every=30, batch_size=4)
        prompt = PromptSettings(method="linear-probe", lr=1e30)
        task = with_difficulty(TASKS[TASK], train=16, validation=8, test=8)
        found = fine_tune(RunSpec(task=task, model="lab-t5-small", prompt=prompt, settings=settings), tmp_path)
        assert found["score"] is None
        assert found["status"].startswith(f"dropped at step {found['steps'] + 1}")
        assert found["steps"] < 30
