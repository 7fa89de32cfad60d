"""Says when a run learned nothing or left the scale of the words, and what to try: failures that look like results."""

from collections.abc import Sequence
from pathlib import Path

from ..inference.evaluate import majority_score
from ..prompts.units import norm_warning, prompt_norm
from ..tasks import Task
from ._member import TrainedLane
from ._records import read_record

# The mean loss of the last tenth has to be at least this share below the first tenth's.
FLAT = 0.02


def not_learning(lane: TrainedLane, task: Task, gold: Sequence[int | float | list[str]]) -> list[str]:
    """Reasons to distrust a trained lane: a score no better than the majority class, a loss that did not fall."""
    remedies = (
        f"try another --lr (a tenth or three times {lane.optimizer.adamw.param_groups[0]['peak']:g}), more --steps, "
        "--init vocabulary, or another --method"
    )
    found = []
    if lane.best is not None and task.answer == "label":
        constant = majority_score(task, [g for g in gold if isinstance(g, int)])
        if lane.best_score <= constant:
            found.append(
                f"{lane.name}: not learning: its best validation score {lane.best_score:.4f} is not above always "
                f"answering the most frequent class ({constant:.4f}); {remedies}"
            )
    first, last = _ends(lane.record.path)
    if last > (1 - FLAT) * first:
        unit = "squared deviations" if lane.lane.numbers else "nats"
        found.append(f"{lane.name}: not learning: the loss went from {first:.4f} to {last:.4f} {unit}; {remedies}")
    return found


def wrong_scale(lane: TrainedLane) -> list[str]:
    """Reasons to distrust the norm of a lane's best prompt, where it has one."""
    norm = None if lane.best is None else prompt_norm(lane.best.vectors)
    if norm is None:
        return []
    training = lane.provenance.training
    found = norm_warning(
        norm / lane.lane.words.token_norm,
        one_vector=lane.lane.method.one_vector,
        lr=training["lr"],
        units=training["units"],
        has_radius=lane.lane.method.is_direction,
    )
    return [f"{lane.name}: {found}"] if found else []


def _ends(path: Path) -> tuple[float, float]:
    """Mean loss over the first and the last tenth of the steps."""
    losses = [row["loss"] for row in read_record(path) if "loss" in row]
    tenth = max(1, len(losses) // 10)
    if len(losses) < 2:
        return 1.0, 0.0
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
