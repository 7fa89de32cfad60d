"""Task losses equal their formulas, row by row."""

import math

import pytest
import torch
from softprompt.losses import cross_entropy, squared_error

TARGETS = torch.tensor([[1, 4, -100], [0, -100, -100], [-100, 2, 2]])


@pytest.fixture
def logits():
    return 3 * torch.randn(3, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def reference(logits, targets):
    """-mean of log(exp(z_y) / sum exp(z)) over each row's targets, in nats, in Python's floats."""
    rows = []
    for scores, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        terms = [
            math.log(sum(math.exp(z) for z in position)) - position[y]
            for position, y in zip(scores, wanted, strict=True)
            if y != -100
        ]
        rows.append(sum(terms) / len(terms))
    return torch.tensor(rows, dtype=torch.float64)


def test_cross_entropy_equals_its_formula_in_float64(logits):
    torch.testing.assert_close(cross_entropy(logits, TARGETS), reference(logits, TARGETS), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_computed_in_float32_at_least(logits, dtype):
    logits = logits.to(dtype)
    loss = cross_entropy(logits, TARGETS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference(logits, TARGETS), rtol=1e-6, atol=0)


def test_a_position_without_target_gets_no_gradient(logits):
    cross_entropy(logits.requires_grad_(), TARGETS).sum().backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.any(-1), TARGETS != -100)


def test_a_row_has_the_loss_it_has_alone(logits):
    together = cross_entropy(logits, TARGETS)
    alone = [cross_entropy(logits[i : i + 1], TARGETS[i : i + 1]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_a_row_without_targets_is_nan_and_never_free(logits):
    assert cross_entropy(logits, torch.full((3, 3), -100)).isnan().all()


def test_squared_error_equals_its_formula():
    loss = squared_error(torch.tensor([[[1.5]], [[-2.0]]]), torch.tensor([[1.0], [3.0]]))
    assert torch.equal(loss, torch.tensor([0.25, 25.0]))


def test_squared_error_is_computed_in_float32_at_least():
    """3.3 is no bfloat16: rounding the target would move the error."""
    target = torch.tensor([[3.3]])
    assert torch.equal(squared_error(torch.tensor([[[1.0]]], dtype=torch.bfloat16), target), (1 - target[0]) ** 2)
    assert squared_error(torch.tensor([[[1.0]]], dtype=torch.float64), target).dtype == torch.float64
