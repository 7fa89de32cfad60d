"""Deep prompts beside the ordinary prompts that they equal, and attached to a model of transformers."""

import dataclasses

import pytest
import torch
from softprompt.errors import BadInput, ModelMismatch
from softprompt.interop.attach import attach
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.prompt import Provenance, SoftPrompt

from deep_kit import FAMILIES, LAYERS, TEXTS, batch_of, drawn, soft_prompt
from tiny import DECODERS


def deepened(prompt, backbone):
    """The ordinary prompt of a decoder as a deep one: its states do not depend on what follows."""
    states = backbone.base(inputs_embeds=prompt.vectors[None].to(backbone.dtype), output_hidden_states=True)
    return dataclasses.replace(prompt, deep=torch.cat(states.hidden_states[1:LAYERS]).detach().float())


@pytest.mark.parametrize("family", [family for family in FAMILIES if family in DECODERS])
class TestDecoders:
    """A prompt's own states, put back at every layer, are the prompt, before any text."""

    def both(self, family, backbone_of):
        backbone = backbone_of(family)
        prompt = SoftPrompt(drawn(3).float(), Provenance("imported", backbone.identity(), backbone.answers))
        return backbone, prompt, deepened(prompt, backbone)

    def test_scores_and_generation_are_the_ordinary_prompts(self, family, backbone_of):
        backbone, ordinary, deep = self.both(family, backbone_of)
        batch, labels = batch_of(backbone, TEXTS), backbone.encode_answers(["not good", "yes"])
        prompt_batches = [PromptBatch.of(prompt) for prompt in (ordinary, deep)]
        expected, found = (backbone.label_scores(one, batch, labels) for one in prompt_batches)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        expected, found = (backbone.generate(one, batch, max_new_tokens=6) for one in prompt_batches)
        assert found == expected

    def test_attached_it_generates_with_beams_and_goes_on_from_a_cache_as_the_ordinary_prompt(
        self, family, backbone_of
    ):
        backbone, ordinary, deep = self.both(family, backbone_of)
        batch = batch_of(backbone, TEXTS, side="left")
        inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
        one, other = (attach(prompt, backbone.model) for prompt in (ordinary, deep))
        pad = {"pad_token_id": backbone.pad_id}
        for asked in ({"num_beams": 3, "num_return_sequences": 2}, {"do_sample": False}):
            found = other.generate(**inputs, **asked, **pad, max_new_tokens=5)
            assert torch.equal(found, one.generate(**inputs, **asked, **pad, max_new_tokens=5))
        steps = []
        for attached in (one, other):
            first = attached(**inputs, use_cache=True)
            mask = torch.cat([inputs["attention_mask"], torch.ones(3, 1, dtype=torch.long)], 1)
            steps.append((first.logits, attached(batch.ids[:, :1], mask, past_key_values=first.past_key_values).logits))
        for found, expected in zip(*steps, strict=True):
            torch.testing.assert_close(found[:, -1], expected[:, -1], rtol=0, atol=1e-4)
        with pytest.raises(BadInput, match="use_cache=False cannot be given to a model with a deep prompt"):
            other.generate(**inputs, use_cache=False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["t5", "bart", "bert", "roberta", "mpnet"])
def test_attached_it_answers_as_in_our_backbone(family, side, backbone_of):
    backbone = backbone_of(family)
    prompt, batch = soft_prompt(backbone), batch_of(backbone, TEXTS, side=side)
    attached = attach(prompt, backbone.model)
    expected = backbone.logits(PromptBatch.of(prompt), batch)
    inputs = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    if backbone.kind == "encoder":
        found = attached(**inputs).logits[(batch.ids == backbone.tokenizer.mask_token_id) & batch.mask][:, None]
    else:
        found = attached(**inputs, labels=batch.targets).logits
        texts = backbone.generate(PromptBatch.of(prompt), batch, max_new_tokens=5)
        ids = attached.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=5)
        found_texts = [text.strip() for text in backbone.tokenizer.batch_decode(ids, skip_special_tokens=True)]
        # BART's checkpoints force an end of sequence where our backbone lets it write on.
        assert all(ours.startswith(text) for ours, text in zip(texts, found_texts, strict=True))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_attached_to_a_model_whose_layers_are_recomputed_it_is_refused(backbone_of):
    backbone = backbone_of("bert")
    attached = attach(soft_prompt(backbone), backbone.model)
    backbone.model.train()
    backbone.model.activation_checkpointing_enable()
    with pytest.raises(BadInput, match="turn gradient checkpointing off"):
        attached(batch_of(backbone, TEXTS).ids)


def test_attached_to_a_model_of_another_depth_it_is_refused(backbone_of):
    prompt = soft_prompt(backbone_of("t5"))
    origin = dataclasses.replace(prompt.provenance.backbone, embedding_sha256=None)
    unbound = dataclasses.replace(prompt, provenance=dataclasses.replace(prompt.provenance, backbone=origin))
    with pytest.raises(ModelMismatch, match=r"has vectors for 3 layers, .* has 2"):
        attach(unbound, backbone_of("t5", num_layers=2).model)
