"""Numbers that run away: NaN in one prompt, spikes of the loss, norms of ten million, gradients that vanish."""

import dataclasses

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.errors import BadInput
from softprompt.inference.predict import predict
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.settings import PromptSettings, TrainSettings
from softprompt.training import Interrupted, read_record, resume, train
from softprompt.training._loop import Loop
from softprompt.training._spikes import is_spike, spikes_and_underflow

SETTINGS = TrainSettings(steps=4, eval_every=2, batch_size=4, eval_rows=4)


def fleet(*rates: float) -> list[PromptSettings]:
    return [PromptSettings(lr=rate, units="raw", options={"prompt_length": 2}) for rate in rates]


def test_a_prompt_that_turns_nan_touches_no_other(chaos_task, chaos_model, tmp_path):
    runs = [
        train(chaos_task, chaos_model, prompts=fleet(0.3, 0.5, rate), settings=SETTINGS, output=tmp_path / str(rate))
        for rate in (0.2, 1e30)
    ]
    statuses = [result.status for result in runs[1].results]
    assert statuses[:2] == ["finished", "finished"]
    assert statuses[2].startswith("dropped at step")
    for result in runs[0].results[:2]:
        one, other = (run.folder / result.prompt for run in runs)
        for name in ("metrics.jsonl", "prompt/prompt.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_prompt_of_a_norm_of_ten_million_answers_with_chances(family, dtype, tiny_model, chaos_task):
    backbone = from_model(*tiny_model(family, dtype=dtype), name="tiny")
    identity, answers = backbone.identity(), backbone.answers
    vectors = torch.randn(3, identity.embedding_size, generator=torch.Generator().manual_seed(0))
    vectors *= 1e7 / vectors.norm(dim=1, keepdim=True)
    prompt = SoftPrompt(vectors, Provenance("x", identity, answers, task=chaos_task.to_json()))
    (answer,) = predict(prompt, ["good film"], model=backbone)
    chances = torch.tensor(list(answer["scores"].values()))
    assert torch.isfinite(chances).all()
    assert float(chances.sum()) == pytest.approx(1, abs=1e-3)


def test_a_spike_is_so_many_times_the_median_of_the_steps_before():
    before = [1.0, 1.2, 0.8, 1.1, 0.9]
    assert [is_spike(loss, before, 3.0) for loss in (2.9, 3.1)] == [False, True]
    assert not is_spike(100.0, before, None)
    assert not is_spike(100.0, before[:4], 3.0)
    with pytest.raises(BadInput, match="must be above 1"):
        TrainSettings(skip_spikes=1.0)


def test_skipped_steps_leave_the_prompt_as_it_is_are_counted_and_resume_to_the_same_bytes(
    chaos_task, chaos_model, tmp_path, monkeypatch
):
    settings = dataclasses.replace(SETTINGS, steps=8, skip_spikes=1.0001)

    def start(folder):
        return train(chaos_task, chaos_model, prompts=fleet(0.3), settings=settings, output=folder)

    whole = start(tmp_path / "whole")
    record = tmp_path / "whole" / whole.results[0].prompt / "metrics.jsonl"
    steps = [row for row in read_record(record) if "loss" in row]
    skipped = [row["step"] for row in steps if row.get("skipped")]
    assert 0 < len(skipped) < 3
    norms = {row["step"]: row["prompt_norm"] for row in steps}
    assert all(norms[step] == norms[step + 1] for step in skipped if step + 1 in norms)
    assert any(f"{len(skipped)} of 8 steps were skipped as spikes" in line for line in whole.results[0].warnings)
    run = Loop.run
    monkeypatch.setattr(Loop, "run", lambda loop, **w: run(loop, **{**w, "is_stopped": lambda: loop.step == 6}))
    with pytest.raises(Interrupted):
        start(tmp_path / "cut")
    monkeypatch.undo()
    resume(tmp_path / "cut", model=chaos_model)
    assert record.read_bytes() == (tmp_path / "cut" / whole.results[0].prompt / "metrics.jsonl").read_bytes()


def test_gradients_that_vanish_are_counted_and_those_of_what_is_learnt_are_not():
    rows = [{"step": n, "loss": loss, "gradient_norm": norm} for n, (loss, norm) in enumerate([(0.5, 0.0), (0.0, 0.0)])]
    (line,) = spikes_and_underflow("p", rows)
    assert line.startswith("p: the gradient was exactly 0 in 1 of 2 steps while the loss was not: it underflows")
