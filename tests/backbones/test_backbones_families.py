"""The contract that the backbones of every family keep, mostly against transformers itself."""

import copy
import dataclasses

import pytest
import torch
from softprompt.backbones import from_model, load_backbone
from softprompt.errors import UnsupportedModel
from softprompt.prompts.batch import PromptBatch, TextBatch

from backbones_kit import DOUBLE, TEXTS, WORDS, batch_of, one_of, random_prompt, word_ids, word_vectors
from kit import targets_of
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

ALL = (*ENCODER_DECODERS, *ENCODERS, *DECODERS)


@pytest.mark.parametrize("family", ALL)
class TestEveryFamily:
    def test_prompt_of_word_vectors_equals_the_words(self, family, backbone_of):
        backbone = backbone_of(family)
        batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["not good"]))
        prompt_batch = PromptBatch.stack([word_vectors(backbone, WORDS[0])])
        row = one_of(batch, 0)
        ids = torch.cat([word_ids(backbone, WORDS[0]), row.ids], 1)
        if backbone.kind == "encoder-decoder":
            reference = backbone.model(input_ids=ids, labels=batch.targets).logits
        elif backbone.kind == "decoder":
            # Mistral's tokenizer here ends its texts, which the answer has to follow.
            ids = ids[:, :-1] if ids[0, -1] == backbone.tokenizer.eos_token_id else ids
            assert batch.targets is not None
            reference = backbone.model(input_ids=torch.cat([ids, batch.targets], 1)).logits
            reference = reference[:, ids.shape[1] - 1 : -1]
        else:
            reference = backbone.model(input_ids=ids).logits[ids == backbone.tokenizer.mask_token_id][:, None]
        # Gemma 2 computes in float32, whose last digit at these logits is half a millionth.
        close = {"rtol": 0, "atol": 4e-6} if family == "gemma2" else DOUBLE
        torch.testing.assert_close(backbone.logits(prompt_batch, batch), reference, **close)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_a_shift_to_other_vectors_gives_the_answers_of_those_vectors(self, family, side, backbone_of):
        backbone = backbone_of(family)
        prompts = [random_prompt(backbone, n, seed=n).double() for n in (4, 2, 0)]
        batch = batch_of(backbone, TEXTS, [1, 0, 2], side, targets_of(backbone, ["not good", "yes", "0"]))
        reference = backbone.logits(PromptBatch.stack(prompts), batch)
        generator = torch.Generator().manual_seed(0)
        # No special token goes: masks, ends and pads are found by their ids.
        special = torch.isin(batch.ids, torch.tensor(backbone.tokenizer.all_special_ids))
        others = torch.randint(5, 30, batch.ids.shape, generator=generator)
        ids = torch.where(batch.mask & ~special, others, batch.ids)
        prompt_batch = PromptBatch.stack(prompts)
        random = torch.randn(3, *prompt_batch.vectors.shape[1:], generator=generator, dtype=torch.float64)
        shifted = dataclasses.replace(
            batch,
            ids=ids,
            text_delta=(backbone.embeddings(batch.ids) - backbone.embeddings(ids)).detach(),
            prompt_delta=-random * prompt_batch.mask[batch.owner][:, :, None],
        )
        other = dataclasses.replace(
            prompt_batch, vectors=prompt_batch.vectors + random[[1, 0, 2]] * prompt_batch.mask[:, :, None]
        )
        torch.testing.assert_close(backbone.logits(other, shifted), reference, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padded_rows_with_ragged_prompts_equal_each_row_alone(self, family, side, backbone_of):
        backbone = backbone_of(family)
        prompts = [random_prompt(backbone, n, seed=n) for n in (4, 1, 0)]
        targets = targets_of(backbone, ["not good", "yes", "0"])
        batch = batch_of(backbone, TEXTS, owner=[1, 0, 2], side=side, targets=targets)
        together = backbone.logits(PromptBatch.stack(prompts), batch)
        for i, own in enumerate([1, 0, 2]):
            alone = one_of(batch, i)
            row = TextBatch(alone.ids, alone.mask, torch.tensor([0]), alone.targets)
            expected = backbone.logits(PromptBatch.stack([prompts[own]]), row)
            torch.testing.assert_close(together[i : i + 1], expected, rtol=0, atol=1e-5)

    def test_no_frozen_weight_gets_a_gradient_and_the_prompt_does(self, family, backbone_of):
        backbone = backbone_of(family, dtype=torch.float32)
        prompt = random_prompt(backbone, 2).requires_grad_()
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        backbone.logits(PromptBatch.stack([prompt]), batch).logsumexp(-1).sum().backward()
        assert [name for name, p in backbone.model.named_parameters() if p.requires_grad or p.grad is not None] == []
        assert prompt.grad is not None
        assert (prompt.grad.norm(dim=1) > 1e-6).all()

    def test_recomputed_layers_give_the_same_gradient_from_fewer_saved_numbers(self, family, backbone_of):
        backbone = backbone_of(family, engine="reference")
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))

        def gradient_and_saved():
            prompt, kept = random_prompt(backbone, 2).requires_grad_(), []

            def keep(tensor):
                kept.append(tensor.numel())
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                loss = backbone.logits(PromptBatch.stack([prompt]), batch).logsumexp(-1).sum()
            (gradient,) = torch.autograd.grad(loss, prompt)
            return gradient, sum(kept)

        plain, saved = gradient_and_saved()
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        with torch.inference_mode():
            scores = backbone.label_scores(prompt_batch, batch, backbone.encode_answers([" good", " bad"]))
        backbone.gradient_checkpointing(True)
        recomputed, fewer = gradient_and_saved()
        with torch.inference_mode():
            assert torch.equal(
                backbone.label_scores(prompt_batch, batch, backbone.encode_answers([" good", " bad"])), scores
            )
        backbone.gradient_checkpointing(False)
        again, as_before = gradient_and_saved()
        torch.testing.assert_close(recomputed, plain, rtol=1e-12, atol=1e-12)
        assert fewer < saved
        assert torch.equal(again, plain)
        assert as_before == saved

    def test_dropout_is_off_until_asked_for(self, family, backbone_of):
        rates = {"bart": ["dropout"], "distilbert": ["dropout"], "gpt2": ["resid_pdrop"], "opt": ["dropout"]}
        usual = "dropout_rate" if family in ENCODER_DECODERS else "hidden_dropout_prob"
        names = rates.get(family, ["attention_dropout" if family in DECODERS else usual])
        backbone = backbone_of(family, **dict.fromkeys(names, 0.5))
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        prompt_batch = PromptBatch.stack([random_prompt(backbone, 2)])
        off = backbone.logits(prompt_batch, batch)
        assert torch.equal(backbone.logits(prompt_batch, batch), off)
        with torch.random.fork_rng():
            backbone.dropout(True)
            assert not torch.allclose(backbone.logits(prompt_batch, batch), off, atol=1e-3)
        backbone.dropout(False)
        assert torch.equal(backbone.logits(prompt_batch, batch), off)

    def test_a_float32_prompt_works_in_a_bfloat16_model(self, family, backbone_of):
        backbone = backbone_of(family, dtype=torch.bfloat16)
        batch = batch_of(backbone, TEXTS[:1], targets=targets_of(backbone, ["good"]))
        words = word_vectors(backbone, WORDS[0])
        prompt = words.float().requires_grad_()
        logits = backbone.logits(PromptBatch.stack([prompt]), batch)
        # A decoder keeps float32 between its products, the head's rounded output among them.
        assert logits.dtype == (torch.float32 if backbone.kind == "decoder" else torch.bfloat16)
        assert torch.equal(logits, backbone.logits(PromptBatch.stack([words]), batch))
        (gradient,) = torch.autograd.grad(logits.float().logsumexp(-1).sum(), prompt)
        assert gradient.dtype == torch.float32

    def test_float16_is_refused_and_the_model_left_alone(self, family, tiny_model):
        model, tokenizer = tiny_model(family, dtype=torch.float16)
        with pytest.raises(UnsupportedModel, match="65504"):
            from_model(model, tokenizer)
        assert all(p.requires_grad for p in model.parameters())

    def test_a_saved_checkpoint_loads_as_what_it_is(self, family, tiny_model, save_tiny, tmp_path):
        model, tokenizer = tiny_model(family)
        folder = save_tiny(tmp_path / family, model, tokenizer)
        ours, theirs = load_backbone(folder), from_model(model, tokenizer)
        assert (ours.kind, ours.answers, ours.max_positions) == (theirs.kind, theirs.answers, theirs.max_positions)
        assert ours.answers == ("label-words" if family in ENCODERS else "tokens")
        batch = batch_of(ours, TEXTS, targets=targets_of(ours, ["good", "bad", "bad"]))
        prompt_batch = PromptBatch.stack([random_prompt(ours, 2)])
        assert torch.equal(ours.logits(prompt_batch, batch), theirs.logits(prompt_batch, batch))


def test_inputs_of_frozen_linears_are_not_saved_for_backward(tiny_t5):
    """Of a norm's output only the weight gradient of the next linear would want a copy."""
    model, tokenizer = tiny_t5()
    unfrozen = copy.deepcopy(model)

    def saved_norm_outputs(backbone):
        prompt, outputs, saved = random_prompt(backbone, 2).requires_grad_(), set(), set()
        kept = []  # held, so that no address is used twice

        def note(module, arguments, output):
            kept.append(output)
            outputs.add(output.data_ptr())

        def keep(tensor):
            kept.append(tensor)
            saved.add(tensor.data_ptr())
            return tensor

        handles = [block.layer_norm.register_forward_hook(note) for stack in (backbone.model.encoder.block,)
                   for layer in stack for block in layer.layer]  # fmt: skip
        batch = batch_of(backbone, TEXTS, targets=targets_of(backbone, ["good", "bad", "bad"]))
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone.logits(PromptBatch.stack([prompt]), batch)
        for handle in handles:
            handle.remove()
        assert len(outputs) == 4
        return outputs & saved

    assert saved_norm_outputs(from_model(model, tokenizer, engine="reference")) == set()
    backbone = from_model(unfrozen, tokenizer, engine="reference")
    backbone.model.requires_grad_(True)
    assert len(saved_norm_outputs(backbone)) == 4
