"""What every other test relies on: types and shapes of signatures are checked while tests run."""

import pytest
import torch
from beartype.roar import BeartypeCallHintParamViolation, BeartypeCallHintReturnViolation
from jaxtyping import Float
from softprompt.backbones.join import take
from softprompt.prompts.batch import PromptBatch
from softprompt.prompts.initializers import uniform
from torch import Tensor

import shapes


def test_a_letter_stands_for_one_size_in_a_call_and_for_another_in_the_next():
    for rows in (1, 2):
        assert take(torch.zeros(rows, 3, 4), torch.zeros(rows, 1, dtype=torch.long)).shape == (rows, 1, 4)
    with pytest.raises(BeartypeCallHintParamViolation):
        take(torch.zeros(1, 3, 4), torch.zeros(2, 1, dtype=torch.long))


def test_a_dataclass_and_a_shape_that_names_an_argument_are_checked():
    with pytest.raises(BeartypeCallHintParamViolation):
        PromptBatch(torch.zeros(2, 3, 4), torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(Exception, match="Type-check error"):
        uniform()(3, torch.zeros(4), torch.Generator())


def test_what_a_function_returns_is_checked_with_what_it_was_given():
    def halved(x: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
        return x[:1]

    checked = shapes.checked(halved, None)
    assert checked(torch.zeros(1, 2)).shape == (1, 2)
    with pytest.raises(BeartypeCallHintReturnViolation):
        checked(torch.zeros(2, 2))


def test_a_type_without_a_shape_is_checked():
    def half(number: int) -> float:
        return number / 2

    with pytest.raises(BeartypeCallHintParamViolation):
        shapes.checked(half, None)("2")
