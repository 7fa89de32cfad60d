"""Products with frozen matrices in the layers of transformers, by the faster library of this processor."""

from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ...family import is_plain
from ..frozen_linear import FrozenLinear


@final
class FrozenProducts(TorchFunctionMode):
    """Within the `with` block, linear layers with frozen weights in float32 on a CPU are multiplied by oneDNN.

    It acts in this thread only, and leaves the model as it is.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, or the frozen product in the place of a linear layer."""
        if func is functional.linear and not kwargs and _is_frozen(*args):
            return _product(*args)
        return func(*args, **(kwargs or {}))


def _is_frozen(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    is_ours = is_plain(weight) and not weight.requires_grad and x.dtype == weight.dtype == torch.float32
    return is_ours and x.device.type == "cpu" and (bias is None or not bias.requires_grad)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return FrozenLinear(weight, "onednn", bias)(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], len(weight))
