"""How deep prompts are stored, and what cannot hold or take one."""

import dataclasses

import pytest
import torch
from softprompt.errors import BadInput, CannotExport, DamagedFile, ModelMismatch, UnsupportedModel
from softprompt.interop.numpy import export_numpy
from softprompt.interop.peft import export_peft
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.methods import Method
from softprompt.prompts.prompt import SoftPrompt
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.prompts.units import WordScale
from softprompt.store import read_prompt, save_prompt
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as Output

from deep_kit import LAYERS, NARROW, TEXTS, E, batch_of, drawn, prompt, prompt_batch, soft_prompt


class TestStored:
    def test_a_deep_prompt_comes_back_bit_for_bit(self, backbone_of, tmp_path):
        prompt = soft_prompt(backbone_of("t5"), repeats=3)
        found = read_prompt(save_prompt(prompt, tmp_path / "prompt"))
        assert prompt.deep is not None
        assert found.deep is not None
        assert torch.equal(found.deep, prompt.deep)
        assert (found.repeats, found.provenance, found.stored) == (3, prompt.provenance, LAYERS * 2 * E)

    def test_repeats_are_written_out_in_every_layer(self, backbone_of):
        backbone = backbone_of("t5", dtype=torch.float32)
        prompt = soft_prompt(backbone, repeats=3)
        assert prompt.deep is not None
        whole = SoftPrompt(torch.cat([prompt.vectors] * 3), prompt.provenance, deep=torch.cat([prompt.deep] * 3, 1))
        batch = batch_of(backbone, TEXTS)
        found, expected = (backbone.logits(PromptBatch.of(p), batch) for p in (prompt, whole))
        assert torch.equal(found, expected)

    @pytest.mark.parametrize("shape", [(2, 3, E), (0, 2, E), (2, E)])
    def test_deep_vectors_of_another_shape_are_refused(self, shape, backbone_of, tmp_path):
        prompt = SoftPrompt(drawn(2).float(), soft_prompt(backbone_of("t5")).provenance)
        object.__setattr__(prompt, "deep", torch.zeros(shape))
        with pytest.raises((BadInput, DamagedFile), match="the deep vectors in"):
            read_prompt(save_prompt(prompt, tmp_path / "prompt"))

    def test_what_holds_one_layer_refuses_several(self, backbone_of, tmp_path):
        backbone = backbone_of("t5", dtype=torch.float32)
        prompt = soft_prompt(backbone)
        with pytest.raises(CannotExport, match="this prompt has 3 layers"):
            export_numpy(prompt, tmp_path / "prompt.npy")
        with pytest.raises(CannotExport, match="has vectors for 3 layers, PEFT's prompt tuning for one"):
            export_peft(prompt, tmp_path / "peft")
        assert not list(tmp_path.iterdir())


class TestRefusals:
    def test_a_model_of_another_depth(self, backbone_of):
        prompt, shallower = soft_prompt(backbone_of("t5")), backbone_of("t5", num_layers=2)
        origin = dataclasses.replace(prompt.provenance.backbone, embedding_sha256=None)
        unbound = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, backbone=origin))
        with pytest.raises(ModelMismatch, match=r"has vectors for 3 layers, .* has 2"):
            shallower.check(unbound)

    @pytest.mark.parametrize("family", NARROW)
    def test_words_narrower_than_states(self, family, backbone_of):
        with pytest.raises(UnsupportedModel, match=r"as wide as the states, .* has e = \d+ and d = \d+"):
            backbone_of(family).state_scales()

    def test_layers_that_are_one_module(self, backbone_of):
        with pytest.raises(UnsupportedModel, match="are not 3 modules in one list"):
            backbone_of("albert", hidden_size=E, embedding_size=E).state_scales()

    def test_a_single_layer(self, backbone_of):
        with pytest.raises(UnsupportedModel, match="has one layer"):
            backbone_of("t5", num_layers=1).state_scales()

    def test_a_layer_that_is_never_called(self, backbone_of):
        backbone = backbone_of("bert")
        backbone.base.encoder.forward = lambda states, **options: Output(last_hidden_state=states)
        self.refused(backbone, r"2 layers of .* were not called")

    def test_states_that_are_laid_out_otherwise(self, backbone_of):
        backbone = backbone_of("bert")
        second = backbone.layers[1]
        whole = second.forward
        second.forward = lambda states, *rest, **options: whole(states, *rest, **options)[:, 1:]
        self.refused(backbone, r"layer 3 of .* reads states of shape")

    def refused(self, backbone, message):
        with pytest.raises(UnsupportedModel, match=message):
            backbone.logits(prompt_batch(drawn(2), drawn(LAYERS - 1, 2)), batch_of(backbone, TEXTS))
        # Before a run has written anything.
        with pytest.raises(UnsupportedModel, match=message):
            backbone.state_scales()

    def test_a_head_without_a_prompt(self):
        with pytest.raises(BadInput, match="'linear-probe' has no prompt to enter every layer; leave `deep` out"):
            Method.of(prompt("linear-probe"))

    def test_a_model_of_which_it_is_not_known_how_its_states_scale(self, backbone_of):
        prompt = soft_prompt(backbone_of("t5"))
        origin = dataclasses.replace(prompt.provenance.backbone, states_scale=None)
        unknown = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, backbone=origin))
        with pytest.raises(BadInput, match="is not known, so its deep prompts stay at embedding scale 1"):
            unknown.at_scale(2.0)

    def test_a_prompt_that_does_not_know_the_states(self, backbone_of):
        table = backbone_of("t5").word_vectors.float()
        with pytest.raises(BadInput, match="give states="):
            TrainablePrompt.build(prompt(), uniform(), table, None)

    def test_states_without_a_scale(self):
        with pytest.raises(BadInput, match="have norm 0, so no deep prompt"):
            WordScale.of_states(torch.zeros(4, 2))
