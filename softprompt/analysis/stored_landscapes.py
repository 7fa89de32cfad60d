"""Landscapes of stored prompts: the prompts that paths name, the common rows of all of them, and the files written."""

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
from ..errors import BadInput, UnknownName, quoted
from ..inference.answers import answer
from ..inference.asked import task_of
from ..inference.prompt_model import backbone_of
from ..inference.report import Report
from ..inference.rows import examples_for
from ..inference.scoring import scoring_of
from ..prompts.batch import PromptBatch
from ..prompts.prompt import SoftPrompt
from ..settings import LandscapeSettings
from ..store import json_bytes, write_folder
from ..tasks import Task
from ..training import Plan, read_plan, trained_loss
from .landscape import coordinates
from .prompt_landscape import Landscape, landscape_of

log = logging.getLogger("softprompt")
FORMATS = ("png", "svg")
# The characters "/" and " " become "-" in the file name of a figure.
SEPARATORS = str.maketrans("/ ", "--")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A stored prompt whose landscape is drawn, its task, and where its run takes the rows from.

    Args:
        label: name of the prompt in tables and figures.
        prompt: the prompt with its provenance.
        task: the task with its style.
        data_root: folder with rows; None takes them from the hub.
        max_bad_rows: number of malformed rows that may be dropped.
    """

    label: str
    prompt: SoftPrompt
    task: Task
    data_root: str | Path | None = None
    max_bad_rows: int = 0


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


def subjects(
    paths: Sequence[str | Path],
    *,
    prompts: Sequence[str] = (),
    task: str | None = None,
    style: str | None = None,
    data_root: Path | None = None,
) -> list[Subject]:
    """Load the prompts that the paths name, in their order.

    Args:
        paths: runs, prompts of runs, prompt folders, or `user/name` on the hub. A run names all its prompts.
        prompts: the names of those prompts of each run that are drawn; empty takes all.
        task: name of a task that replaces the task of the prompts.
        style: style of the task's template; None takes the style of the training.
        data_root: folder with rows; None takes the run's.

    Raises:
        BadInput: a path or a prompt is given twice, a path holds no prompt, a run has not stored one of its prompts or
            trained weights in its place, or a prompt records no task.
        UnknownName: a run has no prompt of a given name.
    """
    paths, prompts = listed("paths", paths, (str, Path)), listed("--prompt", prompts)
    require_different("the prompt", [str(path) for path in paths])
    require_different("--prompt", prompts)
    loaded: list[Subject] = []
    for label, place, plan in _prompts(paths, prompts):
        prompt = SoftPrompt.load(place)
        loaded.append(
            Subject(
                label=label,
                prompt=prompt,
                task=task_of(prompt, task, style),
                data_root=data_root or (plan.data_root if plan else None),
                max_bad_rows=plan.max_bad_rows if plan else 0,
            )
        )
    return _distinct(loaded)


def _distinct(loaded: Sequence[Subject]) -> list[Subject]:
    """The subjects under labels of their own."""
    labels = told_apart([(subject.label, subject.task.name) for subject in loaded])
    return [dataclasses.replace(subject, label=label) for subject, label in zip(loaded, labels, strict=True)]


def told_apart(given: Sequence[tuple[str, str]]) -> list[str]:
    """Labels of prompts that all differ: equal ones have the task in the place of the run, or else are numbered.

    Args:
        given: the label RUN/PROMPT and the task of each.
    """
    equal = Counter(label for label, _ in given)
    labels = [f"{task} {label.rpartition('/')[2]}" if equal[label] > 1 else label for label, task in given]
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{number}-{first}"
        for number, ((first, _), label) in enumerate(zip(given, labels, strict=True), 1)
    ]


def _prompts(paths: Sequence[str | Path], prompts: Sequence[str]) -> Iterator[tuple[str, str | Path, Plan | None]]:
    """Yield for each prompt its label, its place, and the plan of its run."""
    for given in paths:
        path = Path(given)
        if (path / "run.json").is_file():
            yield from _of_run(path, prompts)
        else:
            refuse_choice(given, prompts)
            run = next((folder for folder in path.resolve().parents[:2] if (folder / "run.json").is_file()), None)
            inside = path.resolve().relative_to(run).parts[0] if run else ""
            yield f"{run.name}/{inside}" if run else str(given), given, read_plan(run) if run else None


def _of_run(run: Path, prompts: Sequence[str]) -> Iterator[tuple[str, Path, Plan]]:
    plan = read_plan(run)
    for prompt in chosen_names(run, plan, prompts):
        if (run / prompt / "weights").exists():
            raise BadInput(
                f"{prompt!r} of run {str(run)!r} trained weights and left no prompt; choose others with --prompt"
            )
        if not (run / prompt / "prompt").is_dir():
            raise BadInput(
                f"run {str(run)!r} has not stored prompt {prompt!r}; finish it (softprompt train --resume "
                f"{quoted(run)}), or choose others with --prompt"
            )
        yield f"{run.resolve().name}/{prompt}", run / prompt / "prompt", plan


def chosen_names(run: Path, plan: Plan, prompts: Sequence[str]) -> Sequence[str]:
    """The names of the chosen prompts of a run, or of all of them.

    Raises:
        UnknownName: the run has no prompt of a given name.
    """
    names = plan.prompt_names()
    for prompt in prompts:
        if prompt not in names:
            raise UnknownName(f"prompt of {str(run)!r}", prompt, names)
    return prompts or names


def refuse_choice(given: str | Path, prompts: Sequence[str]) -> None:
    """Refuse names of prompts beside what is no run.

    Raises:
        BadInput: some were given.
    """
    if prompts:
        raise BadInput(f"--prompt chooses among the prompts of a run, {str(given)!r} is no run; drop --prompt")


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
    loaded: dict[Any, AbstractBackbone] = {}
    refuse_split(split)
    # All rows are loaded before any model, so that missing rows are reported within seconds.
    rows = {source: _rows(subject, split, settings) for source, subject in {_source(s): s for s in chosen}.items()}
    for subject in chosen:
        tell(subject)
        origin = subject.prompt.provenance
        key = (origin.backbone.name, origin.backbone.revision, origin.backbone.embedding_scale, origin.answers)
        backbone = loaded[key] = backbone_of(subject.prompt, loaded.get(key, model), device=device)
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
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(settings.seed))
    names = sorted(order[: settings.rows].tolist())
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
    _refuse_two_losses([_loss_name(subject) for subject in chosen])


def _loss_name(subject: Subject) -> str:
    """What is measured, as far as it shows before a model is loaded: a number of a linear head has a squared error."""
    if subject.task.answer == "number" and subject.prompt.provenance.answers == "linear-head":
        return "squared error"
    return str(subject.prompt.provenance.training.get("loss", "cross entropy"))


def _refuse_two_losses(names: Sequence[str]) -> None:
    if len(different := sorted(set(names))) > 1:
        raise BadInput(
            f"--compare needs one loss, and these prompts have several ({', '.join(different)}); draw them apart, or "
            "choose prompts that were trained with one loss"
        )


def write(drawn: Sequence[Drawn], folder: Path, settings: LandscapeSettings, *, compare: bool, kind: str) -> Path:
    """Write a new folder with `landscape.json` and the figures: one per prompt, or one of all on the same scale.

    If the plotting library is not installed, only the numbers are written, with a warning.

    Args:
        drawn: landscapes over the same grid.
        folder: the new folder, which must not exist.
        settings: the settings of the planes.
        compare: whether all landscapes are drawn side by side.
        kind: "png" or "svg".

    Raises:
        BadInput: the folder exists, or `compare` would put squared errors and cross entropies on one scale.
        StorageFailure: the disk is full or not writable.
    """
    if compare:
        _refuse_two_losses([d.landscape.measure for d in drawn])
    axis = coordinates(settings.grid).tolist()
    numbers = {"settings": dataclasses.asdict(settings), "coordinates": axis, "prompts": [d.to_json() for d in drawn]}
    contents = {"landscape.json": json_bytes(numbers), **_figures(drawn, axis, compare, kind)}
    return write_folder(folder, contents, what="the landscape", manifest=False)


def _figures(drawn: Sequence[Drawn], axis: Sequence[float], compare: bool, kind: str) -> dict[str, bytes]:
    try:
        from . import plots
    except ModuleNotFoundError as error:
        log.warning("no figures are drawn, only their numbers written: %s; pip install matplotlib", error)
        return {}
    groups = {"": drawn} if compare else {f"{d.subject.label.translate(SEPARATORS)}-": [d] for d in drawn}
    figures: dict[str, bytes] = {}
    for prefix, group in groups.items():
        panels = {_title(d): d.landscape.mean_surface.numpy() for d in group}
        measure = group[0].landscape.measure
        for name, figure in (("surface", plots.surface_figure), ("contour", plots.contour_figure)):
            file = f"{prefix}{name}.{kind}"
            figures[file] = plots.image(figure(panels, axis, measure=measure), file)
    return figures


def _title(drawn: Drawn) -> str:
    """Return the name of the prompt and its score, without which a surface says nothing."""
    name = "score" if drawn.majority is None else "accuracy"
    return f"{drawn.subject.label}\n{name} {drawn.metrics[name]:.3f}"
