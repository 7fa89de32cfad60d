"""Landscapes against plain loops and autograd; what is moved and what is not."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from softprompt.analysis import prompt_landscape
from softprompt.analysis.landscape import coordinates, curvature, directions, gradient, standard_error, surface
from softprompt.analysis.prompt_landscape import landscape_of
from softprompt.analysis.stored_landscapes import draw, refuse_incomparable
from softprompt.analysis.subjects import Subject
from softprompt.backbones import from_model, load_backbone
from softprompt.data import SPECIAL
from softprompt.errors import BadInput
from softprompt.inference.decoding import label_ids
from softprompt.inference.prompt_model import LoadedModels
from softprompt.inference.rows import examples_for
from softprompt.losses import cross_entropy, squared_error
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.prompt import LinearHead, Provenance, SoftPrompt
from softprompt.settings import LandscapeSettings, TrainSettings
from softprompt.training import train, trained_loss
from softprompt.training.objectives import LabelLoss, TokenLoss

from kit import review_rows, review_task

E = 16


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestDirections:
    @pytest.fixture
    def mask(self):
        return torch.tensor([False, True, True, False, True, True])

    @pytest.fixture
    def slope(self):
        return torch.randn(6, 5, generator=seeded(1), dtype=torch.float64) * 1e-3

    def test_they_have_norm_one_a_right_angle_and_nothing_outside_the_mask(self, slope, mask):
        x, y = directions(slope, mask, seeded(0))
        assert x.norm().item() == pytest.approx(1, abs=1e-12)
        assert y.norm().item() == pytest.approx(1, abs=1e-12)
        assert (x * y).sum().item() == pytest.approx(0, abs=1e-12)
        assert not x[~mask].any()
        assert not y[~mask].any()

    def test_the_first_is_along_the_masked_slope(self, slope, mask):
        x, _ = directions(slope, mask, seeded(0))
        free = slope * mask[:, None]
        torch.testing.assert_close(x, free / free.norm(), rtol=0, atol=1e-12)

    def test_pads_change_nothing(self, slope, mask):
        x, y = directions(slope[mask], mask[mask], seeded(0))
        wide = directions(slope, mask, seeded(0))
        torch.testing.assert_close((x, y), (wide[0][mask], wide[1][mask]), rtol=0, atol=0)

    def test_another_seed_changes_the_second_alone(self, slope, mask):
        (x, y), (other_x, other_y) = directions(slope, mask, seeded(0)), directions(slope, mask, seeded(1))
        assert torch.equal(x, other_x)
        assert (y - other_y).norm() > 0.5

    @pytest.mark.parametrize("size", [0.0, 1e-40, 1e-300])
    def test_a_slope_that_vanishes_leaves_two_directions_all_the_same(self, slope, mask, size):
        x, y = directions(slope * size, mask, seeded(0))
        assert x.norm().item() == pytest.approx(1, abs=1e-12)
        assert y.norm().item() == pytest.approx(1, abs=1e-12)
        assert (x * y).sum().item() == pytest.approx(0, abs=1e-12)
        if size:
            torch.testing.assert_close(x, directions(slope, mask, seeded(0))[0], rtol=0, atol=1e-12)

    def test_a_slope_of_nan_is_refused(self, slope, mask):
        slope[1, 0] = math.nan
        with pytest.raises(BadInput, match="not finite"):
            directions(slope, mask, seeded(0))

    def test_nothing_to_move_is_refused(self, slope, mask):
        with pytest.raises(BadInput, match="nothing here can be moved"):
            directions(slope, mask & False, seeded(0))


class TestAQuadratic:
    """z(v) = <g, v> + v' A v / 2, whose surface, slope and curvature are known."""

    @pytest.fixture
    def g(self):
        return torch.randn(3, 4, generator=seeded(2), dtype=torch.float64)

    @pytest.fixture
    def a(self):
        half = torch.randn(12, 12, generator=seeded(3), dtype=torch.float64)
        return half + half.T

    @pytest.fixture
    def losses(self, g, a):
        def at(shifts):
            flat = shifts.flatten(1)
            return flat @ g.flatten() + ((flat @ a) * flat).sum(1) / 2

        return at

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_its_surface_is_the_formula_whatever_the_batch_size(self, losses, g, a, batch_size):
        x, y = directions(g, torch.ones(3, dtype=torch.bool), seeded(0))
        found = surface(losses, x, y, 0.5, 5, batch_size)
        for i, alpha in enumerate((-1, -0.5, 0, 0.5, 1)):
            for j, beta in enumerate((-1, -0.5, 0, 0.5, 1)):
                v = (0.5 * (alpha * x + beta * y)).flatten()
                expected = (v @ g.flatten() + v @ a @ v / 2).item()
                assert found[i, j].item() == pytest.approx(expected, abs=1e-12)

    def test_its_gradient_and_curvature_are_exact(self, losses, g, a):
        at = torch.randn(3, 4, generator=seeded(4), dtype=torch.float64)
        expected = g + (a @ at.flatten()).view(3, 4)
        torch.testing.assert_close(gradient(losses, at), expected, rtol=0, atol=1e-12)
        x = g / g.norm()
        assert curvature(losses, x, 0.1) == pytest.approx((x.flatten() @ a @ x.flatten()).item(), abs=1e-10)

    def test_the_middle_of_every_grid_is_exactly_nowhere(self):
        for grid in (3, 5, 51):
            axis = coordinates(grid)
            assert (len(axis), axis[0], axis[grid // 2], axis[-1]) == (grid, -1, 0, 1)

    def test_the_standard_error_is_that_of_numpy(self):
        values = torch.tensor([1.0, 4.0, 2.0])
        assert standard_error(values) == pytest.approx(np.std([1, 4, 2], ddof=1) / 3**0.5)
        assert standard_error(values[:1]) is None


class TestSettings:
    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            ({"radius": 0.0}, "`radius` must be positive"),
            ({"radius": -0.1}, "`radius` must be positive"),
            ({"radius": math.inf}, "`radius` must be positive"),
            ({"grid": 1}, "`grid` must be odd and at least 3"),
            ({"grid": 50}, "`grid` must be odd and at least 3"),
            ({"rows": 0}, "`rows` must be positive"),
            ({"batch_size": 0}, "`batch_size` must be positive"),
        ],
    )
    def test_a_plane_that_cannot_be_drawn_is_refused(self, wrong, message):
        with pytest.raises(BadInput, match=re.escape(message)):
            LandscapeSettings(**wrong)


@pytest.fixture(scope="module")
def rows():
    return [{"text": text, "label": label} for text, label in review_rows(4, seed=5)]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return review_task(tmp_path_factory.mktemp("rows") / "reviews")


def prompt_for(backbone, classes: int = 2, n: int = 3) -> SoftPrompt:
    """A random prompt of a backbone, as long as a word vector is, with a head where it needs one."""
    scale = float(backbone.word_vectors.norm(dim=1).mean()) / E**0.5
    head = None
    if backbone.answers == "linear-head":
        d = backbone.hidden_size
        head = LinearHead(torch.randn(classes, d, generator=seeded(7)), torch.randn(classes, generator=seeded(8)))
    vectors = torch.randn(n, E, generator=seeded(6)) * scale
    return SoftPrompt(vectors, Provenance("imported", backbone.identity(), backbone.answers), head=head)


# T5 with a smooth activation: at kinks of a ReLU there is no second derivative to compare with.
KINDS = {"t5": ("t5-v1.1", "auto"), "bart": ("bart", "auto"), "mask": ("bert", "label-words"),
         "head": ("bert", "linear-head"), "gpt2": ("gpt2", "auto"), "llama": ("llama", "auto")}  # fmt: skip


@pytest.fixture(params=KINDS)
def backbone(request, tiny_model):
    """A tiny backbone of each kind in float64."""
    family, answers = KINDS[request.param]
    model, tokenizer = tiny_model(family, dtype=torch.float64)
    return from_model(model, tokenizer, name=family, answers=answers)


@pytest.fixture
def t5(tiny_t5):
    return from_model(*tiny_t5(dtype=torch.float64), name="t5")


SMALL = LandscapeSettings(grid=3, radius=0.2)


def one_by_one(backbone, prompt: SoftPrompt, examples, settings: LandscapeSettings) -> list[Any]:
    """(surface, X) of each example by a forward pass for each point, from the logits of one row alone."""
    prompt_batch = PromptBatch.of(prompt)
    found = []
    for index in range(len(examples)):
        row = examples.batch([index], 0, backbone.pad_id)
        name, start = "text_delta", backbone.embeddings(row.ids)
        free = (row.parts >= 0) & row.mask
        if settings.space == "prompt":
            name, start = "prompt_delta", prompt_batch.vectors.to(backbone.dtype)
            free = torch.ones(1, prompt.length, dtype=torch.bool)

        def loss(shift, row=row, name=name):
            shifted = dataclasses.replace(row, **{name: shift})
            return cross_entropy(backbone.logits(prompt_batch, shifted), row.targets)[0]

        leaf = torch.zeros_like(start, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(leaf), leaf)
        found.append((loss, slope * free[..., None], start * free[..., None]))
    return found


class TestInputSpace:
    def test_every_point_is_its_own_forward_pass(self, backbone, task, rows):
        prompt = prompt_for(backbone)
        examples = examples_for(backbone, task, rows, 3)
        settings = dataclasses.replace(SMALL, batch_size=4)
        found = landscape_of(backbone, prompt, examples, settings)
        for index, (loss, slope, start) in enumerate(one_by_one(backbone, prompt, examples, settings)):
            length = 0.2 * start.norm()
            assert found.lengths[index].item() == pytest.approx(length.item(), rel=1e-12)
            assert found.slopes[index].item() == pytest.approx(slope.norm().item(), abs=1e-9)
            x = slope / slope.norm()
            # Along X the second direction has no part in it, so the line is known without its random numbers.
            for i, a in enumerate((-1, 0, 1)):
                expected = loss(a * length * x).item()
                assert found.surfaces[index, i, 1].item() == pytest.approx(expected, abs=1e-9)
            assert found.losses[index].item() == pytest.approx(loss(torch.zeros_like(x)).item(), abs=1e-9)

    def test_the_whole_plane_is_the_loop_over_its_points(self, backbone, task, rows, monkeypatch):
        prompt, examples = prompt_for(backbone), examples_for(backbone, task, rows[:2], 3)
        shifts: list[torch.Tensor] = []
        original = backbone.logits

        def spy(prompt_batch, batch):
            if not torch.is_grad_enabled():
                shifts.append(batch.text_delta)
            return original(prompt_batch, batch)

        monkeypatch.setattr(backbone, "logits", spy)
        found = landscape_of(backbone, prompt, examples, dataclasses.replace(SMALL, batch_size=9))
        monkeypatch.undo()
        for index, (loss, _, start) in enumerate(one_by_one(backbone, prompt, examples, SMALL)):
            moved = shifts[index].view(3, 3, *start.shape[1:])
            x, y = (moved[2, 1] / found.lengths[index], moved[1, 2] / found.lengths[index])
            assert (x * y).sum().item() == pytest.approx(0, abs=1e-12)
            assert y.norm().item() == pytest.approx(1, abs=1e-12)
            for i in range(3):
                for j in range(3):
                    expected = (i - 1) * moved[2, 1] + (j - 1) * moved[1, 2]
                    torch.testing.assert_close(moved[i, j], expected, rtol=0, atol=1e-12)
                    value = loss(moved[i, j][None]).item()
                    assert found.surfaces[index, i, j].item() == pytest.approx(value, abs=1e-9)

    def test_special_tokens_stay_and_all_others_move(self, backbone, task, rows, monkeypatch):
        examples = examples_for(backbone, task, rows, 3)
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        original = backbone.logits

        def spy(prompt_batch, batch):
            if not torch.is_grad_enabled():
                seen.append((batch.parts, batch.text_delta))
            return original(prompt_batch, batch)

        monkeypatch.setattr(backbone, "logits", spy)
        landscape_of(backbone, prompt_for(backbone), examples, dataclasses.replace(SMALL, batch_size=9))
        assert len(seen) == 4
        # GPT-2's tokenizer adds none.
        assert all((parts == SPECIAL).any() == (backbone.name != "gpt2") for parts, _ in seen)
        for parts, shift in seen:
            edge = shift[0]
            assert torch.equal(edge.any(-1), parts[0] != SPECIAL)

    def test_the_curvature_is_that_of_autograd(self, backbone, task, rows, monkeypatch):
        """X' H X by a Hessian-vector product; a central difference is off by the square of its step."""
        prompt, examples = prompt_for(backbone), examples_for(backbone, task, rows, 3)
        monkeypatch.setattr(prompt_landscape, "CURVATURE_STEP", 1e-4)
        found = landscape_of(backbone, prompt, examples, SMALL)
        # Packed passes have no second derivative.
        plain = from_model(backbone.model, backbone.tokenizer, answers=backbone.answers, engine="reference")
        for index, (loss, slope, _) in enumerate(one_by_one(plain, prompt, examples, SMALL)):
            x = slope / slope.norm()
            leaf = torch.zeros_like(x, requires_grad=True)
            # The fast attention has no second derivative.
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
                (first,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
                (second,) = torch.autograd.grad((first * x).sum(), leaf)
            expected = (second * x).sum().item()
            assert found.curvatures[index].item() == pytest.approx(expected, rel=5e-3, abs=1e-3 * slope.norm().item())

    def test_small_steps_along_the_gradient_climb_by_its_norm(self, backbone, task, rows):
        prompt, examples = prompt_for(backbone), examples_for(backbone, task, rows, 3)
        found = landscape_of(backbone, prompt, examples, dataclasses.replace(SMALL, radius=1e-4))
        climbed = (found.surfaces[:, 2, 1] - found.surfaces[:, 0, 1]) / 2
        torch.testing.assert_close(climbed, found.slopes * found.lengths, rtol=2e-3, atol=0)
        # Across it nothing is gained to the first order.
        across = (found.surfaces[:, 1, 2] - found.surfaces[:, 1, 0]).abs() / 2
        assert (across < 2e-3 * climbed).all()

    def test_examples_are_alone_whatever_stands_beside_them(self, backbone, task, rows):
        prompt, examples = prompt_for(backbone), examples_for(backbone, task, rows, 3)
        together = landscape_of(backbone, prompt, examples, SMALL, names=[7, 3, 9, 1])
        alone = landscape_of(
            backbone, prompt, examples.select([2]), dataclasses.replace(SMALL, batch_size=2), names=[9]
        )
        torch.testing.assert_close(alone.surfaces[0], together.surfaces[2], rtol=0, atol=1e-9)
        assert alone.slopes[0].item() == pytest.approx(together.slopes[2].item(), abs=1e-12)

    def test_the_same_seed_gives_the_same_bits_and_another_another_plane(self, t5, task, rows):
        prompt, examples = prompt_for(t5), examples_for(t5, task, rows, 3)
        first, again = (landscape_of(t5, prompt, examples, SMALL) for _ in range(2))
        assert torch.equal(first.surfaces, again.surfaces)
        other = landscape_of(t5, prompt, examples, dataclasses.replace(SMALL, seed=1))
        torch.testing.assert_close(other.surfaces[:, :, 1], first.surfaces[:, :, 1], rtol=0, atol=1e-12)
        assert (other.surfaces[:, :, 0] - first.surfaces[:, :, 0]).abs().max() > 1e-4

    def test_in_float32_it_is_the_loop_to_rounding(self, task, rows):
        t5 = load_backbone("lab-t5-small")
        vectors = t5.word_vectors[5:8].clone()
        prompt = SoftPrompt(vectors, Provenance("imported", t5.identity(), t5.answers))
        examples = examples_for(t5, task, rows, 3)
        found = landscape_of(t5, prompt, examples, SMALL)
        for index, (loss, slope, start) in enumerate(one_by_one(t5, prompt, examples, SMALL)):
            x = slope / slope.norm()
            for i, a in enumerate((-1, 0, 1)):
                expected = loss(a * 0.2 * start.norm() * x).item()
                assert found.surfaces[index, i, 1].item() == pytest.approx(expected, abs=1e-5 * max(1, expected))

    def test_numbers_are_means_over_examples_with_standard_errors(self, t5, task, rows):
        found = landscape_of(t5, prompt_for(t5), examples_for(t5, task, rows, 3), SMALL)
        z = found.surfaces.numpy()
        ranges = z.max((1, 2)) - z.min((1, 2))
        changes = np.abs(z - z[:, 1:2, 1:2]).mean((1, 2))
        rms = t5.word_vectors.square().mean().sqrt().item()
        expected = {
            "loss": z[:, 1, 1], "range": ranges, "mean_change": changes,
            "gradient_norm": found.slopes.numpy(), "gradient_norm_rms": found.slopes.numpy() * rms,
            "curvature": found.curvatures.numpy(), "curvature_rms": found.curvatures.numpy() * rms**2,
            "radius_rms": found.lengths.numpy() / rms,
            "radius_token_norms": found.lengths.numpy() / t5.word_vectors.norm(dim=1).mean().item(),
        }  # fmt: skip
        numbers = found.numbers()
        assert numbers.keys() == expected.keys()
        for name, values in expected.items():
            assert numbers[name].mean == pytest.approx(values.mean(), rel=1e-9), name
            assert numbers[name].standard_error == pytest.approx(values.std(ddof=1) / 2, rel=1e-9), name
        np.testing.assert_allclose(found.mean_surface.numpy(), z.mean(0), rtol=1e-12)


class TestPromptSpace:
    SETTINGS = dataclasses.replace(SMALL, space="prompt")

    def test_every_point_is_its_own_forward_pass_along_the_gradient_of_the_mean(self, backbone, task, rows):
        prompt, examples = prompt_for(backbone), examples_for(backbone, task, rows, 3)
        found = landscape_of(backbone, prompt, examples, self.SETTINGS)
        reference = one_by_one(backbone, prompt, examples, self.SETTINGS)
        mean = torch.stack([slope for _, slope, _ in reference]).mean(0)
        x, length = mean / mean.norm(), 0.2 * prompt.vectors.double().norm()
        assert found.slopes.mean().item() == pytest.approx(mean.norm().item(), abs=1e-9)
        for index, (loss, slope, _) in enumerate(reference):
            assert found.slopes[index].item() == pytest.approx((slope * x).sum().item(), abs=1e-9)
            for i, a in enumerate((-1, 0, 1)):
                expected = loss(a * length * x).item()
                assert found.surfaces[index, i, 1].item() == pytest.approx(expected, abs=1e-9)

    def test_all_examples_see_the_same_prompts(self, t5, task, rows, monkeypatch):
        shifts: list[torch.Tensor] = []
        original = t5.logits

        def spy(prompt_batch, batch):
            if not torch.is_grad_enabled():
                assert batch.text_delta is None
                shifts.append(batch.prompt_delta)
            return original(prompt_batch, batch)

        monkeypatch.setattr(t5, "logits", spy)
        landscape_of(t5, prompt_for(t5), examples_for(t5, task, rows, 3), self.SETTINGS)
        assert len(shifts) == 4
        assert all(torch.equal(shift, shifts[0]) for shift in shifts)

    def test_a_head_alone_is_refused(self, tiny_bert, task, rows):
        model, tokenizer = tiny_bert(head=False)
        bert = from_model(model, tokenizer, name="bert", answers="linear-head")
        prompt = prompt_for(bert, n=0)
        examples = examples_for(bert, task, rows, 0)
        assert len(landscape_of(bert, prompt, examples, SMALL).surfaces) == 4
        with pytest.raises(BadInput, match="head without a prompt"):
            landscape_of(bert, prompt, examples, self.SETTINGS)

    def test_a_prompt_of_zeros_is_refused(self, t5, task, rows):
        prompt = dataclasses.replace(prompt_for(t5), vectors=torch.zeros(3, E))
        with pytest.raises(BadInput, match="all zeros"):
            landscape_of(t5, prompt, examples_for(t5, task, rows, 3), self.SETTINGS)


class TestWhatCannotBeDrawn:
    def test_a_number_answered_by_a_head_has_squared_errors(self, tiny_bert, task):
        stars = dataclasses.replace(
            task, name="stars", answer="number", labels=(), label_values=(), metrics=("pearson",)
        )
        bert = from_model(*tiny_bert(dtype=torch.float64, head=False), name="bert", answers="linear-head")
        rows = [{"text": "good film", "label": 4.5}, {"text": "bad movie", "label": 1.0}]
        examples, prompt = examples_for(bert, stars, rows, 3), prompt_for(bert, classes=1)
        found = landscape_of(bert, prompt, examples, SMALL)
        batch = examples.batch([0, 1], 0, bert.pad_id)
        assert batch.targets is not None
        expected = squared_error(bert.logits(PromptBatch.of(prompt), batch), batch.targets)
        assert found.is_regression
        torch.testing.assert_close(found.losses, expected.double(), rtol=0, atol=1e-6)

    def test_bfloat16_is_refused(self, tiny_t5, task, rows):
        t5 = from_model(*tiny_t5(dtype=torch.bfloat16), name="t5")
        with pytest.raises(BadInput, match="small steps vanish"):
            landscape_of(t5, prompt_for(t5), examples_for(t5, task, rows, 3), SMALL)

    def test_examples_without_answers_are_refused(self, t5, task, rows):
        with pytest.raises(BadInput, match="with answers"):
            landscape_of(t5, prompt_for(t5), examples_for(t5, task, rows, 3, targets=False), SMALL)

    def test_no_examples_are_refused(self, t5, task, rows):
        with pytest.raises(BadInput, match="at least one"):
            landscape_of(t5, prompt_for(t5), examples_for(t5, task, rows, 3).select([]), SMALL)


class TestFigures:
    @pytest.fixture
    def surfaces(self):
        low = np.arange(9.0).reshape(3, 3)
        return {"low": low, "high": 10 + 2 * low}

    def test_contours_share_levels_and_colours_and_the_first_axis_runs_right(self, plots, surfaces):
        figure = plots.contour_figure(surfaces, [-1.0, 0.0, 1.0], measure="nats")
        filled = [next(c for c in axes.collections if c.filled) for axes in figure.axes[:2]]
        assert filled[0].get_clim() == filled[1].get_clim()
        for one in filled:
            np.testing.assert_array_equal(one.levels, np.linspace(0, 26, plots.LEVELS))
        assert figure.axes[2].get_ylabel() == "nats"
        # The gradient of `low` is 3 along its first axis, 1 along its second: its level lines are steep.
        line = max(figure.axes[0].collections[1].get_paths(), key=len).vertices
        run, rise = np.ptp(line, axis=0)
        assert rise > 2 * run

    def test_surfaces_share_one_scale_of_height_and_colour(self, plots, surfaces):
        figure = plots.surface_figure(surfaces, [-1.0, 0.0, 1.0], measure="nats")
        assert [axes.get_title() for axes in figure.axes] == ["low", "high"]
        assert {axes.collections[0].get_clim() for axes in figure.axes} == {(0, 26)}
        assert len({axes.get_zlim() for axes in figure.axes}) == 1
        assert plots.image(figure, "a.png").startswith(b"\x89PNG")

    def test_a_level_plane_and_an_odd_number_of_panels_can_be_drawn(self, plots):
        level = {f"{n}": np.full((3, 3), 2.0) for n in range(5)}
        for figure in (plots.contour_figure, plots.surface_figure):
            drawn = figure(level, [-1.0, 0.0, 1.0], measure="nats")
            assert [axes.get_title() for axes in drawn.axes if axes.get_title()] == list("01234")
            assert plots.image(drawn, "a.svg").startswith(b"<?xml")


class TestLossOfTraining:
    """A landscape shows the loss that a prompt was trained with."""

    @pytest.mark.parametrize("family", ["gpt2", "t5-v1.1"])
    @pytest.mark.parametrize("kind", ["labels", "both"])
    @pytest.mark.parametrize("labels", [("good", "bad"), ("a good film", "bad")])
    def test_over_labels(self, labels, kind, family, task, rows, tiny_model):
        backbone = from_model(*tiny_model(family, dtype=torch.float64), name=family)
        task = dataclasses.replace(task, labels=labels)
        scoring = {"version": 1, "end": False, "normalize": "mean"} if kind == "labels" else {}
        prompt = prompt_for(backbone)
        provenance = dataclasses.replace(prompt.provenance, training={"loss": kind}, scoring=scoring)
        prompt = dataclasses.replace(prompt, provenance=provenance)
        examples = examples_for(backbone, task, rows, 3)
        loss = trained_loss(prompt, task, backbone)
        found = landscape_of(backbone, prompt, examples, SMALL, loss=loss)
        words = label_ids(backbone, task, end=kind == "both")
        for index in range(len(examples)):
            row, right = examples.batch([index], 0, backbone.pad_id), torch.tensor(examples.gold[index : index + 1])
            scores = backbone.label_scores(
                PromptBatch.of(prompt), row, words, normalize=str(scoring.get("normalize", "sum"))
            )
            expected = torch.nn.functional.cross_entropy(scores, right)
            if kind == "both":
                expected = (expected - scores[0, right[0]] / len(words[right[0]])) / 2
            assert found.losses[index].item() == pytest.approx(expected.item(), abs=1e-9)
        assert found.measure == "loss over labels (nats)"

    def test_a_prompt_without_a_record_of_it(self, t5, task):
        prompt = prompt_for(t5)
        assert trained_loss(prompt, task, t5) == TokenLoss()
        provenance = dataclasses.replace(prompt.provenance, scoring={"version": 1, "end": False})
        of_labels = trained_loss(dataclasses.replace(prompt, provenance=provenance), task, t5)
        assert of_labels == LabelLoss(label_ids(t5, task, end=False))

    def test_a_run_on_labels_records_it_and_is_drawn_so(self, t5, task, tmp_path, monkeypatch):
        settings = TrainSettings(steps=1, eval_every=1, batch_size=2, loss="labels")
        run = train(task, t5, prompt_length=3, settings=settings, output=tmp_path / "run")
        assert run.prompt().provenance.training["loss"] == "labels"
        subject = Subject(label="a", prompt=run.prompt(), task=task)
        monkeypatch.setattr(LoadedModels, "of", lambda models, prompt: t5)
        (drawn,) = draw([subject], dataclasses.replace(SMALL, rows=2))
        assert drawn.to_json()["loss"] == "loss over labels in nats"
        tokens = dataclasses.replace(run.prompt(), provenance=prompt_for(t5).provenance)
        with pytest.raises(BadInput, match=r"needs one loss, .*cross entropy, labels"):
            refuse_incomparable([subject, dataclasses.replace(subject, prompt=tokens)])
