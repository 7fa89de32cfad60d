"""P-Tuning's recurrent network, the only reparameterisation here that mixes the positions of a prompt."""

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from ._base import AbstractReparameterization, require_positive


@final
class LSTM(AbstractReparameterization):
    """P' = W2 relu(W1 H + b1) + b2, where H [m, 2h] holds the states of a two-layer bidirectional LSTM over P.

    This is P-Tuning (Liu et al., 2021, arXiv:2103.10385) as PEFT's `PromptEncoder` builds it
    (peft/tuners/p_tuning/model.py, type LSTM), with its default of two layers and no dropout.

    Args:
        e: embedding size.
        hidden: size h of the states of each direction; None takes e.

    Raises:
        BadInput: a size is below 1.
    """

    def __init__(self, e: int, hidden: int | None = None):
        super().__init__()
        hidden = e if hidden is None else hidden
        require_positive(e=e, hidden=hidden)
        self.lstm = nn.LSTM(e, hidden, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, e))

    def forward(self, initial: Float[Tensor, "m e"]) -> Float[Tensor, "m e"]:
        """Return the prompt vectors, with gradients."""
        states, _ = self.lstm(initial[None])  # [1, m, 2h]
        return self.head(states)[0]
