"""Frozen linear layers in int8: a training step uses the fast 8-bit multipliers of a CPU.

Each row x_i and each output channel w_o is rounded to 255 levels, with its own scale:

    s_i = max_j |x_ij| / 127,   q_ij = round(x_ij / s_i),   and t_o, r_oj of W in the same way;
    x W^T  ~  s_i t_o sum_j q_ij r_oj,      dL/dx = G W  ~  the same product of G and W^T.

The sums are sums of integers and therefore exact. The result for a row depends on that row alone: not on its batch, not
on the rows of other prompts, and not on how the product is cut into blocks.
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
# Narrower layers gain nothing, because the rounding of the rows takes the time that the product saves.
LEAST_WIDTH = 128
# Numbers in a block of rows, on the wider side of a layer. Such a block fits into the cache of a core with its 8-bit
# form, its sums and its result.
BLOCK = 2**19
# Rows with smaller numbers become 0, because the inverse of their scale would not be finite.
_LEAST_SCALE = 1e-35


def rounded(rows: Float[Tensor, "b i"]) -> tuple[Int8[Tensor, "b i"], Float[Tensor, "b 1"]]:
    """Round each row to 8 bits and return it with its scale. The scale is not finite if a number of the row is not."""
    scale = rows.abs().amax(1, keepdim=True).div_(LEVELS).clamp_(min=_LEAST_SCALE)
    return torch.div(rows, scale).round_().to(torch.int8), scale


@final
class Int8Linear(AbstractFrozenLinear):
    """The frozen product `x W^T` in int8.

    Args:
        weight: W. Its rows are rounded for the forward product, and its columns for the backward product.
    """

    def __init__(self, weight: Float[Tensor, "o i"]):
        self.weight, self.scale = _factor(weight.detach())
        self._transposed = _factor(weight.detach().t())

    def forward(self, x: Float[Tensor, "r i"]) -> Float[Tensor, "r o"]:
        """Return x W^T without a graph."""
        return _product(x, self.weight, self.scale)

    def backward(self, gradient: Float[Tensor, "r o"]) -> Float[Tensor, "r i"]:
        """Return the gradient with respect to x, given that with respect to x W^T."""
        return _product(gradient, *self._transposed)


def _factor(weight: Float[Tensor, "o i"]) -> tuple[Int8[Tensor, "o i"], Float[Tensor, " o"]]:
    levels, scale = rounded(weight)
    return levels, scale[:, 0]


def _product(x: Float[Tensor, "r i"], weight: Int8[Tensor, "o i"], scale: Float[Tensor, " o"]) -> Float[Tensor, "r o"]:
    """Return x W^T, computed in blocks of rows."""
    outputs, inputs = weight.shape
    result = x.new_empty(len(x), outputs)
    block = max(1, BLOCK // max(inputs, outputs))
    for rows, target in zip(x.split(block), result.split(block), strict=True):
        levels, row_scale = rounded(rows)
        # The copy to float comes first, because products of an integer and a float tensor are not vectorised.
        target.copy_(torch.ops.aten._int_mm(levels, weight.t())).mul_(row_scale).mul_(scale)
    return result


@final
class Int8Layer(nn.Module):
    """A frozen linear layer of a model in int8, `x W^T + b`. The bias keeps its precision.

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
        """The weight in 8 bits. Transformers reads its dtype in the layers of T5."""
        return self.linear.weight

    def forward(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return the output of the layer."""
        result = self.linear(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], len(self.weight))
        return result if self.bias is None else result + self.bias


def part_in_int8(part: Part) -> Part:
    """Return a part of the packed engine with those linear layers in int8 that are wide enough."""
    layers = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    int8 = {
        name: Int8Linear(layer.weight)
        for name, layer in layers.items()
        if isinstance(layer, FrozenLinear) and _is_wide(layer.weight)
    }
    return dataclasses.replace(part, **int8)


def is_int8(model: nn.Module) -> bool:
    """Whether any of the model's layers is in int8."""
    return any(isinstance(module, Int8Layer) for module in model.modules())


def to_int8(model: nn.Module, name: str) -> None:
    """Convert the linear layers of a model to int8, in place, except for its head and layers that are too narrow.

    Args:
        model: a model of transformers, in float32 on a CPU.
        name: name of the model, for messages.

    Raises:
        UnsupportedModel: the device, precision, processor, wrapper or widths do not allow int8.
    """
    refuse_no_int8(model, name)
    base: Any = model
    chosen = [
        (parent, label, matrix)
        for parent in base.base_model.modules()
        for label, child in parent.named_children()
        if (matrix := _wide_matrix(child)) is not None and child is not base.get_output_embeddings()
    ]
    # A shared layer is rounded once and stays shared.
    converted: dict[int, nn.Module] = {}
    for parent, label, matrix in chosen:
        child = getattr(parent, label)
        if id(child) not in converted:
            converted[id(child)] = Int8Layer(matrix, child.bias)
        setattr(parent, label, converted[id(child)])


def refuse_no_int8(model: nn.Module, name: str) -> None:
    """Refuse a model that cannot be converted to int8 on this machine.

    Raises:
        UnsupportedModel: int8 is not possible; the message gives the reason.
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
    """Return the weight [o, i] of a wide linear layer or of GPT-2's Conv1D; None for other layers, such as PEFT's."""
    matrix: Any = None
    if type(layer) is nn.Linear:
        matrix = layer.weight
    elif type(layer).__name__ == "Conv1D" and type(layer).__module__ == "transformers.pytorch_utils":
        conv: Any = layer
        matrix = conv.weight.t()
    return matrix if matrix is not None and _is_wide(matrix) else None


def _refuse_other_weights(model: Any, name: str) -> None:
    """Refuse a model that is not a plain model in float32 on a CPU."""
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
    """Refuse a processor whose 8-bit products are slow, or wrong because they saturate at 16 bits."""
    full = torch.full((32, 128), 127, dtype=torch.int8)
    if not torch.cpu._is_vnni_supported() or not (torch.ops.aten._int_mm(full, -full.t()) == -(127**2) * 128).all():
        raise UnsupportedModel(
            f"int8 needs a processor with AVX512-VNNI, which this one has not; leave --quantize=int8 out for {name!r}"
        )
