"""Initial vectors: exactly the rows they say, and nothing random but the generator."""

import pytest
import torch
from softprompt.errors import BadInput
from softprompt.prompts.initializers import from_label_words, from_tokens, from_vectors, from_vocabulary, uniform

V, E, M = 20, 6, 4
VECTORS = torch.arange(M * E).reshape(M, E).float() / 7
INITIALIZERS = {
    "uniform": uniform(),
    "vocabulary": from_vocabulary(),
    "label-words": from_label_words([[3], [5, 7]]),
    "tokens": from_tokens([2, 9]),
    "vectors": from_vectors(VECTORS),
}


@pytest.fixture
def table():
    return torch.randn(V, E, generator=torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(vectors: torch.Tensor, table: torch.Tensor) -> list[int]:
    """The ids whose table rows the vectors are."""
    matches = (vectors[:, None] == table).all(-1)
    assert (matches.sum(1) == 1).all()
    return matches.int().argmax(1).tolist()


@pytest.mark.parametrize("draw", INITIALIZERS.values(), ids=INITIALIZERS)
class TestEveryInitializer:
    def test_vectors_depend_on_the_generator_alone(self, draw, table):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        one = draw(M, table, seeded(5))
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert torch.equal(draw(M, table, seeded(5)), one)

    def test_vectors_are_float32_and_detached_whatever_the_table_is(self, draw, table):
        trained = table.to(torch.bfloat16).requires_grad_()
        vectors = draw(M, trained, seeded())
        assert (vectors.dtype, vectors.shape, vectors.requires_grad) == (torch.float32, (M, E), False)

    def test_vectors_are_a_copy(self, draw, table):
        before = table.clone(), VECTORS.clone()
        draw(M, table, seeded()).zero_()
        assert torch.equal(table, before[0])
        assert torch.equal(VECTORS, before[1])


@pytest.mark.parametrize("name", ["uniform", "vocabulary", "label-words"])
def test_another_seed_gives_other_vectors(name, table):
    draw = INITIALIZERS[name]
    assert not torch.equal(draw(M, table, seeded(1)), draw(M, table, seeded(2)))


def test_uniform_vectors_fill_half_around_zero_by_default(table):
    vectors = uniform()(1000, table, seeded())
    assert (vectors.min(), vectors.max()) == (pytest.approx(-0.5, abs=1e-3), pytest.approx(0.5, abs=1e-3))
    assert vectors.mean() == pytest.approx(0, abs=0.02)


def test_uniform_vectors_keep_other_bounds(table):
    vectors = uniform(2.0, 3.0)(1000, table, seeded())
    assert (vectors.min(), vectors.max()) == (pytest.approx(2, abs=1e-3), pytest.approx(3, abs=1e-3))


def test_sampled_vocabulary_draws_different_tokens(table):
    assert sorted(rows_of(from_vocabulary()(V, table, seeded()), table)) == list(range(V))


def test_sampled_vocabulary_repeats_only_when_it_runs_out(table):
    ids = rows_of(from_vocabulary()(2 * V + 3, table, seeded()), table)
    assert {ids.count(i) for i in range(V)} == {2, 3}


def test_label_words_are_mean_token_vectors_then_sampled_vocabulary(table):
    vectors = from_label_words([[3], [5, 7]])(5, table, seeded())
    assert torch.equal(vectors[0], table[3])
    assert torch.equal(vectors[1], (table[5] + table[7]) / 2)
    assert torch.equal(vectors[2:], from_vocabulary()(3, table, seeded()))


def test_label_words_begin_with_the_first_label_when_there_is_one_vector(table):
    assert torch.equal(from_label_words([[3], [5, 7]])(1, table, seeded()), table[[3]])


def test_a_text_is_repeated_from_its_start_or_cut(table):
    draw = from_tokens([2, 9, 4])
    assert torch.equal(draw(7, table, seeded()), table[[2, 9, 4, 2, 9, 4, 2]])
    assert torch.equal(draw(2, table, seeded()), table[[2, 9]])


def test_given_vectors_are_taken_as_they_are(table):
    assert torch.equal(from_vectors(VECTORS.double())(M, table, seeded()), VECTORS)


@pytest.mark.parametrize("name", ["uniform", "vocabulary", "label-words", "tokens"])
def test_a_head_alone_has_no_vectors(name, table):
    assert INITIALIZERS[name](0, table, seeded()).shape == (0, E)


@pytest.mark.parametrize("shape", [(M + 1, E), (M, E + 1)])
def test_vectors_of_another_shape_are_refused_with_both_shapes(shape, table):
    with pytest.raises(BadInput, match=rf"are \[{shape[0]}, {shape[1]}\], this prompt is \[{M}, {E}\]"):
        from_vectors(torch.zeros(shape))(M, table, seeded())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: uniform(1.0, 0.0), "low <= high; these are 1.0 and 0.0"),
        (lambda: uniform(0.0, float("inf")), "finite bounds"),
        (lambda: from_label_words([]), "at least one token for each label"),
        (lambda: from_label_words([[1], []]), "at least one token for each label"),
        (lambda: from_tokens([]), "this text is empty"),
        (lambda: from_vectors(torch.tensor([[float("nan")]])), "NaN or infinity"),
    ],
)
def test_an_unusable_start_is_refused_at_once(make, message):
    with pytest.raises(BadInput, match=message):
        make()


@pytest.mark.parametrize("token", [-1, V])
def test_tokens_of_another_vocabulary_are_refused(token, table):
    with pytest.raises(BadInput, match=f"do not all have a vector in a vocabulary of {V}"):
        from_tokens([0, token])(2, table, seeded())
