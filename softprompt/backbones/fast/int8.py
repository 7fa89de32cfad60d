"""Frozen linear layers in int8: the products of a training step at the speed of a CPU's 8-bit multipliers.

Rows x_i and output channels w_o are rounded to 255 levels each, with a scale of their own,

    s_i = max_j |x_ij| / 127,   q_ij = round(x_ij / s_i),   and t_o, r_oj of W in the same way;
    x W^T  ~  s_i t_o sum_j q_ij r_oj,      dL/dx = G W  ~  the same product of G and W^T.

The sums are of integers and exact, so what becomes of a row depends on that row alone: not on its batch, nor on other
prompts' rows, nor on how the product is cut into blocks.
"""

import dataclasses
from typing import Any, TypeVar, final

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from ...errors import UnsupportedModel
from ..family import is_plain
from .frozen_linear import AbstractFrozenLinear, FrozenLinear

Part = TypeVar("Part", bound=Any)

LEVELS = 127
# Narrower layers gain nothing: rounding the rows takes what the product saves.
LEAST_WIDTH = 128
# Numbers of a block of rows on the wider side of a layer. Its 8-bit form, sums and result stay in a core's cache.
BLOCK = 2**19
# Smaller rows become 0; the inverse of their scale would not be finite.
_LEAST_SCALE = 1e-35


def rounded(rows: Float[Tensor, "b i"]) -> tuple[Int8[Tensor, "b i"], Float[Tensor, "b 1"]]:
    """Each row in 8 bits, and its scale, which is not finite where something in the row is not."""
    scale = rows.abs().amax(1, keepdim=True).div_(LEVELS).clamp_(min=_LEAST_SCALE)
    return torch.div(rows, scale).round_().to(torch.int8), scale


@final
class Int8Linear(AbstractFrozenLinear):
    """Frozen `x W^T` in int8.

    Args:
        weight: W; it is rounded twice, its rows for the one and its columns for the other product.
    """

    def __init__(self, weight: Float[Tensor, "o i"]):
        self.weight, self.scale = _factor(weight.detach())
        self._transposed = _factor(weight.detach().t())

    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """X W^T, without a graph."""
        return _product(x, self.weight, self.scale)

    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """The gradient at x, from that at x W^T."""
        return _product(gradient, *self._transposed)


def _factor(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, " o"]]:
    levels, scale = rounded(weight)
    return levels, scale[:, 0]


def _product(x: Float[Tensor, "r i"], weight: Int8[Tensor, "o i"], scale: Float[Tensor, " o"]) -> Float[Tensor, "r o"]:
    """X W^T, in blocks of rows."""
    outputs, inputs = weight.shape
    result = x.new_empty(len(x), outputs)
    block = max(1, BLOCK // max(inputs, outputs))
    for taken, into in zip(x.split(block), result.split(block), strict=True):
        levels, own = rounded(taken)
        # Copied, then multiplied: products of an integer and a float tensor are not vectorised.
        into.copy_(torch.ops.aten._int_mm(levels, weight.t())).mul_(own).mul_(scale)
    return result


@final
class Int8Layer(nn.Module):
    """A frozen linear layer in int8, where a model has one: `x W^T + b`, the bias as it was.

    Args:
        weight: W.
        bias: b, or None.
    """

    bias: Tensor | None

    def __init__(self, weight: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None):
        super().__init__()
        self.linear = Int8Linear(weight)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def weight(self) -> Int8[Tensor, "o i"]:
        """In 8 bits; transformers asks a T5's layers for its dtype."""
        return self.linear.weight

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """The layer's output."""
        result = self.linear(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], len(self.weight))
        return result if self.bias is None else result + self.bias


def part_in_int8(part: Part) -> Part:
    """A part of the packed engine with its linear layers in int8, where they are wide enough."""
    own = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    wide = {name: one.weight for name, one in own.items() if isinstance(one, FrozenLinear) and _is_wide(one.weight)}
    return dataclasses.replace(part, **{name: Int8Linear(weight) for name, weight in wide.items()})


def is_int8(model: nn.Module) -> bool:
    """Whether any of the model's layers is in int8."""
    return any(isinstance(module, Int8Layer) for module in model.modules())


def to_int8(model: nn.Module, name: str) -> None:
    """Put the model's linear layers in int8, in place, but for its heads and those that are too narrow.

    Args:
        model: what transformers loaded, in float32 on a CPU.
        name: for messages.

    Raises:
        UnsupportedModel: a device, a precision, a processor, a wrapper or widths for which there is no int8.
    """
    refuse_no_int8(model, name)
    base: Any = model
    chosen = [
        (parent, label, matrix)
        for parent in base.base_model.modules()
        for label, child in parent.named_children()
        if (matrix := _wide_matrix(child)) is not None and child is not base.get_output_embeddings()
    ]
    # A layer that several share is rounded once, and still shared.
    made: dict[int, nn.Module] = {}
    for parent, label, matrix in chosen:
        child = getattr(parent, label)
        if id(child) not in made:
            made[id(child)] = Int8Layer(matrix, child.bias)
        setattr(parent, label, made[id(child)])


def refuse_no_int8(model: nn.Module, name: str) -> None:
    """Refuse a model that cannot be put in int8 here.

    Raises:
        UnsupportedModel: with the reason.
    """
    _refuse_other_weights(model, name)
    _refuse_no_instructions(name)
    base: Any = model
    head = base.get_output_embeddings()
    if all(_wide_matrix(layer) is None or layer is head for layer in base.base_model.modules()):
        raise UnsupportedModel(
            f"{name!r} has no plain linear layer of at least {LEAST_WIDTH} inputs and outputs, so int8 would not make "
            "it faster; leave --quantize=int8 out"
        )


def _is_wide(matrix: Tensor) -> bool:
    return min(matrix.shape) >= LEAST_WIDTH


def _wide_matrix(layer: nn.Module) -> Tensor | None:
    """The weight, outputs first, of a wide linear layer or GPT-2's Conv1D; None of anything else, as PEFT's."""
    matrix: Any = None
    if type(layer) is nn.Linear:
        matrix = layer.weight
    elif type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils":
        conv: Any = layer
        matrix = conv.weight.t()
    return matrix if matrix is not None and _is_wide(matrix) else None


def _refuse_other_weights(model: Any, name: str) -> None:
    """Refuse what is not a plain model in float32 on a CPU."""
    table = model.get_input_embeddings().weight
    if table.device.type != "cpu":
        raise UnsupportedModel(
            f"int8 is for the CPU, {name!r} is on {table.device}; give --device=cpu, or load it by bitsandbytes or "
            "torchao in Python and pass it to softprompt.from_model"
        )
    if table.dtype != torch.float32:
        raise UnsupportedModel(f"int8 is made of float32 weights, {name!r} is in {table.dtype}; load it in float32")
    quantised = getattr(model.config, "quantization_config", None) is not None
    if quantised or hasattr(model, "peft_config") or not all(map(is_plain, model.parameters())):
        raise UnsupportedModel(f"int8 is made of plain weights, those of {name!r} are quantised or adapted already")


def _refuse_no_instructions(name: str) -> None:
    """Refuse a processor whose products of 8-bit numbers are slow, or saturate at 16 bits and are wrong."""
    full = torch.full((32, 128), 127, dtype=torch.int8)
    if not torch.cpu._is_vnni_supported() or not (torch.ops.aten._int_mm(full, -full.t()) == -(127**2) * 128).all():
        raise UnsupportedModel(
            f"int8 needs a processor with AVX512-VNNI, which this one has not; leave --quantize=int8 out for {name!r}"
        )
