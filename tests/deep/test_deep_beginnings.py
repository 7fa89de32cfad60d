"""What a deep prompt begins as, and how a run of one goes on after it was stopped."""

import dataclasses

import pytest
import torch
from softprompt.backbones import load_backbone
from softprompt.errors import BadInput
from softprompt.prompts.batch import PromptBatch
from softprompt.settings import TrainSettings
from softprompt.training import resume, train
from softprompt.training._loop import Loop

from deep_kit import LAYERS, MIXED, TEXTS, batch_of, built, prompt
from kit import at_step, fails, same_files


def deep_vectors(prompt):
    assert prompt.deep is not None
    return prompt.deep


class TestBeginnings:
    def test_the_first_layer_begins_as_an_ordinary_prompt_and_no_layer_as_another(self, backbone_of):
        backbone = backbone_of("t5")
        deep, ordinary = built(backbone, prompt()), built(backbone, prompt(deep=False))
        assert torch.equal(deep.initial, ordinary.initial)
        assert deep.deep is not None
        assert len({layer.sum().item() for layer in (deep.initial, *deep.deep)}) == LAYERS
        assert deep.deep.abs().max() <= 0.5

    @pytest.mark.parametrize("method", ["prompt-tuning", "ept-star"])
    def test_on_a_decoder_it_begins_as_the_ordinary_prompt(self, method, task, decoder_folder, tmp_path):
        prompts = [prompt(method, deep=deep, init="uniform", lr=1e-9) for deep in (False, True)]
        settings = TrainSettings(steps=1, eval_every=1, batch_size=4)
        run = train(task, decoder_folder, prompts=prompts, settings=settings, output=tmp_path / "run")
        ordinary, deep = run.prompt(0), run.prompt(1)
        assert deep.layers == LAYERS
        backbone = load_backbone(decoder_folder)
        batch = batch_of(backbone, TEXTS)
        expected, found = (backbone.logits(PromptBatch.of(one), batch) for one in (ordinary, deep))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)

    def test_a_deep_prompt_starts_from_a_deep_prompt_and_is_lost_on_no_ordinary_one(self, task, folder, tmp_path):
        settings = TrainSettings(steps=1, eval_every=1, batch_size=4)
        run = train(task, folder, prompts=MIXED[:1], settings=settings, output=tmp_path / "first")
        source = run.prompt(0)
        path = tmp_path / "first" / run.results[0].prompt / "prompt"
        again = prompt("prompt-tuning", 7, lr=1e-9, options={"prompt_length": 4}, init=f"prompt:{path}", units="rms")
        found = train(task, folder, prompts=[again], settings=settings, output=tmp_path / "second").prompt(0)
        assert found.deep is not None
        assert source.deep is not None
        torch.testing.assert_close(found.deep, source.deep, rtol=1e-5, atol=1e-5)
        with pytest.raises(BadInput, match=r"has vectors for 3 layers; give `deep`"):
            train(
                task, folder, prompts=[dataclasses.replace(again, deep=False)], settings=settings,
                output=tmp_path / "third",
            )  # fmt: skip
        assert not (tmp_path / "third").exists()


class TestGoingOn:
    @pytest.mark.parametrize("model", ["folder", "decoder_folder"])
    def test_a_killed_run_goes_on_to_the_same_bytes(self, model, task, tmp_path, monkeypatch, request):
        folder = request.getfixturevalue(model)
        prompts = [dataclasses.replace(prompt, init="vocabulary") for prompt in MIXED[:2]]

        settings = TrainSettings(steps=6, eval_every=2, batch_size=4)
        train(task, folder, prompts=prompts, settings=settings, output=tmp_path / "whole")
        with monkeypatch.context() as patch:
            patch.setattr(Loop, "_optimize", at_step(4, fails(KeyboardInterrupt())))
            with pytest.raises(KeyboardInterrupt):
                train(task, folder, prompts=prompts, settings=settings, output=tmp_path / "killed")
        resume(tmp_path / "killed")
        # A checkpoint's state holds the length of timing.jsonl, and its manifest that state's hash.
        ignored = ("timing.jsonl", "state.json", "manifest.json")
        assert same_files(tmp_path / "whole", tmp_path / "killed", ignore=ignored)

    def test_a_run_of_a_version_in_which_layers_began_at_random_goes_on_as_it_began(
        self, task, decoder_folder, tmp_path, monkeypatch
    ):
        from softprompt.training import _built

        def run(name):
            settings = TrainSettings(steps=6, eval_every=2, batch_size=4)
            prompts = [dataclasses.replace(prompt, init="uniform") for prompt in (MIXED[0], MIXED[2])]
            return train(task, decoder_folder, prompts=prompts, settings=settings, output=tmp_path / name)

        with monkeypatch.context() as earlier:
            earlier.setattr(_built._Prompts, "_states_of", lambda *_: None)
            whole = run("whole")
            earlier.setattr(Loop, "_optimize", at_step(4, fails(KeyboardInterrupt())))
            with pytest.raises(KeyboardInterrupt):
                run("killed")
        found = resume(tmp_path / "killed")
        for number in range(2):
            assert torch.equal(found.prompt(number).vectors, whole.prompt(number).vectors)
            assert torch.equal(deep_vectors(found.prompt(number)), deep_vectors(whole.prompt(number)))
