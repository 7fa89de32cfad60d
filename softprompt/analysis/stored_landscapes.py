"""Landscapes of stored prompts: which prompts a path means, the same rows for all of them, and what is written."""

import dataclasses
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..backbones import AbstractBackbone
from ..checks import listed, require_different
from ..data import Rows, load_rows, refuse_split, rows_of, split_rows
from ..errors import BadInput, UnknownName
from ..inference.answers import answer
from ..inference.evaluate import backbone_of, examples_for, report, task_of
from ..prompts.batch import PromptBatch
from ..prompts.prompt import SoftPrompt
from ..settings import LandscapeSettings
from ..store import json_bytes, write_folder
from ..tasks import Task
from ..training import Plan, read_plan
from .landscape import coordinates
from .prompt_landscape import Landscape, landscape_of

log = logging.getLogger("softprompt")
FORMATS = ("png", "svg")
# What stands in a figure's file name for what no file name should hold.
SEPARATORS = str.maketrans("/ ", "--")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A stored prompt whose landscape is drawn, the task it is drawn on, and what its run says about the rows.

    Args:
        label: what it is called in tables and figures.
        prompt: with its provenance.
        task: with its style.
        data_root: folder with rows; None asks the hub.
        max_bad_rows: malformed rows to drop before it is an error.
    """

    label: str
    prompt: SoftPrompt
    task: Task
    data_root: str | Path | None = None
    max_bad_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A landscape and how the prompt answers the rows that it is made of.

    Args:
        subject: whose it is.
        landscape: its surfaces.
        names: the rows' numbers in the split.
        metrics: the task's, on these rows; "accuracy" among them where there are classes.
        majority: share of the most frequent class among them; None where there are no classes.
    """

    subject: Subject
    landscape: Landscape
    names: tuple[int, ...]
    metrics: dict[str, float]
    majority: float | None

    @property
    def warning(self) -> str | None:
        """What keeps the numbers from meaning anything: answers at chance."""
        if self.majority is None or self.metrics["accuracy"] > self.majority:
            return None
        return (
            f"{self.subject.label}: accuracy {self.metrics['accuracy']:.3f} on these rows, always one class gets "
            f"{self.majority:.3f}; it may be flat because it ignores its input"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values: numbers, their standard errors, the mean surface, and each example's own numbers."""
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
            "loss": "squared error" if landscape.is_regression else "cross entropy in nats",
            "metrics": self.metrics,
            "majority": self.majority,
            "warning": self.warning,
            "numbers": {name: dataclasses.asdict(one) for name, one in landscape.numbers().items()},
            "units": dataclasses.asdict(landscape.words),
            "surface": landscape.mean_surface.tolist(),
            "examples": each,
        }


def subjects(
    paths: Sequence[str | Path],
    *,
    prompts: Sequence[str] = (),
    task: str | None = None,
    style: str | None = None,
    data_root: Path | None = None,
) -> list[Subject]:
    """The prompts that runs, prompts of runs, prompt folders or `user/name` on the hub mean, in their order.

    Args:
        paths: a run means all its prompts.
        prompts: those of each run that are meant; none means all.
        task: name of another task than the prompts' own.
        style: how rows are put; None as in training.
        data_root: folder with rows; None takes the run's.

    Raises:
        BadInput: a prompt or prompt twice, nothing is there, a run without the prompt of a prompt, or a prompt that
            records no task.
        UnknownName: a prompt that a run does not have.
    """
    paths, prompts = listed("paths", paths, (str, Path)), listed("--prompt", prompts)
    require_different("the prompt", [str(path) for path in paths])
    require_different("--prompt", prompts)
    found: list[Subject] = []
    for label, place, plan in _prompts(paths, prompts):
        prompt = SoftPrompt.load(place)
        found.append(
            Subject(
                label=label,
                prompt=prompt,
                task=task_of(prompt, task, style),
                data_root=data_root or (plan.data_root if plan else None),
                max_bad_rows=plan.max_bad_rows if plan else 0,
            )
        )
    counts = Counter(subject.label for subject in found)
    return [
        dataclasses.replace(subject, label=f"{number}-{subject.label}") if counts[subject.label] > 1 else subject
        for number, subject in enumerate(found, 1)
    ]


def _prompts(paths: Sequence[str | Path], prompts: Sequence[str]) -> Iterator[tuple[str, str | Path, Plan | None]]:
    """(label, where the prompt is, its run's plan)."""
    for given in paths:
        path = Path(given)
        if (path / "run.json").is_file():
            yield from _of_run(path, prompts)
        elif prompts:
            raise BadInput(f"--prompt chooses among the prompts of a run, {str(given)!r} is no run; drop --prompt")
        else:
            run = next((folder for folder in path.resolve().parents[:2] if (folder / "run.json").is_file()), None)
            inside = path.resolve().relative_to(run).parts[0] if run else ""
            yield f"{run.name}/{inside}" if run else str(given), given, read_plan(run) if run else None


def _of_run(run: Path, prompts: Sequence[str]) -> Iterator[tuple[str, Path, Plan]]:
    plan = read_plan(run)
    names = plan.prompt_names()
    for prompt in prompts:
        if prompt not in names:
            raise UnknownName(f"prompt of {str(run)!r}", prompt, names)
    for prompt in prompts or names:
        if not (run / prompt / "prompt").is_dir():
            raise BadInput(
                f"run {str(run)!r} has stored no prompt of {prompt!r}; finish it (softprompt train --resume {run}), or "
                "choose others with --prompt"
            )
        yield f"{run.resolve().name}/{prompt}", run / prompt / "prompt", plan


def draw(
    chosen: Sequence[Subject],
    settings: LandscapeSettings,
    *,
    model: str | None = None,
    split: str = "test",
    device: str = "auto",
    tell: Callable[[Subject], None] = lambda subject: None,
) -> Iterator[Drawn]:
    """The landscapes of these prompts, in float32, each on the rows that the seed draws from the split of its task.

    Prompts of one task see the same rows and the same random direction before Gram-Schmidt.

    Args:
        chosen: of `subjects`.
        settings: of the plane and the rows.
        model: the frozen model; None loads the one that a prompt names.
        split: "train", "validation" or "test".
        device: "auto", "cpu", "cuda" ...
        tell: called before each.

    Raises:
        SoftPromptError: a model or rows that are not there, or a prompt without a landscape.
    """
    # Rows are cut to what fits beside the longest prompt, so that all prompts see the same tokens.
    longest = max(subject.prompt.length for subject in chosen)
    loaded: dict[Any, AbstractBackbone] = {}
    refuse_split(split)
    # All rows before any model: what is missing is found in seconds.
    rows = {source: _rows(subject, split, settings) for source, subject in {_source(s): s for s in chosen}.items()}
    for subject in chosen:
        tell(subject)
        origin = subject.prompt.provenance
        known = (origin.backbone.name, origin.backbone.revision, origin.backbone.embedding_scale, origin.answers)
        backbone = loaded[known] = backbone_of(subject.prompt, loaded.get(known, model), device=device)
        dataset, names = rows[_source(subject)]
        examples = examples_for(backbone, subject.task, dataset, longest)
        landscape = landscape_of(backbone, subject.prompt, examples, settings, names=names)
        prompt_batch = PromptBatch.of(subject.prompt, device=backbone.device)
        answers = answer(backbone, prompt_batch, examples, subject.task)
        metrics = report(subject.task, examples, answers).metrics
        share = None
        if subject.task.answer == "label":
            right = [a == b for a, b in zip(answers.values, examples.gold, strict=True)]
            metrics = {**metrics, "accuracy": sum(right) / len(right)}
            share = max(Counter(map(str, examples.gold)).values()) / len(right)
        yield Drawn(subject=subject, landscape=landscape, names=names, metrics=metrics, majority=share)


def _source(subject: Subject) -> Hashable:
    """Equal for prompts that are drawn on the same rows."""
    return json_bytes(subject.task.to_json()), subject.data_root, subject.max_bad_rows


def _rows(subject: Subject, split: str, settings: LandscapeSettings) -> tuple[Rows, tuple[int, ...]]:
    """The rows of a split that the seed draws, in their order, and their numbers."""
    whole = rows_of(split_rows(subject.task, load_rows(subject.task, subject.data_root, subject.max_bad_rows)), split)
    if not len(whole):
        raise BadInput(f"task {subject.task.name!r} has no {split} rows; choose another --split")
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(settings.seed))
    names = sorted(order[: settings.rows].tolist())
    return whole.select(names), tuple(names)


def refuse_incomparable(chosen: Sequence[Subject]) -> None:
    """Refuse prompts that cannot stand on one scale.

    Raises:
        BadInput: fewer than two, or prompts of different tasks.
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
    _refuse_two_losses([_is_regression(subject) for subject in chosen])


def _is_regression(subject: Subject) -> bool:
    """Whether the loss is a squared error: a linear head answers with a number."""
    return subject.task.answer == "number" and subject.prompt.provenance.answers == "linear-head"


def _refuse_two_losses(are_regressions: Sequence[bool]) -> None:
    if len(set(are_regressions)) > 1:
        raise BadInput("--compare needs one loss: some of these prompts answer in words, others by a number")


def write(found: Sequence[Drawn], folder: Path, settings: LandscapeSettings, *, compare: bool, kind: str) -> Path:
    """A new folder with `landscape.json` and the figures: of each prompt, or of all on one scale.

    Without the plotting library there are the numbers alone, and a warning.

    Args:
        found: landscapes over one grid.
        folder: must not exist.
        settings: of the planes.
        compare: draw all side by side.
        kind: "png" or "svg".

    Raises:
        BadInput: the folder exists, or squared errors and cross entropies on one scale.
        StorageFailure: the disk is full or not writable.
    """
    if compare:
        _refuse_two_losses([one.landscape.is_regression for one in found])
    axis = coordinates(settings.grid).tolist()
    numbers = {"settings": dataclasses.asdict(settings), "coordinates": axis, "prompts": [d.to_json() for d in found]}
    contents = {"landscape.json": json_bytes(numbers), **_figures(found, axis, compare, kind)}
    return write_folder(folder, contents, what="the landscape", manifest=False)


def _figures(found: Sequence[Drawn], axis: Sequence[float], compare: bool, kind: str) -> dict[str, bytes]:
    try:
        from . import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return {}
    groups = {"": found} if compare else {f"{one.subject.label.translate(SEPARATORS)}-": [one] for one in found}
    figures: dict[str, bytes] = {}
    for prefix, group in groups.items():
        panels = {_title(one): one.landscape.mean_surface.numpy() for one in group}
        measure = "squared error" if group[0].landscape.is_regression else "cross entropy (nats)"
        for name, figure in (("surface", plots.surface_figure), ("contour", plots.contour_figure)):
            file = f"{prefix}{name}.{kind}"
            figures[file] = plots.image(figure(panels, axis, measure=measure), file)
    return figures


def _title(drawn: Drawn) -> str:
    """The prompt and how it answers: a surface says nothing without."""
    name = "score" if drawn.majority is None else "accuracy"
    return f"{drawn.subject.label}\n{name} {drawn.metrics[name]:.3f}"
