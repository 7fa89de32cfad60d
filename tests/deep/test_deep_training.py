"""Deep prompts in training, of every method and beside ordinary ones, from the command line to the answer."""

import dataclasses
import json

import pytest
import torch
from softprompt.cli import main
from softprompt.inference.evaluate import evaluate
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.method_list import describe
from softprompt.prompts.methods import METHODS
from softprompt.prompts.prompt import Provenance
from softprompt.prompts.trainable import TrainablePrompt, stack_prompts
from softprompt.regularizers import regularizers
from softprompt.settings import TrainSettings
from softprompt.training import train
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, acting

from deep_kit import LAYERS, METHODS_WITH_A_PROMPT, MIXED, TEXTS, E, batch_of, built, gradients, prompt


class TestLanes:
    @pytest.mark.parametrize("method", METHODS_WITH_A_PROMPT)
    def test_every_method_gives_each_layer_what_it_gives_to_vectors_alone(self, method, backbone_of):
        backbone = backbone_of("t5")
        found = built(backbone, prompt(method, units="rms")).eval()
        assert found.deep is not None
        deep = found.deep_vectors()
        assert deep is not None
        for initial, scale, vectors in zip(found.deep, backbone.state_scales(), deep, strict=True):
            unit = scale.token_norm if method == "polar" else scale.rms
            expected = (unit * found.reparameterization(initial)).repeat(found.method.repeats, 1)
            torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("method", METHODS_WITH_A_PROMPT)
    def test_trained_and_stored_numbers_are_counted(self, method, backbone_of):
        found = built(backbone_of("t5"), prompt(method))
        record = next(row for row in describe(E, LAYERS) if row["method"] == method)
        assert sum(p.numel() for p in found.prompt_parameters()) == record["trainable"]
        folded = found.fold(Provenance(method, backbone_of("t5").identity()))
        assert folded.stored == record["stored"] == METHODS[method].m * E * LAYERS
        assert folded.layers == LAYERS

    @pytest.mark.parametrize("method", METHODS_WITH_A_PROMPT)
    def test_its_default_rate_is_a_tenth_of_the_ordinary_prompts(self, method):
        rates = {}
        for deep in (False, True):
            rate = rates[deep] = METHODS[method].resolved(prompt(method, deep=deep)).lr
            listed = next(row for row in describe(E, LAYERS if deep else 1) if row["method"] == method)
            assert listed["lr"] == rate
        assert rates[True] == pytest.approx(rates[False] / 10)

    @pytest.mark.parametrize("method", METHODS_WITH_A_PROMPT)
    def test_every_number_gets_a_gradient(self, method, backbone_of):
        backbone = backbone_of("t5")
        found = built(backbone, prompt(method, units="rms"))
        logits = backbone.logits(stack_prompts([found], [0]), batch_of(backbone, TEXTS))
        for parameter, gradient in zip(
            found.prompt_parameters(), gradients(logits, *found.prompt_parameters()), strict=True
        ):
            assert gradient.abs().max() > 1e-9, parameter.shape

    def test_the_norm_guard_bounds_each_layer_in_norms_of_its_own_states(self, backbone_of):
        backbone = backbone_of("t5")
        found = built(backbone, prompt(units="rms", max_norm=0.01)).folded_deep()
        assert found is not None
        for vectors, scale in zip(found, backbone.state_scales(), strict=True):
            torch.testing.assert_close(vectors.norm(dim=1), torch.full((10,), 0.01 * scale.token_norm).double())

    def test_what_is_stored_answers_as_what_was_trained(self, backbone_of):
        backbone = backbone_of("t5", dtype=torch.float32)
        for settings in (prompt("ept-star"), prompt("residual", units="rms"), prompt("p-tuning-lstm")):
            found = TrainablePrompt.build(
                settings, uniform(), backbone.word_vectors, None, states=backbone.state_scales()
            ).eval()
            folded = found.fold(Provenance(settings.method, backbone.identity()))
            expected, stored = stack_prompts([found], [0]), PromptBatch.of(folded)
            batch = batch_of(backbone, TEXTS)
            # Torch's LSTM rounds otherwise where it keeps no gradient.
            atol = 1e-5 if settings.method == "p-tuning-lstm" else 0
            found = backbone.logits(stored, batch)
            torch.testing.assert_close(found, backbone.logits(expected, batch), rtol=0, atol=atol)


class TestTraining:
    @pytest.mark.parametrize("regularizer", ["", "rn-emb:sigma=0.3", "adv-emb"])
    @pytest.mark.parametrize("family", ["t5", "bart", "bert", "gpt2"])
    def test_deep_and_ordinary_prompts_together_have_the_gradients_of_each_alone(
        self, family, regularizer, task, backbone_of
    ):
        backbone = backbone_of(family)
        owner = [0, 1, 2, 3, 0, 2]
        batch = batch_of(backbone, TEXTS * 2, owner=owner, words=["good", "bad", "yes"] * 2)
        if backbone.kind == "encoder":
            words = backbone.encode_answers(["good", "bad", "yes"] * 2)
            batch = dataclasses.replace(batch, targets=torch.tensor(words))

        def differentiated(settings, batch, regularizer=regularizer):
            prompts, seeds = [built(backbone, one) for one in settings], list(range(len(settings)))
            regular = [regularizers(regularizer) for _ in settings]
            terms = acting(regular, [one.seeds.noise for one in settings], 10, 10, 0)
            regularizer_context = RegularizerContext.of(backbone, task)
            backward(backbone, prompts, batch, seeds, Regularized(Plain(), terms, regularizer_context), check=True)
            return [[p.grad for p in one.prompt_parameters()] for one in prompts]

        together, plain = differentiated(MIXED, batch), differentiated(MIXED, batch, regularizer="")
        for number, settings in enumerate(MIXED):
            own = batch.select(batch.owner == number)
            (alone,) = differentiated([settings], dataclasses.replace(own, owner=torch.zeros_like(own.owner)))
            for a, b, c in zip(together[number], alone, plain[number], strict=True):
                # T5's norms, and noise, are in float32.
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
                assert a is not None
                assert c is not None
                assert torch.equal(a, c) == (not regularizer)

    def test_a_run_records_its_depth_and_its_stored_prompt_has_the_scores_of_training(self, task, folder, tmp_path):
        settings = TrainSettings(steps=2, eval_every=2, batch_size=4)
        run = train(task, folder, prompts=MIXED[:2], settings=settings, output=tmp_path / "run")
        deep, ordinary = run.results
        assert (deep.prompt, ordinary.prompt) == ("prompt-tuning-deep-seed0", "prompt-tuning-seed0")
        assert (deep.trainable, deep.stored) == (LAYERS * 4 * E, LAYERS * 4 * E)
        assert (ordinary.trainable, ordinary.stored) == (4 * E, 4 * E)
        prompt = run.prompt(0)
        assert len(prompt.provenance.training["state_rms"]) == LAYERS - 1
        report = evaluate(prompt, split="test")
        assert {**report.metrics, "invalid": report.invalid} == deep.metrics["test"]
        assert len(prompt.predict(["a good film"])) == 1

    @pytest.mark.parametrize("model", ["folder", "decoder_folder"])
    def test_a_run_stores_and_trains_the_numbers_that_are_listed(self, model, task, tmp_path, request, capsys):
        folder, settings = request.getfixturevalue(model), TrainSettings(steps=1, batch_size=4)
        prompts = [prompt(method, init="uniform") for method in METHODS_WITH_A_PROMPT]
        run = train(task, folder, prompts=prompts, settings=settings, with_frozen=False, output=tmp_path / "run")
        capsys.readouterr()
        assert main(["methods", "list", "--model", folder, "--layers", str(LAYERS), "--json"]) == 0
        listed = {row["method"]: row for row in json.loads(capsys.readouterr().out)}
        for number, result in enumerate(run.results):
            row = listed[result.method]
            assert (result.trainable, result.stored) == (row["trainable"], row["stored"]), result.method
            assert run.prompt(number).stored == row["stored"]

    def test_training_in_rms_units_is_the_same_at_any_embedding_scale(self, task, folder, tmp_path):
        settings = TrainSettings(steps=4, eval_every=4, batch_size=4)
        runs = [
            train(
                task, folder, prompts=[prompt("prompt-tuning", units="rms")], settings=settings, embedding_scale=scale,
                output=tmp_path / f"{scale:g}",
            ).prompt(0)
            for scale in (1.0, 32.0)
        ]  # fmt: skip
        plain, scaled = (run.at_scale(1.0) for run in runs)
        assert torch.equal(plain.vectors, scaled.vectors)
        assert plain.deep is not None
        assert scaled.deep is not None
        assert torch.equal(plain.deep, scaled.deep)


def test_from_the_command_line_to_the_answer(folder, task, tmp_path, capsys):
    files = task.source.files
    words = ["--data", files["train"], "--validation-data", files["validation"], "--test-data", files["test"]]
    words += ["--text-column", "text", "--label-column", "label", "--model", str(folder), "--quiet"]
    words += ["--method", "ept-star", "--deep", "--steps", "2", "--batch-size", "4"]
    assert main(["train", *words, "--output", str(tmp_path / "run")]) == 0
    assert main(["predict", str(tmp_path / "run"), "very good"]) == 0
    capsys.readouterr()
    assert main(["show", "--json", str(tmp_path / "run" / "ept-star-deep-seed0" / "prompt")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["layers"], shown["stored"], shown["prompt_length"]) == (LAYERS, LAYERS * E, 10)
    assert main(["methods", "show", "ept-star", "--width", str(E), "--layers", str(LAYERS), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stored"] == LAYERS * E
