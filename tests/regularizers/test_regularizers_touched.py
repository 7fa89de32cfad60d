"""What noise and ascents touch, how far they go, and what must never be touched."""

import dataclasses
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from softprompt.data import SPECIAL
from softprompt.errors import BadInput
from softprompt.prompts.batch import PromptBatch
from softprompt.regularizers import DIVERGENCES, regularizers, row_divergences
from softprompt.regularizers._ball import Ball
from softprompt.training.objectives import Group

from regularizers_kit import FAMILIES, LENGTH, batch_of, context_of, term


def perturbed(regularizer_context, text, batch, prompt_batch, seed=7) -> Any:
    group, context = context_of(regularizer_context, term(text, seed=seed), batch, prompt_batch)
    return next(iter(group.batches(context)))


class TestWhatIsTouched:
    def prompt_batch(self, backbone, n=LENGTH):
        return PromptBatch.stack([torch.randn(n, backbone.embedding_size, generator=torch.Generator().manual_seed(0))])

    @pytest.mark.parametrize("family", FAMILIES)
    def test_noise_has_its_size_in_units_of_the_word_vectors_and_spares_pads_and_special_tokens(self, family, setting):
        backbone, regularizer_context, examples = setting(family, torch.float32)
        batch = batch_of(backbone, examples, range(40))
        found = perturbed(regularizer_context, "rn-emb:sigma=0.5", batch, self.prompt_batch(backbone)).text_delta
        touched = batch.mask & (batch.parts != SPECIAL)
        assert not found[~touched].any()
        assert found[touched].std().item() == pytest.approx(0.5 * regularizer_context.words.rms, rel=0.05)
        assert found[touched].any(-1).all()

    def test_the_template_is_spared_where_that_is_asked(self, setting, task):
        templated = dataclasses.replace(task, template="review: {text} question: good or bad?")
        backbone, regularizer_context, examples = setting("t5", torch.float32, templated)
        batch = batch_of(backbone, examples)
        assert (batch.parts == 0).any()
        found = perturbed(regularizer_context, "rn-emb:template=false", batch, self.prompt_batch(backbone)).text_delta
        assert found.any(-1).equal(batch.parts == 1)

    @pytest.mark.parametrize(
        ("where", "text", "prompt"), [("input", True, False), ("prompt", False, True), ("both", True, True)]
    )
    def test_input_prompt_or_both(self, where, text, prompt, setting):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        batch = batch_of(backbone, examples)
        found = perturbed(regularizer_context, f"rn-emb:where={where}", batch, self.prompt_batch(backbone))
        assert (found.text_delta is not None) == text
        assert (found.prompt_delta is not None) == prompt
        if prompt:
            assert found.prompt_delta.any(-1).all()

    @pytest.mark.parametrize("norm", ["l2", "linf"])
    @pytest.mark.parametrize("level", ["token", "sentence"])
    @pytest.mark.parametrize("start", ["zero", "ball", "gaussian"])
    def test_an_ascent_ends_in_its_ball(self, norm, level, start, setting):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        batch = batch_of(backbone, examples)
        text = f"adv-emb:steps=3,radius=0.4,norm={norm},level={level},start={start},sigma=3"
        found = perturbed(regularizer_context, text, batch, self.prompt_batch(backbone)).text_delta.detach()
        unit = regularizer_context.words.rms * (backbone.embedding_size**0.5 if norm == "l2" else 1.0)
        norms = Ball(norm, level, torch.ones(1, 1, 1)).norms(found)
        assert (norms <= 0.4 * unit * (1 + 1e-5)).all()
        assert norms.amax() > 0.39 * unit
        assert not found[~(batch.mask & (batch.parts != SPECIAL))].any()

    @pytest.mark.parametrize("norm", ["l2", "linf"])
    def test_a_start_in_the_ball_is_uniform_there(self, norm, setting):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        batch = batch_of(backbone, examples, range(48))
        text = f"rn-emb:start=ball,radius=0.4,norm={norm},level=token"
        found = perturbed(regularizer_context, text, batch, self.prompt_batch(backbone)).text_delta
        e = backbone.embedding_size
        unit = regularizer_context.words.rms * (e**0.5 if norm == "l2" else 1.0)
        tokens = found[batch.mask & (batch.parts != SPECIAL)] / (0.4 * unit)
        if norm == "l2":
            # The share of the volume within the norm is uniform in [0, 1].
            shares = tokens.norm(dim=1) ** e
            assert 0.4 < shares.mean() < 0.6
            assert shares.max() <= 1 + 1e-4
        else:
            assert tokens.abs().max() <= 1
            assert tokens.std().item() == pytest.approx(1 / 3**0.5, rel=0.05)

    def test_a_start_in_the_ball_of_a_sentence_is_uniform_over_all_its_tokens_together(self, setting):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        batch = batch_of(backbone, examples, range(48))
        found = perturbed(
            regularizer_context, "rn-emb:start=ball,radius=0.4,level=sentence", batch, self.prompt_batch(backbone)
        ).text_delta.double()
        touched = batch.mask & (batch.parts != SPECIAL)
        assert found.any(-1).equal(touched)
        radius = 0.4 * regularizer_context.words.rms * backbone.embedding_size**0.5
        # The share of the volume within the norm of the whole row is uniform in [0, 1].
        dimensions = backbone.embedding_size * touched.sum(1)
        shares = (found.norm(dim=(1, 2)) / radius) ** dimensions
        assert shares.max() <= 1 + 1e-4
        assert kstest(shares.numpy(), "uniform").pvalue > 0.05

    @pytest.mark.parametrize(
        "text",
        [
            "rn-emb",
            "adv-emb",
            "adv-emb:start=gaussian,steps=2",
            "rn-text:rate=0.5",
            "rn-text:how=replace,rate=0.5",
            "vat",
        ],
    )
    def test_neither_padding_nor_other_prompts_change_a_perturbation(self, text, setting):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        prompt_batch = self.prompt_batch(backbone)
        alone = batch_of(backbone, examples, [0, 1])
        first, context = context_of(regularizer_context, term(text), alone, prompt_batch)
        gradient = torch.ones(2, LENGTH + alone.ids.shape[1], backbone.embedding_size)
        context = dataclasses.replace(context, gradient=gradient)
        expected: Any = next(iter(first.batches(context)))
        owner = torch.tensor([1, 0, 0, 1])
        wide = batch_of(backbone, examples, [3, 0, 1, 2], owner)
        wide = dataclasses.replace(
            wide,
            **{
                n: torch.nn.functional.pad(getattr(wide, n), (0, 4), value=v)
                for n, v in (("ids", 0), ("mask", False), ("parts", SPECIAL))
            },
        )
        both = PromptBatch.stack([prompt_batch.vectors[0], prompt_batch.vectors[0] + 1])
        group = Group((term(text), term(text, owner=1, seed=99)))
        with torch.no_grad():
            clean = backbone.logits(both, wide)
        _, template = context_of(regularizer_context, term(text), wide, both)
        shared = dataclasses.replace(
            template, clean=clean, gradient=torch.ones(4, LENGTH + wide.ids.shape[1], backbone.embedding_size),
            generators={t.owner: torch.Generator().manual_seed(t.seed) for t in group.terms},
        )  # fmt: skip
        found: Any = next(iter(group.batches(shared)))
        width = alone.ids.shape[1]
        assert found.ids[1:3, :width].equal(expected.ids)
        if expected.text_delta is not None:
            torch.testing.assert_close(found.text_delta[1:3, :width], expected.text_delta, rtol=1e-3, atol=1e-5)
            assert not found.text_delta[1:3, width:].any()

    @pytest.mark.parametrize("objective", DIVERGENCES)
    def test_the_start_that_a_refused_ascent_is_told_to_take_climbs_far_above_that_noise(self, setting, objective):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        batch, prompt_batch = batch_of(backbone, examples, range(32)), self.prompt_batch(backbone)
        clean = backbone.logits(prompt_batch, batch)
        with pytest.raises(BadInput) as refused:
            regularizers(f"adv-emb:objective={objective},radius=1")
        start = str(refused.value).rpartition("give ")[2]

        def apart(text):
            delta = perturbed(regularizer_context, text, batch, prompt_batch)
            logits = backbone.logits(prompt_batch, delta)
            return row_divergences(DIVERGENCES[objective], clean, logits, batch.targets >= 0).mean().item()

        assert apart(f"adv-emb:objective={objective},radius=1,{start}") > 1.5 * apart("rn-emb:sigma=1") > 0

    def test_an_ascent_raises_the_divergence_above_noise_of_the_same_size(self, setting):
        backbone, regularizer_context, examples = setting("t5", torch.float32)
        batch = batch_of(backbone, examples, range(32))
        prompt_batch = self.prompt_batch(backbone)
        clean = backbone.logits(prompt_batch, batch)

        def apart(text):
            delta = perturbed(regularizer_context, text, batch, prompt_batch)
            found = row_divergences(DIVERGENCES["kl"], clean, backbone.logits(prompt_batch, delta), batch.targets >= 0)
            return found.mean().item(), delta.text_delta.detach().flatten(1).norm(dim=1)

        climbed, size = apart("adv-emb:start=gaussian,sigma=0.1,objective=kl,steps=5,radius=1")
        noise = [apart(f"rn-emb:sigma={s}")[0] for s in (0.1,)]
        random, size_of_noise = apart("rn-emb:sigma=1")
        assert (size_of_noise >= size).all()
        assert climbed > 2 * random > 0
        assert noise[0] < climbed
