"""Prompts that begin at words: step 0 is the hand-written input, for every method and kind of model."""

import dataclasses

import pytest
import torch
from softprompt.errors import BadInput
from softprompt.prompts.base import Base
from softprompt.prompts.initializers import uniform
from softprompt.prompts.methods import METHODS, Method
from softprompt.prompts.prompt import BackboneIdentity, Provenance
from softprompt.prompts.trainable import TrainablePrompt
from softprompt.prompts.units import WordScale
from softprompt.settings import PromptSettings

V, E, N = 30, 16, 5
ON_WORDS = [
    name
    for name, method in METHODS.items()
    if not (method.weights or method.takes_sources) and name not in ("polar", "linear-probe")
]
TABLE = torch.randn(V, E, generator=torch.Generator().manual_seed(0))
WORDS = TABLE[torch.tensor([3, 1, 4, 1, 5])]
STATES = [WordScale(rms=2.0, token_norm=9.0), WordScale(rms=3.0, token_norm=12.0)]


def on_words(method="prompt-tuning", base=None, **settings):
    """A prompt over WORDS, as long as they are."""
    settings = PromptSettings(method=method, **settings)
    sized, states = Method.of(settings).on_words(N), STATES if settings.deep else ()
    base = base or Base(WORDS)
    return TrainablePrompt.build(
        settings, uniform(), TABLE, None, states=states, base=base, method=sized, states_of=left_behind
    )


def deep_vectors(prompt):
    """What a deep prompt stores for the layers after the first."""
    folded = prompt.folded_deep()
    assert folded is not None
    return folded


def left_behind(prompt):
    """Stands for what a model's layers make of a prompt."""
    return torch.stack([prompt + 1, 2 * prompt])


@pytest.mark.parametrize("units", ["raw", "rms"])
@pytest.mark.parametrize("method", ON_WORDS)
class TestEveryMethod:
    def test_begins_at_the_words_to_the_bit(self, method, units):
        prompt = on_words(method, units=units)
        assert torch.equal(prompt.folded(), WORDS)
        # An LSTM rounds otherwise where it needs gradients.
        torch.testing.assert_close(prompt.vectors(), WORDS, rtol=0, atol=1e-6 if "lstm" in method else 0)

    def test_moves_away_by_one_step(self, method, units):
        prompt = on_words(method, units=units)
        # As the words' own gradients are: different at each word.
        (prompt.vectors() * torch.linspace(-1, 1, N * E).reshape(N, E)).sum().backward()
        with torch.no_grad():
            for parameter in prompt.prompt_parameters():
                assert parameter.grad is not None
                parameter -= 0.1 * parameter.grad.sign()
        assert ((prompt.folded() - WORDS).norm(dim=1) > 0.01).all()

    def test_stores_a_vector_for_each_word(self, method, units):
        prompt = on_words(method, units=units)
        stored = prompt.fold(Provenance(method, BackboneIdentity("x", "decoder", E)))
        assert (stored.length, stored.repeats, stored.stored) == (N, 1, N * E)
        assert prompt.length == N

    def test_a_deep_one_begins_at_what_the_words_leave_in_each_layer(self, method, units):
        prompt = on_words(method, units=units, deep=True)
        assert torch.equal(prompt.folded(), WORDS)
        trained = prompt.deep_vectors()
        assert trained is not None
        assert torch.equal(deep_vectors(prompt), left_behind(WORDS))
        assert trained.requires_grad

    def test_a_deep_one_begins_as_the_ordinary_random_prompt(self, method, units):
        settings = PromptSettings(method=method, units=units, deep=True)
        found = TrainablePrompt.build(settings, uniform(), TABLE, None, states=STATES, states_of=left_behind)
        ordinary = TrainablePrompt.build(dataclasses.replace(settings, deep=False), uniform(), TABLE, None)
        whole = ordinary.folded().repeat(ordinary.repeats, 1)
        stored = found.fold(Provenance(method, BackboneIdentity("x", "decoder", E)))
        assert torch.equal(stored.expanded(), whole)
        assert torch.equal(deep_vectors(found), left_behind(whole))
        assert (stored.repeats, stored.length) == (1, found.length)
        # An LSTM rounds otherwise where it needs gradients.
        atol = 1e-6 if "lstm" in method else 0
        trained = found.deep_vectors()
        assert trained is not None
        torch.testing.assert_close(trained, left_behind(whole), rtol=0, atol=atol)


@pytest.mark.parametrize("method", ["scaled", "ept", "ept-star"])
def test_a_method_of_one_vector_adds_the_same_to_each_word(method):
    prompt = on_words(method)
    with torch.no_grad():
        prompt.initial.add_(1.0)
    change = prompt.folded() - WORDS
    torch.testing.assert_close(change, change[:1].expand(N, -1))
    assert change.abs().sum() > 0
    assert prompt.method.trainable(E) == METHODS[method].trainable(E)


def test_the_maximum_norm_bounds_the_sum_of_word_and_vector():
    prompt, free = on_words(max_norm=1.5), on_words()
    with torch.no_grad():
        for one in (prompt, free):
            one.initial.add_(2.0)
    whole, norms = free.folded(), free.folded().norm(dim=1, keepdim=True)
    expected = whole * (1.5 * prompt.words.token_norm / norms).clamp(max=1)
    assert (norms > 1.5 * prompt.words.token_norm).any()
    torch.testing.assert_close(prompt.folded(), expected)


@pytest.mark.parametrize("method", ["prompt-tuning", "ept-star"])
def test_words_before_a_random_deep_prompt_leave_their_states_with_those_of_the_prompt(method):
    settings = PromptSettings(method=method, deep=True)
    alone = TrainablePrompt.build(dataclasses.replace(settings, deep=False), uniform(), TABLE, None)
    padded = torch.cat([WORDS, torch.zeros(alone.length, E)])
    behind = TrainablePrompt.build(
        settings, uniform(), TABLE, None, states=STATES, base=Base(padded, is_beginning=False), states_of=left_behind
    )
    assert torch.equal(deep_vectors(behind), left_behind(torch.cat([WORDS, alone.vectors()])))
    with torch.no_grad():
        behind.prompt_parameters()[1].add_(1.0)
    moved = (deep_vectors(behind) - left_behind(behind.folded())).abs().sum(2)
    assert (moved[:, :N] == 0).all()
    assert (moved[:, N:] > 0).all()


def test_a_deep_prompt_of_directions_begins_at_random_in_every_layer():
    settings = PromptSettings(method="polar", deep=True)
    found = TrainablePrompt.build(settings, uniform(), TABLE, None, states=STATES, states_of=left_behind)
    expected = TrainablePrompt.build(settings, uniform(), TABLE, None, states=STATES)
    assert torch.equal(deep_vectors(found), deep_vectors(expected))


@pytest.mark.parametrize("method", ["prompt-tuning", "ept-star", "polar"])
def test_words_before_a_random_prompt_stay_as_they_are(method):
    settings = PromptSettings(method=method)
    alone = TrainablePrompt.build(settings, uniform(), TABLE, None)
    padded = torch.cat([WORDS, torch.zeros(alone.length, E)])
    behind = TrainablePrompt.build(settings, uniform(), TABLE, None, base=Base(padded, is_beginning=False))
    expected = torch.cat([WORDS, alone.vectors()])
    assert torch.equal(behind.vectors(), expected)
    assert torch.equal(behind.folded(), expected)
    behind.vectors().sum().backward()
    assert behind.initial.grad is not None


@pytest.mark.parametrize("method", ["polar", "linear-probe"])
def test_a_method_that_cannot_begin_at_words_says_so(method):
    with pytest.raises(BadInput, match=f"{method}.*init='instruction'"):
        TrainablePrompt.build(
            PromptSettings(method=method, init="instruction"), uniform(), TABLE, (2, E), base=Base(WORDS)
        )
