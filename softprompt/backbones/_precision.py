"""What a bfloat16 model computes in float32 all the same: everything but the products with its weight matrices.

bfloat16 keeps eight binary digits. Products with matrices lose little by it, because they sum many rounded numbers. The
sums between them do not average it away: a layer's small output is added to a large residual stream, and a prompt is
added to nothing but rounded where it joins its text. So the stream, the norms, the attention and the activations stay
in float32, and each matrix rounds only what it multiplies. docs/log.md has the figures.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from .family import is_plain
from .fast.int8 import Int8Layer, is_int8

if TYPE_CHECKING:
    from .base import AbstractBackbone


def _is_conv1d(module: nn.Module) -> bool:
    """Whether a module is GPT-2's linear layer, by its name: transformers is imported only with a model."""
    return type(module).__name__ == "Conv1D"


def _is_product(module: nn.Module) -> bool:
    return type(module) is nn.Linear or _is_conv1d(module)


def wide_between_products(model: nn.Module) -> None:
    """Compute all but the matrix products of a bfloat16 model in float32, in place; the matrices stay as they are.

    Nothing happens to a model with weights of another kind (quantised ones), or in another precision.

    Args:
        model: what transformers loaded, in evaluation mode.
    """
    if not all(is_plain(weight) and weight.dtype == torch.bfloat16 for weight in model.parameters()):
        return
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(_widened)
        elif _is_product(module):
            module.forward = _Product(module)
        else:
            # Gains and biases of norms: as many numbers as a few word vectors.
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.float()


def _widened(module: nn.Module, arguments: Any, output: Float[Tensor, "*b e"]) -> Float[Tensor, "*b e"]:
    """Rows of a table in float32."""
    return output.float()


class _Product:
    """The forward pass of a linear layer: a product in the layer's precision, and the result in float32.

    Args:
        layer: the layer; its weights are read at each call, so that they may be moved or replaced.
    """

    def __init__(self, layer: Any):
        self.layer = layer

    def __call__(self, x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        """Return x W^T + b."""
        weight = self.layer.weight
        return wide_product(x, weight.t() if _is_conv1d(self.layer) else weight, self.layer.bias)


def wide_product(
    x: Float[Tensor, "*b i"], matrix: Float[Tensor, "o i"], bias: Float[Tensor, " o"] | None
) -> Float[Tensor, "*b o"]:
    """Return x M^T + b: a product in the precision of the matrix, and the result in float32."""
    result = functional.linear(x.to(matrix.dtype), matrix).float()
    return result if bias is None else result + bias.float()


def is_wide(module: nn.Module) -> bool:
    """Whether the forward pass of a layer is `wide_product` of its matrix and its bias."""
    return isinstance(module.__dict__.get("forward"), _Product)


def rounds(backbone: "AbstractBackbone") -> bool:
    """Whether `exact_products` computes something else: products of int8, or of bfloat16 with float32 between."""
    return backbone.quantize is not None or any(map(is_wide, backbone.model.modules()))


@contextmanager
def exact_products(backbone: "AbstractBackbone") -> Iterator[None]:
    """Inside the `with` block, products with rounded matrices round neither inputs nor gradients.

    The matrices stay rounded, and each is widened for its product alone. Packed passes of T5 are an exception: they
    read the model's own matrices, which their int8 form leaves as they are.
    """
    quantize = backbone.quantize
    with ExitStack() as restored:
        if quantize is not None and not is_int8(backbone.model):
            restored.callback(setattr, backbone, "quantize", quantize)
            backbone.quantize = None
        for module in backbone.model.modules():
            if isinstance(module, Int8Layer) or (_is_product(module) and module.weight.element_size() < 4):
                restored.callback(restore_forward, module, module.__dict__.get("forward"))
                module.__dict__["forward"] = _exact(module)
        yield


def restore_forward(module: nn.Module, forward: Callable[..., Any] | None) -> None:
    """Give a layer the forward pass that it had of its own; None is that of its class."""
    if forward is None:
        del module.__dict__["forward"]
    else:
        module.forward = forward


def _exact(layer: Any) -> Callable[[Tensor], Tensor]:
    def product(x: Float[Tensor, "*b i"]) -> Float[Tensor, "*b o"]:
        if isinstance(layer, Int8Layer):
            matrix = layer.linear.scale[:, None] * layer.weight
        else:
            matrix = (layer.weight.t() if _is_conv1d(layer) else layer.weight).float()
        return functional.linear(x.float(), matrix, None if layer.bias is None else layer.bias.float())

    return product
