"""Each published algorithm beside its plain reference, in every family of models."""

import dataclasses

import pytest
import torch
from softprompt.data import SPECIAL
from softprompt.losses import task_losses
from softprompt.prompts.batch import PromptBatch
from softprompt.regularizers import DIVERGENCES
from softprompt.training._step import backward
from softprompt.training.objectives import Plain, Regularized

from regularizers_kit import FAMILIES, batch_of, gradients, prompt_of, same, term


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
