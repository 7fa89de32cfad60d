"""Outputs of transformers over prompt and text, restricted to the text in the caller's layout."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

# Fields of an output, and their axes that run over input positions.
ENCODER = {"last_hidden_state": (1,), "hidden_states": (1,), "attentions": (2, 3)}
ENCODER_DECODER = {f"encoder_{field}": axes for field, axes in ENCODER.items()} | {"cross_attentions": (3,)}


def without_prompt(output: Any, axes: Mapping[str, Sequence[int]], columns: Int[Tensor, "b t"]) -> Any:
    """An output of transformers with these fields restricted to the text, in the caller's layout."""
    for field in axes:
        if output.get(field) is not None:
            setattr(output, field, restricted(output[field], columns, axes[field]))
    return output


def restricted(states: Any, columns: Int[Tensor, "b t"], axes: Sequence[int]) -> Any:
    """States at these columns; tuples (layers, generation steps) one by one."""
    if isinstance(states, tuple):
        return tuple(restricted(state, columns, axes) for state in states)
    if states is None:
        return None
    # Beam search multiplies the rows.
    index = columns.repeat_interleave(states.shape[0] // columns.shape[0], 0)
    for axis in axes:
        shape = [1] * states.ndim
        shape[0], shape[axis] = index.shape
        states = states.take_along_dim(index.view(shape), axis)
    return states
