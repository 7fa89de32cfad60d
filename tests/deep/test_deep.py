"""Deep prompts against plain loops over the layers, and what they must share with ordinary ones."""

import copy
import dataclasses
import json

import pytest
import torch
from softprompt.backbones import from_model
from softprompt.backbones.deep import SAMPLE
from softprompt.cli import main
from softprompt.errors import BadInput, CannotExport, DamagedFile, ModelMismatch, UnsupportedModel
from softprompt.inference.evaluate import evaluate
from softprompt.interop.attach import attach
from softprompt.interop.numpy import export_numpy
from softprompt.interop.peft import export_peft
from softprompt.prompts.batch import PromptBatch, TextBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.method_list import describe
from softprompt.prompts.methods import METHODS, Method
from softprompt.prompts.prompt import Provenance, SoftPrompt
from softprompt.prompts.trainable import TrainablePrompt, stack_prompts
from softprompt.prompts.units import WordScale
from softprompt.regularizers import regularizers
from softprompt.settings import TrainSettings
from softprompt.store import read_prompt, save_prompt
from softprompt.training import train
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized, RegularizerContext, acting
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions as Output

from deep_kit import LAYERS, MIXED, TEXTS, E, batch_of, built, prompt
from tiny import DECODERS, ENCODER_DECODERS, ENCODERS

# Word vectors of another width than the states.
NARROW = ("albert", "electra", "opt")
FAMILIES = [family for family in (*ENCODER_DECODERS, *ENCODERS, *DECODERS) if family not in NARROW]


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, E, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def prompt_batch(first, deep):
    return PromptBatch.stack([first], deep=[deep])


def soft_prompt(backbone, n=2, seed=0, repeats=1):
    first, deep = drawn(n, seed=seed).float(), drawn(LAYERS - 1, n, seed=seed + 1).float()
    provenance = Provenance("imported", backbone.identity(), backbone.answers)
    return SoftPrompt(first, provenance, repeats=repeats, deep=deep)


def gradients(logits, *leaves):
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float32)
    return torch.autograd.grad((logits * weights.to(logits)).sum(), leaves)


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


METHODS_WITH_A_PROMPT = [name for name, method in METHODS.items() if method.m and not method.takes_sources]


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
