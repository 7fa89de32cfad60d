"""Deep prompts against plain loops over the layers, and in every family of models."""

import copy
import dataclasses

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.backbones.deep import SAMPLE
from softprompt.prompts.batch import PromptBatch, TextBatch

from deep_kit import (
    FAMILIES,
    LAYERS,
    TEXTS,
    E,
    batch_of,
    drawn,
    gradients,
    prompt_batch,
    soft_prompt,
)
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS


class TestAgainstPlainLoops:
    """One row, no pads: embeddings, then layer by layer, the prompt's rows written over each time."""

    def compare(self, backbone, reference, atol=1e-10):
        first, deep = drawn(2).requires_grad_(), drawn(LAYERS - 1, 2, seed=1).requires_grad_()
        batch = batch_of(backbone, TEXTS[:1])
        keep = batch.mask[0]
        batch = TextBatch(batch.ids[:, keep], batch.mask[:, keep], batch.owner, batch.targets)
        found, expected = (
            backbone.logits(prompt_batch(first, deep), batch),
            reference(backbone.model, batch, first, deep),
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
        for a, b in zip(gradients(found, first, deep), gradients(expected, first, deep), strict=True):
            assert b.flatten(0, -2).norm(dim=1).min() > 1e-6
            torch.testing.assert_close(a, b, rtol=0, atol=atol * 10)
        ordinary = backbone.logits(PromptBatch.stack([first]), batch)
        assert (found - ordinary).abs().max() > 1e-2

    def test_bert(self, backbone_of):
        def reference(model, batch, first, deep):
            words = model.bert.embeddings.word_embeddings(batch.ids)
            states = model.bert.embeddings(inputs_embeds=torch.cat([first[None], words], 1))
            for number, layer in enumerate(model.bert.encoder.layer):
                if number:
                    states = torch.cat([deep[number - 1][None], states[:, 2:]], 1)
                states = layer(states)
            return model.cls(states[:, -2:-1])

        self.compare(backbone_of("bert"), reference)

    def test_t5(self, backbone_of):
        def reference(model, batch, first, deep):
            encoder = model.encoder
            states = torch.cat([first[None], model.shared(batch.ids)], 1)
            bias = encoder.block[0].layer[0].SelfAttention.compute_bias(states.shape[1], states.shape[1])
            for number, block in enumerate(encoder.block):
                if number:
                    states = torch.cat([deep[number - 1][None], states[:, 2:]], 1)
                for layer in block.layer:
                    normed = layer.layer_norm(states)
                    if hasattr(layer, "SelfAttention"):
                        states = states + layer.SelfAttention(normed, position_bias=bias.to(states))[0]
                    else:
                        states = states + layer.DenseReluDense(normed)
            states = encoder.final_layer_norm(states)
            return model(encoder_outputs=(states,), labels=batch.targets).logits

        # T5's norms compute in float32, in the reference too, but not in the same order of operations.
        self.compare(backbone_of("t5"), reference)

    def test_gpt2(self, backbone_of):
        def reference(model, batch, first, deep):
            ids = torch.cat([batch.ids, batch.targets[:, :-1]], 1)
            states = torch.cat([first[None], model.transformer.wte(ids)], 1)
            states = states + model.transformer.wpe.weight[: states.shape[1]]
            for number, block in enumerate(model.transformer.h):
                if number:
                    states = torch.cat([deep[number - 1][None], states[:, 2:]], 1)
                states = block(states)
                states = states[0] if isinstance(states, tuple) else states
            return model.lm_head(model.transformer.ln_f(states))[:, -batch.targets.shape[1] :]

        self.compare(backbone_of("gpt2"), reference)

    def test_key_and_value_prefixes_of_p_tuning_v2_are_the_same_function(self, backbone_of):
        """In BERT, whose layers project their input as it is: K = W_k p + b_k and V = W_v p + b_v before the text's."""

        def reference(model, batch, first, deep):
            words = model.bert.embeddings.word_embeddings(batch.ids)
            states = model.bert.embeddings(inputs_embeds=torch.cat([first[None], words], 1))
            prompt, states = states[:, :2], states[:, 2:]
            for number, layer in enumerate(model.bert.encoder.layer):
                prefix = prompt if number == 0 else deep[number - 1][None]
                attention = layer.attention.self
                heads = [attention.query(states)] + [
                    torch.cat([project(prefix), project(states)], 1) for project in (attention.key, attention.value)
                ]
                q, k, v = (x.unflatten(-1, (2, 8)).transpose(1, 2) for x in heads)
                mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
                states = layer.attention.output(mixed, states)
                states = layer.output(layer.intermediate(states), states)
            return model.cls(states[:, -2:-1])

        self.compare(backbone_of("bert"), reference)


@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    def test_what_would_have_been_there_changes_nothing(self, family, backbone_of):
        """The states that the layers before leave at the prompt's positions, written there again."""
        backbone, prompt = backbone_of(family), drawn(2)
        batch = batch_of(backbone, TEXTS[:1])
        kept, hooks = [], []
        for layer in backbone.layers[1:]:

            def keep(module, arguments, options):
                kept.append((arguments[0] if arguments else options["hidden_states"])[0, :2])

            hooks.append(layer.register_forward_pre_hook(keep, with_kwargs=True))
        expected = backbone.logits(PromptBatch.stack([prompt]), batch)
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(
            backbone.logits(prompt_batch(prompt, torch.stack(kept)), batch), expected, rtol=0, atol=1e-6
        )

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_rows_with_ragged_prompts_of_both_kinds_equal_each_row_alone(self, family, side, backbone_of):
        backbone = backbone_of(family)
        firsts = [drawn(n, seed=n) for n in (4, 1, 2)]
        deep = [drawn(LAYERS - 1, 4, seed=5), drawn(LAYERS - 1, 1, seed=6), None]
        together = PromptBatch.stack(firsts, deep=deep)
        batch = batch_of(backbone, TEXTS, owner=[1, 0, 2], side=side)
        found = backbone.logits(together, batch)
        for i, own in enumerate([1, 0, 2]):
            keep = batch.mask[i]
            targets = None if batch.targets is None else batch.targets[i : i + 1]
            row = TextBatch(batch.ids[i : i + 1, keep], batch.mask[i : i + 1, keep], torch.tensor([0]), targets)
            expected = backbone.logits(prompt_batch(firsts[own], deep[own]), row)
            torch.testing.assert_close(found[i : i + 1], expected, rtol=0, atol=1e-5)

    def test_every_layers_vectors_matter_and_no_frozen_weight_gets_a_gradient(self, family, backbone_of):
        backbone = backbone_of(family)
        first, deep = drawn(2).requires_grad_(), drawn(LAYERS - 1, 2, seed=1).requires_grad_()
        logits = backbone.logits(prompt_batch(first, deep), batch_of(backbone, TEXTS))
        for gradient in gradients(logits, first, deep):
            assert (gradient.norm(dim=-1) > 1e-6).all()
        assert all(p.grad is None and not p.requires_grad for p in backbone.model.parameters())

    def test_recomputed_layers_give_the_same_gradient(self, family, backbone_of):
        backbone, batch = backbone_of(family, engine="reference"), None
        found = []
        for on in (False, True):
            backbone.gradient_checkpointing(on)
            batch = batch or batch_of(backbone, TEXTS)
            first, deep = drawn(2).requires_grad_(), drawn(LAYERS - 1, 2, seed=1).requires_grad_()
            found.append(gradients(backbone.logits(prompt_batch(first, deep), batch), first, deep))
        backbone.gradient_checkpointing(False)
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)

    def test_bfloat16_is_near_float32(self, family, backbone_of):
        whole = backbone_of(family, dtype=torch.float32)
        half = backbone_of(family, dtype=torch.bfloat16)
        one = prompt_batch(drawn(2).float(), drawn(LAYERS - 1, 2, seed=1).float())
        expected = whole.logits(one, batch_of(whole, TEXTS))
        found = half.logits(one, batch_of(half, TEXTS))
        assert torch.isfinite(found).all()
        assert (found.float() - expected).abs().mean() < 0.1 * expected.abs().mean()

    def test_a_prompt_brought_to_another_embedding_scale_answers_the_same(self, family, backbone_of):
        plain = backbone_of(family, dtype=torch.float32)
        scaled = from_model(copy.deepcopy(plain.model), plain.tokenizer, embedding_scale=32.0)
        prompt = soft_prompt(plain)
        moved = prompt.at_scale(32.0)
        scaled.check(moved)
        expected = plain.logits(PromptBatch.of(prompt), batch_of(plain, TEXTS))
        found = scaled.logits(PromptBatch.of(moved), batch_of(scaled, TEXTS))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 if family.startswith("gemma") else 0)
        assert moved.deep is not None
        assert prompt.deep is not None
        assert torch.equal(moved.deep, prompt.deep * (1 if family in ENCODERS or family == "bart" else 32))

    def test_units_follow_the_embedding_scale_as_the_states_do(self, family, backbone_of):
        plain = backbone_of(family, dtype=torch.float32)
        scaled = from_model(copy.deepcopy(plain.model), plain.tokenizer, embedding_scale=32.0)
        factor = 1 if family in ENCODERS or family == "bart" else 32
        for before, after in zip(plain.state_scales(), scaled.state_scales(), strict=True):
            assert after.rms == pytest.approx(before.rms * factor, rel=1e-5)


@pytest.mark.parametrize("family", [f for f in FAMILIES if f in DECODERS or f in ENCODER_DECODERS])
class TestAnswers:
    def test_generation_equals_a_whole_pass_for_each_token(self, family, backbone_of):
        backbone = backbone_of(family)
        one, batch = prompt_batch(drawn(2), drawn(LAYERS - 1, 2, seed=1)), batch_of(backbone, TEXTS, side="left")
        ends = [backbone.end] if backbone.kind == "encoder-decoder" else backbone.ends
        answers = []
        for row in range(3):
            keep = batch.mask[row]
            ids, mask = batch.ids[row : row + 1, keep], batch.mask[row : row + 1, keep]
            chosen: list[int] = []
            while len(chosen) < 6 and not (chosen and chosen[-1] in ends):
                # The last target is never read.
                logits = backbone.logits(one, TextBatch(ids, mask, torch.tensor([0]), torch.tensor([[*chosen, 0]])))
                chosen.append(int(logits[0, -1].argmax()))
            answers.append(backbone.tokenizer.decode(chosen, skip_special_tokens=True).strip())
        assert len(set(answers)) > 1
        assert backbone.generate(one, batch, max_new_tokens=6) == answers

    def test_label_scores_are_those_of_a_whole_pass(self, family, backbone_of):
        backbone = backbone_of(family)
        one, batch = prompt_batch(drawn(2), drawn(LAYERS - 1, 2, seed=1)), batch_of(backbone, TEXTS)
        labels = backbone.encode_answers(["not good", "yes"])
        found = backbone.label_scores(one, batch, labels)
        for number, label in enumerate(labels):
            targets = torch.tensor([label]).expand(3, -1)
            logits = backbone.logits(one, dataclasses.replace(batch, targets=targets)).log_softmax(-1)
            expected = logits.gather(2, targets[:, :, None]).sum((1, 2))
            torch.testing.assert_close(found[:, number], expected, rtol=0, atol=1e-5)


def test_a_linear_head_reads_the_text_states_behind_a_deep_prompt(backbone_of):
    backbone = backbone_of("bert", answers="linear-head", head=False)
    one, batch = prompt_batch(drawn(2), drawn(LAYERS - 1, 2, seed=1)), batch_of(backbone, TEXTS)
    with_head = dataclasses.replace(one, head_weight=drawn(1, 2, seed=3), head_bias=torch.zeros(1, 2).double())
    states, mask = backbone.text_states(one, batch), batch.mask[:, :, None]
    expected = (states * mask).sum(1) / mask.sum(1) @ drawn(2, seed=3).T
    torch.testing.assert_close(backbone.logits(with_head, batch)[:, 0], expected, rtol=0, atol=1e-12)


def test_units_are_the_typical_state_of_random_tokens(backbone_of):
    backbone = backbone_of("gpt2")
    ids = torch.randint(len(backbone.embeddings.weight), SAMPLE, generator=torch.Generator().manual_seed(0))
    states = backbone.model(ids, output_hidden_states=True).hidden_states[1:LAYERS]
    for scale, found in zip(backbone.state_scales(), states, strict=True):
        norms = found.norm(dim=-1).flatten().sort().values
        assert scale.token_norm == pytest.approx(norms[(len(norms) - 1) // 2].item())
        assert scale.rms == pytest.approx(scale.token_norm / E**0.5)


@pytest.mark.parametrize("family", ["t5", "gpt2", "llama", "gemma2"])
def test_only_the_direction_counts_where_layers_begin_with_a_norm(family, backbone_of):
    """But for the last layer of T5's encoder, whose own states the decoder reads."""
    backbone, deep = backbone_of(family), drawn(LAYERS - 1, 2, seed=1)
    longer = deep * torch.tensor([10.0, 1.0 if family == "t5" else 10.0])[:, None, None]
    batch = batch_of(backbone, TEXTS)
    expected, found = (backbone.logits(prompt_batch(drawn(2), layers), batch) for layers in (deep, longer))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    turned = backbone.logits(prompt_batch(drawn(2), -deep), batch)
    assert (turned - expected).abs().max() > 1e-2


def test_in_bert_whose_layers_end_in_a_norm_the_length_counts_too(backbone_of):
    backbone, deep = backbone_of("bert"), drawn(LAYERS - 1, 2, seed=1)
    batch = batch_of(backbone, TEXTS)
    expected, found = (backbone.logits(prompt_batch(drawn(2), layers), batch) for layers in (deep, 10 * deep))
    assert (found - expected).abs().max() > 1e-2
