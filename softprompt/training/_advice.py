"""Warnings about failures that look like results: a prompt that learned nothing, or whose norm is out of range."""

from collections.abc import Sequence
from pathlib import Path

from ..inference.evaluate import majority_score
from ..prompts.units import norm_warning, prompt_norm
from ..tasks import Task
from ._member import FleetMember
from ._records import read_record

# The mean loss over the last tenth of the steps has to be at least this share below that over the first tenth.
FLAT = 0.02


def not_learning(member: FleetMember, task: Task, gold: Sequence[int | float | list[str]]) -> list[str]:
    """Return warnings if the score is no better than the majority class, or if the loss did not fall."""
    remedies = (
        f"try another --lr (a tenth or three times {member.optimizer.adamw.param_groups[0]['peak']:g}), more --steps, "
        "--init vocabulary, or another --method"
    )
    warnings = []
    if member.best is not None and task.answer == "label":
        constant = majority_score(task, [g for g in gold if isinstance(g, int)])
        if member.best_score <= constant:
            warnings.append(
                f"{member.name}: not learning: its best validation score {member.best_score:.4f} is not above always "
                f"answering the most frequent class ({constant:.4f}); {remedies}"
            )
    first, last = _ends(member.record.path)
    if last > (1 - FLAT) * first:
        unit = "squared deviations" if member.trainable.numbers else "nats"
        warnings.append(f"{member.name}: not learning: the loss went from {first:.4f} to {last:.4f} {unit}; {remedies}")
    return warnings


def wrong_scale(member: FleetMember) -> list[str]:
    """Return a warning if the norm of the best stored prompt is out of range."""
    norm = None if member.best is None else prompt_norm(member.best.vectors)
    token_norm = member.trainable.token_norm
    if norm is None or token_norm is None:
        return []
    training = member.provenance.training
    warning = norm_warning(
        norm / token_norm,
        one_vector=member.trainable.method.one_vector,
        lr=training["lr"],
        units=training["units"],
        has_radius=member.trainable.method.is_direction,
    )
    return [f"{member.name}: {warning}"] if warning else []


def _ends(path: Path) -> tuple[float, float]:
    """Return the mean loss over the first and over the last tenth of the steps."""
    losses = [row["loss"] for row in read_record(path) if "loss" in row]
    tenth = max(1, len(losses) // 10)
    if len(losses) < 2:
        return 1.0, 0.0
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
