"""Perturbation-based regularisers: each published algorithm as its plain reference, and what must never be touched."""

import contextlib
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import kstest
from softprompt.backbones import from_model
from softprompt.data import SPECIAL, load_rows, split_rows
from softprompt.errors import BadInput
from softprompt.inference.rows import examples_for
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.regularizers import DIVERGENCES, REGULARIZERS, Vocabulary, _words, regularizers, row_divergences
from softprompt.regularizers._ball import Ball
from softprompt.regularizers._words import free_words
from softprompt.settings import PromptSettings, Seeds, TrainSettings
from softprompt.store import save_checkpoint
from softprompt.training import _drive as drive_module
from softprompt.training import resume, train
from softprompt.training._records import read_record
from softprompt.training._step import backward
from softprompt.training.objectives import Group, Plain, Regularized, RegularizerContext, Term, acting

from kit import review_task, same_files

FAMILIES = ("t5", "bert", "gpt2")
LENGTH = 3


@pytest.fixture(scope="session")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("reviews") / "data")


@pytest.fixture
def setting(tiny_model, task):
    """A backbone in float64 (the norms of T5 alone compute in float32), its surroundings, and its training rows."""

    def build(family, dtype=torch.float64, task=task, **options):
        backbone = from_model(*tiny_model(family, dtype=dtype, **options))
        rows = split_rows(task, load_rows(task)).train
        return backbone, RegularizerContext.of(backbone, task), examples_for(backbone, task, rows, LENGTH)

    return build


def prompt_of(backbone, seed=0, double=True):
    made = TrainablePrompt.build(
        PromptSettings(method="p-tuning", options={"prompt_length": LENGTH}, seeds=Seeds.all(seed)),
        uniform(), backbone.word_vectors, None,
    )  # fmt: skip
    return made.double() if double else made


def batch_of(backbone, examples, rows=(0, 1, 2, 3), owner: Any = 0):
    return examples.batch(list(rows), owner, backbone.pad_id)


def term(text, owner=0, seed=7):
    (one,) = regularizers(text)
    return Term(owner, one, one.alpha, one.share, seed)


def perturbed(regularizer_context, text, batch, prompt_batch, seed=7) -> Any:
    group, context = context_of(regularizer_context, term(text, seed=seed), batch, prompt_batch)
    return next(iter(group.batches(context)))


def context_of(regularizer_context, one, batch, prompt_batch, gradient=None) -> tuple[Any, Any]:
    with torch.no_grad():
        clean = regularizer_context.backbone.logits(prompt_batch, batch)
    group = Group((one,))
    return group, regularizer_context.context(
        group, prompt_batch, batch, clean, gradient, lambda anew: contextlib.nullcontext()
    )


def gradients(backbone, regularizer_context, text, batch, prompt=None, **options):
    """The gradients that `backward` gives a prompt with these regularisers, and the pass's result."""
    prompt = prompt or prompt_of(backbone)
    prompt.zero_grad()
    terms = [Term(0, one, one.alpha, one.share, 7 + i) for i, one in enumerate(regularizers(text))]
    result = backward(backbone, [prompt], batch, [0], Regularized(Plain(), terms, regularizer_context), **options)
    return [p.grad.clone() for p in prompt.parameters() if p.grad is not None], result


def reference(prompt, objective):
    """Plain autograd through one objective of the prompt vectors."""
    prompt.zero_grad()
    loss = objective(PromptBatch.stack([prompt.vectors()]))
    loss.backward()
    return [p.grad.clone() for p in prompt.parameters() if p.grad is not None], loss.detach()


def task_mean(backbone, prompt_batch, batch):
    return task_losses(backbone.logits(prompt_batch, batch), batch.targets).mean()


def shift(batch, delta):
    return dataclasses.replace(batch, text_delta=delta)


def noise(batch, e, seed=7):
    """The noise that a prompt with this seed draws: for its tokens in order, pads and special tokens left out."""
    touched = batch.mask & (batch.parts != SPECIAL)
    drawn = torch.randn(int(touched.sum()), e, generator=torch.Generator().manual_seed(seed))
    found = torch.zeros(*touched.shape, e)
    found[touched] = drawn
    return found, touched


def same(found, expected, atol=1e-6):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("family", FAMILIES)
class TestAgainstPlainReferences:
    """Gradients of the prompt's parameters, network included, against one objective differentiated as it stands."""

    def test_noise_with_a_stopped_clean_side(self, family, setting):
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        found, result = gradients(backbone, regularizer_context, "rn-emb:sigma=0.5,alpha=0.7,divergence=kl", batch)
        delta = 0.5 * regularizer_context.words.rms * noise(batch, backbone.embedding_size)[0]

        def objective(prompt_batch):
            clean, other = backbone.logits(prompt_batch, batch), backbone.logits(prompt_batch, shift(batch, delta))
            apart = DIVERGENCES["kl"].of(clean.detach(), other)
            positions = batch.targets >= 0
            apart = (apart * positions).sum(1) / positions.sum(1)
            return task_losses(clean, batch.targets).mean() + 0.7 * apart.mean()

        expected, loss = reference(prompt_of(backbone), objective)
        same(found, expected)
        torch.testing.assert_close(
            (result.losses + result.divergences).sum(), loss.to(result.losses), rtol=1e-5, atol=1e-6
        )

    @pytest.mark.parametrize("name", ["symmetric-kl", "js"])
    def test_noise_with_both_graphs(self, family, name, setting):
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        found, _ = gradients(backbone, regularizer_context, f"rn-emb:divergence={name}", batch)
        delta = 0.3 * regularizer_context.words.rms * noise(batch, backbone.embedding_size)[0]

        def objective(prompt_batch):
            clean, other = backbone.logits(prompt_batch, batch), backbone.logits(prompt_batch, shift(batch, delta))
            positions = batch.targets >= 0
            apart = (DIVERGENCES[name].of(clean, other) * positions).sum(1) / positions.sum(1)
            return task_losses(clean, batch.targets).mean() + apart.mean()

        same(found, reference(prompt_of(backbone), objective)[0])

    def test_two_regularisers_add_up(self, family, setting):
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        plain, _ = gradients(backbone, regularizer_context, "", batch)
        texts = ["rn-emb", "adv-emb:alpha=0.5"]
        both, _ = gradients(backbone, regularizer_context, "+".join(texts), batch)
        single = []
        for i, text in enumerate(texts):
            prompt = prompt_of(backbone)
            one = dataclasses.replace(term(text), seed=7 + i)
            backward(backbone, [prompt], batch, [0], Regularized(Plain(), [one], regularizer_context))
            single.append([p.grad.clone() for p in prompt.parameters() if p.grad is not None])
        same(both, [a + b - c for a, b, c in zip(*single, plain, strict=True)])

    @pytest.mark.parametrize("steps", [1, 3])
    @pytest.mark.parametrize("norm", ["l2", "linf"])
    def test_projected_ascent_and_the_gradient_of_the_clean_pass_saves_one(self, family, norm, steps, setting):
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        text = f"adv-emb:steps={steps},norm={norm},radius=0.5,step=0.3,divergence=ce,alpha=1"
        found, _ = gradients(backbone, regularizer_context, text, batch)
        slow, _ = gradients(backbone, regularizer_context, f"{text},reuse=false", batch)
        same(found, slow)
        e, rms = backbone.embedding_size, regularizer_context.words.rms
        unit = rms * (e**0.5 if norm == "l2" else 1)
        touched = noise(batch, e)[1][:, :, None]

        def objective(prompt_batch):
            delta = torch.zeros(*batch.ids.shape, e)
            for _ in range(steps):
                delta.requires_grad_()
                (g,) = torch.autograd.grad(
                    task_mean(backbone, prompt_batch, shift(batch, delta)), delta, retain_graph=True
                )
                g = g * touched
                if norm == "l2":
                    delta = delta.detach() + 0.3 * unit * g / g.flatten(1).norm(dim=1)[:, None, None]
                    longest = delta.flatten(1).norm(dim=1)[:, None, None]
                    delta = torch.where(longest > 0.5 * unit, delta * 0.5 * unit / longest, delta)
                else:
                    delta = delta.detach() + 0.3 * unit * g / g.flatten(1).abs().amax(1)[:, None, None]
                    delta = delta.clamp(-0.5 * unit, 0.5 * unit)
            return task_mean(backbone, prompt_batch, batch) + task_mean(
                backbone, prompt_batch, shift(batch, delta.detach())
            )

        same(found, reference(prompt_of(backbone), objective)[0], atol=1e-5)

    def test_smart(self, family, setting):
        """Algorithm 1 as its authors' code runs it (mt_dnn/perturbation.py), which climbs another KL, of log-odds."""
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        # The published step and noise of 1e-5 drown in float32; the algorithm is the same.
        found, _ = gradients(backbone, regularizer_context, "smart:sigma=0.1,step=0.1,radius=0.2", batch)
        positions = batch.targets >= 0

        def kl(p, q):
            apart = (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
            return ((apart * positions).sum(1) / positions.sum(1)).sum()

        drawn, touched = noise(batch, backbone.embedding_size)

        def objective(prompt_batch):
            clean = backbone.logits(prompt_batch, batch)
            delta = (0.1 * drawn).requires_grad_()
            adv = kl(clean.detach(), backbone.logits(prompt_batch, shift(batch, delta)))
            (g,) = torch.autograd.grad(adv, delta, retain_graph=True)
            moved = delta.detach() + 0.1 * g * touched[:, :, None]
            delta = 0.2 * moved / (moved.abs().amax(-1, keepdim=True) + 1e-6)
            other = backbone.logits(prompt_batch, shift(batch, delta))
            apart = kl(clean.detach(), other) + kl(other.detach(), clean)
            return task_losses(clean, batch.targets).mean() + apart / len(batch.ids)

        same(found, reference(prompt_of(backbone), objective)[0], atol=1e-5)

    def test_freelb(self, family, setting):
        """run_glue_freelb.py: K ascent steps, whose own passes are the training loss; no clean pass."""
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        found, result = gradients(backbone, regularizer_context, "freelb:steps=3,step=0.2,sigma=0.4,radius=0.5", batch)
        e = backbone.embedding_size
        touched = noise(batch, e)[1]
        drawn = 2 * torch.rand(int(touched.sum()), e, generator=torch.Generator().manual_seed(7)) - 1
        start = torch.zeros(*touched.shape, e)
        start[touched] = drawn
        start = start * 0.4 / (e * touched.sum(1)).sqrt()[:, None, None]

        def objective(prompt_batch):
            delta, total = start, torch.zeros((), dtype=torch.float64)
            for _ in range(3):
                delta = delta.detach().requires_grad_()
                loss = task_mean(backbone, prompt_batch, shift(batch, delta))
                total = total + loss / 3
                (g,) = torch.autograd.grad(loss, delta, retain_graph=True)
                g = g * touched[:, :, None]
                delta = delta + 0.2 * g / g.flatten(1).norm(dim=1)[:, None, None]
                longest = delta.flatten(1).norm(dim=1)[:, None, None]
                delta = torch.where(longest > 0.5, delta * 0.5 / longest, delta)
            return total

        expected, loss = reference(prompt_of(backbone), objective)
        same(found, expected, atol=1e-5)
        torch.testing.assert_close(result.losses.sum(), loss.to(result.losses), rtol=1e-5, atol=1e-6)

    def test_vat(self, family, setting):
        """Miyato et al., 2018, section 3.3: power iteration, then the radius; the clean answer is fixed."""
        backbone, regularizer_context, examples = setting(family)
        batch = batch_of(backbone, examples)
        found, _ = gradients(backbone, regularizer_context, "vat:steps=2,step=0.3,radius=0.5,units=raw", batch)
        drawn, touched = noise(batch, backbone.embedding_size)
        positions = batch.targets >= 0

        def unit(x):
            return x / x.flatten(1).norm(dim=1)[:, None, None]

        def lds(prompt_batch, clean, delta):
            apart = DIVERGENCES["kl"].of(clean, backbone.logits(prompt_batch, shift(batch, delta)))
            return ((apart * positions).sum(1) / positions.sum(1)).mean()

        def objective(prompt_batch):
            logits = backbone.logits(prompt_batch, batch)
            clean, d = logits.detach(), unit(drawn)
            for _ in range(2):
                r = (0.3 * d).detach().requires_grad_()
                (g,) = torch.autograd.grad(lds(prompt_batch, clean, r), r, retain_graph=True)
                d = unit(g * touched[:, :, None])
            return task_losses(logits, batch.targets).mean() + lds(prompt_batch, clean, 0.5 * d.detach())

        same(found, reference(prompt_of(backbone), objective)[0], atol=1e-5)

    def test_r_drop(self, family, setting):
        """Equations 2 to 4, the cross entropy of both passes averaged as in its authors' README."""
        backbone, regularizer_context, examples = setting(family)
        backbone.dropout(True)
        batch = batch_of(backbone, examples)
        found, _ = gradients(backbone, regularizer_context, "r-drop:alpha=0.6", batch, dropout_seed=5)
        positions = batch.targets >= 0

        def objective(prompt_batch):
            answers = []
            for seed in (5, 6):
                torch.manual_seed(seed)
                answers.append(backbone.logits(prompt_batch, batch))
            a, b = (x.log_softmax(-1) for x in answers)
            apart = ((a.exp() * (a - b)).sum(-1) + (b.exp() * (b - a)).sum(-1)) / 2
            apart = (apart * positions).sum(1) / positions.sum(1)
            losses = [task_losses(x, batch.targets).mean() for x in answers]
            return (losses[0] + losses[1]) / 2 + 0.6 * apart.mean()

        same(found, reference(prompt_of(backbone), objective)[0])


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


class TestWords:
    def context(self, setting, text, family="t5", task=None, rows=range(40), **options):
        made = setting(family, torch.float32, **({} if task is None else {"task": task}))
        backbone, regularizer_context, examples = made
        batch = batch_of(backbone, examples, rows)
        prompt_batch = PromptBatch.stack([torch.randn(LENGTH, backbone.embedding_size)])
        shifted = dataclasses.replace(
            batch, text_delta=torch.zeros(*batch.ids.shape, backbone.embedding_size, requires_grad=True)
        )
        (gradient,) = torch.autograd.grad(
            task_losses(backbone.logits(prompt_batch, shifted), batch.targets).sum(), shifted.text_delta
        )
        gradient = torch.nn.functional.pad(gradient, (0, 0, LENGTH, 0))
        group, context = context_of(regularizer_context, term(text), batch, prompt_batch, gradient)
        return group, context

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("how", ["mask", "replace"])
    def test_about_the_rate_of_free_words_changes_and_nothing_else(self, family, how, setting):
        group, context = self.context(setting, f"rn-text:rate=0.3,how={how}", family)
        found = next(iter(group.batches(context)))
        changed = found.ids != context.batch.ids
        free = free_words(context, "all")
        assert not changed[~free].any()
        assert 0.2 < changed[free].float().mean() < 0.4
        assert found.mask is context.batch.mask

    def test_all_tokens_of_a_word_change_together(self, setting):
        group, context = self.context(setting, "rn-text:rate=0.5", "bert")
        begins = context.vocabulary.begins.clone()
        begins[context.vocabulary.tokens.index("was")] = False
        context.vocabulary.begins = begins
        words = context.vocabulary.words(context.batch.ids, context.batch.mask)
        changed = next(iter(group.batches(context))).ids != context.batch.ids
        several = 0
        for row, marks in zip(words, changed, strict=True):
            for word in row[row > 0].unique():
                assert marks[row == word].unique().numel() == 1
                several += int((row == word).sum() > 1)
        assert several

    @pytest.mark.parametrize(
        "text", ["rn-text:rate=1", "rn-text:rate=1,how=replace", "adv-text:cosine=-1,rate=1,stop_words=false"]
    )
    def test_label_words_are_neither_taken_nor_written(self, text, setting):
        group, context = self.context(setting, text)
        guarded = context.vocabulary.guarded
        assert guarded[context.batch.ids].any()
        found = next(iter(group.batches(context)))
        assert (guarded[found.ids] & context.batch.mask).equal(guarded[context.batch.ids] & context.batch.mask)
        assert (found.ids != context.batch.ids).any()

    def test_without_a_mask_token_words_are_replaced_and_a_line_says_so(self, setting, caplog):
        group, context = self.context(setting, "rn-text:rate=1", "gpt2")
        assert context.vocabulary.mask_id is None
        _words._warned.clear()
        found = next(iter(group.batches(context)))
        assert "no mask token" in caplog.text
        changed = found.ids != context.batch.ids
        assert context.vocabulary.replaceable[found.ids[changed]].all()

    def test_swaps_raise_the_loss_within_their_budget_and_keep_stop_words(self, setting):
        group, context = self.context(setting, "adv-text:cosine=-1,rate=0.3,tried=2")
        found = next(iter(group.batches(context)))
        changed = found.ids != context.batch.ids
        free = group.regularizer.perturbation.free(context)
        assert not changed[~free].any()
        budget = (0.3 * free.sum(1)).ceil().clamp(min=1)
        assert (changed.sum(1) <= budget).all()
        before, after = (context.losses(context.logits(b), b) for b in (context.batch, found))
        assert (after[changed.any(1)] > before[changed.any(1)]).all()
        assert changed.any()
        assert found.mask.equal(context.batch.mask)

    def test_swaps_go_to_near_neighbours_only(self, setting):
        group, context = self.context(setting, "adv-text:cosine=0.6,candidates=5,tried=5,rate=1,stop_words=false")
        found = next(iter(group.batches(context)))
        changed = found.ids != context.batch.ids
        table = torch.nn.functional.normalize(context.embeddings, dim=1)
        assert changed.any()
        for old, new in zip(context.batch.ids[changed], found.ids[changed], strict=True):
            near = (table @ table[old]).masked_fill(~context.vocabulary.replaceable, -2)
            near[old] = -2
            assert new in near.topk(5).indices
            assert near[new] >= 0.6

    def test_only_the_last_text_of_a_pair_is_swapped_unless_both_are_asked_for(self, setting, task):
        pair = dataclasses.replace(task, template="{label} : {text}")
        group, context = self.context(setting, "adv-text:cosine=-1,rate=1,stop_words=false", task=pair)
        assert set(context.batch.parts[group.regularizer.perturbation.free(context)].tolist()) == {2}

    def test_words_of_two_tokens_are_counted_by_their_marks(self):
        class Tokenizer:
            all_special_ids = (0,)
            mask_token_id = None

            def __len__(self):
                return 5

            def convert_ids_to_tokens(self, ids):
                return [["<s>", "play", "##ing", "the", "##s"][i] for i in ids]

        ids = torch.tensor([[0, 1, 2, 3, 4, 4, 1]])
        found = Vocabulary(Tokenizer(), 6).words(ids, torch.tensor([[True] * 6 + [False]]))
        assert found.tolist() == [[1, 2, 2, 3, 3, 3, 0]]


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
