"""Reparameterisations: networks that shape a prompt during training and are folded away afterwards."""

from ._base import AbstractReparameterization as AbstractReparameterization
from ._base import Identity as Identity
from ._base import require_positive as require_positive
from ._bottleneck import Bottleneck as Bottleneck
from ._lstm import LSTM as LSTM
from ._mlp import MLP as MLP
from ._polar import Polar as Polar
from ._residual import ResidualBottleneck as ResidualBottleneck

REPARAMETERIZATIONS: dict[str, type[AbstractReparameterization]] = {
    "identity": Identity,
    "mlp": MLP,
    "lstm": LSTM,
    "residual": ResidualBottleneck,
    "bottleneck": Bottleneck,
    "polar": Polar,
}
