"""Where the heads of an untrained lab-bert and lab-gpt look."""

import math
from typing import Any

import pytest
import torch
from experiments.pretraining.heads import BESIDE, ITSELF, LIKE, look_beside, look_for_the_like, say_where, set_apart
from experiments.pretraining.recipes import RECIPES, build_model, build_tokenizer
from softprompt.world import vocabulary
from torch import Tensor

SIZE, WIDTH, PLACES = 32, 128, 30


@pytest.fixture
def draw() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tables(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vectors of 200 words and of 32 places, set apart."""
    words, positions = torch.ones(200, WIDTH), torch.ones(PLACES, WIDTH)
    set_apart(words, positions, SIZE, draw)
    return words, positions


def head() -> Tensor:
    return torch.ones(SIZE, WIDTH)


def logits(query: Tensor, key: Tensor, asking: Tensor, asked: Tensor) -> Tensor:
    return (asking @ query.T) @ (asked @ key.T).T / math.sqrt(SIZE)


def test_words_and_positions_share_no_coordinate(tables: tuple[Tensor, Tensor]):
    words, positions = tables
    assert not words[:, -SIZE:].any()
    assert not positions[:, :-SIZE].any()
    assert words[:, :-SIZE].std().item() == pytest.approx(1.0, abs=0.02)


def test_different_positions_are_at_right_angles(tables: tuple[Tensor, Tensor]):
    _, positions = tables
    torch.testing.assert_close(positions @ positions.T, SIZE * torch.eye(PLACES), atol=1e-3, rtol=0)


@pytest.mark.parametrize("distance", [-2, -1, 1])
def test_a_head_looks_so_many_places_on_whatever_the_words(distance: int, tables: tuple[Tensor, Tensor]):
    words, positions = tables
    query, key = head(), head()
    look_beside(query, key, distance)
    read = words[:PLACES] + positions
    found = logits(query, key, read, read)
    beside = torch.diag(torch.ones(PLACES - abs(distance)), distance) * BESIDE
    torch.testing.assert_close(found, beside, atol=1e-3, rtol=0)


@pytest.mark.parametrize("itself", [True, False])
def test_a_word_looks_for_its_like_and_for_itself_only_where_told(
    itself: bool, tables: tuple[Tensor, Tensor], draw: torch.Generator
):
    words, positions = tables
    query, key = head(), head()
    look_for_the_like(query, key, draw, itself=itself)
    asking = words + positions[3]
    here, there = (logits(query, key, asking, words + positions[place]) for place in (3, 20))
    assert there.diagonal().mean().item() == pytest.approx(LIKE, abs=0.3)
    assert here.diagonal().mean().item() == pytest.approx(LIKE if itself else LIKE - ITSELF, abs=0.3)
    assert there.fill_diagonal_(0.0).mean().item() == pytest.approx(0.0, abs=0.3)


def test_a_head_passes_on_the_position_alone(tables: tuple[Tensor, Tensor], draw: torch.Generator):
    words, positions = tables
    value, output = head(), head().T.clone()
    say_where(value, output, draw)
    said = (words[:PLACES] + positions) @ value.T
    assert torch.equal(said, positions[:, -SIZE:])
    # Nothing is lost on the way out.
    torch.testing.assert_close(said @ output.T @ output, said, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "beside"), [("lab-bert", (-1, 1)), ("lab-gpt", (-1, -2))])
def test_an_untrained_backbone_compares_words_and_looks_beside_them(name: str, beside: tuple[int, int]):
    model: Any = build_model(RECIPES[name])
    model.set_attn_implementation("eager")
    words = vocabulary()[:14]
    ids = build_tokenizer("decoder")(" ".join(words + words), return_tensors="pt").input_ids
    first = model.eval()(input_ids=ids, output_attentions=True).attentions[0][0]
    for number, distance in enumerate(beside, 1):
        inside = range(2, ids.shape[1] - 2)
        assert min(first[number, place, place + distance].item() for place in inside) > 0.8
    to_the_like = first[0].diagonal(-len(words))
    # One of 28 would be chance.
    assert to_the_like.mean().item() > 0.25
    assert to_the_like.mean() > 10 * first[0].diagonal().mean()
