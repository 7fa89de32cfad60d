"""The parts of a regulariser: divergences, balls, names and options."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from softprompt.errors import BadInput, UnknownName
from softprompt.regularizers import DIVERGENCES, REGULARIZERS, regularizers, row_divergences
from softprompt.regularizers._ball import Ball
from softprompt.regularizers._embedding import EmbeddingPerturbation
from softprompt.settings import PromptSettings
from softprompt.study import RunSpec
from softprompt.training.objectives import acting


@st.composite
def two_logits(draw):
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(2, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    scale = draw(st.sampled_from([0.1, 1.0, 30.0]))
    return [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2)]


class TestDivergences:
    @settings(deadline=None, max_examples=40)
    @given(two_logits())
    def test_they_are_what_scipy_computes(self, logits):
        p, q = (softmax(x.numpy(), axis=-1) for x in logits)
        middle = (p + q) / 2

        def kl(a, b):
            return rel_entr(a, b).sum(-1)

        expected = {
            "kl": kl(p, q),
            "symmetric-kl": kl(p, q) + kl(q, p),
            "both-kl": (kl(p, q) + kl(q, p)) / 2,
            "js": (kl(p, middle) + kl(q, middle)) / 2,
            "squared-error": ((p - q) ** 2).sum(-1),
        }
        for name, divergence in DIVERGENCES.items():
            np.testing.assert_allclose(divergence.of(*logits).numpy(), expected[name], rtol=1e-6, atol=1e-9)

    @settings(deadline=None, max_examples=20)
    @given(two_logits())
    def test_they_are_never_negative_and_zero_for_equal_answers(self, logits):
        positions = torch.ones(logits[0].shape[:2], dtype=torch.bool)
        for divergence in DIVERGENCES.values():
            assert (row_divergences(divergence, logits[0], logits[1], positions) >= -1e-12).all()
            assert row_divergences(divergence, logits[0], logits[0], positions).abs().max() < 1e-12

    @pytest.mark.parametrize("name", DIVERGENCES)
    def test_only_where_it_says_so_does_a_gradient_go_into_the_clean_answer(self, name):
        clean, other = (torch.randn(2, 1, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
        DIVERGENCES[name].of(clean, other).sum().backward()
        assert other.grad is not None
        assert (clean.grad is None) == DIVERGENCES[name].stops_clean

    def test_positions_without_label_count_nothing(self):
        a, b = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
        kl, one = DIVERGENCES["kl"], torch.tensor([[True, False, False]])
        expected = kl.of(a[:, :1], b[:, :1])[:, 0]
        torch.testing.assert_close(row_divergences(kl, a, b, one), expected)

    @pytest.mark.parametrize("name", DIVERGENCES)
    def test_over_label_words_it_is_that_of_their_logits_alone(self, name):
        a, b = torch.randn(2, 1, 6).double(), torch.randn(2, 1, 6).double()
        allowed = torch.tensor([[False, True, False, True, True, False]])
        positions = torch.ones(2, 1, dtype=torch.bool)
        found = row_divergences(DIVERGENCES[name], a, b, positions, allowed)
        expected = DIVERGENCES[name].of(a[:, :, allowed[0]], b[:, :, allowed[0]])[:, 0]
        torch.testing.assert_close(found, expected)

    def test_one_number_is_compared_as_it_is(self):
        a, b = torch.tensor([[[1.0]]]), torch.tensor([[[3.5]]])
        assert DIVERGENCES["squared-error"].of(a, b).item() == 6.25


class TestBalls:
    @settings(deadline=None, max_examples=60)
    @given(
        st.sampled_from(["l2", "linf"]), st.sampled_from(["token", "sentence"]), st.floats(0.01, 10), st.integers(0, 99)
    )
    def test_projection_ends_in_the_ball_and_moves_nothing_that_is_in_it(self, norm, level, radius, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(3, 4, 5, generator=generator)
        ball = Ball(norm, level, torch.full((3, 1, 1), float(radius)))
        found = ball.project(x)
        assert (ball.norms(found) <= radius * (1 + 1e-5)).all()
        torch.testing.assert_close(ball.project(found), found)
        small = x * (0.99 * radius / ball.norms(x).amax())
        assert ball.project(small).equal(small)

    def test_norms_are_of_each_position_or_of_the_row(self):
        x = torch.tensor([[[3.0, 4.0], [0.0, -12.0]]])
        one = torch.ones(1, 1, 1)
        assert Ball("l2", "token", one).norms(x).flatten().tolist() == [5.0, 12.0]
        assert Ball("l2", "sentence", one).norms(x).flatten().tolist() == [13.0]
        assert Ball("linf", "sentence", one).norms(x).flatten().tolist() == [12.0]

    def test_a_zero_has_no_direction_and_stays(self):
        ball = Ball("l2", "token", torch.ones(1, 1, 1))
        assert not ball.direction(torch.zeros(1, 2, 3)).any()


def named(text) -> Any:
    return regularizers(text)


class TestNames:
    def test_every_regulariser_is_found_with_its_options_as_typed(self):
        for name, one in REGULARIZERS.items():
            assert regularizers(name) == (one,)
        first, second = named("rn-emb:sigma=1e+0,alpha=0.3 + adv-emb:steps=3,each=false")
        assert (first.perturbation.sigma, first.alpha) == (1.0, 0.3)
        assert (second.perturbation.steps, second.perturbation.start) == (3, "zero")
        assert regularizers("") == ()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("rn-em", "Did you mean 'rn-emb'"),
            ("rn-emb:sigm=1", "Did you mean 'sigma'"),
            ("rn-emb:sigma", "not KEY=VALUE"),
            ("rn-emb:sigma=much", "is a number"),
            ("rn-emb:alpha=-1", "alpha must be 0 or more"),
            ("adv-emb:radius=-0.1", "radius must be 0 or more"),
            ("adv-emb:radius=nan", "radius must be 0 or more"),
            ("adv-emb:radius=100", "leaves nothing of the text"),
            ("rn-emb:sigma=1000", "leaves nothing of the text"),
            ("rn-emb:delay=2", "delay is a share"),
            ("rn-text:rate=1.5", "rate is a probability"),
            ("rn-text:column=second", "'second' does not exist"),
            ("adv-text:tried=30", "tried must be 1 to candidates"),
            ("rn-emb:each=true", "steps is 0"),
            ("adv-emb:objective=kl", "starts at the clean answer has no direction.*; give start=gaussian,sigma=0.01"),
            ("ptp-adv:objective=js,each=true", "starts at the clean answer"),
            ("smart:sigma=0", "starts at the clean answer"),
            ("vat:start=zero", "starts at the clean answer"),
            ("rn-emb:divergence=k", "unknown divergence of regulariser 'k'"),
            ("freelb+r-drop", "more than the whole task loss"),
        ],
    )
    def test_what_cannot_be_is_refused_in_one_line(self, text, message):
        with pytest.raises((BadInput, UnknownName), match=message) as error:
            regularizers(text)
        assert "\n" not in str(error.value)

    def test_it_acts_after_its_delay_and_rises_over_its_ramp(self):
        (one,) = regularizers("rn-emb:alpha=2,delay=0.4,ramp=0.2,share=0.5")
        found = [one.weights(step, 10) for step in range(1, 11)]
        alphas, shares = zip(*found, strict=True)
        assert alphas == pytest.approx((0, 0, 0, 0, 1, 2, 2, 2, 2, 2))
        assert shares == (0, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5)

    @pytest.mark.parametrize(
        "text",
        [
            "rn-emb:alpha=0",
            "rn-emb:sigma=0",
            "adv-emb:radius=0",
            "rn-text:rate=0",
            "vat:radius=0",
            "adv-emb:objective=kl,radius=0",
        ],
    )
    def test_what_is_off_never_acts(self, text):
        assert acting([regularizers(text)], [0], 1, 10, 0) == []

    def test_each_prompt_step_and_regulariser_has_its_own_noise(self):
        own = [regularizers("rn-emb+rn-emb"), regularizers("rn-emb")]
        seeds = {t.seed for step in (1, 2) for number in (0, 1) for t in acting(own, [0, 1], step, 10, number)}
        assert len(seeds) == 3 * 2 * 2

    def test_a_run_is_named_by_the_numbers_and_without_any_as_before(self):
        def name(text):
            return RunSpec(
                task="lab/opinion", model="lab-t5-small", prompt=PromptSettings(lr=0.1, regularizer=text)
            ).name

        assert name("rn-emb") == name("rn-emb:sigma=0.3")
        assert name("rn-emb") != name("rn-emb:sigma=0.1")
        assert name("rn-emb:alpha=0") == name("")
        plain = RunSpec(task="lab/opinion", model="lab-t5-small", prompt=PromptSettings(lr=0.1)).numbers()
        assert not any("regularizer" in key for key in plain["lane"])


def test_the_perturbation_of_embeddings_says_which_size_is_nothing():
    assert EmbeddingPerturbation(start="zero", sigma=1.0).is_nothing
    assert EmbeddingPerturbation(start="ball", radius=0.0).is_nothing
    assert not EmbeddingPerturbation(start="box", sigma=1.0, steps=2, radius=0.0, each=True).is_nothing
