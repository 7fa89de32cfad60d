"""Landscapes of stored prompts, on the rows that all prompts of a task have in common."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Rows, limited_places, load_rows, refuse_split, rows_of, split_rows
from ..errors import BadInput
from ..inference.answers import answer
from ..inference.prompt_model import LoadedModels
from ..inference.report import Report
from ..inference.rows import examples_for
from ..inference.scoring import scoring_of
from ..prompts.batch import PromptBatch
from ..settings import LandscapeSettings
from ..store import json_bytes
from ..training import trained_loss
from .prompt_landscape import Landscape, landscape_of
from .subjects import Subject


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A landscape, and how well the prompt answers the rows of the landscape.

    Args:
        subject: the prompt and its task.
        landscape: the surfaces.
        names: the numbers of the rows in the split.
        metrics: the task's metrics on these rows, and "accuracy" where there are classes.
        majority: share of the most frequent class among these rows; None where there are no classes.
    """

    subject: Subject
    landscape: Landscape
    names: tuple[int, ...]
    metrics: dict[str, float]
    majority: float | None

    @property
    def warning(self) -> str | None:
        """A warning if the prompt answers at chance, where a landscape says nothing; None otherwise."""
        if self.majority is None or self.metrics["accuracy"] > self.majority:
            return None
        return (
            f"{self.subject.label}: accuracy {self.metrics['accuracy']:.3f} on these rows, always one class gets "
            f"{self.majority:.3f}; it may be flat because it ignores its input"
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values: summaries with standard errors, the mean surface, and the numbers of each example."""
        landscape = self.landscape
        each = {
            "row": list(self.names),
            "loss": landscape.losses.tolist(),
            "range": landscape.ranges.tolist(),
            "mean_change": landscape.changes.tolist(),
            "gradient_norm": landscape.slopes.tolist(),
            "curvature": landscape.curvatures.tolist(),
            "radius": landscape.lengths.tolist(),
        }
        return {
            "prompt": self.subject.label,
            "task": self.subject.task.name,
            "loss": landscape.measure.replace(" (nats)", " in nats"),
            "metrics": self.metrics,
            "majority": self.majority,
            "warning": self.warning,
            "numbers": {name: dataclasses.asdict(estimate) for name, estimate in landscape.numbers().items()},
            "units": dataclasses.asdict(landscape.words),
            "surface": landscape.mean_surface.tolist(),
            "examples": each,
        }


def draw(
    chosen: Sequence[Subject],
    settings: LandscapeSettings,
    *,
    model: str | None = None,
    split: str = "test",
    device: str = "auto",
    tell: Callable[[Subject], None] = lambda subject: None,
) -> Iterator[Drawn]:
    """Compute the landscapes of these prompts in float32, each on rows that the seed draws from a split of its task.

    Prompts of one task get the same rows, and the same random direction before it is made orthogonal to X.

    Args:
        chosen: the prompts, from `subjects`.
        settings: the settings of the plane and of the rows.
        model: the frozen model; None loads the model that a prompt names.
        split: "train", "validation" or "test".
        device: "auto", "cpu", "cuda" ...
        tell: is called before each prompt.

    Raises:
        SoftPromptError: a model or rows are missing, or a prompt has no landscape.
    """
    # Texts are truncated to fit with the longest prompt, so that all prompts see the same tokens.
    longest = max(subject.prompt.length for subject in chosen)
    models = LoadedModels(model, device=device)
    refuse_split(split)
    # All rows are loaded before any model, so that missing rows are reported within seconds.
    rows = {source: _rows(subject, split, settings) for source, subject in {_source(s): s for s in chosen}.items()}
    for subject in chosen:
        tell(subject)
        backbone = models.of(subject.prompt)
        dataset, names = rows[_source(subject)]
        examples = examples_for(backbone, subject.task, dataset, longest)
        loss = trained_loss(subject.prompt, subject.task, backbone)
        landscape = landscape_of(backbone, subject.prompt, examples, settings, names=names, loss=loss)
        prompt_batch = PromptBatch.of(subject.prompt, device=backbone.device)
        answers = answer(backbone, prompt_batch, examples, subject.task, scoring=scoring_of(subject.prompt))
        metrics = Report.from_answers(subject.task, examples, answers).metrics
        share = None
        if subject.task.answer == "label":
            right = [a == b for a, b in zip(answers.values, examples.gold, strict=True)]
            metrics = {**metrics, "accuracy": sum(right) / len(right)}
            share = max(Counter(map(str, examples.gold)).values()) / len(right)
        yield Drawn(subject=subject, landscape=landscape, names=names, metrics=metrics, majority=share)


def _source(subject: Subject) -> Hashable:
    """Return a key that is equal for prompts with the same rows."""
    return json_bytes(subject.task.to_json()), subject.data_root, subject.max_bad_rows


def _rows(subject: Subject, split: str, settings: LandscapeSettings) -> tuple[Rows, tuple[int, ...]]:
    """Return the rows of a split that the seed draws, in the order of the split, and their numbers."""
    whole = rows_of(split_rows(subject.task, load_rows(subject.task, subject.data_root, subject.max_bad_rows)), split)
    if not len(whole):
        raise BadInput(f"task {subject.task.name!r} has no {split} rows; choose another --split")
    names = limited_places(len(whole), settings.rows, settings.seed)
    return whole.select(names), tuple(names)


def refuse_incomparable(chosen: Sequence[Subject]) -> None:
    """Refuse prompts whose landscapes cannot share one scale.

    Raises:
        BadInput: there are fewer than two prompts, or they have different tasks or losses.
    """
    if len(chosen) < 2:
        raise BadInput(f"--compare needs at least two prompts, {chosen[0].label!r} is one; give another run")
    first = chosen[0]
    for other in chosen[1:]:
        if (first.task.name, first.task.source) != (other.task.name, other.task.source):
            raise BadInput(
                f"--compare needs one task: {first.label!r} is of {first.task.name!r}, {other.label!r} of "
                f"{other.task.name!r}; name one with --task, or compare others"
            )
    refuse_two_losses([_loss_name(subject) for subject in chosen])


def _loss_name(subject: Subject) -> str:
    """What is measured, as far as it shows before a model is loaded: a number of a linear head has a squared error."""
    if subject.task.answer == "number" and subject.prompt.provenance.answers == "linear-head":
        return "squared error"
    return str(subject.prompt.provenance.training.get("loss", "cross entropy"))


def refuse_two_losses(names: Sequence[str]) -> None:
    """Refuse landscapes of several losses on one scale.

    Raises:
        BadInput: naming the losses.
    """
    if len(different := sorted(set(names))) > 1:
        raise BadInput(
            f"--compare needs one loss, and these prompts have several ({', '.join(different)}); draw them apart, or "
            "choose prompts that were trained with one loss"
        )
