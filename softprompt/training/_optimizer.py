"""The optimiser of one member of a fleet: AdamW with its own schedule and gradient clipping."""

from typing import Any, final

import torch
from torch import Tensor

from ..prompts.contract import AbstractTrainable
from ..settings import TrainSettings

# AdamW's default.
EPS = 1e-8


def warmup_steps(settings: TrainSettings, steps: int) -> int:
    """Return the optimiser steps of the warm-up. The default is 500 or 5 % of all steps, whichever is less."""
    return min(500, steps // 20) if settings.warmup is None else settings.warmup


def learning_rate_factor(step: int, steps: int, warmup: int, schedule: str) -> float:
    """Return the factor on the learning rate at `step` (1, 2, ... steps).

    During the warm-up it is step / warmup. Afterwards it is 1 for "constant", and (steps - step + 1) /
    (steps - warmup) for "linear". The first step after the warm-up has the full rate, and no step has the rate 0.
    """
    if step <= warmup:
        return step / warmup
    return 1.0 if schedule == "constant" else (steps - step + 1) / (steps - warmup)


@final
class PromptOptimizer:
    """AdamW for one trainable, with the learning rates and the weight decay of its parameter groups.

    Learning rate, decay, clipping and AdamW's eps apply to the trained parameters in the unit of their group, so that a
    step is that of plain AdamW on the parameters divided by it.

    Args:
        trainable: what is trained.
        lr: peak learning rate of what is trained.
        head_lr: peak learning rate of the head.
        steps: length of the schedule in optimiser steps.
        settings: weight decay, clipping and schedule.
    """

    def __init__(self, trainable: AbstractTrainable, lr: float, head_lr: float, steps: int, settings: TrainSettings):
        self.trainable, self.steps, self.settings = trainable, steps, settings
        self.warmup = warmup_steps(settings, steps)
        peaks, groups = {"lr": lr, "head_lr": head_lr}, []
        for group in trainable.groups():
            # AdamW's step depends on the size of a gradient by eps alone, so a unit is a factor on the rate.
            peak = group.unit * (peaks[group.rate] if isinstance(group.rate, str) else group.rate)
            decay = settings.weight_decay / group.unit if group.decays else 0.0
            values = {"lr": peak, "peak": peak, "weight_decay": decay, "unit": group.unit, "eps": EPS / group.unit}
            groups.append({"params": list(group.parameters), **values})
        self.adamw = torch.optim.AdamW(groups)

    def gradient_norm(self) -> Tensor:
        """Return the l2 norm over all gradients of the prompt in their units, which `step` uses for clipping."""
        units = {p: group["unit"] for group in self.adamw.param_groups for p in group["params"]}
        gradients = [(p.grad, units.get(p, 1.0)) for p in self.trainable.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm([grad if unit == 1 else unit * grad for grad, unit in gradients])

    def overflows(self, step: int) -> bool:
        """Whether the update at optimiser step `step` may overflow a parameter. AdamW does not report that.

        AdamW moves a parameter by at most lr / (1 - beta1^step).
        """
        factor = learning_rate_factor(step, self.steps, self.warmup, self.settings.schedule)
        return any(
            group["peak"] * factor / (1 - group["betas"][0] ** step) > torch.finfo(group["params"][0].dtype).max
            for group in self.adamw.param_groups
        )

    def step(self, step: int, gradient_norm: Tensor) -> float:
        """Make the update of optimiser step `step` (from 1) and return the rate of the first group, in its unit."""
        factor = learning_rate_factor(step, self.steps, self.warmup, self.settings.schedule)
        for group in self.adamw.param_groups:
            group["lr"] = group["peak"] * factor
        if self.settings.clip is not None:
            parameters = [p for p in self.trainable.parameters() if p.grad is not None]
            torch.nn.utils.clip_grads_with_norm_(parameters, self.settings.clip, gradient_norm)
        self.adamw.step()
        return self.adamw.param_groups[0]["lr"] / self.adamw.param_groups[0]["unit"]

    def state(self) -> dict[str, Tensor]:
        """Return AdamW's moments and counters by parameter number."""
        return adamw_state(self.adamw)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        load_adamw_state(self.adamw, state)


def adamw_state(adamw: torch.optim.AdamW) -> dict[str, Tensor]:
    """Return an optimiser's moments and counters by parameter number."""
    state: dict[int, dict[str, Tensor]] = adamw.state_dict()["state"]
    return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def load_adamw_state(adamw: torch.optim.AdamW, state: dict[str, Tensor]) -> None:
    """Restore what `adamw_state` returned."""
    restored: dict[int, dict[str, Any]] = {}
    for key, value in state.items():
        number, name = key.split(".", 1)
        restored.setdefault(int(number), {})[name] = value
    adamw.load_state_dict({**adamw.state_dict(), "state": restored})
