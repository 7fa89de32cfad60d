"""Says when a run learned nothing or left the scale of the words, and what to try: failures that look like results."""

from collections.abc import Sequence
from pathlib import Path

from ..inference.evaluate import majority_score
from ..prompts.units import norm_warning, prompt_norm
from ..tasks import Task
from ._member import FleetMember
from ._records import read_record

# The mean loss of the last tenth has to be at least this share below the first tenth's.
FLAT = 0.02


def not_learning(member: FleetMember, task: Task, gold: Sequence[int | float | list[str]]) -> list[str]:
    """Reasons to distrust a trained prompt: a score no better than the majority class, a loss that did not fall."""
    remedies = (
        f"try another --lr (a tenth or three times {member.optimizer.adamw.param_groups[0]['peak']:g}), more --steps, "
        "--init vocabulary, or another --method"
    )
    found = []
    if member.best is not None and task.answer == "label":
        constant = majority_score(task, [g for g in gold if isinstance(g, int)])
        if member.best_score <= constant:
            found.append(
                f"{member.name}: not learning: its best validation score {member.best_score:.4f} is not above always "
                f"answering the most frequent class ({constant:.4f}); {remedies}"
            )
    first, last = _ends(member.record.path)
    if last > (1 - FLAT) * first:
        unit = "squared deviations" if member.trainable.numbers else "nats"
        found.append(f"{member.name}: not learning: the loss went from {first:.4f} to {last:.4f} {unit}; {remedies}")
    return found


def wrong_scale(member: FleetMember) -> list[str]:
    """Reasons to distrust the norm of a prompt's best prompt, where it has one."""
    norm = None if member.best is None else prompt_norm(member.best.vectors)
    if norm is None:
        return []
    training = member.provenance.training
    found = norm_warning(
        norm / member.trainable.words.token_norm,
        one_vector=member.trainable.method.one_vector,
        lr=training["lr"],
        units=training["units"],
        has_radius=member.trainable.method.is_direction,
    )
    return [f"{member.name}: {found}"] if found else []


def _ends(path: Path) -> tuple[float, float]:
    """Mean loss over the first and the last tenth of the steps."""
    losses = [row["loss"] for row in read_record(path) if "loss" in row]
    tenth = max(1, len(losses) // 10)
    if len(losses) < 2:
        return 1.0, 0.0
    return sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
