"""Training with regularisers: fleets, resumed runs, records, and what is refused."""

import dataclasses
import itertools

import pytest
import torch
from safetensors.torch import load_file
from softprompt.errors import BadInput
from softprompt.regularizers import REGULARIZERS, regularizers
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.store import save_checkpoint
from softprompt.training import _drive as drive_module
from softprompt.training import resume, train
from softprompt.training._records import read_record
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, acting

from kit import same_files
from regularizers_kit import LENGTH, batch_of, gradients, prompt_of, same


@pytest.fixture(scope="session")
def folder(tiny_t5, save_tiny, tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("models") / "t5", *tiny_t5())


def prompt(text, seed=0, method="prompt-tuning"):
    return PromptSettings(
        method=method, lr=0.1, regularizer=text, options={"prompt_length": LENGTH}, seeds=Seeds.all(seed)
    )


SHORT = TrainSettings(steps=6, batch_size=4, eval_every=3)


class TestTraining:
    @pytest.mark.parametrize("text", ["rn-emb:alpha=0", "adv-emb:radius=0", "rn-emb:delay=1", "rn-text:rate=0"])
    def test_what_is_off_changes_no_bit(self, text, task, folder, tmp_path):
        for name, one in (("plain", ""), ("off", text)):
            run = train(task, str(folder), prompts=[prompt(one)], settings=SHORT, output=tmp_path / name)
            assert run.results[0].status == "finished"
        plain, off = ((tmp_path / name / run.results[0].prompt / "prompt") for name in ("plain", "off"))
        (a,), (b,) = (list(load_file(next(p.glob("*.safetensors"))).values()) for p in (plain, off))
        assert a.equal(b)

    def test_prompts_with_different_regularisers_equal_each_alone(self, setting, task):
        backbone, regularizer_context, examples = setting("t5")
        texts = [
            "",
            "rn-emb:sigma=0.1",
            "rn-emb:sigma=0.5,alpha=0.2",
            "adv-emb",
            "rn-text:rate=0.5,divergence=kl",
            "freelb",
            "rn-emb:divergence=kl+rn-emb:sigma=1",
        ]
        rows = [[2 * i, 2 * i + 1] for i in range(len(texts))]
        owner = torch.arange(len(texts)).repeat_interleave(2)
        together = [prompt_of(backbone, seed) for seed in range(len(texts))]
        terms = acting([regularizers(t) for t in texts], list(range(len(texts))), 1, 10, 0)
        whole = batch_of(backbone, examples, list(itertools.chain(*rows)), owner)
        result = backward(backbone, together, whole, [0] * len(texts), Regularized(Plain(), terms, regularizer_context))
        for number, text in enumerate(texts):
            alone = prompt_of(backbone, number)
            own = acting([regularizers(text)], [number], 1, 10, 0)
            batch = batch_of(backbone, examples, rows[number])
            single = backward(backbone, [alone], batch, [0], Regularized(Plain(), own, regularizer_context))
            torch.testing.assert_close(result.losses[number], single.losses[0].to(result.losses), rtol=1e-6, atol=1e-6)
            apart = single.divergences[0].to(result.divergences)
            torch.testing.assert_close(result.divergences[number], apart, rtol=1e-5, atol=1e-6)
            same([p.grad for p in together[number].parameters()], [p.grad for p in alone.parameters()], atol=1e-5)

    def test_no_gradient_reaches_the_frozen_model(self, setting):
        backbone, regularizer_context, examples = setting("bert", torch.float32)
        batch = batch_of(backbone, examples)
        for name in ("rn-emb", "adv-emb", "vat", "freelb"):
            gradients(backbone, regularizer_context, name, batch, prompt_of(backbone, double=False))
        assert all(p.grad is None for p in backbone.model.parameters())

    @pytest.mark.parametrize("name", [n for n in REGULARIZERS if n not in ("r-drop", "adv-text")])
    def test_bfloat16_stays_finite(self, name, setting):
        backbone, regularizer_context, examples = setting("t5", torch.bfloat16)
        batch = batch_of(backbone, examples)
        found, result = gradients(backbone, regularizer_context, name, batch, prompt_of(backbone, double=False))
        assert all(torch.isfinite(g).all() for g in found)
        assert torch.isfinite(result.losses).all()
        assert torch.isfinite(result.divergences).all()

    def test_a_resumed_run_equals_one_that_never_stopped(self, task, folder, tmp_path, monkeypatch):
        prompts = [prompt("rn-emb+adv-emb:delay=0.3"), prompt("rn-text:how=replace", 1), prompt("", 2)]
        train(task, str(folder), prompts=prompts, settings=SHORT, output=tmp_path / "whole")

        def save_then_die(*arguments, **keywords):
            save_checkpoint(*arguments, **keywords)
            raise KeyboardInterrupt

        monkeypatch.setattr(drive_module, "save_checkpoint", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            train(task, str(folder), prompts=prompts, settings=SHORT, output=tmp_path / "killed")
        monkeypatch.undo()
        resume(tmp_path / "killed")
        assert same_files(tmp_path / "whole", tmp_path / "killed", ("timing.jsonl", "state.json", "manifest.json"))

    def test_what_was_measured_is_recorded_in_both_units(self, task, folder, tmp_path):
        run = train(
            task, str(folder), prompts=[prompt("rn-emb:sigma=0.5"), prompt("")], settings=SHORT, output=tmp_path / "run"
        )
        regularized, plain = (list(read_record(run.folder / r.prompt / "metrics.jsonl")) for r in run.results)
        assert all(row["divergence"] > 0 for row in regularized if "loss" in row)
        assert not any("divergence" in row for row in plain)
        told = run.prompt(0).provenance.training["regularizers"][0]
        assert told["sigma"] == 0.5
        assert told["sigma_raw"] == pytest.approx(0.5 * run.prompt(0).provenance.training["rms"])
        assert "regularizers" not in run.prompt(1).provenance.training

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("r-drop", "give `backbone_dropout`"),
            ("rn-text:column=2", "no word of 48 training rows may be changed"),
            ("adv-text:cosine=1", "no word of 48 training rows may be changed"),
        ],
    )
    def test_what_would_be_quietly_off_is_refused_before_anything_is_written(
        self, text, message, task, folder, tmp_path
    ):
        with pytest.raises(BadInput, match=message):
            train(task, str(folder), prompts=[prompt(text)], settings=SHORT, output=tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_divergences_of_one_number_are_refused(self, setting, task):
        backbone, regularizer_context, examples = setting("bert", torch.float32, head=False)
        number = dataclasses.replace(task, answer="number", labels=(), label_values=(), metrics=("pearson",))
        regularizer_context = RegularizerContext.of(backbone, number)
        batch = batch_of(backbone, examples)
        with pytest.raises(BadInput, match="give divergence=squared-error"):
            regularizer_context.check(regularizers("rn-emb"), number, batch, dropout=False, m=1)
        regularizer_context.check(regularizers("rn-emb:divergence=squared-error"), number, batch, dropout=False, m=1)

    def test_noise_on_a_prompt_that_is_not_there_is_refused(self, setting, task):
        backbone, regularizer_context, examples = setting("bert", torch.float32)
        with pytest.raises(BadInput, match="leaves no position to perturb"):
            regularizer_context.check(
                regularizers("rn-emb:where=prompt"), task, batch_of(backbone, examples), dropout=False, m=0
            )
