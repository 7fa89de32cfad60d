"""One prompt's optimiser: AdamW, its own schedule and its own gradient clipping."""

from typing import Any, final

import torch
from torch import Tensor

from ..prompts.trainable import TrainablePrompt
from ..settings import TrainSettings


def warmup_steps(settings: TrainSettings, steps: int) -> int:
    """Optimiser steps of warm-up: 500 or 5 % of all, whichever is less, unless told."""
    return min(500, steps // 20) if settings.warmup is None else settings.warmup


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """What the learning rate is multiplied with at `step` (1, 2, ... steps).

    Warm-up: step / warmup. Then 1 for "constant", or (steps - step + 1) / (steps - warmup) for "linear", so that
    the first step after warm-up is at the full rate and no step is at 0.
    """
    if step <= warmup:
        return step / warmup
    return 1.0 if schedule == "constant" else (steps - step + 1) / (steps - warmup)


@final
class PromptOptimizer:
    """AdamW for one prompt: weight decay on prompt and reparameterisation, none on the head or on directions.

    Learning rate, decay and AdamW's eps act on what is trained, and so are in the prompt's units.

    Args:
        trainable: whose parameters move.
        lr: learning rate of the prompt at its peak.
        head_lr: of the head.
        steps: length of the schedule.
        settings: weight decay, clipping, schedule.
    """

    def __init__(self, trainable: TrainablePrompt, lr: float, head_lr: float, steps: int, settings: TrainSettings):
        self.trainable, self.steps, self.settings = trainable, steps, settings
        self.warmup = warmup_steps(settings, steps)
        # The length of a direction says nothing: decay would only raise the rate at which the direction turns.
        decay = 0.0 if trainable.reparameterization.is_direction else settings.weight_decay
        groups = [
            {"params": trainable.prompt_parameters(), "lr": lr, "peak": lr, "weight_decay": decay},
            {"params": trainable.head_parameters(), "lr": head_lr, "peak": head_lr, "weight_decay": 0.0},
        ]
        self.adamw = torch.optim.AdamW([group for group in groups if group["params"]])

    def gradient_norm(self) -> Tensor:
        """The l2 norm over all of the prompt's gradients, after which `step` may clip."""
        gradients = [p.grad for p in self.trainable.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def overflows(self, step: int) -> bool:
        """Whether the update at optimiser step `step` is larger than a parameter can be, which AdamW would not say.

        AdamW moves by lr / (1 - beta1^step) at the most.
        """
        factor = learning_rate_factor(step, self.steps, self.warmup, self.settings.schedule)
        return any(
            group["peak"] * factor / (1 - group["betas"][0] ** step) > torch.finfo(group["params"][0].dtype).max
            for group in self.adamw.param_groups
        )

    def step(self, step: int, gradient_norm: Tensor) -> float:
        """One update at optimiser step `step` (from 1); the learning rate of the first group."""
        factor = learning_rate_factor(step, self.steps, self.warmup, self.settings.schedule)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor
        if self.settings.clip is not None:
            parameters = [p for p in self.trainable.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, gradient_norm)
        self.adamw.step()
        return self.adamw.param_groups[0]["lr"]

    def state(self) -> dict[str, Tensor]:
        """AdamW's moments and counters, by parameter number."""
        state: dict[int, dict[str, Tensor]] = self.adamw.state_dict()["state"]
        return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        restored: dict[int, dict[str, Any]] = {}
        for key, value in state.items():
            number, name = key.split(".", 1)
            restored.setdefault(int(number), {})[name] = value
        self.adamw.load_state_dict({**self.adamw.state_dict(), "state": restored})
